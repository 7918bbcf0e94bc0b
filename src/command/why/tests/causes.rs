//! The causes that a state has: those of its own time.

use super::*;

#[test]
fn a_standstill_of_the_process_is_told_in_the_place_of_a_database_that_failed_because_of_it() {
    let told = |moment: &str| {
        let changes = vec![value("01:30:00", 12.0), away("03:12:21")];
        let mut asked = history(moment, vec![trigger("00:10:00", "08:59:50", changes)]);
        let still = Incident::Standstill { seconds: 80 };
        for (time, incident) in [("03:12:20", still), ("03:12:21", down("deadline_exceeded", None))] {
            asked.incidents.push(Happening { at: at(time), incident });
        }
        let page = flat(&told(moment, None, vec![("a:1", Ok(asked))]));
        page.split_once("What changed").expect("there is a list").0.to_owned()
    };
    let words = "The process itself stood still for 1m20s, from 03:11:00 to 03:12:20: it had no CPU, or was paused.";
    for moment in ["03:11:30", "03:12:22", "03:12:55"] {
        let page = told(moment);
        assert!(page.contains(words) && !page.contains("claps"), "{moment}: {page}");
    }
    let page = told("03:20:00");
    assert!(page.contains(words), "the error began in it: {page}");
    assert!(page.contains("Database claps had failed at 03:12:21"), "it has not ended: {page}");
    assert!(!told("03:10:59").contains("stood still"));
}

#[test]
fn a_moment_has_the_causes_that_it_had_then_whatever_came_after() {
    let up = || Incident::DatabaseUp { database: "claps".to_owned() };
    let late = |time: &str| {
        let (code, text) = ("DeadlineExceeded".to_owned(), "the database did not answer in time".to_owned());
        change(time, Event::NoValue { code, text })
    };
    let failed = |until: &str| format!("Database claps failed from 03:04:31 to {until}: the database did not answer");
    let of = |error: Change, ended_at: &str| {
        let changes = vec![value("01:30:00", 12.0), error, value("03:12:10", 40.0)];
        let incidents = vec![("03:04:31", down("deadline_exceeded", None)), (ended_at, up())];
        let page = told_after(incidents, vec![trigger("00:10:00", "08:59:50", changes)]);
        page.split_once("What changed").expect("there is a list").0.to_owned()
    };
    for error in [away("03:04:34"), late("03:04:34")] {
        for until in ["03:11:50", "03:12:05"] {
            let page = of(error.clone(), until);
            assert!(page.contains(&failed(until)), "{page}");
        }
        assert!(!of(error, "03:04:33").contains("claps"), "it had answered before");
    }

    let with_value = || trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0), active("01:30:00", true)]);
    let mut now = with_value();
    now.standbys = vec!["claps".to_owned()];
    let later = ("03:12:01", Incident::Standby { database: "claps".to_owned() });
    assert!(!told_after(vec![later], vec![now]).contains("come from a standby"), "a primary answered then");
}

