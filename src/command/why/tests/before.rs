//! What was before, and what took its place.

use super::*;

fn keys(time: &str, keys: &str) -> Change {
    change(time, Event::Metadata { keys: keys.to_owned() })
}

#[test]
fn the_cause_comes_first_among_the_changes_of_one_second() {
    let changes = vec![value("01:30:00", 12.0), away("03:04:31")];
    let mut asked = history("03:12:00", vec![trigger("00:10:00", "08:59:50", changes)]);
    let later = at("03:04:31") + time::Duration::milliseconds(400);
    asked.incidents.push(Happening { at: later, incident: down("deadline_exceeded", None) });
    let page = flat(&told("03:12:00", None, vec![("a:1", Ok(asked))]));
    let (_, list) = page.split_once("What changed").unwrap();
    assert!(list.find("database claps failed").unwrap() < list.find("no value").unwrap(), "{list}");
}

#[test]
fn what_keda_was_told_before_is_the_latest_answer_even_if_that_was_an_error() {
    let mut before = trigger("00:10:00", "02:59:30", vec![value("01:30:00", 12.0), away("02:50:00")]);
    before.target = Some(1.0);
    let now = trigger("03:00:00", "08:59:50", vec![keys("03:00:00", "targetQueryValue"), value("03:00:00", 3.0)]);
    let page = flat(&told_of("03:12:00", vec![before, now]));
    let words = "A deployment changed targetQueryValue of the trigger's metadata at 03:00:00: target 5, which was 1 before. Before that, \
                 KEDA was told an error, Unavailable, since 02:50:00.";
    assert!(page.contains(words), "{page}");
}

#[test]
fn a_query_that_a_reload_removed_is_told_with_what_it_added() {
    let told = |changed: &str| {
        let mut refusal = trigger("02:30:20", "08:59:50", vec![refused("02:30:20")]);
        (refusal.target, refusal.databases) = (None, Vec::new());
        told_after(vec![("02:30:00", reload(changed))], vec![refusal])
    };
    let page = told("queries.jobs removed, queries.jobs-v2 added");
    assert!(page.contains("A reload removed the query jobs (and added jobs-v2) at 02:30:00."), "{page}");
    assert!(told("queries.jobs removed").contains("A reload removed the query jobs at 02:30:00."));
    assert!(told("queries.jobs added").contains("A reload added the query jobs at 02:30:00."));
}

#[test]
fn a_trigger_that_asks_for_another_query_has_one_state_and_no_silence() {
    let told = |refused_after: bool, others: bool| {
        let mut before = trigger("00:10:00", "02:59:30", vec![value("01:30:00", 12.0), active("01:30:00", true)]);
        (before.query, before.is_silent) = ("invoices".to_owned(), true);
        let changes = if refused_after { vec![refused("03:00:00")] } else { vec![value("03:00:00", 0.0)] };
        let mut now = trigger("03:00:00", "08:59:50", changes);
        now.target = now.target.filter(|_| !refused_after);
        let mut other = trigger("00:10:00", "08:59:50", vec![value("01:30:00", 7.0)]);
        other.query = "mails".to_owned();
        let triggers = if others { vec![before, other, now] } else { vec![before, now] };
        flat(&told_of("03:12:00", triggers))
    };
    for (refused_after, others) in [(false, false), (false, true), (true, false)] {
        let page = told(refused_after, others);
        assert!(
            page.contains("the trigger's query, which was invoices until 02:59:30, to jobs at 03:00:00."),
            "{page}"
        );
        assert!(!page.contains("KEDA asked for invoices") && !page.contains("KEDA has not asked"), "{page}");
        assert!(page.contains("03:00:00 the trigger's query changed from invoices to jobs"), "{page}");
    }
}

#[test]
fn a_trigger_that_was_active_before_it_changed_says_both_times() {
    let told = |before_it: Vec<Change>| {
        let before = trigger("00:10:00", "02:59:30", before_it);
        let changes = vec![keys("03:00:00", "param.queue"), value("03:00:00", 3.0), active("03:00:00", true)];
        flat(&told_of("03:12:00", vec![before, trigger("03:00:00", "08:59:50", changes)]))
    };
    let page = told(vec![value("01:30:00", 12.0), active("01:30:00", true)]);
    let words = "; active since 03:00:00, and before the change of the trigger since 01:30:00.";
    assert!(page.contains(words), "{page}");
    for other in
        [vec![value("01:30:00", 12.0), active("01:30:00", false)], vec![active("01:30:00", true), away("02:50:00")]]
    {
        assert!(told(other).contains("; active since 03:00:00."));
    }
}

