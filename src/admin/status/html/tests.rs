use std::collections::BTreeMap;

use tokio::time::Instant;

use super::*;
use crate::{
    admin::status::{Event, Files, Process, Reload, ReloadResult, clock::Clock},
    recorder::Recorder,
};

/// A text that would end every HTML element or attribute that contains it.
const HOSTILE: &str = "</script></style><img src=x onerror='alert(1)'>\"{{now}}\u{0}\n";

fn moment(seconds: u64) -> Moment {
    let clock = Clock::now(&Recorder::default());
    clock.moment(clock.instant().checked_sub(Duration::from_secs(seconds)).unwrap_or_else(Instant::now))
}

fn trigger(name: String, state: TriggerState) -> Trigger {
    let is_answered = state == TriggerState::Answered;
    Trigger {
        namespace: "billing".to_owned(),
        name,
        query: "invoices".to_owned(),
        state,
        since: moment(75),
        asked_at: moment(4),
        value: Some(12.5).filter(|_| is_answered),
        active: Some(true).filter(|_| is_answered),
        value_since: Some(moment(61)).filter(|_| is_answered),
        value_before: Some(3.0).filter(|_| is_answered),
        target: Some(5.0),
        activation: Some(0.0),
        code: Some(if is_answered { "OK" } else { "InvalidArgument" }),
        error: (!is_answered).then(|| "divedBy: unknown key; did you mean divideBy?".to_owned()),
        requests: BTreeMap::new(),
    }
}

fn query(name: String, state: QueryState, history: Vec<Option<f64>>) -> Query {
    Query {
        name,
        databases: vec!["claps".to_owned()],
        state,
        since: (state == QueryState::Failing).then(|| moment(600)),
        reason: None,
        error: (state == QueryState::Failing).then(|| "the query returned NULL".to_owned()),
        value: Some(17.0),
        activity: Some(17.0),
        keys: None,
        silent_keys: 0,
        stalled: None,
        short: None,
        unannounced_since: None,
        read_at: Some(moment(3)),
        age_seconds: Some(3.0),
        duration_seconds: Some(0.0123),
        statements: 1_234,
        history,
    }
}

fn database(name: String, state: DatabaseState) -> Database {
    Database {
        name,
        state,
        since: moment(7_000),
        reason: None,
        error: (state == DatabaseState::Down).then(|| "the database cannot be reached".to_owned()),
        remedy: None,
        role: Some(Role::Primary),
        has_left_primary: false,
        path_changed_at: None,
        crowded_since: None,
        privileged: Some(false),
        breaker: Breaker::Closed,
        notifications: Some(true),
        statements: 5_678,
    }
}

fn event(name: String, text: String) -> Event {
    let (database, namespace, query) = (None, Some("billing".to_owned()), Some(name.clone()));
    let (at, until) = (moment(7_300), Some(moment(7_260)));
    Event { at, until, word: "failing", database, namespace, name: Some(name), query, others: 3, text }
}

fn quiet() -> Status {
    Status {
        process: Process {
            name: "clapometer-7c5d8f-x2x4q".to_owned(),
            version: "1.2.3",
            commit: "abcdef",
            started_at: moment(90_000),
            now: moment(0),
        },
        databases: vec![database("claps".to_owned(), DatabaseState::Up)],
        queries: vec![query("invoices".to_owned(), QueryState::Good, vec![Some(1.0), None, Some(3.0)])],
        triggers: vec![trigger("mailer".to_owned(), TriggerState::Answered)],
        untracked_requests: 0,
        events: Vec::new(),
        reloads: Vec::new(),
        files: Files::default(),
    }
}

#[test]
fn a_quiet_page_says_so_and_one_with_problems_names_them_first() {
    let page = quiet().html(&View::default());
    assert!(page.contains("<title>\u{2713} All is well - clapometer</title>") && page.contains(">All is well</h2>"));
    assert!(
        page.contains("12.5 / 5, active") && page.contains("3 before</span>") && page.contains("from 1 to 3"),
        "{page}"
    );

    let mut status = quiet();
    status.databases.insert(0, database("archive".to_owned(), DatabaseState::Down));
    status.queries.insert(0, query("orders".to_owned(), QueryState::Failing, Vec::new()));
    status.triggers.insert(0, trigger("shipper".to_owned(), TriggerState::Refused));
    status.triggers.push(trigger("packer".to_owned(), TriggerState::Silent));
    // An error is shown in the place of an earlier answer.
    status.triggers[0].active = Some(false);
    status.files.is_rejected = true;
    status.reloads.push(Reload {
        at: moment(20),
        result: ReloadResult::Rejected,
        changed: None,
        faults: vec!["line 4: queries.orders.target: found 0, must be above 0".to_owned()],
    });
    let page = status.html(&View::default());
    let headline = "The configuration on disk is rejected, 1 database is down, 1 query fails, 1 trigger is refused, \
                    1 trigger is silent";
    assert!(page.contains(&format!("<title>\u{26a0} {headline} - clapometer</title>")), "{page}");
    assert!(page.contains("<td>Invalid<wbr>Argument") && !page.contains("not active"), "{page}");
    let (_, now) = page.split_once("<section id=\"now\" class=\"bad\"").expect("there are problems");
    let (now, _) = now.split_once("</section>").expect("it ends");
    for problem in
        ["found 0, must be above 0", "archive", "cannot be reached", "orders", "NULL", "shipper", "divedBy", "packer"]
    {
        assert!(now.contains(problem), "{problem} in {now}");
    }
}

