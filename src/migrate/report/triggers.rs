//! The part of the report about one trigger.

use super::{
    super::{
        Findings, Found, Outcome,
        builtin::{self, Builtin, Part, Server},
        edit::Change,
        plan::{Plan, Query},
    },
    LintLine, fenced, line, place,
};
use crate::{
    manifest::{Kind, Node, Object},
    yaml::{quoted, scalar},
};

/// The sentences about a trigger, by whom they concern.
#[derive(Default)]
struct Said {
    /// The changes that KEDA will see.
    changes: Vec<String>,
    /// The things that a person has to do or to decide.
    to_do: Vec<String>,
}

/// The part about one trigger that was migrated; nothing for one that was left.
pub(super) fn section(
    findings: &Findings<'_>,
    plan: &Plan,
    undone: &[(usize, Change)],
    lint_lines: &[LintLine],
    found: &Found,
) -> String {
    let Outcome::Migrated(candidate) = found.outcome else { return String::new() };
    let builtin = &findings.candidates[candidate].builtin;
    let asked = &plan.asked[candidate];
    let query = &plan.queries[asked.query];
    let object = findings.object(found);
    let mut text = format!("\n### {}\n\n", found.label);
    let others = plan.asked.iter().filter(|other| other.query == asked.query).count() - 1;
    let shared = match others {
        0 => String::new(),
        1 => ", with one other trigger".to_owned(),
        others => format!(", with {others} other triggers"),
    };
    let at = place(findings, found.source, found.line);
    line(
        &mut text,
        &format!("{at}: query `{}` on database `{}`{shared}.", query.name, plan.databases[query.database].name),
    );
    let mut said = Said::default();
    about_values(query, &asked.values, &mut said);
    about_statement(builtin, &mut said);
    said.changes.extend(builtin.ignored.iter().map(|ignored| format!("Removed: {ignored}")));
    said.to_do.extend(builtin.remarks.iter().cloned());
    about_object(object, query, &mut said);
    let is_first = !findings.found.iter().any(|other| {
        matches!(other.outcome, Outcome::Migrated(_))
            && (other.source, other.object) == (found.source, found.object)
            && other.trigger < found.trigger
    });
    let of_trigger = lint_lines.iter().filter(|line| {
        (line.source, line.object) == (found.source, found.object)
            && line.trigger.map_or(is_first, |trigger| trigger == found.trigger)
    });
    said.to_do.extend(of_trigger.map(|line| line.text.clone()));
    for (heading, items) in [("What changes", said.changes), ("What to do", said.to_do)] {
        if items.is_empty() {
            continue;
        }
        line(&mut text, &format!("\n{heading}:\n"));
        for item in items {
            line(&mut text, &format!("- {item}"));
        }
    }
    let is_undone = |(source, change): &&(usize, Change)| {
        *source == found.source && (change.object, change.trigger) == (found.object, found.trigger)
    };
    if let Some((_, change)) = undone.iter().find(is_undone) {
        line(
            &mut text,
            "\n**Not changed in the manifest**: change it by hand, because it is written in a way that cannot be changed by line (an anchor, perhaps), or its file is not written. Write:\n",
        );
        text.push_str(&fenced("yaml", &as_yaml(change, object, found)));
    }
    text
}

fn about_values(query: &Query, values: &[String], said: &mut Said) {
    if values.is_empty() {
        return;
    }
    let pairs = query.parameters.iter().zip(values).map(|((name, _), value)| {
        let value = crate::diagnostics::quoted(value).replace('`', "'");
        format!("`param.{name}` is `{value}`")
    });
    said.changes.push(format!(
        "Its SQL differs from that of other triggers only in what is a parameter now: {}. Every namespace of the query may give \
         any value.",
        pairs.collect::<Vec<_>>().join(", ")
    ));
}

fn about_statement(builtin: &Builtin, said: &mut Said) {
    let traits = &builtin.traits;
    if traits.several_rows {
        said.to_do.push(
            "The query may return several rows. KEDA takes the first, which without ORDER BY is any of them; clapometer \
             answers FAILED_PRECONDITION. Count with an aggregate, or end the SQL in `LIMIT 1`."
                .to_owned(),
        );
    }
    if traits.may_be_null {
        said.changes.push(
            "Where no row matches, its aggregate is NULL: an error as before, with which KEDA holds still. `coalesce(..., 0)` or \
             `on_null: zero` makes it zero."
                .to_owned(),
        );
    }
    if traits.subtracts {
        said.changes.push(
            "It subtracts. Below zero KEDA's own trigger is 0, and clapometer answers FAILED_PRECONDITION: `greatest(..., 0)` keeps it \
             at 0."
                .to_owned(),
        );
    }
    let role = match &builtin.connection.server {
        Server::Parts(parts) => match parts.get(3) {
            Some(Part::Text(role)) => super::super::one_line(role),
            _ => "ROLE".to_owned(),
        },
        Server::String(_) => "ROLE".to_owned(),
    };
    if traits.reads_statistics {
        said.to_do.push(format!(
            "It reads statistics that PostgreSQL masks: of other roles' sessions most columns are NULL. KEDA counts what its role \
             sees; clapometer answers with an error (42501) where that is not all of them: \
             `GRANT pg_read_all_stats TO \"{role}\"`. After that the number may be larger than KEDA's was."
        ));
    }
    if traits.depends_on_role {
        said.to_do.push(
            "It asks who the role is (current_user or the like): with another role it counts something else."
                .to_owned(),
        );
    }
}

fn about_object(object: &Object, query: &Query, said: &mut Said) {
    let rollout = object.spec(&["rollout", "strategy"]).and_then(Node::text);
    if object.kind == Kind::ScaledJob && rollout != Some("gradual") {
        said.to_do.push(
            "Set `rollout.strategy: gradual` first, in an apply of its own: without it, applying this manifest deletes the Jobs that run."
                .to_owned(),
        );
    }
    if query.namespaces.is_none() {
        said.to_do.push(format!(
            "A manifest with the query `{}` has no namespace, so that triggers of every namespace may use it. Write `namespaces` into \
             the configuration.",
            query.name
        ));
    }
    if object.root.at(&["metadata", "resourceVersion"]).is_some() {
        said.to_do.push(
            "The manifest comes from the cluster: its resourceVersion makes the apply fail if the object has changed since. Remove \
             the line, or apply soon."
                .to_owned(),
        );
    }
}

/// The trigger as it has to be.
fn as_yaml(change: &Change, object: &Object, found: &Found) -> String {
    let mut text = String::from("- type: external\n  metadata:\n");
    for (key, value) in change.added() {
        line(&mut text, &format!("    {}: {}", scalar(&key), quoted(&value)));
    }
    line(&mut text, &format!("    query: {}", scalar(&change.query)));
    let trigger = object.triggers().nth(found.trigger);
    for key in builtin::KEPT.into_iter().filter(|key| *key != "query") {
        if let Some(value) = trigger.and_then(|trigger| builtin::text(trigger, key)) {
            line(&mut text, &format!("    {key}: {}", quoted(value)));
        }
    }
    text
}