#[test]
fn triggers_that_ask_for_one_query_at_the_same_time_have_numbers() {
    let of = |number: f64, first: &str, last: &str| trigger(first, last, vec![value("03:00:00", number)]);
    let page = flat(&told_of("03:12:00", vec![of(3.0, "00:10:00", "08:59:50"), of(7.0, "00:10:00", "08:59:50")]));
    for words in [
        "KEDA asked for jobs (trigger 1 of 2) about every 30s and was told 3 / 5",
        "KEDA asked for jobs (trigger 2 of 2) about every 30s and was told 7 / 5",
        "03:00:00 trigger 2 of 2: value 7 / 5",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    let changed = flat(&told_of("03:12:00", vec![of(3.0, "00:10:00", "02:59:30"), of(7.0, "03:00:00", "08:59:50")]));
    assert!(!changed.contains("of 2"), "the second took the place of the first: {changed}");
}

#[test]
fn a_budget_and_a_zero_of_an_unknown_key_are_told() {
    let told = |value_: f64, silent_keys: usize, budget: Option<u64>| {
        let mut one =
            trigger("00:10:00", "08:59:50", vec![value("01:30:00", value_), active("01:30:00", value_ > 0.0)]);
        (one.silent_keys, one.budget) = (silent_keys, budget);
        flat(&told_of("03:12:00", vec![one]))
    };
    let (budget, key) = ("Its query shares 40 Jobs among its keys", "is the trigger's key spelt right?");
    let mut one = trigger("00:10:00", "08:59:50", vec![value("01:30:00", 0.0), active("01:30:00", false)]);
    (one.short_keys, one.budget) = (2, Some(40));
    let page = flat(&told_of("03:12:00", vec![one]));
    assert!(page.contains("they are used up: now 2 keys are told fewer than they have rows."), "{page}");
    assert!(told(3.0, 1, Some(40)).contains(budget) && !told(3.0, 1, Some(40)).contains(key));
    assert!(told(0.0, 1, None).contains(key) && !told(0.0, 1, None).contains("Its query shares"));
    assert!(!told(0.0, 0, None).contains(key));
}

#[test]
fn stalled_rows_are_told_in_place_of_guesses_about_a_zero() {
    let one = || trigger("00:10:00", "08:59:50", vec![value("01:30:00", 7.0), value("03:00:00", 0.0)]);
    let guess = "PostgreSQL has counted nothing since 03:00:00, and 7 before";
    let page = flat(&told_of("03:12:00", vec![one()]));
    assert!(page.contains(guess) && !page.contains("stalled"), "{page}");
    let mut one = one();
    one.stalled = Some(Stalled { rows: 7.0, step: "a task of yours has to retry them".to_owned() });
    let page = flat(&told_of("03:12:00", vec![one]));
    assert!(page.contains("Now 7 rows are stalled in its queue"), "{page}");
    assert!(page.contains("a task of yours has to retry them.") && !page.contains(guess), "{page}");
}

#[test]
fn a_value_beside_no_activity_is_explained_by_the_activation() {
    let told = |activation: f64, active_: bool| {
        let mut one = trigger("00:10:00", "08:59:50", vec![value("01:30:00", 412.0), active("01:30:00", active_)]);
        one.activation = Some(activation);
        flat(&told_of("03:12:00", vec![one]))
    };
    assert!(told(1_000.0, false).contains("It is inactive with a value of 412, so that KEDA starts nothing for it"));
    assert!(told(1_000.0, false).contains("`activationTargetQueryValue` (`activation` of the query) of 1000."));
    assert!(told(0.0, false).contains("the query's activity is 0."));
    assert!(!told(0.0, true).contains("It is inactive"));
}

#[test]
fn another_search_path_and_a_change_without_a_notification_are_told() {
    let one = || vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 0.0), active("01:30:00", false)])];
    let of = |database: &str, query: &str| {
        let path = Incident::SearchPath { database: database.to_owned() };
        let unannounced = Incident::Unannounced { query: query.to_owned(), database: database.to_owned() };
        told_after(vec![("03:00:00", path), ("03:20:00", unannounced)], one())
    };
    let page = of("claps", "jobs");
    assert!(page.contains("The search_path of the role in claps changed at 03:00:00, so that"), "{page}");
    assert!(page.contains("A change came without a notification at 03:20:00, so that numbers are seen late"), "{page}");
    let page = of("other", "other");
    assert!(!page.contains("The search_path of") && !page.contains("A change came"), "{page}");
    let path = || ("03:00:00", Incident::SearchPath { database: "claps".to_owned() });
    let set = |time, database: &str| (time, Incident::SearchPathSet { database: database.to_owned() });
    for (time, database, is_cause) in
        [("03:11:00", "claps", false), ("03:11:00", "other", true), ("03:13:00", "claps", true)]
    {
        let page = told_after(vec![path(), set(time, database)], one());
        assert_eq!(page.contains("The search_path of the role"), is_cause, "{page}");
    }
}

