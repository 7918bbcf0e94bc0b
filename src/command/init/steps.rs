//! The steps that come next: from the parts to an answer that KEDA would get.

use std::path::Path;

use super::{
    draft::Place,
    files::{CONFIG, MANIFEST, SQL},
};
use crate::terminal::text::printable;

/// The steps, as commands for a shell.
pub(super) struct Steps {
    psql: &'static str,
    /// The role that the grants make, as SQL names it, where the server asks for passwords.
    new_role: Option<String>,
    /// The role whose password is wanted in place of the one that was used so far.
    other_role: Option<String>,
    /// False if there are questions left that only an editor can answer.
    can_be_served: bool,
}

impl Steps {
    /// Describes what is left to do in this place.
    pub(super) fn of(place: &Place, can_be_served: bool) -> Self {
        let asks_for_passwords = place.connection.password.is_some();
        let (role, known) = (&place.role.value, &place.known);
        Self {
            psql: place.psql,
            new_role: (asks_for_passwords && !known.exists).then(|| known.name_in_sql.clone()),
            other_role: (asks_for_passwords && *role != place.connection.user).then(|| role.clone()),
            can_be_served,
        }
    }

    /// The same, where the grants make no role.
    pub(super) fn without_new_role(self) -> Self {
        Self { new_role: None, ..self }
    }

    /// Writes them, for parts in this directory.
    pub(super) fn commands(&self, directory: &Path) -> Vec<String> {
        let [config, sql, manifest] = [CONFIG, SQL, MANIFEST].map(|name| shown(directory, name));
        let psql = self.psql;
        let mut commands = vec![format!("{psql} -v ON_ERROR_STOP=1 -f {sql}")];
        if let Some(role) = &self.new_role {
            commands.push(format!("{psql} -c {}", quoted(&printable(&format!("\\password {role}")))));
        }
        if let Some(role) = &self.other_role {
            commands.push(format!("# from here on PGPASSWORD is the password of {}", printable(role)));
        }
        commands.push(format!("clapometer check --config {config}"));
        commands.push(format!("clapometer lint {manifest}"));
        if self.can_be_served {
            commands.push("# what KEDA would do now".to_owned());
            commands.push(format!("clapometer serve --config {config} & sleep 1"));
            commands.push(format!("clapometer get --manifest {manifest} --address 127.0.0.1:9090"));
            commands.push("# once the scaler runs in the cluster".to_owned());
            commands.push(format!("kubectl apply -f {manifest}"));
        }
        commands
    }
}

/// Returns the path of a part as a person types it.
pub(super) fn shown(directory: &Path, name: &str) -> String {
    let path = if directory == Path::new(".") { Path::new(name).to_owned() } else { directory.join(name) };
    printable(&path.display().to_string())
}

/// Quotes a word for a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(new_role: Option<&str>, can_be_served: bool) -> Vec<String> {
        let role = new_role.map(str::to_owned);
        let steps = Steps { psql: "psql", other_role: role.clone(), new_role: role, can_be_served };
        steps.commands(Path::new("scaling"))
    }

    #[test]
    fn a_role_that_is_made_gets_a_password_first() {
        let commands = commands(Some("\"o'brien\""), false);
        assert_eq!(commands[1], r#"psql -c '\password "o'\''brien"'"#);
        assert_eq!(commands[3], "clapometer check --config scaling/clapometer.yaml");
    }

    #[test]
    fn only_what_is_complete_is_served() {
        assert_eq!(commands(None, false).last().unwrap(), "clapometer lint scaling/manifest.yaml");
        assert_eq!(commands(None, true).last().unwrap(), "kubectl apply -f scaling/manifest.yaml");
    }
}
