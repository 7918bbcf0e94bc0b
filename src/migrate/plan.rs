//! The databases and queries that the triggers become, and their names.
//!
//! Everything follows from the triggers in their order, so that the same files give the same names.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    builtin::{Builtin, Part, Server},
    literals::{self, Shape},
    origin::Origin,
};
use crate::query::{KEEPER, ParameterKind, sql};

/// Names that have a meaning already.
const RESERVED: [&str; 4] = [KEEPER, "pending-claps", "outstanding-claps", "clap-workers"];

/// Kubernetes allows a metric's name this many characters.
const LONGEST_NAME: usize = 63;

/// Statements that differ in more literals are different questions.
const MOST_PARAMETERS: usize = 3;

/// A trigger that becomes one of clapometer's.
#[derive(Debug)]
pub(super) struct Candidate {
    /// Its object's name; what its query is called after.
    pub(super) object: String,
    /// Its namespace, if the manifest has it.
    pub(super) namespace: Option<String>,
    /// Its own name within the object.
    pub(super) trigger: Option<String>,
    pub(super) builtin: Builtin,
}

/// An entry of `databases`.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) name: String,
    pub(super) server: Server,
    /// The places where the password is today, for each trigger that says so, each once.
    pub(super) passwords: BTreeSet<Origin>,
}

/// An entry of `queries`.
#[derive(Debug)]
pub(super) struct Query {
    pub(super) name: String,
    /// The index of its database.
    pub(super) database: usize,
    pub(super) sql: String,
    pub(super) parameters: Vec<(String, ParameterKind)>,
    /// The namespaces whose triggers use it; all, if one of them is unknown.
    pub(super) namespaces: Option<BTreeSet<String>>,
}

/// The query and the values that one trigger asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The index of its query.
    pub(super) query: usize,
    /// The values of the query's parameters, in their order.
    pub(super) values: Vec<String>,
}

/// All databases and queries, and what each trigger asks for.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) databases: Vec<Database>,
    pub(super) queries: Vec<Query>,
    /// One for each candidate.
    pub(super) asked: Vec<Asked>,
    /// Queries that are alike but for literals of unknown types, by their indexes.
    pub(super) alike: Vec<Vec<usize>>,
}

/// Makes the plan.
pub(super) fn plan(candidates: &[Candidate]) -> Plan {
    let mut plan = Plan::default();
    let mut names = Names::default();
    let databases: Vec<usize> = candidates.iter().map(|candidate| plan.database(candidate, &mut names)).collect();
    let shapes: Vec<Shape> = candidates.iter().map(|candidate| literals::shape(&candidate.builtin.sql)).collect();
    let mut names = Names::default();
    for reserved in RESERVED {
        names.taken.insert(reserved.to_owned());
    }
    let mut known: BTreeMap<(usize, &str), (usize, Vec<usize>)> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        let key = (databases[at], shapes[at].pattern.as_str());
        let group: Vec<&Shape> = (0..candidates.len())
            .filter(|other| (databases[*other], shapes[*other].pattern.as_str()) == key)
            .map(|other| &shapes[other])
            .collect();
        let positions = differing(&group);
        // Too many differences: each statement is a query of its own.
        let is_one = positions.len() <= MOST_PARAMETERS;
        let normalised = sql::normalised(&candidate.builtin.sql);
        let found = match is_one {
            true => known.get(&key).cloned(),
            false => plan.same(databases[at], &normalised).map(|query| (query, Vec::new())),
        };
        let (query, positions) = found.unwrap_or_else(|| {
            let positions = if is_one { positions } else { Vec::new() };
            let query = plan.add_query(candidate, databases[at], &shapes[at], &positions, &mut names);
            known.insert(key, (query, positions.clone()));
            (query, positions)
        });
        plan.allow(query, candidate.namespace.as_deref());
        let values = positions.iter().map(|position| shapes[at].literals[*position].value.clone()).collect();
        plan.asked.push(Asked { query, values });
    }
    plan.alike = plan.alike(&shapes);
    plan
}

/// Returns the positions of the literals in which the statements differ.
fn differing(group: &[&Shape]) -> Vec<usize> {
    let Some(first) = group.first() else { return Vec::new() };
    let differs =
        |position: &usize| group.iter().any(|shape| shape.literals[*position].value != first.literals[*position].value);
    (0..first.literals.len()).filter(differs).collect()
}

