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
    /// True if the grants make the role, or let it log in.
    makes_role: bool,
    /// What is to be done for a password, unless the server is known to ask the role for none.
    password: Option<Password>,
    /// True if the file for a password is in the current directory already.
    has_password_file: bool,
    /// False if there are questions left that only an editor can answer.
    can_be_served: bool,
}

/// The role's password, which belongs in the file that the configuration names.
enum Password {
    /// The grants make the role, named as in SQL, and it has none yet.
    New { role_in_sql: String },
    /// The role exists, and this program connects as another one.
    Unknown { role: String, role_in_sql: String },
    /// This program connects as the role.
    OfThisSession { role: String },
    /// The server has asked this program for none. It may ask the role for one.
    NotAskedFor { role: String, role_in_sql: String },
}

impl Steps {
    /// Describes what is left to do in this place.
    pub(super) fn of(place: &Place, can_be_served: bool) -> Self {
        let known = &place.known;
        let (role, role_in_sql) = (place.role.value.clone(), known.name_in_sql.clone());
        let is_own = known.exists && role == place.connection.user;
        let password = match place.connection.password.is_some() {
            true if is_own => Some(Password::OfThisSession { role }),
            true if known.exists => Some(Password::Unknown { role, role_in_sql }),
            true => Some(Password::New { role_in_sql }),
            false if is_own => None,
            false => Some(Password::NotAskedFor { role, role_in_sql }),
        };
        let makes_role = !known.exists || !known.can_log_in;
        let has_password_file = Path::new(PASSWORD).exists();
        Self { psql: place.psql, makes_role, password, has_password_file, can_be_served }
    }

    /// Writes them, for parts in this directory.
    pub(super) fn commands(&self, directory: &Path) -> Vec<String> {
        let [config, sql, manifest] = [CONFIG, SQL, MANIFEST].map(|name| shown(directory, name));
        let psql = self.psql;
        let mut commands = vec![
            match self.makes_role {
                true => "# as the owner of the tables with CREATEROLE, or as a superuser",
                false => "# as the owner of the tables, or as a superuser",
            }
            .to_owned(),
            format!("{psql} -v ON_ERROR_STOP=1 -f {sql}"),
        ];
        commands.extend(self.password.iter().flat_map(|password| self.for_password(password, &config)));
        if !self.can_be_served {
            commands.push(format!("# once the questions in {config} and {manifest} are answered"));
        }
        commands.push(format!("clapometer check --config {config}"));
        commands.push(format!("clapometer lint {manifest}"));
        commands.push("# what KEDA would do now".to_owned());
        let listen = "--listen 127.0.0.1:9090 --admin-listen 127.0.0.1:9091";
        commands.push(format!("clapometer serve --config {config} {listen} & sleep 1"));
        commands.push(format!("clapometer get --manifest {manifest} --address 127.0.0.1:9090"));
        commands.push("kill $!".to_owned());
        commands.push(match self.can_be_served {
            true => format!("# once the scaler runs in the cluster, and the lines with `{MARK}` are right"),
            false => "# once the scaler runs in the cluster".to_owned(),
        });
        commands.push(format!("kubectl apply -n NAMESPACE -f {manifest}"));
        commands
    }

    /// Writes what puts a password into its file. Whatever would end somebody's access is a comment.
    fn for_password(&self, password: &Password, config: &str) -> Vec<String> {
        match password {
            Password::New { role_in_sql } => self.another(role_in_sql, config),
            Password::Unknown { role, role_in_sql } => {
                let role = printable(role);
                let mut commands = match self.has_password_file {
                    true => vec![format!("# the role {role} exists: check says whether {PASSWORD} fits")],
                    false => vec![
                        format!("# the role {role} exists, and init does not know its password"),
                        "# if you have it in a file:".to_owned(),
                        format!("#   cp FILE {PASSWORD}"),
                    ],
                };
                commands.push("# if not, these give it another one; whoever connects with the old one is".to_owned());
                commands.push("# refused from then on".to_owned());
                commands.extend(in_comments(self.another(role_in_sql, config)));
                commands
            }
            Password::NotAskedFor { role, role_in_sql } => {
                let commands = [
                    format!("# the server asked init for no password; if it asks {} for one, add", printable(role)),
                    format!("#   password: {{file: {PASSWORD}}}"),
                    format!("# below `user` in {config}, and run"),
                ];
                commands.into_iter().chain(in_comments(self.another(role_in_sql, config))).collect()
            }
            Password::OfThisSession { role } => {
                let role = printable(role);
                vec![format!("# the password of {role}, as whom init connects, belongs in the file {PASSWORD}")]
            }
        }
    }

