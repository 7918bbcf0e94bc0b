//! Connects to a database, runs its queries, and reports the results.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    advice,
    excerpt::Excerpt,
    parameters::Parameters,
    report::{
        ConnectionState, DatabaseReport, Origin, PlanReport, Problem, QueryAnswer, QueryOutcome, QueryReport,
        ServerInfo, SumReport,
    },
    warning,
};
use crate::{
    cache,
    config::Config,
    postgres::{Cause, Database, Inspection, Plan, QueryError, Server, Statement},
    query::Query,
    reading::{Reading, Rows},
};

/// The number of keys of a grouped query that are shown.
const KEYS_SHOWN: usize = 5;

/// Inspects one database: its server, and each of its queries once.
pub(super) async fn database(database: &Arc<Database>, config: &Config, parameters: &Parameters) -> DatabaseReport {
    let settings = database.settings();
    let queries: Vec<_> = config.queries.values().filter(|query| query.databases.contains(&settings.name)).collect();
    let not_asked = |state| DatabaseReport::not_asked(settings, config, state);
    if !settings.enabled {
        return not_asked(ConnectionState::Disabled);
    }
    let (mut inspector, server) = match database.inspector().await {
        Ok(reached) => reached,
        Err(error) => {
            let advice = advice::for_database(settings, config, &error);
            return not_asked(ConnectionState::Unavailable(problem(error, None, advice)));
        }
    };
    let mut warnings = warning::for_server(&server);
    warnings.extend(warning::for_connection(settings, &server));
    if let Err((room, error)) = inspector.has_room().await {
        warnings.push(warning::for_room(settings, room, &error.message));
    }
    let listens = queries.iter().any(|query| query.notify.is_some());
    if listens && !server.is_standby {
        warnings.extend(inspector.hears_notifications().await.err().map(|why| warning::for_notify(settings, &why)));
    }
    let is_privileged = !server.privileges.is_empty();
    let mut named = BTreeSet::new();
    let mut report = DatabaseReport {
        warnings,
        queries: Vec::new(),
        ..not_asked(ConnectionState::Reached(server_info(server, settings.search_path.as_deref())))
    };
    for query in &queries {
        report.queries.push(match parameters.of(query) {
            Ok(values) => {
                let statement = Statement::new(Arc::clone(query), &settings.name);
                let origin = if config.is_builtin(&query.name) { Origin::BuiltIn } else { Origin::Configured };
                let inspection = inspector.inspect(&statement, &values).await;
                named.extend(inspection.relations.iter().map(|relation| relation.name.clone()));
                query_report(&statement, &settings.name, origin, inspection)
            }
            Err(missing) => QueryReport::not_run(query, QueryOutcome::Skipped { missing }),
        });
    }
    if let Some(grant) = inspector.grant_to("clapometer", named.iter().map(String::as_str)).filter(|_| is_privileged) {
        report.warnings.push(warning::for_grants(&grant));
    }
    report
}

fn server_info(server: Server, search_path: Option<&str>) -> ServerInfo {
    ServerInfo {
        version: server.version,
        address: server.address,
        is_standby: server.is_standby,
        is_read_only: server.is_read_only,
        role: server.role,
        privileges: server.privileges.names().to_vec(),
        tls: server.tls,
        search_path: search_path.map_or(server.search_path, str::to_owned),
    }
}

