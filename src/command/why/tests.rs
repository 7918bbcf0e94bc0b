use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{ask::Answered, exit, outlook::Outlook, story::Story};
use crate::{
    command::Exit,
    manifest::Manifest,
    recorder::{Change, Event, Happening, History, Incident, TriggerHistory},
    terminal::style::ColorChoice,
};

const AWAY: &str = "the database cannot be reached";
const WRONG: &str = "divedBy: unknown key; did you mean divideBy?";

const JOB: &str = "
apiVersion: keda.sh/v1alpha1
kind: ScaledJob
metadata: {name: invoices}
spec:
  maxReplicaCount: 10
  triggers: [{type: external, metadata: {scalerAddress: 'clapometer:9090', query: jobs}}]
";

/// A time of 2026-11-29 in Berlin.
fn at(time: &str) -> OffsetDateTime {
    OffsetDateTime::parse(&format!("2026-11-29T{time}+01:00"), &Rfc3339).unwrap()
}

fn change(time: &str, event: Event) -> Change {
    Change { at: at(time).to_offset(UtcOffset::UTC), event }
}

fn value(time: &str, value: f64) -> Change {
    change(time, Event::Value { value })
}

fn active(time: &str, active: bool) -> Change {
    change(time, Event::Activity { active })
}

fn away(time: &str) -> Change {
    change(time, Event::NoValue { code: "Unavailable".to_owned(), text: AWAY.to_owned() })
}

fn refused(time: &str) -> Change {
    change(time, Event::Refusal { code: "InvalidArgument".to_owned(), text: WRONG.to_owned() })
}

fn trigger(first: &str, last: &str, changes: Vec<Change>) -> TriggerHistory {
    TriggerHistory {
        query: "jobs".to_owned(),
        databases: vec!["claps".to_owned()],
        target: Some(5.0),
        first_asked_at: at(first),
        last_asked_at: at(last),
        interval_seconds: Some(30.0),
        silent_keys: 0,
        budget: None,
        is_silent: false,
        changes,
        left_off: 0,
    }
}

/// Returns the history of a process that was started at 22:00 the day before, asked at 09:00.
fn history(moment: &str, triggers: Vec<TriggerHistory>) -> History {
    let moment = at(moment);
    let started_at = at("00:00:00") - time::Duration::hours(2);
    History {
        namespace: "billing".to_owned(),
        name: "invoices".to_owned(),
        started_at,
        remembers_since: started_at,
        now: at("09:00:00"),
        from: moment - time::Duration::hours(1),
        at: moment,
        until: moment + time::Duration::minutes(10),
        triggers,
        incidents: Vec::new(),
    }
}

fn outlook() -> Option<Outlook> {
    Manifest::read(JOB).objects.into_iter().next().map(|object| Outlook::of(&object))
}

fn told(moment: &str, outlook: Option<Outlook>, histories: Vec<(&str, Result<History, String>)>) -> String {
    let answered: Vec<Answered> =
        histories.into_iter().map(|(address, history)| Answered { address: address.to_owned(), history }).collect();
    let story = Story { namespace: "billing", name: "invoices", at: at(moment), is_now: false, outlook };
    story.page(&answered, ColorChoice::Plain)
}

/// The page without its line breaks.
fn flat(page: &str) -> String {
    page.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn told_of(moment: &str, triggers: Vec<TriggerHistory>) -> String {
    told(moment, outlook(), vec![("10.0.0.7:9091", Ok(history(moment, triggers)))])
}

#[test]
fn an_outage_is_told_by_the_process_that_was_asked_and_the_others_say_what_they_know() {
    let changes = vec![value("01:30:00", 12.0), active("01:30:00", true), away("03:04:34"), value("03:15:10", 40.0)];
    let mut asked = history("03:12:00", vec![trigger("00:10:00", "08:59:50", changes)]);
    let step = Some("The server refuses the password.".to_owned());
    let down = Incident::DatabaseDown { database: "claps".to_owned(), reason: "unreachable".to_owned(), step };
    let reload = Incident::Reload { changed: "queries.jobs.namespaces".to_owned() };
    let up = Incident::DatabaseUp { database: "claps".to_owned() };
    for (time, incident) in [("02:50:00", reload), ("03:04:31", down), ("03:14:58", up)] {
        asked.incidents.push(Happening { at: at(time), incident });
    }
    let never = history("03:12:00", Vec::new());
    let refused = Err("Connection refused (os error 111)".to_owned());
    let all = vec![("10.0.0.8:9091", Ok(never)), ("10.0.0.7:9091", Ok(asked)), ("10.0.0.9:9091", refused)];
    insta::assert_snapshot!("outage", told("03:12:00", outlook(), all));
}

#[test]
fn a_clock_that_is_behind_is_told_and_a_moment_is_not() {
    let asked = || vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0)])];
    let page = |moment: &str| flat(&told_of(moment, asked()));
    assert!(!page("09:00:01").contains("By its clock"), "{}", page("09:00:01"));
    assert!(page("09:00:05").contains("By its clock"), "{}", page("09:00:05"));
}

