//! The gRPC health service, which reports the process itself, and each database as `db/<name>`.
//!
//! The process serves while its databases are down. Otherwise its endpoints would vanish,
//! GetMetricSpec would fail, and a ScaledJob would start no Jobs while it says Ready=True
//! (pkg/scaling/scale_handler.go).

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

/// The service names that stand for the whole process. Clients of the scaler ask for the second.
const PROCESS: [&str; 2] = ["", <ExternalScalerServer<Scaler> as tonic::server::NamedService>::NAME];

/// Reports the state of the process and of its databases.
pub(super) struct HealthReport {
    reporter: HealthReporter,
    catalog: watch::Receiver<Arc<Catalog>>,
}

impl HealthReport {
    /// Starts to follow the databases of the catalog in force.
    pub(super) fn new(
        catalog: watch::Receiver<Arc<Catalog>>,
        supervisor: &Supervisor,
    ) -> (Self, HealthServer<impl HealthService>) {
        let (reporter, service) = health_reporter();
        supervisor.spawn("database health", follow(reporter.clone(), catalog.clone()));
        (Self { reporter, catalog }, service)
    }

    /// Reports NOT_SERVING everywhere, and ends the streams of the health service.
    pub(super) async fn stop_serving(mut self) {
        let databases: Vec<String> = self.catalog.borrow().databases().keys().map(|name| service_name(name)).collect();
        for service in PROCESS.into_iter().chain(databases.iter().map(String::as_str)) {
            self.reporter.set_service_status(service, ServingStatus::NotServing).await;
            // Watchers get the last status before their stream ends.
            self.reporter.clear_service_status(service).await;
        }
    }
}

/// Reports every database, and starts over whenever the catalog changes.
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

/// Reports each database whenever its breaker opens or closes.
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