fn query_report(statement: &Statement, database: &str, origin: Origin, inspection: Inspection) -> QueryReport {
    let query = &*statement.query;
    let Inspection { reading, took, plan, unseen, relations: _, queues_instead } = inspection;
    let queues = queues_instead.as_deref();
    let stalled = reading.as_ref().ok().and_then(|reading| reading.stalled).unwrap_or_default();
    let reading = reading.map(Arc::new);
    let answer = reading.as_ref().ok().map(Arc::clone);
    let outcome = match reading {
        Ok(reading) => answered(query, &reading),
        Err(error) => failed(statement, database, origin, error, queues),
    };
    let mut warnings = Vec::new();
    if matches!(outcome, QueryOutcome::Answered(_) | QueryOutcome::Grouped { .. }) {
        warnings.extend(warning::for_duration(query, took));
        warnings.extend(unseen.as_deref().map(|why| warning::for_unseen(query, why)));
    }
    warnings.extend(query.preset.iter().flat_map(|preset| warning::for_preset(preset, stalled, queues)));
    if let QueryOutcome::Answered(answer) = &outcome {
        warnings.extend(warning::for_value(query, answer.value));
        let cap = plan.as_ref().and_then(|plan| plan.cap);
        warnings.extend(cap.filter(|cap| *cap == answer.undivided).map(warning::for_cap));
    }
    let counts_nothing = matches!(&outcome, QueryOutcome::Answered(answer) if answer.undivided == 0.0);
    for relation in plan.iter().flat_map(|plan| &plan.relations) {
        warnings.extend(warning::for_relation(relation, counts_nothing));
    }
    warnings.extend(plan.iter().flat_map(|plan| &plan.invalid_indexes).map(warning::for_invalid_index));
    for function in plan.iter().flat_map(|plan| &plan.functions) {
        warnings.extend(warning::for_function(function));
    }
    warnings.extend(plan.iter().filter_map(|plan| plan.loose_key.as_deref()).map(warning::for_loose_key));
    warnings.extend(plan.iter().flat_map(|plan| &plan.caveats).map(warning::for_caveat));
    let plan = plan.map(|Plan { cost, rows, relations, .. }| PlanReport {
        cost,
        rows,
        relations: relations.iter().map(|relation| format!("{}.{}", relation.schema, relation.name)).collect(),
    });
    QueryReport { name: query.name.clone(), outcome, warnings, took: Some(took), plan, reading: answer }
}

/// Adds up what the databases answered, for each query with several of them.
pub(super) fn sums(config: &Config, databases: &[DatabaseReport]) -> Vec<SumReport> {
    let report_of = |name: &str, query: &Query| {
        let database = databases.iter().find(|report| report.name == name)?;
        database.queries.iter().find(|report| report.name == query.name)
    };
    let sum_of = |query: &Query| {
        let reports = query.databases.iter().map(|name| report_of(name, query));
        match reports.map(|report| report?.reading.clone()).collect::<Option<Vec<_>>>() {
            Some(parts) => cache::sum(&parts).map_or_else(
                |fault| {
                    let advice = advice::for_sum(query).to_owned();
                    let (message, further) = (fault.to_string(), Vec::new());
                    QueryOutcome::Failed(Problem {
                        reason: fault.reason(),
                        fault,
                        message,
                        further,
                        excerpt: None,
                        advice,
                    })
                },
                |sum| answered(query, &sum),
            ),
            None => QueryOutcome::NotAsked,
        }
    };
    let sharded = config.queries.values().filter(|query| query.databases.len() > 1);
    sharded
        .map(|query| SumReport { name: query.name.clone(), databases: query.databases.clone(), outcome: sum_of(query) })
        .collect()
}

fn answered(query: &Query, reading: &Reading) -> QueryOutcome {
    match &reading.rows {
        Rows::One(numbers) => QueryOutcome::Answered(QueryAnswer::new(query, *numbers)),
        Rows::ByKey(rows) => {
            let keys = rows.len();
            let mut rows: Vec<_> = rows.iter().collect();
            rows.sort_unstable_by_key(|(key, _)| *key);
            let first = rows.into_iter().take(KEYS_SHOWN);
            let first = first.map(|(key, numbers)| (key.to_string(), QueryAnswer::new(query, *numbers))).collect();
            QueryOutcome::Grouped { keys, first }
        }
    }
}

fn failed(
    statement: &Statement,
    database: &str,
    origin: Origin,
    error: QueryError,
    queues_instead: Option<&[String]>,
) -> QueryOutcome {
    let is_absent = error.cause == Cause::MissingTable && origin == Origin::BuiltIn;
    let excerpt = error.position.and_then(|position| Excerpt::locate(statement.text(), position));
    let advice = match queues_instead {
        Some(queues) if error.cause == Cause::MissingTable => advice::for_queue(&statement.query, queues),
        _ => advice::for_query(&statement.query, database, origin, &error, excerpt.as_ref()),
    };
    let problem = problem(error, excerpt, advice);
    if is_absent { QueryOutcome::Absent(problem) } else { QueryOutcome::Failed(problem) }
}

fn problem(error: QueryError, excerpt: Option<Excerpt>, advice: String) -> Problem {
    let QueryError { fault, cause: _, message, further, position: _, grant: _, is_from_server: _ } = error;
    Problem { reason: fault.reason(), fault, message, further, excerpt, advice }
}
