//! The parts of the report about databases, their Secrets and their roles.

use super::{
    super::{
        builtin::{PARTS, Part, Server},
        configuration::{Needed, needed, secret},
        one_line,
        origin::Origin,
        plan::{Database, Plan},
    },
    fenced, line,
};

/// The part about one database.
pub(super) fn section(plan: &Plan, index: usize) -> String {
    let database = &plan.databases[index];
    let mut text = format!("\n### `{}`\n\n", database.name);
    let queries = plan.queries.iter().filter(|query| query.database == index);
    let queries: Vec<String> = queries.map(|query| format!("`{}`", query.name)).collect();
    line(&mut text, &format!("Queries: {}.", queries.join(", ")));
    let mut items = remarks(database);
    let needed = needed(database);
    if database.passwords.is_empty() && matches!(&database.server, Server::Parts(_)) {
        items.push("KEDA logs in without a password, and so will clapometer.".to_owned());
    }
    for need in &needed {
        items.push(told(need, database));
    }
    if !needed.is_empty() && matches!(&database.server, Server::String(_)) {
        items.push(
            "The connection string must have `sslmode`, unless its host is this machine: KEDA's driver takes `prefer` where \
             there is none, clapometer asks. A `search_path` in it goes to `search_path` of the database."
                .to_owned(),
        );
    }
    text.push('\n');
    for item in items {
        line(&mut text, &format!("- {item}"));
    }
    if let Some(command) = command(database, &needed) {
        text.push_str(&format!("\n{}", fenced("console", &command)));
    }
    text
}

fn remarks(database: &Database) -> Vec<String> {
    let mut remarks = Vec::new();
    let Server::Parts(parts) = &database.server else {
        remarks.push(format!("{ROLE}."));
        return remarks;
    };
    for ((_, key), part) in PARTS.iter().zip(parts) {
        let Part::Text(value) = part else { continue };
        match *key {
            "host" => {
                if value.contains(',') {
                    remarks.push(
                        "Several hosts: KEDA takes the first that answers, and so does `target_session_attrs: any`. Without \
                         that line clapometer takes the one that accepts writes."
                            .to_owned(),
                    );
                }
                let is_short = |host: &str| !host.contains(['.', ':', '/']);
                if value.split(',').any(|host| is_short(host.trim())) {
                    remarks.push(format!(
                        "KEDA looks `{}` up in its own namespace, clapometer in its own. Write `{}.NAMESPACE.svc.cluster.local`.",
                        one_line(value),
                        one_line(value.split(',').next().unwrap_or(value)),
                    ));
                }
            }
            "user" if value == "postgres" => remarks.push(
                "The role `postgres` is a superuser almost everywhere, and a read-only transaction does not hold one back. \
                 Make a role of its own that may only read (deploy/postgres/own-table.sql), and write it here; then the \
                 password is a new one, too."
                    .to_owned(),
            ),
            "user" => remarks.push(format!("It logs in as `{}`, as KEDA did. {ROLE}.", one_line(value))),
            "sslmode" if value == "allow" => remarks.push(
                "`sslmode: allow` is not there with clapometer: `prefer` takes TLS where the server has it, and checks as little."
                    .to_owned(),
            ),
            _ => {}
        }
    }
    remarks
}

const ROLE: &str = "`clapometer check` says whether the role may do more than read, and whether row level security or masked \
                    statistics change what it sees: with another role the same SQL may count something else";

fn told(need: &Needed, database: &Database) -> String {
    let origins: Vec<String> = need.origins.iter().map(|origin| one_line_of(&origin.to_string())).collect();
    let secret = secret(database);
    let several = match &origins[..] {
        [_] => String::new(),
        _ => " They belong to one role on one server, and so should be the same".to_owned() + ".",
    };
    format!("Secret `{secret}`, key `{}`: today {}.{several}", need.key, origins.join("; and "))
}

/// Keeps the marks of code.
fn one_line_of(text: &str) -> String {
    text.split('`').map(one_line).collect::<Vec<_>>().join("`")
}

/// The command that makes the Secret, if Secrets have all of it.
fn command(database: &Database, needed: &[Needed]) -> Option<String> {
    let sources: Option<Vec<String>> = needed
        .iter()
        .map(|need| {
            let Some(Origin::Secret { namespace, name, key }) = need.origins.first() else { return None };
            let namespace = namespace.as_deref()?;
            let is_plain =
                |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            (is_plain(namespace) && is_plain(name) && is_plain(key)).then(|| {
                format!(
                    " \\\n  --from-file={}=<(kubectl --namespace {namespace} get secret {name} --output \
                     jsonpath='{{.data.{}}}' | base64 --decode)",
                    need.key,
                    key.replace('.', "\\.")
                )
            })
        })
        .collect();
    let sources = sources.filter(|sources| !sources.is_empty())?;
    Some(format!("kubectl --namespace clapometer create secret generic {}{}", secret(database), sources.concat()))
}

/// The part about queries that may be one.
pub(super) fn alike(plan: &Plan) -> String {
    let mut text = String::new();
    for group in &plan.alike {
        if text.is_empty() {
            text.push_str(
                "\n## Queries that may be one\n\nThese differ only in literals. Whether a parameter may stand for them depends on \
                 the type of the column, which the manifest does not say: a parameter has the type text, and a column of type \
                 `citext`, `char` or an enum compares it otherwise. Where the column is `text` or `varchar`, write one query \
                 with `$1` and `parameters`, and `param.NAME` into the triggers. It is then still one statement for each value.\n\n",
            );
        }
        let names: Vec<String> = group.iter().map(|query| format!("`{}`", plan.queries[*query].name)).collect();
        line(&mut text, &format!("- {}", names.join(", ")));
    }
    text
}