    /// Writes the commands that make a password and give it to the role.
    fn another(&self, role_in_sql: &str, config: &str) -> Vec<String> {
        let psql = self.psql;
        let mut commands = match self.has_password_file {
            true => vec![
                format!("# {PASSWORD} is here already: keep it, or choose another name,"),
                format!("# here and in {config}"),
            ],
            false => vec![format!("(set -C; umask 077; openssl rand -hex 24 >{PASSWORD})")],
        };
        // An ALTER ROLE with the password would be in the server's log, and in pg_stat_statements.
        commands.extend([
            format!("# as the same role; asks twice for what is in {PASSWORD},"),
            "# and sends only its hash".to_owned(),
            format!("{psql} -c {}", word(&format!("\\password {role_in_sql}"))),
        ]);
        commands
    }
}

fn in_comments(commands: Vec<String>) -> impl Iterator<Item = String> {
    commands.into_iter().map(|command| format!("#   {command}"))
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

    fn steps(password: Option<Password>, can_be_served: bool) -> Steps {
        Steps { psql: "psql", makes_role: true, password, has_password_file: false, can_be_served }
    }

    fn commands(password: Option<Password>, can_be_served: bool) -> Vec<String> {
        steps(password, can_be_served).commands(Path::new("scaling"))
    }

    #[test]
    fn a_role_that_is_made_gets_a_password_from_the_file_that_the_configuration_names() {
        let commands = commands(Some(Password::New { role_in_sql: "\"o'brien\"".to_owned() }), false);
        assert_eq!(commands[2], "(set -C; umask 077; openssl rand -hex 24 >clapometer.password)");
        assert_eq!(commands[5], r#"psql -c '\password "o'\''brien"'"#);
        assert_eq!(
            commands[6..10],
            [
                "# once the questions in scaling/clapometer.yaml and scaling/manifest.yaml are answered",
                "clapometer check --config scaling/clapometer.yaml",
                "clapometer lint scaling/manifest.yaml",
                "# what KEDA would do now",
            ]
        );
    }

    #[test]
    fn a_role_that_exists_keeps_its_password_unless_a_person_decides_otherwise() {
        let (role, role_in_sql) = ("Ann".to_owned(), "\"Ann\"".to_owned());
        let commands = commands(Some(Password::Unknown { role: role.clone(), role_in_sql }), false);
        assert_eq!(
            commands[2..11],
            [
                "# the role Ann exists, and init does not know its password",
                "# if you have it in a file:",
                "#   cp FILE clapometer.password",
                "# if not, these give it another one; whoever connects with the old one is",
                "# refused from then on",
                "#   (set -C; umask 077; openssl rand -hex 24 >clapometer.password)",
                "#   # as the same role; asks twice for what is in clapometer.password,",
                "#   # and sends only its hash",
                "#   psql -c '\\password \"Ann\"'",
            ]
        );
        let own = steps(None, false).for_password(&Password::OfThisSession { role }, CONFIG);
        assert_eq!(own, ["# the password of Ann, as whom init connects, belongs in the file clapometer.password"]);
    }

    #[test]
    fn a_file_with_a_password_is_not_written_again() {
        let steps = Steps { has_password_file: true, ..steps(None, false) };
        let of = |password| steps.for_password(&password, "c.yaml");
        let new = of(Password::New { role_in_sql: "scaler".to_owned() });
        let here = ["# clapometer.password is here already: keep it, or choose another name,", "# here and in c.yaml"];
        assert_eq!(new[..2], here);
        let known = of(Password::Unknown { role: "scaler".to_owned(), role_in_sql: "scaler".to_owned() });
        assert_eq!(known[0], "# the role scaler exists: check says whether clapometer.password fits");
        assert!(new.iter().chain(&known).all(|command| !command.contains("openssl")), "{new:?} {known:?}");
    }

    #[test]
    fn a_role_that_the_server_may_ask_for_a_password_gets_the_commands_as_comments() {
        let password = Password::NotAskedFor { role: "scaler".to_owned(), role_in_sql: "scaler".to_owned() };
        assert_eq!(
            commands(Some(password), false)[2..9],
            [
                "# the server asked init for no password; if it asks scaler for one, add",
                "#   password: {file: clapometer.password}",
                "# below `user` in scaling/clapometer.yaml, and run",
                "#   (set -C; umask 077; openssl rand -hex 24 >clapometer.password)",
                "#   # as the same role; asks twice for what is in clapometer.password,",
                "#   # and sends only its hash",
                "#   psql -c '\\password scaler'",
            ]
        );
    }

    #[test]
    fn marks_are_looked_at_before_anything_is_applied() {
        for (can_be_served, look) in [(true, "and the lines with"), (false, "# once the scaler runs in the cluster")] {
            let commands = commands(None, can_be_served);
            let [.., before, last] = &commands[..] else { panic!("there are commands") };
            assert!(before.contains(look), "{before}");
            assert_eq!(last, "kubectl apply -n NAMESPACE -f scaling/manifest.yaml");
        }
    }
}
