//! `--param QUERY.NAME=VALUE`: values for the parameters of queries.

use std::collections::HashMap;

use crate::{
    config::Config,
    query::{Query, Value},
};

/// The values by query and parameter.
#[derive(Debug, Default)]
pub(super) struct Parameters(HashMap<(String, String), Value>);

impl Parameters {
    /// Finds the query and the parameter of each argument, and reads its value.
    ///
    /// # Errors
    /// Names the first argument that is wrong; for an unknown parameter, also the known ones.
    pub(super) fn parse(arguments: &[String], config: &Config) -> Result<Self, String> {
        let mut values = HashMap::new();
        for argument in arguments {
            let Some((name, text)) = argument.split_once('=') else {
                return Err("--param must be QUERY.NAME=VALUE".to_owned());
            };
            let mut is_known = false;
            // Both names may contain dots, so only the configuration shows where the first one ends.
            for query in config.queries.values() {
                for parameter in query.parameters.iter().filter(|parameter| full_name(query, &parameter.name) == name) {
                    let value = Value::parse(parameter.kind, text)
                        .map_err(|expected| format!("--param {name}: must be {expected}"))?;
                    is_known = true;
                    if values.insert((query.name.clone(), parameter.name.clone()), value).is_some() {
                        return Err(format!("--param {name}: is given twice"));
                    }
                }
            }
            if !is_known {
                return Err(format!("--param {name}: no such parameter; {}", known(config)));
            }
        }
        Ok(Self(values))
    }

    /// Returns the values of a query, in the order of its parameters.
    ///
    /// # Errors
    /// Returns the full names of the missing parameters.
    pub(super) fn of(&self, query: &Query) -> Result<Vec<Value>, Vec<String>> {
        let mut missing = Vec::new();
        let mut values = Vec::new();
        for parameter in &query.parameters {
            match self.0.get(&(query.name.clone(), parameter.name.clone())) {
                Some(value) => values.push(value.clone()),
                None => missing.push(full_name(query, &parameter.name)),
            }
        }
        if missing.is_empty() { Ok(values) } else { Err(missing) }
    }
}

fn full_name(query: &Query, parameter: &str) -> String {
    format!("{}.{parameter}", query.name)
}

fn known(config: &Config) -> String {
    let names: Vec<String> = config
        .queries
        .values()
        .flat_map(|query| query.parameters.iter().map(|parameter| full_name(query, &parameter.name)))
        .collect();
    if names.is_empty() { "no query has any".to_owned() } else { format!("there are {}", names.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;

    fn configuration() -> Config {
        let yaml = "\
databases: {app: {host: 127.0.0.1, user: clapometer}}
queries:
  jobs: {sql: 'SELECT $1::int8 + $2', parameters: {region: bigint, x.y: bigint}}
  jobs.x: {sql: SELECT $1, parameters: {y: bigint}}
";
        Config::parse(yaml, &Environment::default()).expect("a configuration")
    }

    fn parse(arguments: &[&str]) -> Result<Parameters, String> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Parameters::parse(&arguments, &configuration())
    }

    #[test]
    fn values_come_in_the_order_of_the_query() {
        let parameters = parse(&["jobs.x.y=2", "jobs.region=1"]).expect("they fit");
        let config = configuration();
        assert_eq!(parameters.of(&config.queries["jobs"]), Ok(vec![Value::Bigint(1), Value::Bigint(2)]));
        assert_eq!(parameters.of(&config.queries["jobs.x"]), Ok(vec![Value::Bigint(2)]));
    }

    #[test]
    fn what_was_not_given_is_named() {
        let parameters = parse(&["jobs.region=1"]).expect("it fits");
        assert_eq!(parameters.of(&configuration().queries["jobs"]), Err(vec!["jobs.x.y".to_owned()]));
    }

    #[test]
    fn what_fits_nothing_is_refused_with_what_would() {
        let refusals = [
            (&["jobs.region"][..], "--param must be QUERY.NAME=VALUE"),
            (&["jobs.colour=1"], "--param jobs.colour: no such parameter; there are jobs.region, jobs.x.y, jobs.x.y"),
            (&["jobs.region=red"], "--param jobs.region: must be a 64-bit integer"),
            (&["jobs.region=1", "jobs.region=2"], "--param jobs.region: is given twice"),
        ];
        for (arguments, expected) in refusals {
            assert_eq!(parse(arguments).expect_err("it is wrong"), expected);
        }
    }
}
