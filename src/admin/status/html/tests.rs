use std::collections::BTreeMap;

use tokio::time::Instant;

use super::*;
use crate::{
    admin::status::{
        Event, Files, Process, Reload, ReloadResult, Trigger, TriggerChange, Variant, clock::Clock, lately::Trend,
    },
    recorder::{Connection, EndedBy, Recorder},
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
        effect: is_answered.then(|| "worth 3 Jobs or replicas".to_owned()),
        is_held: false,
        changed: None,
        variants: Vec::new(),
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
        max_age: Duration::from_secs(1),
        trend: None,
        history,
        changed_at: None,
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
        may_lag: false,
        path_changed_at: None,
        crowded_since: None,
        privileged: Some(false),
        breaker: Breaker::Closed,
        notifications: Some(true),
        statements: 5_678,
    }
}

fn change(keys: String, numbers: String) -> TriggerChange {
    TriggerChange { at: moment(90_000), keys, numbers }
}

fn variant(error: Option<&str>) -> Variant {
    Variant {
        value: Some(2.0).filter(|_| error.is_none()),
        active: Some(false).filter(|_| error.is_none()),
        target: Some(5.0),
        activation: Some(10.0),
        effect: error.is_none().then(|| "2 is not above activation 10".to_owned()),
        code: Some(if error.is_none() { "OK" } else { "FailedPrecondition" }),
        error: error.map(str::to_owned),
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
        connection: None,
    }
}

