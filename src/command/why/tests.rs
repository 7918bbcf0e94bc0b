mod before;
mod causes;

use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

use super::{ask::Answered, exit, outlook::Outlook, story::Story};
use crate::{
    command::Exit,
    manifest::Manifest,
    recorder::{
        Change, Connection, DroppedState, EndedBy, Event, Happening, History, Incident, RejectedFile, Served, Stalled,
        TriggerHistory,
    },
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
        standbys: Vec::new(),
        target: Some(5.0),
        activation: Some(0.0),
        divide_by: Some(1.0),
        first_asked_at: at(first),
        last_asked_at: at(last),
        interval_seconds: Some(30.0),
        silent_keys: 0,
        short_keys: 0,
        stalled: None,
        budget: None,
        is_grouped: false,
        is_silent: false,
        connection: None,
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
        others_asked: 0,
        others_silent: 0,
        near_objects: Vec::new(),
        expired_certificates: Vec::new(),
        triggers,
        triggers_left_off: 0,
        incidents: Vec::new(),
    }
}

fn outlook() -> Option<Outlook> {
    Manifest::read(JOB).objects.into_iter().next().map(|object| Outlook::of(&object))
}

fn told(moment: &str, outlook: Option<Outlook>, histories: Vec<(&str, Result<History, String>)>) -> String {
    let answered: Vec<Answered> =
        histories.into_iter().map(|(address, history)| Answered { address: address.to_owned(), history }).collect();
    let story =
        Story { namespace: "billing", name: "invoices", begins_at: at(moment), at: at(moment), is_now: false, outlook };
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
fn a_silence_is_told_with_its_end_or_that_it_lasts() {
    let since = at("02:58:04");
    let ended = vec![
        value("01:30:00", 0.0),
        active("01:30:00", false),
        change("03:20:10", Event::Silence { since, connection: None }),
    ];
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
    let flat_page = flat(&page);
    assert!(flat_page.contains("The process started after that, at 04:00:00, so it cannot know. Look at"), "{page}");
    assert!(flat_page.contains("KEDA first asked it for the object at 05:00:00."), "{page}");
    assert!(!page.contains("What changed"), "{page}");
    let mut started = history("03:12:00", vec![trigger("05:00:00", "08:59:50", Vec::new())]);
    started.started_at = at("03:20:00");
    let page = flat(&told("03:12:00", None, vec![("a:1", Ok(started))]));
    assert!(page.contains("What changed from 03:20:00 to 03:22:00: 03:20:00 the process started"), "{page}");
    let mut forgetful = history("03:12:00", vec![trigger("05:00:00", "08:59:50", Vec::new())]);
    forgetful.remembers_since = at("04:00:00");
    let page = flat(&told("03:12:00", None, vec![("a:1", Ok(forgetful))]));
    assert!(page.contains("It has forgotten what was before 04:00:00"), "{page}");
    let page = flat(&told_of("03:12:00", vec![trigger("05:00:00", "08:59:50", Vec::new())]));
    assert!(page.contains("KEDA had not asked for it: it first did at 05:00:00."), "{page}");
    assert!(!page.contains("The process started"), "{page}");
}

#[test]
fn an_object_that_nobody_was_asked_for_has_a_next_step() {
    let page = |others_asked: usize| {
        let mut never = history("03:12:00", Vec::new());
        never.others_asked = others_asked;
        told("03:12:00", None, vec![("a:1", Ok(never))])
    };
    let near = |of_one: &[&str], of_other: &[&str]| {
        let of_process = |names: &[&str]| {
            let mut never = history("03:12:00", Vec::new());
            never.near_objects = names.iter().map(|name| (*name).to_owned()).collect();
            never
        };
        flat(&told("03:12:00", None, vec![("a:1", Ok(of_process(of_one))), ("b:1", Ok(of_process(of_other)))]))
    };
    assert!(near(&["biling/invoices"], &[]).contains("Did you mean biling/invoices? Is the name right"));
    let several = near(&["a/x", "a/y", "a/\u{1b}[2J"], &["a/y", "a/z"]);
    assert!(several.contains("Did you mean a/x, a/y or a/z? "), "{several}");
    insta::assert_snapshot!("never_asked", page(3));
    let nothing = flat(&page(0));
    assert!(nothing.contains("Nor does KEDA ask for other objects here"), "{nothing}");
    let never = || history("03:12:00", Vec::new());
    let asked = history("03:12:00", vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0)])]);
    let both = told("03:12:00", None, vec![("a:1", Ok(never())), ("b:1", Ok(asked))]);
    assert!(!both.contains("Is the name right"), "{both}");
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