#[test]
fn the_largest_page_is_below_100_kib() {
    let mut status = quiet();
    let long = |what: &str, number: usize| format!("{what}-{number}-{}", "x".repeat(45));
    let history: Vec<Option<f64>> = (0..60u32).map(|minute| Some(f64::from(minute * 7919 % 1_000))).collect();
    status.databases = (0..200).map(|number| database(long("database", number), DatabaseState::Down)).collect();
    status.queries = (0..2_000).map(|n| query(long("query", n), QueryState::Failing, history.clone())).collect();
    status.triggers = (0..2_000).map(|number| trigger(long("trigger", number), TriggerState::Refused)).collect();
    let faults = vec!["x".repeat(500); 11];
    let reload = || Reload { at: moment(1), result: ReloadResult::Rejected, changed: None, faults: faults.clone() };
    status.reloads = (0..20).map(|_| reload()).collect();
    status.events = (0..96).map(|number| event(long("trigger", number), "x".repeat(400))).collect();
    let page = status.html(&View::default());
    assert!(page.len() < 100 * 1024, "{} bytes", page.len());
    assert!(page.contains("page 1 of 40") && page.contains("1970 more in"), "{page}");
}

#[test]
fn nothing_from_elsewhere_is_markup() {
    let mut status = quiet();
    let hostile = || HOSTILE.to_owned();
    status.process.name = hostile();
    status.databases = vec![database(hostile(), DatabaseState::Down)];
    status.queries = vec![query(hostile(), QueryState::Failing, Vec::new())];
    let mut refused = trigger(hostile(), TriggerState::Refused);
    (refused.namespace, refused.query, refused.error) = (hostile(), hostile(), Some(hostile()));
    status.triggers = vec![refused];
    let of_database = Event { database: Some(hostile()), namespace: None, name: None, ..event(hostile(), hostile()) };
    status.events = vec![event(hostile(), hostile()), of_database];
    status.reloads = vec![
        Reload { at: moment(1), result: ReloadResult::Rejected, changed: None, faults: vec![hostile()] },
        Reload { at: moment(1), result: ReloadResult::Applied, changed: Some(hostile()), faults: Vec::new() },
    ];
    let page = status.html(&View { find: HOSTILE.to_lowercase(), ..View::default() });
    assert!(!page.contains("<img") && !page.contains("onerror='") && !page.contains('\0'), "{page}");
    assert_eq!(page.matches("</script>").count(), 1);
    assert_eq!(page.matches("</style>").count(), 1);
    assert!(page.matches("{{now}}").count() > 5, "a text is not a place of the template");
    assert_eq!(page.matches("<section id=\"now\"").count(), 1);
}

#[test]
fn triggers_are_found_sorted_and_in_pages() {
    let mut status = quiet();
    status.triggers = (0..120).map(|number| trigger(format!("t{number:03}"), TriggerState::Answered)).collect();
    status.triggers[7].value = Some(99.0);
    status.triggers[8].asked_at = moment(5_000);
    let names = |status: &Status, address: &str| -> Vec<String> {
        let page = status.html(&View::parse(address));
        let cells =
            page.split("</bdi>/<bdi>").skip(1).map(|rest| rest.split('<').next().unwrap_or_default().to_owned());
        cells.collect()
    };
    assert_eq!(names(&status, "")[..2], ["t000", "t001"]);
    assert_eq!(names(&status, "page=3").len(), 20);
    assert_eq!(names(&status, "page=1000").len(), 20, "beyond the end is the end");
    assert_eq!(names(&status, "find=LING/T11"), (110..120).map(|number| format!("t{number}")).collect::<Vec<_>>());
    assert_eq!(names(&status, "sort=value")[0], "t007");
    assert_eq!(names(&status, "sort=asked")[0], "t008");
    assert!(names(&status, "state=refused").is_empty());
    let page = status.html(&View::parse("sort=value&page=2"));
    assert!(page.contains("aria-sort=\"descending\"><a href=\"/?sort=value\">KEDA was told</a>"), "{page}");
    assert!(page.contains("<input type=\"hidden\" name=\"sort\" value=\"value\">"), "a search keeps the order");
}

#[test]
fn the_policy_has_the_hashes_of_script_and_style() {
    let policy = &**CONTENT_SECURITY_POLICY;
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && policy.matches("'sha256-").count() == 2);
    for forbidden in [" style=\"", " onclick", "javascript:", "http://", "https://", "src="] {
        assert!(!TEMPLATE.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn events_are_listed_with_their_ends_and_those_that_last_say_so() {
    let list = |events: Vec<Event>| {
        let page = Status { events, ..quiet() }.html(&View::default());
        let (_, list) = page.split_once("<section id=\"events\"").expect("there is a list");
        list.split_once("</section>").expect("it ends").0.to_owned()
    };
    assert!(list(Vec::new()).contains("Nothing went wrong within the last day"));
    let failed = || event("mailer".to_owned(), "Unavailable: away".to_owned());
    let over = list(vec![failed()]);
    for text in
        ["billing</bdi>/<bdi>mailer", "and 3 other triggers", "Unavailable: away", "after 40s, at ", " ago, at "]
    {
        assert!(over.contains(text), "{text} in {over}");
    }
    assert!(list(vec![Event { until: None, ..failed() }]).contains("<td>not yet"));
    let at = moment(60);
    let short =
        list(vec![Event { at, until: Some(at), database: Some("claps".to_owned()), namespace: None, ..failed() }]);
    assert!(short.contains("<bdi>claps</bdi>") && !short.contains("after") && !short.contains("not yet"), "{short}");
    let many = list((0..96).map(|_| failed()).collect());
    assert_eq!((many.matches("<tr><td>").count(), many.contains("84 more in")), (12, true), "{many}");
}
