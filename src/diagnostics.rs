//! Faults in what an operator wrote: all of them at once, each with its location.
//!
//! Also the two rules that every message keeps: how a misspelt name is suggested ([`nearest`]), and how much of what
//! was found is repeated ([`quoted`], [`shown_key`], [`shown_path`]).

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
};

/// The number of characters of a wrong value that a message shows.
const LONGEST_SHOWN: usize = 100;

/// Bytes of a name that may be a misspelling.
const LONGEST_NAME: usize = 63;

/// The text in the place of a message that may quote what was found.
const HIDDEN: &str = "wrong; the log says how";

/// The beginning of the message about a file that cannot be read as YAML. The words of the parser follow.
pub(crate) const NOT_YAML: &str = "not valid YAML: ";

/// The text in the place of that message, without the words of the parser. It notices a mistake at its line or later.
const NOT_YAML_WITHOUT_WORDS: &str = "cannot be read as YAML: look there, and just before, for a tab, another \
     indentation, a quote that is not closed, or a text with a colon that needs quotes; the log says what is wrong";

/// The location of a value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// A line of the file, counted from 1.
    Line(u64),
    /// An environment variable, by its name.
    Variable(String),
    /// The configuration as a whole.
    Whole,
}

impl Location {
    /// Returns it as messages about a file write it: `clapometer.yaml:12`.
    pub fn shown(&self, file: Option<&Path>) -> Option<String> {
        match (self, file) {
            (Self::Line(line), Some(file)) => Some(format!("{}:{line}", file.display())),
            (Self::Line(line), None) => Some(format!("line {line}")),
            (Self::Variable(name), _) => Some(name.clone()),
            (Self::Whole, file) => file.map(|file| file.display().to_string()),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The path of the key, such as `queries.outstanding-claps.target`; empty for the file as a whole.
    pub path: String,
    /// The location of the value.
    pub location: Location,
    /// Says what was found and what would be right; never a secret.
    pub message: String,
}

/// The faults of a configuration, at least one, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misconfiguration {
    file: Option<PathBuf>,
    faults: Vec<Diagnostic>,
}

impl Misconfiguration {
    /// Sorts by line, then the variables, then what has no place.
    pub(crate) fn new(file: Option<PathBuf>, mut faults: Vec<Diagnostic>) -> Self {
        faults.sort_by(|a, b| (&a.location, &a.path).cmp(&(&b.location, &b.path)));
        faults.dedup();
        Self { file, faults }
    }

    /// A fault of a file as a whole.
    pub(crate) fn whole(file: PathBuf, message: impl Into<String>) -> Self {
        let fault = Diagnostic { path: String::new(), location: Location::Whole, message: message.into() };
        Self { file: Some(file), faults: vec![fault] }
    }

    /// Returns JSON with the file, the line or the variable, the key and the message of each fault.
    pub fn json(&self) -> serde_json::Value {
        let fault = |fault: &Diagnostic| {
            let mut json = serde_json::json!({"key": fault.path, "message": fault.message});
            match &fault.location {
                Location::Line(line) => json["line"] = (*line).into(),
                Location::Variable(name) => json["variable"] = name.as_str().into(),
                Location::Whole => {}
            }
            if let (Some(file), Location::Line(_) | Location::Whole) = (&self.file, &fault.location) {
                json["file"] = file.display().to_string().into();
            }
            json
        };
        serde_json::json!({"faults": self.faults.iter().map(fault).collect::<Vec<_>>()})
    }

    /// Returns each fault as everybody may see it who reaches the admin port: its place, its key, and its message where
    /// that quotes nothing. The text of a database's key or of SQL may hold what only the operator may see. A misspelt
    /// key comes first, because other faults follow from it.
    pub fn without_values(&self) -> Vec<String> {
        let shown = |fault: &Diagnostic| {
            let place = match &fault.location {
                Location::Line(line) => format!("line {line}: "),
                Location::Variable(name) => format!("{name}: "),
                Location::Whole => String::new(),
            };
            let is_of_a_query = fault.path.starts_with("queries.") && !fault.path.ends_with(".sql");
            // It names a key that is known, and nothing that was found.
            let is_known = fault.message.starts_with("unknown key; did you mean ");
            let message = match (is_of_a_query || is_known) && !fault.message.contains(['"', '\'', '`']) {
                true => fault.message.as_str(),
                false => HIDDEN,
            };
            let text = match fault.path.as_str() {
                "" => of_the_file(&fault.message),
                key => format!("{key}: {message}"),
            };
            (weight(&text), format!("{place}{text}"))
        };
        let mut faults: Vec<(u8, String)> = self.faults.iter().map(shown).collect();
        faults.sort_by_key(|(weight, _)| *weight);
        faults.into_iter().map(|(_, text)| text).collect()
    }