/// Returns what is told of one trigger at 03:12:00, after these incidents.
fn told_after(incidents: Vec<(&str, Incident)>, triggers: Vec<TriggerHistory>) -> String {
    let mut of_incidents = history("03:12:00", triggers);
    of_incidents.incidents =
        incidents.into_iter().map(|(time, incident)| Happening { at: at(time), incident }).collect();
    flat(&told("03:12:00", None, vec![("a:1", Ok(of_incidents))]))
}

fn down(reason: &str, step: Option<&str>) -> Incident {
    let (database, step) = ("claps".to_owned(), step.map(str::to_owned));
    Incident::DatabaseDown { database, reason: reason.to_owned(), step }
}

fn reload(changed: &str) -> Incident {
    Incident::Reload { changed: changed.to_owned() }
}

#[test]
fn a_reload_of_its_query_is_told_beside_what_it_changed() {
    let lasting = || vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0), active("01:30:00", true)])];
    let told = |changed: &str| told_after(vec![("02:30:00", reload(changed))], lasting());
    let page = told("queries.other.sql, queries.jobs.max_age");
    let words = "A reload changed queries.jobs.max_age at 02:30:00. The value has not changed since: a reading is told again until";
    assert!(page.contains(words), "{page}");
    assert!(told("queries.jobs.sql and 3 more").contains("A reload changed queries.jobs.sql at 02:30:00. The value"));
    for other in
        ["queries.\"jobs.v2\".sql", "queries.jobs-2.sql", "queries.other.sql", "databases.claps.host", "log.level"]
    {
        assert!(!told(other).contains("A reload changed"), "{other}");
    }
    // With another target the trigger goes on as another one.
    let mut before = trigger("00:10:00", "02:29:50", vec![value("01:30:00", 12.0)]);
    before.target = Some(2.0);
    let now = trigger("02:30:20", "08:59:50", vec![value("02:30:20", 12.0), active("02:30:20", true)]);
    let page = told_after(vec![("02:30:00", reload("queries.jobs.target"))], vec![before, now]);
    assert!(
        page.contains(
            "A reload changed queries.jobs.target at 02:30:00. Before that, KEDA was told 12 / 2, since 01:30:00."
        ),
        "{page}"
    );
    assert!(page.contains("02:30:20 the trigger or its query was changed: target 5, which was 2 before"), "{page}");
    let failing = || vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0), away("02:31:00")])];
    let host = ("02:30:00", reload("databases.claps.host, queries.jobs.sql"));
    let page = told_after(vec![host, ("02:30:50", down("unreachable", Some("No such name.")))], failing());
    let words =
        "No such name. A reload changed databases.claps.host at 02:30:00. Before that, KEDA was told 12 / 5, since";
    assert!(page.contains(words), "{page}");
    let older = vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0), away("02:00:00")])];
    let page = told_after(
        vec![("02:00:00", down("unreachable", Some("No such name."))), ("02:30:00", reload("databases.claps.user"))],
        older,
    );
    let words = "A reload changed databases.claps.user at 02:30:00. KEDA was told an error before that already.";
    assert!(page.contains(words), "{page}");
    let mut refusal = trigger("02:30:20", "08:59:50", vec![refused("02:30:20")]);
    (refusal.target, refusal.databases) = (None, Vec::new());
    let page = told_after(vec![("02:30:00", reload("queries.jobs.namespaces"))], vec![refusal]);
    assert!(page.contains("A reload changed queries.jobs.namespaces at 02:30:00."), "{page}");
}

#[test]
fn a_silence_says_whether_keda_asks_for_anything_at_all() {
    let told = |others_asked: usize, others_silent: usize, expired: &[&str]| {
        let mut lasting = trigger("00:10:00", "02:58:04", vec![value("01:30:00", 0.0)]);
        lasting.is_silent = true;
        let mut silent = history("03:12:00", vec![lasting]);
        (silent.others_asked, silent.others_silent) = (others_asked, others_silent);
        silent.expired_certificates = expired.iter().map(|key| (*key).to_owned()).collect();
        flat(&told("03:12:00", None, vec![("a:1", Ok(silent))]))
    };
    assert!(told(0, 0, &[]).contains("Were the objects deleted or paused? Is another pod asked"));
    assert!(told(0, 12, &[]).contains("Nor does it ask for 12 other triggers. Were the objects deleted or paused?"));
    assert!(told(0, 1, &[]).contains("Nor does it ask for 1 other trigger. Were the objects"));
    assert!(
        told(3, 9, &[]).contains(
            "It does ask for 3 other triggers, so that its operator reaches this pod. Look at the object first"
        )
    );
    let page = told(0, 12, &["server.tls.cert"]);
    assert!(page.contains("The certificate of server.tls.cert has expired, so that KEDA cannot connect."), "{page}");
    assert!(!page.contains("Nor does"), "{page}");
}

