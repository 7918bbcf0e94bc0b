//! The limit of the counts in the batch's view `clap_backlog`.
//!
//! Each count of the view stops at [`CAP`], so that a poll costs the same however long the queue is.

/// The largest count of the view (migrations/0003_backlog_view.sql).
const CAP: f64 = 100_000.0;

/// The remark on a count that has reached the limit.
pub(super) const REMARK: &str = "clap_backlog stops counting at 100000, so there may be more; KEDA's arithmetic stays \
                                 exact while maxReplicaCount x target x divideBy is at most 100000";

/// Returns whether this number, before its division, may stand for more rows.
pub(super) fn may_be_more(undivided: f64) -> bool {
    undivided >= CAP
}

/// Returns whether this statement reads the view.
pub(super) fn is_read_by(sql: &str) -> bool {
    let is_of_word = |c: char| c.is_alphanumeric() || c == '_';
    sql.split(|c| !is_of_word(c)).any(|word| word.eq_ignore_ascii_case("clap_backlog"))
}

/// Returns whether the built-in query of this name reads the view. The configuration may define another query of the
/// same name.
pub(super) fn is_read_by_builtin(query: &str) -> bool {
    matches!(query, "outstanding-claps" | "clap-workers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_is_known_by_its_whole_name() {
        assert!(is_read_by("SELECT held FROM app.CLAP_BACKLOG AS b"));
        assert!(!is_read_by("SELECT held FROM clap_backlog_2"));
        assert!(may_be_more(100_000.0) && !may_be_more(99_999.0));
    }
}
