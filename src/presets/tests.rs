//! Tests of what holds for every preset, and the part of docs/presets.md that is made from them.

use std::{collections::BTreeSet, fmt::Write, fs};

use super::*;
use crate::query::sql;

/// Options whose texts try to leave their quotes.
fn hostile() -> Options {
    Options {
        queue: Some("a'; DROP TABLE x; -- {schema} \\ $1".to_owned()),
        schema: Some("my \"app\".{queue}'".to_owned()),
        tasks: Some(vec!["it's".to_owned(), "{rescued}".to_owned()]),
        max_reads: Some(5),
        rescue_after: Some(Duration::from_millis(1_500)),
        heartbeat_timeout: Some(Duration::from_secs(7)),
        workers: Some(Workers::OneRow),
    }
}

#[test]
fn every_statement_is_one_select_without_parameters_and_without_placeholders() {
    for preset in ALL {
        for workers in [Workers::LongLived, Workers::OneRow] {
            let options = Options { workers: Some(workers), ..Options::default() };
            let text = preset.sql(&options);
            assert_eq!(sql::is_one_statement(&text), Ok(()), "{text}");
            assert!(sql::looks_like_sql(&text), "{text}");
            assert_eq!(sql::highest_placeholder(&text), 0, "{text}");
            assert!(!text.contains(['{', '}']), "{text}");
        }
        for text in [Some(preset.sql(&hostile())), preset.seen(&hostile())].into_iter().flatten() {
            assert_eq!(sql::is_one_statement(&text), Ok(()), "{text}");
            assert_eq!(sql::highest_placeholder(&text), 0, "{text}");
        }
    }
}