impl Plan {
    fn database(&mut self, candidate: &Candidate, names: &mut Names) -> usize {
        let connection = &candidate.builtin.connection;
        let found = self.databases.iter().position(|database| database.server == connection.server);
        let index = found.unwrap_or_else(|| {
            let name = match &connection.server {
                Server::Parts(parts) => match &parts[2] {
                    Part::Text(dbname) => dbname.clone(),
                    Part::From(_) => candidate.object.clone(),
                },
                Server::String(Origin::Secret { name, .. }) => name.clone(),
                Server::String(_) => candidate.object.clone(),
            };
            let lower = name.to_lowercase().replace(['_', '.'], "-");
            let name = names.take(&[as_name(&lower, "database")]);
            let server = connection.server.clone();
            self.databases.push(Database { name, server, passwords: BTreeSet::new() });
            self.databases.len() - 1
        });
        self.databases[index].passwords.extend(connection.password.clone());
        index
    }

    fn same(&self, database: usize, normalised: &str) -> Option<usize> {
        let is_it = |query: &Query| {
            query.database == database && query.parameters.is_empty() && sql::normalised(&query.sql) == normalised
        };
        self.queries.iter().position(is_it)
    }

    fn add_query(
        &mut self,
        candidate: &Candidate,
        database: usize,
        shape: &Shape,
        positions: &[usize],
        names: &mut Names,
    ) -> usize {
        let owner = (candidate.namespace.clone(), candidate.object.clone());
        let object = as_name(&candidate.object, "query");
        let wanted = match names.of_objects.get(&owner) {
            // A further trigger of the object: by its own name, or by a number.
            Some(object) => {
                let named = candidate.trigger.as_deref().map(|name| as_name(&format!("{object}-{name}"), "query"));
                named.into_iter().chain([object.clone()]).collect()
            }
            None => {
                let namespace = candidate.namespace.as_deref();
                let longer = namespace.map(|namespace| as_name(&format!("{namespace}-{object}"), "query"));
                std::iter::once(object).chain(longer).collect::<Vec<_>>()
            }
        };
        let mut parameters = Names::default();
        let parameters = positions.iter().map(|position| {
            let literal = &shape.literals[*position];
            (parameters.take(&[literal.name.clone().unwrap_or_else(|| "value".to_owned())]), literal.kind)
        });
        let parameters = parameters.collect();
        let sql = literals::with_parameters(&candidate.builtin.sql, &shape.literals, positions);
        let name = names.take(&wanted);
        names.of_objects.entry(owner).or_insert_with(|| name.clone());
        self.queries.push(Query { name, database, sql, parameters, namespaces: Some(BTreeSet::new()) });
        self.queries.len() - 1
    }

    fn allow(&mut self, query: usize, namespace: Option<&str>) {
        let namespaces = &mut self.queries[query].namespaces;
        match (namespace, namespaces.as_mut()) {
            (Some(namespace), Some(names)) => _ = names.insert(namespace.to_owned()),
            (None, _) => *namespaces = None,
            (Some(_), None) => {}
        }
    }

    /// Groups queries of one database that differ in literals whose type nobody knows.
    fn alike(&self, shapes: &[Shape]) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<(usize, &str), BTreeSet<usize>> = BTreeMap::new();
        for (asked, shape) in self.asked.iter().zip(shapes) {
            let database = self.queries[asked.query].database;
            groups.entry((database, &shape.loose)).or_default().insert(asked.query);
        }
        let mut groups: Vec<Vec<usize>> =
            groups.into_values().filter(|group| group.len() > 1).map(|group| group.into_iter().collect()).collect();
        groups.sort_unstable();
        groups
    }
}

/// Names that are in use.
#[derive(Debug, Default)]
struct Names {
    taken: BTreeSet<String>,
    /// The first name of each object, by its namespace and name.
    of_objects: BTreeMap<(Option<String>, String), String>,
}

impl Names {
    /// Takes the first of the wanted names that is free, else the first one with a number.
    fn take(&mut self, wanted: &[String]) -> String {
        let first = wanted.first().map_or("query", String::as_str);
        let numbered = (2u32..).map(|number| {
            let number = format!("-{number}");
            let length = first.len().min(LONGEST_NAME - number.len());
            format!("{}{number}", &first[..length])
        });
        let name = wanted.iter().cloned().chain(numbered).find(|name| !self.taken.contains(name));
        let name = name.unwrap_or_default();
        self.taken.insert(name.clone());
        name
    }
}

/// Returns a text as a name: letters, digits, dashes, underscores and dots, at most [`LONGEST_NAME`] of them.
fn as_name(text: &str, otherwise: &str) -> String {
    let is_edge = |c: char| !c.is_ascii_alphanumeric();
    let name: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' })
        .skip_while(|c| is_edge(*c))
        .take(LONGEST_NAME)
        .collect();
    let name = name.trim_end_matches(is_edge);
    if name.is_empty() { otherwise.to_owned() } else { name.to_owned() }
}