    /// Returns the text of the first faults, and how many more there are.
    pub fn summary(&self, most: usize) -> String {
        let Some(further) = self.faults.len().checked_sub(most).filter(|further| *further > 0) else {
            return self.to_string();
        };
        let first = Self { file: self.file.clone(), faults: self.faults[..most].to_vec() };
        format!("{first}\nand {further} more")
    }

    /// The faults, sorted.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.faults.iter()
    }
}

/// Returns a fault of a file as a whole as everybody may see it. What quotes nothing is known by its words.
fn of_the_file(message: &str) -> String {
    match message {
        _ if message.starts_with(NOT_YAML) => format!("the file {NOT_YAML_WITHOUT_WORDS}"),
        _ if message.starts_with("the file is ") => message.to_owned(),
        _ if message.starts_with("found ") && message.ends_with(", must be a mapping of keys") => {
            format!("the file: {message}")
        }
        _ => format!("the file: {HIDDEN}"),
    }
}

/// Returns the place of a fault among those that are shown.
fn weight(text: &str) -> u8 {
    match text {
        _ if text.contains("did you mean") => 0,
        _ if text.contains(": unknown ") => 1,
        _ if text.ends_with(HIDDEN) => 3,
        _ => 2,
    }
}

/// One fault a line: `clapometer.yaml:12: queries.jobs.target: found 0, must be ...`.
impl fmt::Display for Misconfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            if let Some(place) = fault.location.shown(self.file.as_deref()) {
                write!(f, "{place}: ")?;
            }
            if !fault.path.is_empty() {
                write!(f, "{}: ", fault.path)?;
            }
            f.write_str(&fault.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Misconfiguration {}

/// The beginning of a PEM text.
const PEM: &str = "-----BEGIN ";

/// The words before a password in the connection strings of libpq, JDBC, ADO.NET and ODBC, in lower case.
const SECRETS: [&str; 2] = ["password=", "pwd="];

/// Gathers faults while checking goes on.
#[derive(Debug, Default)]
pub(crate) struct Diagnostics {
    faults: RefCell<Vec<Diagnostic>>,
    notes: RefCell<Vec<Diagnostic>>,
}

impl Diagnostics {
    /// Notes one fault.
    pub(crate) fn add(&self, location: Location, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (without_credentials(&path.into()), without_credentials(&message.into()));
        self.faults.borrow_mut().push(Diagnostic { path, location, message });
    }

    /// Notes something that is no fault.
    pub(crate) fn note(&self, location: Location, path: impl Into<String>, message: impl Into<String>) {
        let (path, message) = (without_credentials(&path.into()), without_credentials(&message.into()));
        self.notes.borrow_mut().push(Diagnostic { path, location, message });
    }

    /// Takes the notes out.
    pub(crate) fn take_notes(&self) -> Vec<Diagnostic> {
        self.notes.take()
    }

    /// Notes faults that were found elsewhere.
    pub(crate) fn extend(&self, faults: &Misconfiguration) {
        self.faults.borrow_mut().extend(faults.faults.iter().cloned());
    }

    /// Returns whether nothing was found so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.faults.borrow().is_empty()
    }

    /// Returns what was found as an error.
    pub(crate) fn into_error(self, file: Option<PathBuf>) -> Misconfiguration {
        Misconfiguration::new(file, self.faults.into_inner())
    }
}