#[test]
fn a_silence_says_whether_kedas_operator_is_away_or_hangs_also_when_it_is_over() {
    let ended = |by: EndedBy| Connection::Ended { at: at("02:58:11"), by };
    let lasting = |connection: Connection, others_asked: usize| {
        let mut one = trigger("00:10:00", "02:58:04", vec![value("01:30:00", 0.0)]);
        (one.is_silent, one.connection) = (true, Some(connection));
        let mut silent = history("03:12:00", vec![one]);
        (silent.others_silent, silent.others_asked) = (2, others_asked);
        flat(&told("03:12:00", None, vec![("a:1", Ok(silent))]))
    };
    let page = lasting(ended(EndedBy::Peer), 0);
    let words = "Nor does it ask for 2 other triggers. Its connection ended at 02:58:11, and no new one came. KEDA's operator is away or cannot";
    assert!(page.contains(words) && page.contains("it may ask another one"), "{page}");
    let page = lasting(ended(EndedBy::Clapometer), 0);
    let words = "clapometer itself ended the connection at 02:58:11, and no new one came. With several pods of clapometer, KEDA asks";
    assert!(page.contains(words), "{page}");
    let page = lasting(Connection::Open, 0);
    assert!(page.contains("Its connection stayed open. KEDA's operator hangs, or all objects were deleted"), "{page}");
    assert!(!lasting(Connection::Open, 3).contains("connection"), "the operator asks");

    let past = |connection: Connection| {
        let silence = Event::Silence { since: at("02:58:04"), connection: Some(connection) };
        flat(&told_of("03:12:00", vec![trigger("00:10:00", "08:59:50", vec![change("03:20:10", silence)])]))
    };
    let page = past(ended(EndedBy::Peer));
    let words = "from 02:58:04 to 03:20:10. Its connection ended at 02:58:11, and no new one came until then: its operator was away";
    assert!(page.contains(words), "{page}");
    assert!(past(ended(EndedBy::Clapometer)).contains("clapometer itself ended the connection at 02:58:11"));
    assert!(
        past(Connection::Open).contains("Its connection stayed open: its operator hung, or the object was paused.")
    );
}

#[test]
fn a_minute_is_told_by_its_end_and_what_was_different_at_its_beginning() {
    let told = |changes: Vec<Change>| {
        let asked = history("03:12:00", vec![trigger("00:10:00", "08:59:50", changes)]);
        let answered = [Answered { address: "a:1".to_owned(), history: Ok(asked) }];
        let (begins_at, at) = (at("03:12:00"), at("03:12:59"));
        let story = Story { namespace: "billing", name: "invoices", begins_at, at, is_now: false, outlook: None };
        let page = flat(&story.page(&answered, ColorChoice::Plain));
        page.split_once("What changed").expect("there is a list").0.to_owned()
    };
    let page = told(vec![value("01:30:00", 12.0), away("03:12:20")]);
    assert!(page.starts_with("billing/invoices from 2026-11-29 03:12:00 +01:00 to 03:12:59"), "{page}");
    assert!(page.contains("an error instead of a value, since 03:12:20"), "{page}");
    let before =
        "It was different at 03:12:00: KEDA asked for jobs about every 30s and was told 12 / 5 (value / target)";
    assert!(page.contains(before), "{page}");
    let page = told(vec![value("01:30:00", 12.0), away("03:12:20"), value("03:12:50", 40.0)]);
    assert!(page.contains("was told 40 / 5 (value / target), since 03:12:50"), "{page}");
    let page = told(vec![value("02:30:00", 12.0)]);
    assert!(!page.contains("It was different"), "{page}");
    let page = told(vec![value("01:30:00", 12.0), away("03:12:20"), value("03:12:50", 12.0)]);
    assert!(
        page.contains("It was different from 03:12:20 to 03:12:50: KEDA asked for jobs about every 30s and was told an error instead of a value, since 03:12:20"),
        "{page}"
    );
}

#[test]
fn a_report_about_now_tells_an_outage_that_is_over_and_lists_it_among_many_values() {
    let minute = |minute: u32| format!("08:{minute:02}:30");
    let mut changes = vec![active("08:00:00", true), away("08:01:00"), value("08:01:20", 3.0)];
    changes.extend((2..59).map(|at| value(&minute(at), f64::from(at))));
    let asked = history("09:00:00", vec![trigger("00:10:00", "08:59:50", changes)]);
    let answered = [Answered { address: "a:1".to_owned(), history: Ok(asked) }];
    let (begins_at, at) = (at("09:00:00"), at("09:00:00"));
    let story = Story { namespace: "billing", name: "invoices", begins_at, at, is_now: true, outlook: None };
    let page = story.page(&answered, ColorChoice::Plain);
    let told = flat(&page);
    assert!(told.contains("was told 58 / 5 (value / target), since 08:58:30; active since 08:01:20."), "{page}");
    assert!(told.contains("It was different from 08:01:00 to 08:01:20: KEDA asked for jobs"), "{page}");
    assert!(told.contains("without 20 other changes: 08:00:00 active 08:01:00 no value: Unavailable"), "{page}");
    assert!(told.contains("08:01:20 value 3 / 5 08:22:30 value 22 / 5"), "{page}");
}