#[test]
fn a_trigger_that_was_taken_away_is_told_beside_those_that_keda_still_asks_for() {
    let mut gone = trigger("00:10:00", "02:40:00", vec![value("01:30:00", 12.0)]);
    (gone.query, gone.is_silent) = ("invoices".to_owned(), true);
    let page = flat(&told_of("03:12:00", vec![gone, trigger("00:10:00", "08:59:50", vec![value("01:30:00", 3.0)])]));
    let words = "KEDA asked for invoices until 02:40:00, and still asks for other triggers of the object";
    assert!(page.contains(words) && page.contains("was told 3 / 5"), "{page}");
}

#[test]
fn a_young_process_says_what_it_cannot_know_after_the_cause() {
    let told = |changes: Vec<Change>, started: &str, begins_at: &str| {
        let mut young = history("03:12:00", vec![trigger("03:05:00", "08:59:50", changes)]);
        young.started_at = at(started);
        young.incidents.push(Happening { at: at("03:10:00"), incident: down("deadline_exceeded", None) });
        let answered = [Answered { address: "a:1".to_owned(), history: Ok(young) }];
        let (begins_at, at) = (at(begins_at), at("03:12:00"));
        let story = Story { namespace: "billing", name: "invoices", begins_at, at, is_now: false, outlook: None };
        let page = flat(&story.page(&answered, ColorChoice::Plain));
        page.split_once("What changed").expect("there is a list").0.to_owned()
    };
    let words = "cannot know what was before. Look at the other pods";
    let page = told(vec![away("03:10:01")], "03:09:50", "03:12:00");
    assert!(page.contains(&format!("The process started at 03:09:50, and {words}")), "{page}");
    assert!(page.find("Database claps had failed").unwrap() < page.find("The process started").unwrap(), "{page}");
    assert!(told(vec![value("03:10:01", 3.0)], "03:04:00", "03:12:00").contains(words), "nothing explains it");
    assert!(told(vec![away("03:10:01")], "03:04:00", "03:03:59").contains(words), "it is asked about");
    for (changes, started) in [
        (vec![away("03:10:01")], "03:04:00"),
        (vec![value("03:09:52", 3.0), away("03:10:01")], "03:09:50"),
        (vec![away("03:10:01"), value("03:11:00", 3.0)], "03:09:50"),
        (vec![value("03:10:01", 3.0)], "03:01:59"),
    ] {
        let page = told(changes, started, "03:12:00");
        assert!(!page.contains("The process started"), "{page}");
    }
}

#[test]
fn the_first_error_in_a_row_is_told_before_the_latest() {
    let open = |time: &str| {
        let text = "the database has failed repeatedly".to_owned();
        change(time, Event::NoValue { code: "Unavailable".to_owned(), text })
    };
    let told = |changes: Vec<Change>| flat(&told_of("03:12:00", vec![trigger("00:10:00", "08:59:50", changes)]));
    let page = told(vec![value("01:30:00", 12.0), away("03:04:34"), open("03:04:40")]);
    let words = "an error instead of a value, since 03:04:34: Unavailable, \"the database cannot be reached\"; then, since 03:04:40: \
                 Unavailable, \"the database has failed repeatedly\"";
    assert!(page.contains(words), "{page}");
    let page = told(vec![away("03:04:34"), value("03:04:37", 12.0), open("03:04:40")]);
    assert!(
        page.contains("an error instead of a value, since 03:04:40: Unavailable, \"the database has failed"),
        "{page}"
    );
}

#[test]
fn a_query_file_that_was_rejected_is_named_with_what_is_served() {
    let rejected = |served: Served| Incident::ReloadRejected {
        fault: "line 3: queries.jobs.max_ages: unknown key; did you mean max_age?".to_owned(),
        file: Some(RejectedFile { name: "billing.yaml".to_owned(), served }),
    };
    let told = |served: Served| {
        let code = "PermissionDenied".to_owned();
        let refusal = Event::Refusal { code, text: "no query of this name".to_owned() };
        let mut one = trigger("03:01:00", "08:59:50", vec![change("03:01:00", refusal)]);
        one.target = None;
        told_after(vec![("03:00:00", rejected(served))], vec![one])
    };
    let page = told(Served::Nothing);
    let cause = "None of the queries of billing.yaml was served after it was rejected at 03:00:00 (line 3: queries.jobs.max_ages: \
                 unknown key; did you mean max_age?): is this query one of them?";
    assert!(page.contains(cause), "{page}");
    assert!(
        page.contains("the query file billing.yaml was rejected, and none of its queries is served: line 3"),
        "{page}"
    );
    let page = told(Served::LastGood);
    assert!(page.contains("billing.yaml was rejected, and its last good version stayed in force"), "{page}");
    assert!(!page.contains("None of the queries"), "{page}");
    assert!(page.contains("The query file billing.yaml was rejected at 03:00:00 (line 3"), "{page}");
    assert!(page.contains("its last good version stayed in force: is this query new in the file?"), "{page}");
}

