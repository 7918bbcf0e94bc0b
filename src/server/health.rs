//! The gRPC health service: the process itself, and each database as `db/<name>`.
//!
//! Readiness never follows the database: if it did, endpoints would vanish, GetMetricSpec would
//! fail, and a ScaledJob would fall silent with Ready=True (pkg/scaling/scale_handler.go).

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;
use tokio_stream::StreamExt;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthService, HealthServer},
    server::{HealthReporter, health_reporter},
};

use crate::{
    postgres::Database,
    proto::external_scaler_server::ExternalScalerServer,
    scaler::{Catalog, Scaler},
    shutdown::Supervisor,
};

/// The names that stand for the whole process; the second is what a client of the scaler asks for.
const PROCESS: [&str; 2] = ["", <ExternalScalerServer<Scaler> as tonic::server::NamedService>::NAME];

/// What the health service tells.
pub(super) struct HealthReport {
    reporter: HealthReporter,
    catalog: watch::Receiver<Arc<Catalog>>,
}

impl HealthReport {
    /// Begins to follow the databases of the catalog in force.
    pub(super) fn new(
        catalog: watch::Receiver<Arc<Catalog>>,
        supervisor: &Supervisor,
    ) -> (Self, HealthServer<impl HealthService>) {
        let (reporter, service) = health_reporter();
        supervisor.spawn("database health", follow(reporter.clone(), catalog.clone()));
        (Self { reporter, catalog }, service)
    }

    /// Says that no new work is wanted, and ends the health service's own streams.
    pub(super) async fn stop_serving(mut self) {
        let databases: Vec<String> = self.catalog.borrow().databases().keys().map(|name| service_name(name)).collect();
        for service in PROCESS.into_iter().chain(databases.iter().map(String::as_str)) {
            self.reporter.set_service_status(service, ServingStatus::NotServing).await;
            // Watchers see the last status before their stream ends.
            self.reporter.clear_service_status(service).await;
        }
    }
}

/// Reports each database, and starts anew whenever the catalog changes.
async fn follow(mut reporter: HealthReporter, mut catalog: watch::Receiver<Arc<Catalog>>) {
    for service in PROCESS {
        reporter.set_service_status(service, ServingStatus::Serving).await;
    }
    let mut known: BTreeMap<String, Arc<Database>> = BTreeMap::new();
    loop {
        let databases = catalog.borrow_and_update().databases().clone();
        for gone in known.keys().filter(|name| !databases.contains_key(*name)) {
            reporter.clear_service_status(&service_name(gone)).await;
        }
        known = databases;
        tokio::select! {
            () = report(&reporter, &known) => return,
            changed = catalog.changed() => if changed.is_err() { return },
        }
    }
}

/// Reports the databases as their breakers open and close.
async fn report(reporter: &HealthReporter, databases: &BTreeMap<String, Arc<Database>>) {
    let mut changes = tokio_stream::StreamMap::new();
    for (name, database) in databases {
        reporter.set_service_status(service_name(name), status(database.is_served())).await;
        changes.insert(name.clone(), database.changes());
    }
    while let Some((name, is_served)) = changes.next().await {
        reporter.set_service_status(service_name(&name), status(is_served)).await;
    }
    std::future::pending().await
}

fn status(is_served: bool) -> ServingStatus {
    if is_served { ServingStatus::Serving } else { ServingStatus::NotServing }
}

fn service_name(database: &str) -> String {
    format!("db/{database}")
}
