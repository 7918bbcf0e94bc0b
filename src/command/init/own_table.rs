//! The table of the user's own, or what there is in its place.

use super::Failure;
use crate::{
    diagnostics::nearest,
    notify_sql::NotifyTable,
    postgres::{Inspector, Table},
};

/// The most names that one which is not there is compared with.
const MOST_NAMES: i64 = 10_000;

/// The things that there are in the place of a table that is not there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Instead {
    /// Tables of its name in other schemas, as SQL names them.
    Elsewhere(Vec<String>),
    /// A table whose name is near, as `--table` takes it.
    Near(String),
    /// Tables whose names are not near.
    Others,
    /// No table at all.
    Nothing,
}

pub(super) async fn find(inspector: &mut Inspector, table: &NotifyTable) -> Result<Table, Failure> {
    let (schema, name) = table.names();
    let tables = inspector.tables(&[name]).await.map_err(Failure::Refused)?;
    let elsewhere: Vec<String> = tables.iter().map(|table| table.name_in_sql.clone()).collect();
    if let Some(found) = tables.into_iter().find(|found| found.schema == schema) {
        return Ok(found);
    }
    let instead = match elsewhere.is_empty() {
        true => among(schema, name, &inspector.names(schema, MOST_NAMES).await.map_err(Failure::Refused)?),
        false => Instead::Elsewhere(elsewhere),
    };
    Err(Failure::NoTable { name: format!("{schema}.{name}"), instead })
}

/// Looks for a near name, first in the same schema.
fn among(schema: &str, name: &str, names: &[(String, String)]) -> Instead {
    if names.is_empty() {
        return Instead::Nothing;
    }
    let near = |is_looked_at: fn(&str, &str) -> bool| {
        let looked_at = || names.iter().filter(|(other, _)| is_looked_at(other, schema));
        let near = nearest(name, looked_at().map(|(_, name)| name.as_str()))?;
        looked_at().find(|(_, name)| name == near)
    };
    match near(|other, schema| other == schema).or_else(|| near(|_, _| true)) {
        Some((schema, name)) => Instead::Near(format!("{schema}.{name}")),
        None => Instead::Others,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_near_is_found_first_in_the_same_schema() {
        let names = [("app", "invoice"), ("public", "invoices"), ("public", "users"), ("app", "Mail_Jobs")];
        let names = names.map(|(schema, name)| (schema.to_owned(), name.to_owned()));
        for (wrong, near) in [
            ("invoice", "public.invoices"),
            ("Invoices", "public.invoices"),
            ("invocies", "public.invoices"),
            ("mail-jobs", "app.Mail_Jobs"),
        ] {
            assert_eq!(among("public", wrong, &names), Instead::Near(near.to_owned()), "{wrong}");
        }
        assert_eq!(among("public", "outbox", &names), Instead::Others);
        assert_eq!(among("public", "invoices", &[]), Instead::Nothing);
    }
}
