//! `drive`: any load on any server, for whoever wants to know something of their own.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use serde_json::Value;

use crate::{
    client::Connection,
    drive::{Pace, drive},
    proto::ScaledObjectRef,
    request::{Call, Trigger},
};

/// The calls, the server, the rate.
#[derive(Debug, clap::Args)]
pub(crate) struct Load {
    /// The server, which must speak plain text
    #[arg(long, value_name = "ADDR")]
    address: SocketAddr,
    /// The query's name; answers are taken for right if they are given
    #[arg(long)]
    query: String,
    /// Further metadata; {} becomes the trigger's number
    #[arg(long, value_name = "K=V", value_parser = pair)]
    metadata: Vec<(String, String)>,
    #[arg(long, value_enum, default_value = "get-metrics")]
    method: Method,
    /// Different triggers
    #[arg(long, default_value_t = 1)]
    triggers: u32,
    #[arg(long, default_value = "1")]
    connections: NonZeroU32,
    /// Closed loop: calls in flight
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Open loop instead: calls a second
    #[arg(long, value_name = "N")]
    rate: Option<NonZeroU32>,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Method {
    GetMetrics,
    GetMetricSpec,
    IsActive,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Load {
    /// Puts it on the server, prints the table and returns the JSON.
    pub(crate) async fn run(self) -> Value {
        let mut calls: Vec<Call> = Vec::new();
        let mut drivers = Vec::new();
        for _ in 0..self.connections.get() {
            let (connection, driver) = Connection::open(self.address).await;
            drivers.push(driver);
            calls.extend((0..self.triggers).map(|number| self.question(number).to(&connection)));
        }
        let calls: Arc<[Call]> = calls.into();
        let pace = self.rate.map_or(Pace::InFlight(self.in_flight), |rate| Pace::PerSecond(rate.get()));
        let driven = drive(&calls, pace, Duration::from_secs_f64(self.seconds)).await;
        println!("{:.0} calls/s\n{}", driven.rate(), driven.tally);
        serde_json::json!({"calls_per_second": driven.rate(), "calls": driven.tally.json()})
    }

    fn question(&self, number: u32) -> crate::request::Question {
        let mut metadata = vec![("query".to_owned(), self.query.clone())];
        metadata
            .extend(self.metadata.iter().map(|(key, value)| (key.clone(), value.replace("{}", &number.to_string()))));
        let reference = ScaledObjectRef {
            name: format!("worker-{number}"),
            namespace: format!("team-{}", number % 20),
            scaler_metadata: metadata.into_iter().collect(),
        };
        let trigger = Trigger { reference, query: self.query.clone(), value: 0, target: 1, is_active: false };
        match self.method {
            Method::GetMetrics => trigger.metrics(),
            Method::GetMetricSpec => trigger.spec(),
            Method::IsActive => trigger.activity(),
        }
        .unjudged()
    }
}
