//! KEDA's side of an external trigger: the calls that it makes, and what it does with the answers.
//!
//! The rules are KEDA's own, each named where it is applied. The demo and the tests simulate KEDA with them, and
//! `clapometer get` shows what KEDA would do with an answer.

#[cfg(test)]
mod cases;
pub mod comparison;
pub mod model;
pub mod poll;
pub mod scaled_job;
pub mod scaled_object;
pub mod values;
pub mod version;
pub mod workload;
