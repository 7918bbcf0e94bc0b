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
    let failed = "Database claps had failed at 03:04:31: the database did not answer in time";
    let of = |error: Change, ended_at: &str| {
        let changes = vec![value("01:30:00", 12.0), error, value("03:12:10", 40.0)];
        let incidents = vec![("03:04:31", down("deadline_exceeded", None)), (ended_at, up())];
        let page = told_after(incidents, vec![trigger("00:10:00", "08:59:50", changes)]);
        page.split_once("What changed").expect("there is a list").0.to_owned()
    };
    for error in [away("03:04:34"), late("03:04:34")] {
        let page = of(error.clone(), "03:11:50");
        assert!(page.contains(failed) && page.contains("It answered again at 03:11:50."), "{page}");
        let page = of(error.clone(), "03:12:05");
        assert!(page.contains(failed) && !page.contains("again"), "{page}");
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
