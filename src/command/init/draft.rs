//! The draft of what is to be written: where the database is, and for each library its queries and its workers.

use super::{
    answers::{Answer, Answers},
    found::{Findings, Library, Queues},
};
use crate::{
    command::is_scaler_address,
    config,
    conninfo::{Address, Connection, SessionAttrs},
    postgres::Role,
    presets::Workers,
};

/// The longest name of an object of Kubernetes, less what is put behind it.
const LONGEST_NAME: usize = 50;

/// The queue of nearly every library for jobs that name none.
const DEFAULT_QUEUE: &str = "default";

/// The address of the shipped manifests.
pub(super) const SCALER: &str = "clapometer.clapometer.svc.cluster.local:9090";

/// The database, and the role as which the scaler will connect.
pub(super) struct Place {
    pub(super) connection: Connection,
    /// The key of the configuration's `databases`.
    pub(super) name: String,
    pub(super) role: Answer<String>,
    pub(super) known: Role,
    /// The command that connects to it as this program does.
    pub(super) psql: &'static str,
}

/// All that is written.
pub(super) struct Draft {
    pub(super) place: Place,
    pub(super) scaler: Answer<String>,
    pub(super) fleets: Vec<Fleet>,
    /// The things that look like a library and are none, a sentence each.
    pub(super) remarks: Vec<String>,
}

/// A library's workers.
pub(super) struct Fleet {
    pub(super) library: Library,
    pub(super) workers: Answer<Workers>,
    /// The name of the Deployment or of the Jobs.
    pub(super) name: Answer<String>,
    pub(super) queries: Vec<Counting>,
}

/// A query of the configuration.
pub(super) struct Counting {
    pub(super) name: String,
    /// The queue, where the library has queues.
    pub(super) queue: Option<Answer<String>>,
}

impl Place {
    /// Describes the database that was looked into.
    pub(super) fn of(
        settings: &config::Database,
        role: Answer<String>,
        known: Role,
        psql: &'static str,
    ) -> Result<Self, String> {
        let connection = settings.connection.resolve()?;
        let name = match slug(&connection.dbname) {
            name if name.is_empty() => "app".to_owned(),
            name => name,
        };
        Ok(Self { connection, name, role, known, psql })
    }

    /// Returns the hosts and the ports, as libpq writes them.
    pub(super) fn hosts(&self) -> (String, String) {
        let host = |address: &Address| match address {
            Address::Tcp { host, .. } => host.clone(),
            Address::Unix { directory, .. } => directory.display().to_string(),
        };
        let addresses = &self.connection.addresses;
        let hosts: Vec<String> = addresses.iter().map(host).collect();
        let mut ports: Vec<String> = addresses.iter().map(|address| address.port().to_string()).collect();
        if ports.iter().all(|port| *port == ports[0]) {
            ports.truncate(1);
        }
        (hosts.join(","), ports.join(","))
    }

    /// Returns which server of several is wanted, where that was said.
    pub(super) fn session_attrs(&self) -> Option<&'static str> {
        let wanted = self.connection.target_session_attrs;
        (wanted != SessionAttrs::Any).then(|| wanted.name())
    }
}

impl Draft {
    /// Asks for what the database does not say.
    pub(super) fn new(place: Place, findings: Findings, answers: &Answers) -> Self {
        let Findings { libraries, remarks } = findings;
        let scaler = answers.text("The address of the scaler, as KEDA dials it", SCALER, is_scaler_address);
        let counts: Vec<usize> = libraries
            .iter()
            .map(|library| libraries.iter().filter(|other| other.preset.name == library.preset.name).count())
            .collect();
        let mut names = Names::default();
        let fleets = libraries.into_iter().zip(counts).map(|(library, count)| {
            let own = slug(library.preset.name);
            let base = if count == 1 { own } else { slug(&format!("{own}-{}", library.schema)) };
            fleet(library, &names.unique(base), &mut names, answers)
        });
        let fleets = fleets.collect();
        Self { place, scaler, fleets, remarks }
    }
}

fn fleet(library: Library, base: &str, names: &mut Names, answers: &Answers) -> Fleet {
    let what = format!("{} in the schema {}", library.preset.library, library.schema);
    let question = format!(
        "{what}: do workers run until they are stopped ({}), or does each take one job and exit ({})?",
        Workers::LongLived.word(),
        Workers::OneRow.word()
    );
    let workers = answers.workers(&question, library.preset.workers);
    let question = match workers.value {
        Workers::LongLived => format!("{what}: the name of its workers' Deployment"),
        Workers::OneRow => format!("{what}: the name of its Jobs"),
    };
    let name = answers.text(&question, &format!("{base}-worker"), is_object_name);
    let queues = match &library.queues {
        Queues::None => Vec::new(),
        Queues::Listed { names, .. } if !names.is_empty() => names.iter().cloned().map(Answer::given).collect(),
        Queues::Listed { .. } | Queues::Unreadable => vec![Answer::assumed(DEFAULT_QUEUE.to_owned())],
    };
    let of_queue = |queue: Answer<String>| Counting {
        name: names.unique(slug(&format!("{base}-{}", queue.value))),
        queue: Some(queue),
    };
    let mut queries: Vec<Counting> = queues.into_iter().map(of_queue).collect();
    if queries.is_empty() {
        queries.push(Counting { name: base.to_owned(), queue: None });
    }
    Fleet { library, workers, name, queries }
}

/// Names that are taken.
#[derive(Default)]
struct Names(Vec<String>);

impl Names {
    /// Returns the name, with a number behind it if it is taken.
    fn unique(&mut self, name: String) -> String {
        let mut candidates = (2..).map(|number| format!("{name}-{number}"));
        let mut unique = name.clone();
        while self.0.contains(&unique) {
            unique = candidates.next().expect("numbers do not end");
        }
        self.0.push(unique.clone());
        unique
    }
}

/// Returns a name that Kubernetes and the configuration take: small letters, digits and dashes.
pub(super) fn slug(text: &str) -> String {
    let mut slug = String::new();
    for c in text.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(LONGEST_NAME);
    slug.trim_end_matches('-').to_owned()
}

fn is_object_name(name: &str) -> Result<(), String> {
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = name.as_bytes();
    let is_right = bytes.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    if is_right { Ok(()) } else { Err("must be 1 to 63 small letters, digits and dashes".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_a_name_that_kubernetes_takes() {
        for (text, slug_of_it) in [
            ("solid_queue", "solid-queue"),
            ("Über \"app\"\n", "ber-app"),
            ("--", ""),
            ("MAIL", "mail"),
            ("\u{1f44f}", ""),
        ] {
            assert_eq!(slug(text), slug_of_it);
        }
        assert_eq!(slug(&"a".repeat(80)).len(), LONGEST_NAME);
    }

    #[test]
    fn a_name_that_is_taken_gets_a_number() {
        let mut names = Names::default();
        let made = ["a", "a", "a", "b"].map(|name| names.unique(name.to_owned()));
        assert_eq!(made, ["a", "a-2", "a-3", "b"]);
    }
}
