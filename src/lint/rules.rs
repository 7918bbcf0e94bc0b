//! The rules, grouped by what they look at.

mod batch;
pub(super) mod documents;
mod external;
mod fields;
mod scaled_job;
mod scaled_object;
mod secrets;
mod strategy;
pub(super) mod structure;
mod values;

use super::{Options, findings::Findings, rule::Rule};
use crate::manifest::{Kind, Object};

/// The object that is looked at, and what else there is.
pub(super) struct Subject<'a> {
    pub(super) object: &'a Object,
    /// All objects of all files, this one, too.
    pub(super) everything: &'a [&'a Object],
    pub(super) options: Options,
}

const GROUPS: [&[&Rule]; 10] = [
    documents::RULES,
    structure::RULES,
    values::RULES,
    fields::RULES,
    strategy::RULES,
    external::RULES,
    secrets::RULES,
    scaled_job::RULES,
    scaled_object::RULES,
    batch::RULES,
];

/// Returns all rules.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    GROUPS.into_iter().flatten().copied()
}

/// Looks at one object.
pub(super) fn check(subject: &Subject<'_>, findings: &mut Findings<'_>) {
    documents::check_keys(&subject.object.root, findings);
    structure::check_version(subject.object, findings);
    values::check(subject.object, findings);
    match subject.object.kind {
        Kind::ScaledJob => {
            structure::check(subject.object, findings);
            fields::check(subject.object, findings);
            external::check(subject, findings);
            secrets::check_triggers(subject.object, findings);
            strategy::check(subject, findings);
            scaled_job::check(subject.object, findings);
            batch::check(subject.object, findings);
        }
        Kind::ScaledObject => {
            structure::check(subject.object, findings);
            fields::check(subject.object, findings);
            external::check(subject, findings);
            secrets::check_triggers(subject.object, findings);
            strategy::check_division(subject.object, findings);
            scaled_object::check(subject, findings);
        }
        Kind::TriggerAuthentication | Kind::ClusterTriggerAuthentication => {
            secrets::check_authentication(subject.object, findings);
        }
    }
}
