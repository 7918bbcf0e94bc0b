//! The steps that come next: from the parts to an answer that KEDA would get.

use std::path::Path;

use super::{
    answers::MARK,
    draft::Place,
    files::{CONFIG, MANIFEST, PASSWORD, SQL},
};
use crate::terminal::text::printable;

/// The steps, as commands for a shell.
pub(super) struct Steps {
    psql: &'static str,
    /// What is to be done for a password, where the server asks for one.
    password: Option<Password>,
    /// False if there are questions left that only an editor can answer.
    can_be_served: bool,
}

/// The role's password, which belongs in the file that the configuration names.
enum Password {
    /// The grants make the role, named as in SQL, and it has none yet.
    New(String),
    /// The role has one, which its owner knows.
    Known(String),
}

impl Steps {
    /// Describes what is left to do in this place.
    pub(super) fn of(place: &Place, can_be_served: bool) -> Self {
        let known = &place.known;
        let password = place.connection.password.is_some().then(|| match known.exists {
            true => Password::Known(place.role.value.clone()),
            false => Password::New(known.name_in_sql.clone()),
        });
        Self { psql: place.psql, password, can_be_served }
    }

    /// Writes them, for parts in this directory.
    pub(super) fn commands(&self, directory: &Path) -> Vec<String> {
        let [config, sql, manifest] = [CONFIG, SQL, MANIFEST].map(|name| shown(directory, name));
        let psql = self.psql;
        let mut commands = vec![format!("{psql} -v ON_ERROR_STOP=1 -f {sql}")];
        match &self.password {
            Some(Password::New(role)) => {
                commands.push(format!("(set -C; umask 077; openssl rand -hex 24 >{PASSWORD})"));
                // An ALTER ROLE with the password would be in the server's log, and in pg_stat_statements.
                commands.push(format!("# asks twice for what is in {PASSWORD}, and sends only its hash"));
                commands.push(format!("{psql} -c {}", word(&format!("\\password {role}"))));
            }
            Some(Password::Known(role)) => {
                commands.push(format!("# the password of {} belongs in the file {PASSWORD}", printable(role)));
            }
            None => {}
        }
        if !self.can_be_served {
            commands.push(format!("# once the questions in {config} and {manifest} are answered"));
        }
        commands.push(format!("clapometer check --config {config}"));
        commands.push(format!("clapometer lint {manifest}"));
        if self.can_be_served {
            commands.push("# what KEDA would do now".to_owned());
            let listen = "--listen 127.0.0.1:9090 --admin-listen 127.0.0.1:9091";
            commands.push(format!("clapometer serve --config {config} {listen} & sleep 1"));
            commands.push(format!("clapometer get --manifest {manifest} --address 127.0.0.1:9090"));
            commands.push("kill $!".to_owned());
            commands.push(format!("# once the scaler runs in the cluster, and the lines with `{MARK}` are right"));
            commands.push(format!("kubectl apply -n NAMESPACE -f {manifest}"));
        }
        commands
    }
}

/// Returns the path of a part as a person types it.
pub(super) fn shown(directory: &Path, name: &str) -> String {
    let path = if directory == Path::new(".") { Path::new(name).to_owned() } else { directory.join(name) };
    printable(&path.display().to_string())
}

/// Returns a text as one word for a shell, quoted where it must be.
pub(super) fn word(text: &str) -> String {
    let text = printable(text);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(password: Option<Password>, can_be_served: bool) -> Vec<String> {
        Steps { psql: "psql", password, can_be_served }.commands(Path::new("scaling"))
    }

    #[test]
    fn a_role_that_is_made_gets_a_password_from_the_file_that_the_configuration_names() {
        let commands = commands(Some(Password::New("\"o'brien\"".to_owned())), false);
        assert_eq!(commands[1], "(set -C; umask 077; openssl rand -hex 24 >clapometer.password)");
        assert_eq!(commands[3], r#"psql -c '\password "o'\''brien"'"#);
        assert_eq!(
            commands[4..],
            [
                "# once the questions in scaling/clapometer.yaml and scaling/manifest.yaml are answered",
                "clapometer check --config scaling/clapometer.yaml",
                "clapometer lint scaling/manifest.yaml",
            ]
        );
    }

    #[test]
    fn only_what_is_complete_is_served() {
        assert_eq!(commands(None, false).last().unwrap(), "clapometer lint scaling/manifest.yaml");
        assert_eq!(commands(None, true).last().unwrap(), "kubectl apply -n NAMESPACE -f scaling/manifest.yaml");
    }
}