#[test]
fn a_quiet_page_says_so_and_one_with_problems_names_them_first() {
    let page = quiet().html(&View::default());
    assert!(page.contains("<title>\u{2713} All is well - clapometer</title>") && page.contains(">All is well</h2>"));
    assert!(
        page.contains("12.5 / 5, active<span class=\"error\">worth 3 Jobs or replicas</span>")
            && page.contains("3 before</span>")
            && page.contains("peaks from 1 to 3"),
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
fn a_keda_that_asks_for_nothing_is_told_with_the_fate_of_its_connection() {
    let page = |connection: Option<Connection>| {
        let mut status = quiet();
        status.triggers = vec![trigger("packer".to_owned(), TriggerState::Silent)];
        status.connection = connection;
        status.html(&View::default())
    };
    let at = time::OffsetDateTime::from_unix_timestamp(1_795_921_331).expect("a time");
    let away = page(Some(Connection::Ended { at, by: EndedBy::Peer }));
    assert!(away.contains("connection has ended - clapometer</title>"), "{away}");
    assert!(away.contains("its connection ended at 2026-11-29 03:02:11, and no new one came"), "{away}");
    assert!(away.contains("operator is away or cannot connect"), "{away}");
    let left = page(Some(Connection::Ended { at, by: EndedBy::Clapometer }));
    assert!(
        left.contains("clapometer ended the connection at 2026-11-29 03:02:11")
            && left.contains("asks another one by now")
    );
    let hangs = page(Some(Connection::Open));
    assert!(hangs.contains("its connection stayed open") && hangs.contains("operator hangs"), "{hangs}");
    assert!(!page(None).contains("connection has ended") && !page(None).contains("connection stayed"));
}

#[test]
fn the_largest_page_is_below_100_kib() {
    let mut status = quiet();
    let long = |what: &str, number: usize| format!("{what}-{number}-{}", "x".repeat(45));
    let history: Vec<Option<f64>> = (0..60u32).map(|minute| Some(f64::from(minute * 7919 % 1_000))).collect();
    status.databases = (0..200).map(|number| database(long("database", number), DatabaseState::Down)).collect();
    status.queries = (0..2_000).map(|n| query(long("query", n), QueryState::Failing, history.clone())).collect();
    let several = |number: usize| Trigger {
        variants: (0..8).map(|_| variant(Some("the database rejected the query (SQLSTATE 42P01)"))).collect(),
        changed: Some(change("x".repeat(300), String::new())),
        ..trigger(long("trigger", number), TriggerState::Refused)
    };
    status.triggers = (0..2_000).map(several).collect();
    let faults = vec!["x".repeat(500); 11];
    let reload = || Reload { at: moment(1), result: ReloadResult::Rejected, changed: None, faults: faults.clone() };
    status.reloads = (0..20).map(|_| reload()).collect();
    let lately = |number| Event { until: Some(moment(60)), ..event(long("trigger", number), "x".repeat(400)) };
    status.events = (0..96).map(lately).collect();
    let page = status.html(&View::default());
    assert!(page.len() < 100 * 1024, "{} bytes", page.len());
    assert!(page.contains("page 1 of 40") && page.contains("1975 more in"), "{page}");
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
    refused.variants = vec![Variant { effect: Some(hostile()), ..variant(Some(HOSTILE)) }];
    refused.changed = Some(change(hostile(), hostile()));
    status.triggers = vec![refused];
    let of_database = Event { database: Some(hostile()), namespace: None, name: None, ..event(hostile(), hostile()) };
    status.events = vec![event(hostile(), hostile()), of_database];
    let lately = |word, at| Event { word, at, until: Some(at), ..event(hostile(), hostile()) };
    status.events.extend(["changed", "silent"].map(|word| lately(word, moment(1))));
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
    assert!(
        page.contains("aria-sort=\"descending\"><a href=\"/?sort=value\">KEDA was told value / target</a>"),
        "{page}"
    );
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
    assert!(list(vec![Event { until: None, ..failed() }]).contains("<td>not&nbsp;yet"));
    let at = moment(60);
    let short =
        list(vec![Event { at, until: Some(at), database: Some("claps".to_owned()), namespace: None, ..failed() }]);
    assert!(
        short.contains("<bdi>claps</bdi>") && !short.contains("after") && !short.contains("not&nbsp;yet"),
        "{short}"
    );
    let many = list((0..96).map(|_| failed()).collect());
    assert_eq!((many.matches("<tr><td>").count(), many.contains("84 more in")), (12, true), "{many}");
}

/// Returns the first box of a page.
fn first_box(page: &str) -> &str {
    let (_, now) = page.split_once("<section id=\"now\"").expect("there is a box");
    now.split_once("</section>").expect("it ends").0
}

#[test]
fn what_changed_lately_is_told_although_all_is_well() {
    let mut status = quiet();
    let keys = "the metadata changed: targetQueryValue (target 5 to 50)";
    let at = moment(600);
    status.events = vec![
        // What lasts is a problem, and what is over is told behind what changed.
        Event { at: moment(30), until: None, ..event("shipper".to_owned(), "Unavailable: away".to_owned()) },
        Event { at: moment(90), until: Some(moment(60)), ..event("packer".to_owned(), "Unavailable: away".to_owned()) },
        Event { at, until: Some(at), word: "changed", ..event("mailer".to_owned(), keys.to_owned()) },
    ];
    let changed = Some("queries.invoices.target (1 to 5)".to_owned());
    status.reloads = vec![Reload { at: moment(700), result: ReloadResult::Applied, changed, faults: Vec::new() }];
    status.queries[0].trend = Some(Trend::Fell { since: moment(900), minutes: 44, from: 31.0 });
    let page = status.html(&View::default());
    let headline = "Nothing fails now. Changed lately: 8 triggers, the configuration, 1 query";
    assert!(page.contains(&format!("<title>\u{2713} {headline} - clapometer</title>")), "{page}");
    let now = first_box(&page);
    let places: Vec<usize> = [
        "class=\"good\"",
        headline,
        "mailer</bdi></b> and 3 other triggers at ",
        keys,
        "changed queries.invoices.target (1 to 5)",
        "0 since about ",
        "in each of the 44 minutes before, lastly 31. Are the rows done",
        "packer</bdi></b> and 3 other triggers for 30s, until ",
    ]
    .into_iter()
    .map(|text| now.find(text).unwrap_or_else(|| panic!("{text} in {now}")))
    .collect();
    assert!(places.is_sorted(), "{places:?} in {now}");
    assert!(!now.contains("shipper"), "{now}");

    status.reloads[0].at = moment(1_900);
    status.queries[0].trend = None;
    status.events.truncate(1);
    assert!(status.html(&View::default()).contains(">All is well</h2>"));
}

#[test]
fn several_triggers_of_one_object_are_told_apart() {
    let row = |several: Trigger| {
        let page = Status { triggers: vec![several], ..quiet() }.html(&View::default());
        page.split_once("<div id=\"list\">").expect("there is a list").1.to_owned()
    };
    let answered = Variant { value: Some(12.0), active: Some(true), effect: None, ..variant(None) };
    let failing = || variant(Some("the query returned no row"));
    let trigger = |state| trigger("queues".to_owned(), state);
    let several = row(Trigger { variants: vec![answered, variant(None)], ..trigger(TriggerState::Answered) });
    for text in ["2 triggers:</div>", "12 / 5, active", "2 / 5, not active", "2 is not above activation 10"] {
        assert!(several.contains(text), "{text} in {several}");
    }
    assert!(!several.contains("12.5 / 5") && !several.contains("3 before"), "{several}");
    let mixed = row(Trigger { variants: vec![variant(None), failing()], ..trigger(TriggerState::Failing) });
    for text in ["2 / 5, not active", "Failed<wbr>Precondition", "the query returned no row"] {
        assert!(mixed.contains(text), "{text} in {mixed}");
    }
    let refused = row(Trigger { variants: vec![variant(None)], ..trigger(TriggerState::Refused) });
    for text in ["Invalid<wbr>Argument", "divedBy", "and 1 trigger more:", "2 / 5, not active"] {
        assert!(refused.contains(text), "{text} in {refused}");
    }
    let many = || Trigger { variants: (0..8).map(|_| failing()).collect(), ..trigger(TriggerState::Failing) };
    let page = Status { triggers: (0..7).map(|_| many()).collect(), ..quiet() }.html(&View::default());
    assert_eq!((page.matches("8 triggers:</div>").count(), page.matches("8 triggers, see ").count()), (3, 4), "{page}");
}

#[test]
fn a_row_says_why_nothing_starts_and_how_old_a_number_is() {
    let mut status = quiet();
    (status.triggers[0].active, status.triggers[0].is_held) = (Some(false), true);
    status.triggers[0].changed = Some(change("activationTargetQueryValue".to_owned(), "activation 0 to 20".to_owned()));
    status.queries[0].max_age = Duration::from_secs(3_600);
    status.queries[0].read_at = Some(moment(1_500));
    (status.databases[0].role, status.databases[0].may_lag) = (Some(Role::Standby), true);
    status.triggers.push(trigger("packer".to_owned(), TriggerState::Silent));
    let page = status.html(&View::default());
    for text in [
        "1 trigger is answered, 1 of them not active although its value is above 0;",
        ": activation 0 to 20</span>",
        "KEDA is told a number that was read 25m00s ago, because max_age is 1h00m",
        "read 25m00s ago: max_age is 1h00m",
        "standby<span class=\"error\">as old as its replay",
        "readings come from a standby, and are as old as its replay, however old that is",
        "<td>last ",
    ] {
        assert!(page.contains(text), "{text} in {page}");
    }
    status.queries[0].max_age = Duration::from_secs(1);
    let page = status.html(&View::default());
    assert!(!page.contains("max_age is"), "nobody asks, and it is told to nobody: {page}");
}

#[test]
fn a_database_that_is_switched_off_is_one_problem() {
    let mut status = quiet();
    status.databases = vec![database("claps".to_owned(), DatabaseState::Disabled)];
    assert!(status.html(&View::default()).contains(">All is well</h2>"), "nobody misses it");
    status.queries = ["a", "b"].map(|name| query(name.to_owned(), QueryState::Failing, Vec::new())).into();
    let page = status.html(&View::default());
    let now = first_box(&page);
    assert!(now.contains(">1 database is switched off, 2 queries fail</h2>"), "{now}");
    assert_eq!((now.matches("<li>").count(), now.contains("Somebody has switched")), (1, true), "{now}");

    status.databases.insert(0, Database { may_lag: true, ..database("orders".to_owned(), DatabaseState::Up) });
    let page = status.html(&View::default());
    let places = ["switched off in the configuration", "however old that is"].map(|text| first_box(&page).find(text));
    assert!(places[0].is_some() && places[0] < places[1], "the worst comes first: {page}");
}

#[test]
fn that_keda_asks_for_nothing_comes_before_what_nobody_is_told() {
    let mut status = quiet();
    status.triggers = vec![trigger("mailer".to_owned(), TriggerState::Silent)];
    status.databases[0].notifications = Some(false);
    let page = status.html(&View::default());
    assert!(page.contains(">KEDA asks for nothing any more, 1 database without notifications</h2>"), "{page}");
}