/// Returns the name among `known` that is nearest to a wrong one, if any is near. Case, dashes and underscores do not
/// count.
///
/// Somebody who does not remember a name writes its beginning, or goes on after it; a slip changes few letters; and
/// what is similar in its first letters is near, too.
///
/// Returns none for a text that is longer than any name, because comparing 64 KiB with each is slow.
pub(crate) fn nearest<'k>(wrong: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    /// The fewest letters that a common beginning has.
    const BEGINNING: usize = 4;
    /// The least similarity by Jaro and Winkler.
    const SIMILAR: f64 = 0.8;
    if wrong.len() > LONGEST_NAME {
        return None;
    }
    let folded = |name: &str| name.to_lowercase().replace(['-', '_'], "");
    let wrong = folded(wrong);
    let known: Vec<_> = known.into_iter().map(|name| (folded(name), name)).collect();
    let begins = |(folded, _): &&(String, &str)| {
        folded.len().min(wrong.len()) >= BEGINNING && (folded.starts_with(&wrong) || wrong.starts_with(folded.as_str()))
    };
    let beginning = known.iter().filter(begins).min_by_key(|(folded, _)| folded.len().abs_diff(wrong.len()));
    let slip = || {
        let distances = known.iter().map(|known| (strsim::damerau_levenshtein(&known.0, &wrong), known));
        let (distance, known) = distances.min_by_key(|(distance, _)| *distance)?;
        (distance <= known.1.len().div_ceil(3)).then_some(known)
    };
    let similar = || {
        let similarities = known.iter().map(|known| (strsim::jaro_winkler(&known.0, &wrong), known));
        let similar = similarities.filter(|(similarity, _)| *similarity >= SIMILAR);
        similar.max_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, known)| known)
    };
    beginning.or_else(slip).or_else(similar).map(|(_, name)| *name)
}

/// Returns whether a text is a connection string with a password, in whatever form, or may be one.
pub(crate) fn has_password(text: &str) -> bool {
    let joined: String = text.to_ascii_lowercase().split_whitespace().collect();
    let is_url = joined.split_once("://").is_some_and(|(_, rest)| rest.contains('@'));
    is_url || SECRETS.into_iter().any(|name| joined.contains(name))
}

/// Returns a message without the credentials that somebody wrote where a name should be: whoever gets a log or an
/// answer has no business with them.
fn without_credentials(text: &str) -> String {
    let mut shown = String::new();
    for word in text.split_inclusive(char::is_whitespace) {
        let lower = word.to_ascii_lowercase();
        let url = lower.find("://").filter(|at| lower[*at..].contains('@')).map(|at| at + "://".len());
        let named = SECRETS.into_iter().find_map(|name| Some(lower.find(name)? + name.len()));
        // Advice of ours has dots in the place of a password.
        let is_told = |start: &usize| !word[*start..].trim_matches(['\'', '.', ' ']).is_empty();
        match url.or(named).filter(is_told) {
            Some(start) => {
                let end = word.trim_end_matches([' ', '\n', '"', '\'', ',', ';', ':', ')']).len().max(start);
                shown.extend([&word[..start], "(hidden)", &word[end..]]);
            }
            None => shown.push_str(word),
        }
    }
    // The rest of it may be anywhere.
    if let Some(start) = shown.find(PEM) {
        shown.truncate(start);
        shown.push_str("(PEM text)");
    }
    shown
}

/// Quotes a text that was found: its first line, shortened, and nothing of a private key, a certificate or a connection
/// string that has a password.
pub(crate) fn quoted(text: &str) -> String {
    if is_pem(text) {
        return "PEM text".to_owned();
    }
    if has_password(text) {
        return "a connection string".to_owned();
    }
    let shown = text.lines().next().unwrap_or_default();
    match shown.char_indices().nth(LONGEST_SHOWN) {
        Some((end, _)) => format!("{:?}...", &shown[..end]),
        None if shown.len() < text.trim_end().len() => format!("{shown:?}..."),
        None => format!("{text:?}"),
    }
}

/// Returns a key for messages: without quotes, and otherwise as by [`quoted`].
pub(crate) fn shown_key(key: &str) -> String {
    quoted(key).trim_matches('"').to_owned()
}

/// Returns a path for messages; a text that cannot be a path is shortened as by [`quoted`].
pub(crate) fn shown_path(path: &Path) -> String {
    let text = path.display().to_string();
    let is_unusual =
        is_pem(&text) || has_password(&text) || text.contains('\n') || text.chars().count() > LONGEST_SHOWN;
    if is_unusual { quoted(&text) } else { text }
}