#[test]
fn options_are_quoted_as_what_they_are() {
    let text = find("river").expect("it is there").sql(&hostile());
    assert!(text.contains(r#"FROM "my ""app"".{queue}'".river_job AS j"#), "{text}");
    assert!(text.contains(r"j.queue =  E'a''; DROP TABLE x; -- {schema} \\ $1'"), "{text}");
    assert!(text.contains("interval '1.5 s'"), "{text}");
    let text = find("graphile-worker").expect("it is there").sql(&hostile());
    assert!(text.contains("t.identifier IN ('it''s', '{rescued}')"), "{text}");
    let text =
        find("pgmq").expect("it is there").sql(&Options { queue: Some("Mail".to_owned()), ..Options::default() });
    assert!(text.contains(r#"FROM "pgmq"."q_mail" AS m"#), "{text}");
}

#[test]
fn a_line_break_in_a_name_stays_as_it_is() {
    let options = Options { schema: Some("a\nb".to_owned()), queue: Some("c\r\nd".to_owned()), ..Options::default() };
    let text = find("river").expect("it is there").sql(&options);
    assert!(text.contains("FROM \"a\nb\".river_job"), "{text}");
    assert!(text.contains("j.queue = 'c\r\nd'"), "{text}");
}

#[test]
fn a_row_for_each_queue_only_where_no_queue_is_given() {
    for preset in ALL {
        let is_grouped = preset.sql(&Options::default()).contains("GROUP BY queue");
        assert_eq!(is_grouped, matches!(preset.queue, Queue::Optional(_)), "{}", preset.name);
        assert!(!preset.sql(&hostile()).contains("GROUP BY queue"), "{}", preset.name);
    }
}

#[test]
fn rows_that_a_running_worker_releases_are_stalled_for_a_program_that_exits() {
    for preset in ALL {
        let sql = |workers| preset.sql(&Options { workers: Some(workers), ..Options::default() });
        let has_rescued = preset.states.iter().any(|state| state.counts == Counts::Rescued);
        assert_eq!(sql(Workers::LongLived) != sql(Workers::OneRow), has_rescued, "{}", preset.name);
    }
}

#[test]
fn a_channel_has_the_schema_that_is_configured() {
    let river = find("river").expect("it is there");
    assert_eq!(river.channel(&Options::default()).as_deref(), Some("public.river_insert"));
    let options = Options { schema: Some("app".to_owned()), ..Options::default() };
    assert_eq!(river.channel(&options).as_deref(), Some("app.river_insert"));
}

#[test]
fn every_preset_has_a_name_of_its_own_and_says_what_its_states_count_as() {
    let names: BTreeSet<&str> = ALL.into_iter().map(|preset| preset.name).collect();
    assert_eq!(names.len(), ALL.len());
    for preset in ALL {
        for counts in [Counts::Claimable, Counts::Held, Counts::Neither] {
            assert!(preset.states.iter().any(|state| state.counts == counts), "{}: {counts:?}", preset.name);
        }
    }
}

/// A preset as a section of the document.
fn section(preset: &Preset) -> String {
    let Preset { name, library, tested, run_once, stalled, .. } = preset;
    let example = match preset.queue {
        Queue::Optional(_) | Queue::Required => format!("mail-jobs: {{preset: {name}, queue: mail}}"),
        Queue::Absent => format!("all-jobs: {{preset: {name}}}"),
    };
    let options: Vec<String> = preset.keys().map(|key| format!("`{key}`")).collect();
    let tables: Vec<String> = preset.tables.iter().map(|table| format!("`{table}`")).collect();
    let schema = preset.schema.map_or_else(String::new, |schema| format!(" (and USAGE on the schema `{schema}`)"));
    let channel = preset.channel(&Options::default());
    let channel = channel.map_or_else(|| "none".to_owned(), |channel| format!("`{channel}`"));
    let mut text = format!(
        "## {name}\n\n{library}, tested with {tested}.\n\n```console\n\
         printf 'queries: {{{example}}}\\n' | clapometer check --config -\n```\n\n\
         | state | counts as |\n| --- | --- |\n"
    );
    for State { rows, counts } in preset.states {
        writeln!(text, "| {rows} | {} |", counts.word()).expect("writing to a String cannot fail");
    }
    write!(
        text,
        "\n- Options: {}. The role reads {}{schema}.\n- Workers are {}. One job and exit: {run_once}.\n\
         - Notifies on: {channel}. Stalled rows: {stalled}.\n",
        options.join(", "),
        tables.join(", "),
        preset.workers.word(),
    )
    .expect("writing to a String cannot fail");
    if let Some(index) = preset.index {
        let index = index.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(text, "- The library has no index for this query; this one helps where many rows are done: `{index}`. One that failed is \
             left invalid: `DROP INDEX CONCURRENTLY` it first."
        )
            .expect("writing to a String cannot fail");
    }
    for trap in preset.traps {
        writeln!(text, "- {trap}").expect("writing to a String cannot fail");
    }
    text
}

#[test]
fn the_document_has_every_preset_as_it_is() {
    let path = "docs/presets.md";
    let mut document = fs::read_to_string(path).expect("the document");
    let begin = "<!-- the presets, from src/presets -->\n\n";
    let sections: Vec<String> = ALL.into_iter().map(section).collect();
    let expected = sections.join("\n");
    let start = document.find(begin).expect("it has the mark") + begin.len();
    let mut length = document[start..].find("\n<!-- end of the presets -->").expect("it has the mark");
    if std::env::var_os("UPDATE_EXPECTATIONS").is_some() {
        document.replace_range(start..start + length, &expected);
        length = expected.len();
        fs::write(path, &document).expect("the document is writable");
    }
    assert_eq!(&document[start..start + length], expected, "UPDATE_EXPECTATIONS=1 writes it anew");
}

/// Without a name of its own, a second one like the first is made each time.
#[test]
fn an_index_is_made_once_however_often_its_statement_is_run() {
    for index in ALL.iter().filter_map(|preset| preset.index) {
        assert!(index.starts_with("CREATE INDEX CONCURRENTLY IF NOT EXISTS clapometer_open ON "), "{index}");
    }
}