#[test]
fn notifications_that_are_lost_are_told_with_the_reason_if_there_is_one() {
    let page = |incident: serde_json::Value| {
        let one = trigger("00:10:00", "08:59:50", vec![value("01:30:00", 3.0), active("01:30:00", true)]);
        told_after(vec![("03:00:00", serde_json::from_value(incident).unwrap())], vec![one])
    };
    let with_reason = page(serde_json::json!({"kind": "deaf", "database": "claps", "reason": "closed"}));
    assert!(with_reason.contains("notifications of claps did not arrive any more (closed)"), "{with_reason}");
    let without = page(serde_json::json!({"kind": "deaf", "database": "claps"}));
    assert!(without.contains("did not arrive any more") && !without.contains("()"), "{without}");
}

#[test]
fn a_pool_that_is_full_is_told_whatever_another_database_of_the_trigger_does() {
    let page = |ends: &str| {
        let mut one = trigger("00:10:00", "08:59:50", vec![value("01:30:00", 3.0), active("01:30:00", true)]);
        one.databases = vec!["s0".to_owned(), "s1".to_owned()];
        let full = |database: &str| Incident::PoolFull { database: database.to_owned(), held_by: String::new() };
        let free = Incident::PoolFree { database: ends.to_owned() };
        told_after(vec![("03:00:00", full("s0")), ("03:01:00", full("s1")), ("03:05:00", free)], vec![one])
    };
    assert!(page("s1").contains("Readings of s0 have had to wait for a connection since 03:00:00"), "{}", page("s1"));
    assert!(page("s0").contains("Readings of s1 have had to wait for a connection since 03:01:00"), "{}", page("s0"));
}

#[test]
fn the_first_cause_of_an_outage_comes_first_and_each_is_told_once() {
    let told = |incidents: Vec<(&str, Incident)>| {
        let changes = vec![value("01:30:00", 12.0), away("03:05:00")];
        let page = told_after(incidents, vec![trigger("00:10:00", "08:59:50", changes)]);
        page.split_once("What changed").expect("there is a list").0.to_owned()
    };
    let step = Some("No answer in time.");
    let up = || Incident::DatabaseUp { database: "claps".to_owned() };
    let page = told(vec![
        ("02:30:00", down("wrong_server", None)),
        ("02:31:00", up()),
        ("03:04:00", down("lagging", None)),
        ("03:04:10", down("lagging", None)),
        ("03:04:20", down("connection_lost", None)),
        ("03:04:30", down("deadline_exceeded", None)),
        ("03:04:40", down("unreachable", step)),
    ]);
    let told_at = |words: &str| page.find(words).unwrap_or_else(|| panic!("no {words}: {page}"));
    assert!(
        told_at("Database claps had failed at 03:04:00: the database is a standby")
            < told_at("Look at the standby's replay")
    );
    assert!(
        told_at("Look at the standby's replay")
            < told_at("It failed for another reason at 03:04:30: the database did not")
    );
    assert!(
        told_at("another reason at 03:04:30") < told_at("It failed for another reason at 03:04:40. No answer in time.")
    );
    assert!(!page.contains("03:04:10") && !page.contains("03:04:20") && !page.contains("02:30:00"), "{page}");
    let page = told(vec![("03:04:00", down("unreachable", step)), ("03:12:01", down("lagging", None))]);
    assert!(page.contains("had failed at 03:04:00. No answer in time.") && !page.contains("lag"), "{page}");
}

#[test]
fn a_report_about_now_says_that_an_outage_lasts_and_what_is_wrong_now() {
    let told = |end: Option<(&str, Incident)>, later: Option<Change>| {
        let changes = [value("01:30:00", 12.0), away("03:05:00")].into_iter().chain(later).collect();
        let mut asked = history("03:12:00", vec![trigger("00:10:00", "03:11:58", changes)]);
        asked.now = at("03:12:00");
        let fails =
            [("03:04:00", down("lagging", None)), ("03:10:00", down("unreachable", Some("No answer in time.")))];
        let incidents = fails.into_iter().chain(end);
        asked.incidents = incidents.map(|(time, incident)| Happening { at: at(time), incident }).collect();
        let (begins_at, at) = (at("03:12:00"), at("03:12:00"));
        let story = Story { namespace: "billing", name: "invoices", begins_at, at, is_now: true, outlook: None };
        let answered = [Answered { address: "a:1".to_owned(), history: Ok(asked) }];
        flat(&story.page(&answered, ColorChoice::Plain))
    };
    let page = told(None, None);
    assert!(page.contains("Database claps has failed since 03:04:00: the database is a standby"), "{page}");
    assert!(page.contains("Now, since 03:10:00, it fails for another reason. No answer in time."), "{page}");
    let up = |time| Some((time, Incident::DatabaseUp { database: "claps".to_owned() }));
    let page = told(up("03:11:59"), None);
    assert!(page.contains("Database claps failed from 03:04:00 to 03:11:59: the database is a standby"), "{page}");
    assert!(page.contains("It failed for another reason at 03:10:00. No answer in time."), "{page}");
    let page = told(up("03:11:50"), Some(value("03:11:55", 40.0)));
    let (_, different) = page.split_once("It was different from 03:05:00").expect("it is over");
    assert!(different.contains("Database claps failed from 03:04:00 to 03:11:50"), "{page}");
    assert!(!different.contains("Now, since"), "{page}");
}