/// Returns whether a text is the content of a PEM file.
pub(crate) fn is_pem(text: &str) -> bool {
    text.contains(PEM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelling_suggests_the_nearest_name_and_nonsense_none() {
        let known = ["listen", "pool_size", "sslmode", "password"];
        for (wrong, right) in [
            ("Listen", Some("listen")),
            ("poolSize", Some("pool_size")),
            ("ssl-mode", Some("sslmode")),
            ("pasword", Some("password")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, known), right, "{wrong}");
        }
        assert_eq!(nearest(&"listen".repeat(50), known), None);
    }

    #[test]
    fn half_a_name_and_one_with_something_behind_it_suggest_the_whole_one() {
        let known = [
            "activationTargetQueryValue",
            "activityColumn",
            "dbName",
            "divideBy",
            "param.",
            "query",
            "rounding",
            "sslmode",
            "targetQueryValue",
            "userName",
        ];
        for (wrong, right) in [
            ("target", Some("targetQueryValue")),
            ("activationTarget", Some("activationTargetQueryValue")),
            ("activationValue", Some("activationTargetQueryValue")),
            ("activity", Some("activityColumn")),
            ("user", Some("userName")),
            ("db", Some("dbName")),
            ("ssl", Some("sslmode")),
            ("roundingMode", Some("rounding")),
            ("queryText", Some("query")),
            ("queryName", Some("query")),
            ("param_queue", Some("param.")),
            ("divedBy", Some("divideBy")),
            ("priority", None),
        ] {
            assert_eq!(nearest(wrong, known), right, "{wrong}");
        }
    }

    #[test]
    fn what_is_quoted_is_a_line_at_most_and_never_a_key() {
        assert_eq!(quoted("a b"), r#""a b""#);
        assert_eq!(quoted("first\nsecond"), r#""first"..."#);
        assert_eq!(quoted(&"x".repeat(500)).len(), LONGEST_SHOWN + 5);
        assert_eq!(quoted("-----BEGIN PRIVATE KEY-----\nAAAA"), "PEM text");
        assert_eq!(shown_path(Path::new("/tls/tls.key")), "/tls/tls.key");
        assert_eq!(shown_path(Path::new("-----BEGIN CERTIFICATE-----\nAAAA")), "PEM text");
        assert_eq!(shown_path(Path::new("postgres://u:secret@h/d")), "a connection string");
        for secret in
            ["postgres://u:p@h/d", "host=h password = p", "jdbc:postgresql://h/d?PASSWORD=p", "Server=h;Pwd=p"]
        {
            assert_eq!(quoted(secret), "a connection string");
        }
        assert_eq!(quoted("http://h/d"), r#""http://h/d""#);
        assert_eq!(shown_path(Path::new("secret\nlines")), r#""secret"..."#);
    }

    #[test]
    fn what_stands_where_a_name_should_be_is_told_without_its_password() {
        for (text, expected) in [
            ("admin.postgres://u:p@h/d: unknown key", "admin.postgres://(hidden): unknown key"),
            ("found \"host=h password=p\", must be", "found \"host=h password=(hidden)\", must be"),
            ("the variable a;pwd=p;b is not set", "the variable a;pwd=(hidden) is not set"),
            ("the variable -----BEGIN KEY----- p is not set", "the variable (PEM text)"),
            ("write password='...' or postgres://", "write password='...' or postgres://"),
        ] {
            assert_eq!(without_credentials(text), expected);
        }
    }

    #[test]
    fn a_misspelt_key_is_the_first_fault_that_is_shown_and_a_hidden_one_the_last() {
        let fault = |line: u64, path: &str, message: &str| Diagnostic {
            path: path.to_owned(),
            location: Location::Line(line),
            message: message.to_owned(),
        };
        let faults = Misconfiguration::new(
            None,
            vec![
                fault(1, "databases.claps.host", "found \"x\", must be y"),
                fault(2, "queries.a.target", "is missing"),
                fault(3, "queries.a.colour", "unknown key; the keys are sql and max_age"),
                fault(4, "queries.a.sqll", "unknown key; did you mean sql?"),
            ],
        );
        let shown = faults.without_values();
        assert!(shown[0].starts_with("line 4: ") && shown[1].starts_with("line 3: "), "{shown:?}");
        assert!(shown[2].starts_with("line 2: ") && shown[3].ends_with(HIDDEN), "{shown:?}");
    }

    #[test]
    fn a_file_that_cannot_be_read_says_so_without_what_is_in_it() {
        let shown = |message: &str| {
            let fault = Diagnostic { path: String::new(), location: Location::Line(7), message: message.to_owned() };
            Misconfiguration::new(None, vec![fault]).without_values().remove(0)
        };
        let unreadable = shown(&format!("{NOT_YAML}canary"));
        assert!(unreadable.starts_with("line 7: the file cannot be read as YAML: look there"), "{unreadable}");
        assert!(!unreadable.contains("canary"), "{unreadable}");
        for told in ["the file is empty; it needs queries", "found text, must be a mapping of keys"] {
            assert!(shown(told).ends_with(told), "{}", shown(told));
        }
        assert_eq!(shown("cannot read the file /canary"), format!("line 7: the file: {HIDDEN}"));
    }
}