#[test]
fn an_outage_of_a_database_that_was_switched_off_is_over() {
    let dropped = Incident::Dropped { database: "claps".to_owned(), state: DroppedState::Down, is_off: true };
    let off = change("03:06:00", Event::NoValue { code: "Unavailable".to_owned(), text: "switched off".to_owned() });
    let changes = vec![value("01:30:00", 12.0), away("03:04:34"), off];
    let incidents = vec![("03:04:31", down("unreachable", None)), ("03:05:00", dropped)];
    let page = told_after(incidents, vec![trigger("00:10:00", "08:59:50", changes)]);
    let (sentences, list) = page.split_once("What changed").unwrap();
    assert!(!sentences.contains("Database claps"), "{page}");
    assert!(list.contains("database claps was switched off, and its outage of no interest any more"), "{page}");
}

#[test]
fn two_triggers_of_one_poll_are_no_deployment() {
    let of = |query: &str, first: &str| {
        let mut one = trigger(first, first, vec![value(first, 3.0)]);
        (one.query, one.interval_seconds) = (query.to_owned(), None);
        one
    };
    let page = flat(&told_of("03:12:00", vec![of("mails", "03:11:50"), of("pdfs", "03:11:53")]));
    assert!(page.contains("asked for mails") && page.contains("asked for pdfs"), "{page}");
    assert!(!page.contains("A deployment") && !page.contains("query changed"), "{page}");
}

#[test]
fn a_deployment_that_was_undone_is_told_with_what_it_had_done() {
    let keys = |time: &str| keys(time, "activationTargetQueryValue");
    let first = vec![
        value("01:30:00", 30.0),
        active("01:30:00", true),
        keys("03:05:00"),
        value("03:05:00", 18.0),
        active("03:05:00", true),
    ];
    let meanwhile = vec![keys("03:00:00"), value("03:00:00", 20.0), active("03:00:00", false), value("03:04:55", 21.0)];
    let page = flat(&told_of(
        "03:12:00",
        vec![trigger("00:10:00", "08:59:50", first), trigger("03:00:00", "03:05:02", meanwhile)],
    ));
    let cause = "A deployment changed activationTargetQueryValue of the trigger's metadata at 03:05:00. Before that, KEDA was told 21 / 5, since 03:04:55, and inactive.";
    assert!(page.contains(cause), "{page}");
    assert!(page.contains("was told 18 / 5 (value / target), since 03:05:00; active since 03:05:00."), "{page}");
    assert!(!page.contains("removed") && !page.contains("trigger 1 of 2"), "{page}");
}

#[test]
fn a_refusal_that_is_over_is_what_was_told_before_a_reload() {
    let reload = Incident::Reload { changed: "queries.jobs.namespaces ([media] to [billing])".to_owned() };
    let refusal = Event::Refusal { code: "PermissionDenied".to_owned(), text: "no query of this name".to_owned() };
    let mut denied = trigger("03:00:00", "03:04:55", vec![change("03:00:00", refusal)]);
    denied.target = None;
    let served = trigger("00:10:00", "08:59:50", vec![value("01:30:00", 30.0), value("03:05:05", 18.0)]);
    let page = told_after(vec![("03:05:01", reload)], vec![served, denied]);
    let effect = "at 03:05:01. Before that, KEDA was told an error, PermissionDenied, since 03:00:00.";
    assert!(page.contains(effect), "{page}");
}

#[test]
fn a_trigger_that_the_autoscaler_asked_for_once_more_was_replaced_all_the_same() {
    let mut before = trigger("00:10:00", "03:00:01", vec![value("01:30:00", 412.0)]);
    before.query = "invoices".to_owned();
    let now = trigger("03:00:00", "08:59:50", vec![value("03:00:00", 7.0)]);
    let page = flat(&told_of("03:12:00", vec![before, now]));
    assert!(page.contains("A deployment changed the trigger's query, which was invoices until 03:00:01"), "{page}");
    assert!(!page.contains("removed"), "{page}");
}
