//! Everything that this module decides, against what KEDA and Kubernetes decide.
//!
//! `tests/keda/cases` draws the situations of `tests/keda/cases.jsonl` and has KEDA's and Kubernetes'
//! own code answer them. Where a case fails, KEDA is right.

#![expect(deprecated, reason = "KEDA reads the integer fields too")]

use serde::Deserialize;

use super::{
    scaled_job::{Calculation, Jobs, ScaledJob, ScalerAnswer, Strategy},
    scaled_object::{ScaledObject, TriggersAfterPoll, average_value_replicas, value_replicas},
    values::{metric_value, target_size},
    version::Version,
};
use crate::proto::{MetricSpec, MetricValue};

const CASES: &str = include_str!("../../tests/keda/cases.jsonl");

#[derive(Deserialize)]
#[serde(tag = "kind")]
enum Case {
    ScaledJob(JobCase),
    ScaledObject(ObjectCase),
    HorizontalPodAutoscaler(AutoscalerCase),
}

#[derive(Deserialize)]
struct JobCase {
    #[serde(default)]
    min: i64,
    max: Option<i64>,
    #[serde(default)]
    strategy: String,
    #[serde(default)]
    deduction: i64,
    #[serde(default)]
    percentage: String,
    #[serde(default)]
    calculation: String,
    unfinished: i64,
    pending: i64,
    answers: Vec<Messages>,
    created: i64,
}

#[derive(Deserialize)]
struct ObjectCase {
    #[serde(default)]
    min: i64,
    idle: Option<i64>,
    fallback: Option<i64>,
    current: i64,
    active: bool,
    failed: bool,
    cooled_down: bool,
    replicas: i64,
}

#[derive(Deserialize)]
struct AutoscalerCase {
    #[serde(rename = "type")]
    metric_type: String,
    current: i32,
    ready: i32,
    answer: Messages,
    replicas: i64,
}

/// The messages of a scaler, and the numbers that KEDA takes from them.
#[derive(Deserialize)]
struct Messages {
    target: Number,
    values: Vec<Number>,
    active: bool,
    target_size: Double,
    sum: Double,
}

/// The two fields of a number on the wire.
#[derive(Deserialize)]
struct Number {
    #[serde(default, rename = "i")]
    integer: i64,
    #[serde(default, rename = "d")]
    double: Double,
}

/// A double that is written as text: serde_json reads some numbers with a wrong last bit.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(try_from = "String")]
struct Double(f64);

impl TryFrom<String> for Double {
    type Error = std::num::ParseFloatError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse().map(Self)
    }
}

impl Messages {
    /// Reads the messages as KEDA does.
    fn answer(&self) -> Result<ScalerAnswer, String> {
        let spec = MetricSpec {
            metric_name: String::new(),
            target_size: self.target.integer,
            target_size_float: self.target.double.0,
        };
        let values = self.values.iter().map(|value| {
            metric_value(&MetricValue {
                metric_name: String::new(),
                metric_value: value.integer,
                metric_value_float: value.double.0,
            })
        });
        let (value, target) = (values.sum(), target_size(&spec));
        same("target", target, self.target_size.0)?;
        same("value", value, self.sum.0)?;
        Ok(ScalerAnswer { value, target, active: self.active })
    }
}

impl JobCase {
    fn check(&self) -> Result<(), String> {
        let strategy = match self.strategy.as_str() {
            "custom" => Strategy::Custom {
                queue_length_deduction: self.deduction,
                running_job_percentage: self.percentage.parse().ok(),
            },
            "accurate" => Strategy::Accurate,
            "eager" => Strategy::Eager,
            _ => Strategy::Default,
        };
        let calculation = match self.calculation.as_str() {
            "min" => Calculation::Min,
            "avg" => Calculation::Average,
            "sum" => Calculation::Sum,
            _ => Calculation::Max,
        };
        let scaled_job = ScaledJob {
            min_replica_count: self.min,
            max_replica_count: self.max,
            strategy,
            calculation,
            keda: Version::NEWEST,
        };
        let answers = self.answers.iter().map(Messages::answer).collect::<Result<Vec<_>, _>>()?;
        let jobs = Jobs { unfinished: self.unfinished, pending: self.pending };
        let decision = scaled_job.decide(&answers, jobs);
        equal("created", decision.created, self.created)
    }
}

impl ObjectCase {
    fn check(&self) -> Result<(), String> {
        let object = ScaledObject {
            min_replica_count: self.min,
            idle_replica_count: self.idle,
            fallback_replicas: self.fallback,
        };
        let triggers =
            TriggersAfterPoll { is_active: self.active, has_failed: self.failed, has_cooled_down: self.cooled_down };
        equal("replicas", object.replicas_after_poll(self.current, triggers), self.replicas)
    }
}

impl AutoscalerCase {
    fn check(&self) -> Result<(), String> {
        let ScalerAnswer { value, target, active: _ } = self.answer.answer()?;
        let replicas = match self.metric_type.as_str() {
            "AverageValue" => average_value_replicas(self.current, value, target),
            "Value" => value_replicas(self.current, self.ready, value, target),
            other => return Err(format!("there is no metric type {other}")),
        };
        equal("replicas", replicas, self.replicas)
    }
}

fn equal(name: &str, ours: i64, theirs: i64) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("{name}: {ours} instead of {theirs}")) }
}

fn same(name: &str, ours: f64, theirs: f64) -> Result<(), String> {
    if ours == theirs { Ok(()) } else { Err(format!("{name}: {ours:?} instead of {theirs:?}")) }
}

fn check(line: &str) -> Result<(), String> {
    match serde_json::from_str(line).map_err(|error| error.to_string())? {
        Case::ScaledJob(case) => case.check(),
        Case::ScaledObject(case) => case.check(),
        Case::HorizontalPodAutoscaler(case) => case.check(),
    }
}

#[test]
fn every_case_is_decided_as_keda_and_kubernetes_decide_it() {
    assert_eq!(CASES.lines().count(), 10_000);
    let wrong: Vec<String> =
        CASES.lines().filter_map(|line| check(line).err().map(|fault| format!("{fault}: {line}"))).collect();
    assert!(wrong.is_empty(), "{} cases differ, such as\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
}

#[test]
fn a_case_that_differs_is_seen() {
    let line = CASES.lines().next().expect("there are cases");
    let changed = line.replace("\"created\":0", "\"created\":7");
    assert_ne!(line, changed);
    assert_eq!(check(&changed), Err("created: 0 instead of 7".to_owned()));
}