#[test]
fn a_refusal_is_told_while_it_holds_and_not_before_or_after() {
    let triggers = || {
        let answered =
            vec![value("01:30:00", 12.0), active("01:30:00", true), value("03:20:00", 12.0), active("03:20:00", true)];
        let mut of_refusal = trigger("03:04:30", "03:19:30", vec![refused("03:04:30")]);
        of_refusal.target = None;
        vec![trigger("00:10:00", "08:59:50", answered), of_refusal]
    };
    insta::assert_snapshot!("refused", told_of("03:12:00", triggers()));
    let quoted = |moment: &str| {
        let page = told_of(moment, triggers());
        let (sentences, _) = page.split_once("What changed").unwrap();
        (sentences.contains("InvalidArgument"), sentences.contains("12 / 5"))
    };
    assert_eq!(quoted("03:00:00"), (false, true));
    assert_eq!(quoted("03:05:00"), (true, false));
    assert_eq!(quoted("03:25:00"), (false, true));
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
    assert!(told(3.0, 1, Some(40)).contains(budget) && !told(3.0, 1, Some(40)).contains(key));
    assert!(told(0.0, 1, None).contains(key) && !told(0.0, 1, None).contains("Its query shares"));
    assert!(!told(0.0, 0, None).contains(key));
}

#[test]
fn a_silence_is_told_with_its_end_or_that_it_lasts() {
    let since = at("02:58:04");
    let ended = vec![value("01:30:00", 0.0), active("01:30:00", false), change("03:20:10", Event::Silence { since })];
    insta::assert_snapshot!("silence_ended", told_of("03:12:00", vec![trigger("00:10:00", "08:59:50", ended)]));
    let mut lasting = trigger("00:10:00", "02:58:04", vec![value("01:30:00", 0.0), active("01:30:00", false)]);
    lasting.is_silent = true;
    insta::assert_snapshot!("silence_lasts", told_of("03:12:00", vec![lasting]));
}

#[test]
fn what_keda_makes_of_it_follows_the_manifest_and_nothing_is_said_without() {
    let changes = || vec![value("03:00:00", 61.0), active("03:00:00", true)];
    let page = told_of("03:12:00", vec![trigger("00:10:00", "08:59:50", changes())]);
    assert!(
        flat(&page).contains("With that KEDA starts 10 Jobs if none is unfinished, with a maxReplicaCount of 10"),
        "{page}"
    );
    let alone = told(
        "03:12:00",
        None,
        vec![("a:1", Ok(history("03:12:00", vec![trigger("00:10:00", "08:59:50", changes())])))],
    );
    assert!(!alone.contains("With"), "{alone}");
    let object = JOB.replace("ScaledJob", "ScaledObject").replace("type: external", "type: cron");
    let manifest = Manifest::read(&object).objects.into_iter().next().map(|object| Outlook::of(&object));
    let all = vec![("a:1", Ok(history("03:12:00", vec![trigger("00:10:00", "08:59:50", changes())])))];
    let page = told("03:12:00", manifest, all);
    assert!(
        flat(&page).contains("the autoscaler goes to 10 replicas; maxReplicaCount is 10. 1 trigger of other types"),
        "{page}"
    );
}

#[test]
fn a_moment_before_a_process_remembers_or_before_it_was_asked_is_told_as_such() {
    let mut young = history("03:12:00", vec![trigger("05:00:00", "08:59:50", Vec::new())]);
    young.started_at = at("04:00:00");
    young.remembers_since = at("04:00:00");
    let page = told("03:12:00", None, vec![("a:1", Ok(young))]);
    assert!(flat(&page).contains("It began to remember after that, so it cannot know."), "{page}");
    assert!(flat(&page).contains("KEDA had not asked for it: it first did at 05:00:00."), "{page}");
}

#[test]
fn the_exit_code_says_whether_anybody_knows() {
    let answered = |histories: Vec<Option<Vec<TriggerHistory>>>| {
        let answered = histories.into_iter().map(|triggers| Answered {
            address: String::new(),
            history: triggers.map(|triggers| history("03:12:00", triggers)).ok_or_else(String::new),
        });
        exit(&answered.collect::<Vec<_>>())
    };
    let asked = || Some(vec![trigger("00:10:00", "08:59:50", Vec::new())]);
    assert_eq!(answered(vec![None, None]), Exit::Unavailable);
    assert_eq!(answered(vec![None, Some(Vec::new())]), Exit::Failure);
    assert_eq!(answered(vec![None, Some(Vec::new()), asked()]), Exit::Success);
}

#[test]
fn an_objects_name_has_a_namespace_and_the_characters_of_kubernetes() {
    assert_eq!(super::object("billing/invoices.v2"), Ok(("billing".to_owned(), "invoices.v2".to_owned())));
    for wrong in ["invoices", "/invoices", "billing/", "a/b/c", "a/b c", "a/b?at=1", "a/%2e"] {
        assert!(super::object(wrong).is_err(), "{wrong}");
    }
}
