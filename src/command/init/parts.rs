//! The parts for libraries that were found, and what was found in words.

use super::{
    Parts, configuration,
    draft::{Draft, Fleet},
    found::{Library, Queues},
    grants::{self, Reading},
    manifest,
    steps::Steps,
};
use crate::terminal::text::plural;

/// Writes everything.
pub(super) fn of(draft: &Draft) -> Parts {
    let Draft { place, scaler, fleets, remarks } = draft;
    let readings: Vec<Reading<'_>> = fleets.iter().map(reading).collect();
    Parts {
        found: fleets.iter().map(found).chain(remarks.iter().cloned()).collect(),
        config: configuration::text(place, &configuration::queries(fleets)),
        sql: grants::text(place, &readings),
        manifest: manifest::text(fleets, scaler),
        steps: Steps::of(place, true),
    }
}

/// Says in a paragraph what was found.
fn found(fleet: &Fleet) -> String {
    let Library { preset, schema_in_sql, queues, .. } = &fleet.library;
    let queues = match queues {
        Queues::None => String::new(),
        Queues::Unreadable => "; this role may not read its queues".to_owned(),
        Queues::Listed { names, .. } if names.is_empty() => {
            "; no queue has left a job in its tables, so that the name below is a guess".to_owned()
        }
        Queues::Listed { names, has_more } => {
            let more = if *has_more { " and more, which are left out" } else { "" };
            format!("; {}{more}", plural(names.len(), "queue", "queues"))
        }
    };
    format!(
        "{} in the schema {schema_in_sql}{queues}. Tested with {}. `clapometer presets {}` says what counts as what.",
        preset.library, preset.tested, preset.name
    )
}

fn reading(fleet: &Fleet) -> Reading<'_> {
    let Library { preset, schema_in_sql, tables, has_row_security, .. } = &fleet.library;
    Reading {
        what: preset.library,
        schema: schema_in_sql,
        tables: tables.iter().map(String::as_str).collect(),
        has_row_security: *has_row_security,
    }
}