#[test]
fn a_deployment_is_told_with_the_keys_that_it_changed_and_so_is_a_divisor() {
    let keys = |time: &str, keys: &str| change(time, Event::Metadata { keys: keys.to_owned() });
    let told = |before: TriggerHistory| {
        let changes = vec![keys("03:00:00", "divideBy, param.region"), value("03:00:00", 5.0)];
        let mut now = trigger("03:00:00", "08:59:50", changes);
        now.divide_by = Some(100.0);
        flat(&told_of("03:12:00", vec![before, now]))
    };
    let page = told(trigger("00:10:00", "02:59:30", vec![value("01:30:00", 412.0)]));
    let cause = "A deployment changed divideBy, param.region of the trigger's metadata at 03:00:00: divisor 100, which was 1 before. Before that, KEDA was told 412 / 5, since";
    assert!(page.contains(cause), "{page}");
    assert!(page.contains("divided by 100 (`divideBy`, or `divide_by` of the query)."), "{page}");
    assert!(page.contains("03:00:00 the trigger's metadata changed: divideBy, param.region"), "{page}");
    assert!(!page.contains("or its query's target"), "{page}");

    let query = |last: &str| {
        let mut before = trigger("00:10:00", last, vec![value("01:30:00", 412.0)]);
        before.query = "invoices".to_owned();
        flat(&told_of("03:12:00", vec![before, trigger("03:00:00", "08:59:50", vec![value("03:00:00", 0.0)])]))
    };
    let page = query("02:59:30");
    assert!(
        page.contains(
            "A deployment changed the trigger's query, which was invoices until 02:59:30, to jobs at 03:00:00."
        ),
        "{page}"
    );
    assert!(page.contains("03:00:00 the trigger's query changed from invoices to jobs"), "{page}");
    assert!(!query("08:59:50").contains("A deployment changed"), "the object has two triggers");
}

#[test]
fn a_value_says_where_it_comes_from_and_a_zero_that_nothing_here_explains_says_so() {
    let standby = || Incident::Standby { database: "claps".to_owned() };
    let primary = || Incident::Primary { database: "claps".to_owned() };
    let full = || Incident::PoolFull { database: "claps".to_owned(), held_by: "exports, mails".to_owned() };
    let free = || Incident::PoolFree { database: "claps".to_owned() };
    let with_value = || vec![trigger("00:10:00", "08:59:50", vec![value("01:30:00", 12.0), active("01:30:00", true)])];
    let page = told_after(vec![("03:00:00", standby())], with_value());
    assert!(
        page.contains("Readings of claps have come from a standby since 03:00:00, and came from a primary"),
        "{page}"
    );
    let page = told_after(vec![("03:00:00", standby()), ("03:05:00", primary())], with_value());
    assert!(!page.contains("have come from a standby"), "{page}");
    let mut always = with_value();
    always[0].standbys = vec!["claps".to_owned()];
    let page = told_after(Vec::new(), always);
    assert!(page.contains("Readings of claps come from a standby: they are as old as its replay."), "{page}");

    let page = told_after(vec![("03:00:00", full())], with_value());
    let words = "have had to wait for a connection since 03:00:00; most of the time they are held by exports, mails. Raise `pool_size`";
    assert!(page.contains(words), "{page}");
    assert!(page.contains("03:00:00 readings of claps had to wait for a connection: most of the time"), "{page}");
    let page = told_after(vec![("03:00:00", full()), ("03:11:00", free())], with_value());
    assert!(!page.contains("have had to wait") && page.contains("03:11:00 readings of claps waited"), "{page}");

    let zero = |is_grouped: bool, reloads: Vec<(&str, Incident)>| {
        let changes = vec![value("01:30:00", 12.0), value("02:40:00", 0.0), active("02:40:00", false)];
        let mut one = trigger("00:10:00", "08:59:50", changes);
        one.is_grouped = is_grouped;
        told_after(reloads, vec![one])
    };
    let page = zero(true, Vec::new());
    assert!(
        page.contains("has counted nothing since 02:40:00, and 12 before") && page.contains("queue renamed?"),
        "{page}"
    );
    assert!(zero(false, Vec::new()).contains("does not find them any more"));
    assert!(!zero(false, vec![("02:39:00", reload("queries.jobs.sql"))]).contains("counted nothing"));
}