#[test]
fn a_time_of_errors_has_one_beginning_and_all_of_its_causes() {
    let error = |time: &str, code: &str, text: &str| {
        change(time, Event::NoValue { code: code.to_owned(), text: text.to_owned() })
    };
    let rejected = "the database rejected the query (SQLSTATE 42501)";
    let changes = vec![
        value("02:30:00", 12.0),
        away("02:40:00"),
        error("02:40:20", "Unavailable", "the database has failed repeatedly"),
        value("02:41:00", 12.0),
        error("02:50:00", "FailedPrecondition", rejected),
        away("02:50:30"),
        value("02:51:00", 12.0),
        away("03:00:00"),
        value("03:01:00", 12.0),
        error("03:02:00", "FailedPrecondition", rejected),
        value("03:03:00", 12.0),
    ];
    let down = |step: &str| down("unreachable", Some(step));
    let up = || Incident::DatabaseUp { database: "claps".to_owned() };
    let incidents = [
        ("02:40:00", down("Nothing listens there.")),
        ("02:40:50", up()),
        ("02:50:30", down("The server refuses the password.")),
        ("02:50:50", up()),
        ("03:00:00", down("Nothing listens there.")),
        ("03:00:50", up()),
    ];
    let page = |begins_at: &str, moment: &str, is_now: bool| {
        let mut asked = history(moment, vec![trigger("00:10:00", "08:59:50", changes.clone())]);
        let known = incidents.iter().cloned();
        asked.incidents = known.map(|(time, incident)| Happening { at: at(time), incident }).collect();
        let answered = [Answered { address: "a:1".to_owned(), history: Ok(asked) }];
        let (begins_at, at) = (at(begins_at), at(moment));
        let story = Story { namespace: "billing", name: "invoices", begins_at, at, is_now, outlook: None };
        flat(&story.page(&answered, ColorChoice::Plain))
    };
    let outage = "It was different from 02:40:00 to 02:41:00: KEDA asked for jobs about every 30s and was told an error \
                  instead of a value, since 02:40:00: Unavailable, \"the database cannot be reached\"; then, since 02:40:20: \
                  Unavailable, \"the database has failed repeatedly\". Database claps failed from 02:40:00 to 02:40:50. While it \
                  failed: Nothing listens there. It was different from 02:50:00";
    let two_causes = [
        "It was different from 02:50:00 to 02:51:00: KEDA asked for jobs about every 30s and was told an error instead of a \
         value, since 02:50:00: FailedPrecondition, \"the database rejected the query (SQLSTATE 42501)\"; then, since 02:50:30: \
         Unavailable, \"the database cannot be reached\". A grant is missing",
        "Database claps failed from 02:50:30 to 02:50:50. While it failed: The server refuses the password.",
    ];
    let now = page("03:12:00", "03:12:00", true);
    assert!(now.contains(outage), "{now}");
    assert!(two_causes.iter().all(|words| now.contains(words)), "{now}");
    assert_eq!(now.matches("It was different").count(), 4, "{now}");
    let minute = page("02:50:00", "02:51:30", false);
    assert!(two_causes.iter().all(|words| minute.contains(words)), "{minute}");
}
