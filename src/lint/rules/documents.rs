//! Rules about documents as such, and about the comments that allow rules.

use std::collections::BTreeSet;

use crate::{
    diagnostics::{nearest, shown_key},
    lint::{
        allowed::Allowed,
        findings::Findings,
        rule::{
            Rule,
            Severity::{Error, Warning},
        },
    },
    manifest::{Manifest, Node},
};

const UNREADABLE: Rule = Rule::new("unreadable", Error, "YAML 1.2.2");
const KEY_TWICE: Rule = Rule::new("key-twice", Error, "strict field validation of kubectl and the API server");
const UNKNOWN_ALLOW: Rule = Rule::new("unknown-allow", Warning, "docs/lint.md");

pub(super) const RULES: &[&Rule] = &[&UNREADABLE, &KEY_TWICE, &UNKNOWN_ALLOW];

/// Looks at what is no object: documents that are no YAML, and comments.
pub(in crate::lint) fn check(manifest: &Manifest, allowed: &Allowed, findings: &mut Findings<'_>) {
    for document in &manifest.unreadable {
        findings.begin_document(document.lines.clone());
        findings.add(
            &UNREADABLE,
            document.line,
            format!("This document cannot be read: {}.", document.message),
            "Correct it, so that `kubectl apply --dry-run=client` can read it.",
        );
    }
    findings.begin_document(0..0);
    for comment in allowed.iter() {
        if super::all().any(|rule| rule.name == comment.name) {
            continue;
        }
        let how = match nearest(&comment.name, super::all().map(|rule| rule.name)) {
            Some(name) => format!("Did you mean {name}?"),
            None => "Write `# clapometer-lint: allow NAME`, with a name from docs/lint.md.".to_owned(),
        };
        findings.add(&UNKNOWN_ALLOW, comment.line, "This comment names no rule, so it allows nothing.", how);
    }
}

/// Looks for keys that stand twice.
pub(super) fn check_keys(node: &Node, findings: &mut Findings<'_>) {
    let mut seen = BTreeSet::new();
    for (key, value) in node.entries() {
        if !seen.insert(key) {
            findings.add(
                &KEY_TWICE,
                value.line,
                format!(
                    "The key {} stands twice, which kubectl refuses; other tools drop one of them.",
                    shown_key(key)
                ),
                "Keep one of them.",
            );
        }
        check_keys(value, findings);
    }
    node.items().iter().for_each(|item| check_keys(item, findings));
}
