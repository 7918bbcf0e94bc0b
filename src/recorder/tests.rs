mod connections;
mod incidents;

use time::OffsetDateTime;
use tokio::time::advance;

use super::*;

const AWAY: Cause<'_> = Cause { code: "Unavailable", text: "the database cannot be reached" };
const WRONG: Cause<'_> = Cause { code: "InvalidArgument", text: "divedBy: unknown key; did you mean divideBy?" };

fn asker(id: u64) -> Asker<'static> {
    Asker {
        id: Some(id),
        namespace: "billing",
        name: "invoices",
        query: "jobs",
        target: Some(5.0),
        activation: Some(0.0),
        divide_by: Some(1.0),
    }
}

fn refused() -> Asker<'static> {
    Asker { id: None, target: None, activation: None, divide_by: None, ..asker(0) }
}

async fn seconds(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}

/// Returns what an hour remembers of `billing/invoices`: for each trigger, each change with the seconds since it.
fn told(recorder: &Recorder) -> Vec<Vec<(i64, Event)>> {
    let window = Window { at: None, before: Duration::from_secs(3_600), after: Duration::ZERO };
    let history = recorder.history("billing", "invoices", window);
    let ago = |at: OffsetDateTime| (history.now - at).whole_seconds();
    let changes = |trigger: &TriggerHistory| {
        trigger.changes.iter().map(|change| (ago(change.at), change.event.clone())).collect()
    };
    history.triggers.iter().map(changes).collect()
}

fn value(value: f64) -> Event {
    Event::Value { value }
}

/// Sums up what the tenants say that they take, and compares it with what the store says.
fn bytes(recorder: &Recorder) -> usize {
    let store = recorder.lock();
    assert_eq!(store.bytes, store.tenants.values().map(|tenant| tenant.bytes).sum::<usize>());
    store.bytes
}

fn bytes_of(recorder: &Recorder, namespace: Option<&str>) -> usize {
    recorder.lock().tenants.get(&namespace.map(Arc::from)).map_or(0, |tenant| tenant.bytes)
}

#[tokio::test(start_paused = true)]
async fn only_changes_are_remembered() {
    let recorder = Recorder::default();
    for _ in 0..3 {
        recorder.told(asker(1), Answer::Value(0.0), Instant::now());
        recorder.told(asker(1), Answer::Active(false), Instant::now());
        seconds(30).await;
    }
    recorder.told(asker(1), Answer::Value(7.0), Instant::now());
    recorder.told(asker(1), Answer::Active(true), Instant::now());
    seconds(30).await;
    for _ in 0..2 {
        recorder.told(asker(1), Answer::NoValue(AWAY), Instant::now());
        seconds(30).await;
    }
    let (code, text) = ("Unavailable".to_owned(), AWAY.text.to_owned());
    assert_eq!(
        told(&recorder),
        [vec![
            (180, value(0.0)),
            (180, Event::Activity { active: false }),
            (90, value(7.0)),
            (90, Event::Activity { active: true }),
            (60, Event::NoValue { code, text }),
        ]]
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_told_before_a_suspension_of_the_machine_was_told_before_it() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::NoValue(AWAY), Instant::now());
    seconds(60).await;
    recorder.clock.suspend(Duration::from_secs(8 * 3_600));
    recorder.happened(Incident::Standstill { seconds: 8 * 3_600 });
    seconds(10).await;
    recorder.told(asker(1), Answer::Value(3.0), Instant::now());
    let window = Window { at: None, before: LIFETIME, after: Duration::ZERO };
    let history = recorder.history("billing", "invoices", window);
    let began_at = history.incidents[0].at - Duration::from_secs(8 * 3_600);
    let errors = history.triggers[0].changes.iter().filter(|change| matches!(change.event, Event::NoValue { .. }));
    assert_eq!(errors.map(|change| began_at - change.at).collect::<Vec<_>>(), [time::Duration::seconds(60)]);
    let night = ("Standstill { seconds: 28800 }".to_owned(), 0, 8 * 3_600 + 10, Some(10));
    assert!(incidents::episodes(&recorder).contains(&night), "{:?}", incidents::episodes(&recorder));
}

/// Returns each change of a query, with the seconds since it.
fn other_queries(recorder: &Recorder) -> Vec<(u64, String)> {
    let others = recorder.other_queries().into_iter();
    others.map(|other| (other.at.elapsed().as_secs(), format!("{} to {}", other.before, other.query))).collect()
}

#[tokio::test(start_paused = true)]
async fn another_query_in_the_place_of_one_is_known_and_so_is_its_return() {
    let recorder = Recorder::default();
    let mails = Asker { query: "mails", ..asker(2) };
    let polls = async |asker: Asker<'static>, answer: Answer<'static>| {
        for _ in 0..6 {
            recorder.told(asker, answer, Instant::now());
            seconds(30).await;
        }
    };
    polls(asker(1), Answer::Value(3.0)).await;
    recorder.told(mails, Answer::Value(0.0), Instant::now());
    assert_eq!(other_queries(&recorder), [], "it may be one more");
    polls(mails, Answer::Value(0.0)).await;
    assert_eq!(other_queries(&recorder), [(180, "jobs to mails".to_owned())]);

    polls(asker(1), Answer::Value(3.0)).await;
    let both = [(180, "mails to jobs".to_owned()), (360, "jobs to mails".to_owned())];
    assert_eq!(other_queries(&recorder), both);
    polls(Asker { query: "jbos", ..refused() }, Answer::Refused(WRONG)).await;
    assert_eq!(other_queries(&recorder)[0], (180, "jobs to jbos".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_query_beside_another_one_has_taken_no_place() {
    let recorder = Recorder::default();
    let mails = Asker { query: "mails", ..asker(2) };
    for poll in 0..12 {
        recorder.told(asker(1), Answer::Value(3.0), Instant::now());
        if poll > 5 {
            recorder.told(mails, Answer::Value(0.0), Instant::now());
            recorder.told(Asker { query: "jbos", ..refused() }, Answer::Refused(WRONG), Instant::now());
        }
        seconds(30).await;
        assert_eq!(other_queries(&recorder), []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_says_what_a_stream_said_is_no_change() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Pushed(true), Instant::now());
    seconds(30).await;
    recorder.told(asker(1), Answer::Active(true), Instant::now());
    recorder.told(asker(1), Answer::Pushed(true), Instant::now());
    assert_eq!(told(&recorder), [vec![(30, Event::Pushed { active: true })]]);
}

#[tokio::test(start_paused = true)]
async fn a_silence_is_longer_than_three_usual_pauses_and_than_ninety_seconds() {
    let recorder = Recorder::default();
    for pause in [15, 15, 89, 120, 120, 300] {
        recorder.told(asker(1), Answer::Value(1.0), Instant::now());
        recorder.told(asker(1), Answer::Active(true), Instant::now());
        seconds(pause).await;
    }
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    let silences: Vec<_> = told(&recorder)
        .remove(0)
        .into_iter()
        .filter_map(|(ago, event)| match event {
            Event::Silence { .. } => Some(ago),
            _ => None,
        })
        .collect();
    // 120 s came after pauses of 15, 15 and 89 s, which makes 33 s; the second 120 s are known; 300 s are not.
    assert_eq!(silences, [420, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_makes_the_next_answer_news() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    seconds(30).await;
    for _ in 0..2 {
        recorder.told(refused(), Answer::Refused(WRONG), Instant::now());
        seconds(30).await;
    }
    for _ in 0..2 {
        recorder.told(asker(1), Answer::Value(1.0), Instant::now());
        seconds(30).await;
    }
    let refusal = Event::Refusal { code: "InvalidArgument".to_owned(), text: WRONG.text.to_owned() };
    assert_eq!(told(&recorder), [vec![(150, value(1.0)), (60, value(1.0))], vec![(120, refusal)]]);
}

#[tokio::test(start_paused = true)]
async fn of_an_object_with_ever_other_metadata_the_latest_triggers_are_told() {
    let recorder = Recorder::default();
    for id in 0..500 {
        for number in 0..150_u32 {
            recorder.told(asker(id), Answer::Value(f64::from(number)), Instant::now());
        }
        seconds(1).await;
    }
    let window = Window { at: None, before: LIFETIME, after: LIFETIME };
    let history = recorder.history("billing", "invoices", window);
    assert_eq!((history.triggers.len(), history.triggers_left_off), (100, 400));
    let changes: usize = history.triggers.iter().map(|trigger| trigger.changes.len()).sum();
    assert!((9_000..=10_100).contains(&changes), "{changes}");
    assert!(serde_json::to_vec(&history).unwrap().len() < 2 * 1024 * 1024);

    // The trigger of the moment that is asked about is told, however many came after it.
    let moment = |seconds| Window {
        at: Some(OffsetDateTime::now_utc() - Duration::from_secs(seconds)),
        before: Duration::from_secs(2),
        after: Duration::from_secs(2),
    };
    let history = recorder.history("billing", "invoices", moment(450));
    let since = history.at - Duration::from_secs(2);
    assert!(
        history.triggers.iter().any(|trigger| trigger.first_asked_at >= since && trigger.first_asked_at <= history.at)
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_told_before_the_window_begins_its_story() {
    let recorder = Recorder::default();
    for number in 0..5 {
        for _ in 0..50 {
            recorder.told(asker(1), Answer::Value(f64::from(number)), Instant::now());
            recorder.told(asker(1), Answer::Active(number > 0), Instant::now());
            seconds(20).await;
        }
    }
    let at = OffsetDateTime::now_utc() - Duration::from_secs(2_500);
    let window = Window { at: Some(at), before: Duration::from_secs(600), after: Duration::from_secs(600) };
    let history = recorder.history("billing", "invoices", window);
    let [trigger] = &history.triggers[..] else { panic!("{history:?}") };
    let events: Vec<&Event> = trigger.changes.iter().map(|change| &change.event).collect();
    assert_eq!(events, [&value(1.0), &Event::Activity { active: true }, &value(2.0), &value(3.0)]);
    assert_eq!((trigger.target, trigger.left_off), (Some(5.0), 0));
}

#[tokio::test(start_paused = true)]
async fn another_target_of_the_same_metadata_makes_another_trigger() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    recorder.told(Asker { target: Some(2.0), ..asker(1) }, Answer::Value(1.0), Instant::now());
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    assert_eq!(told(&recorder).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn after_a_day_a_change_is_forgotten_and_what_holds_is_known() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(9.0), Instant::now());
    seconds(60).await;
    recorder.told(asker(1), Answer::Value(0.0), Instant::now());
    for _ in 0..1_500 {
        seconds(60).await;
        recorder.told(asker(1), Answer::Value(0.0), Instant::now());
    }
    assert_eq!(told(&recorder), [vec![(90_000, value(0.0))]]);
    seconds(90_000).await;
    assert_eq!(told(&recorder), Vec::<Vec<_>>::new());
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_floods_takes_a_quarter_and_nothing_from_others() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    recorder.told(asker(1), Answer::NoValue(AWAY), Instant::now());
    let before = told(&recorder);
    for number in 0..100_000_u32 {
        let name = format!("flood-{}", number % 10_000);
        let asker = Asker { namespace: "flood", name: &name, ..asker(u64::from(number % 10_000) + 2) };
        let text = format!("{number}: unknown key");
        match number % 3 {
            0 => recorder.told(asker, Answer::Value(f64::from(number)), Instant::now()),
            1 => recorder.told(asker, Answer::NoValue(Cause { text: &text, ..AWAY }), Instant::now()),
            _ => recorder.told(
                Asker { id: None, ..asker },
                Answer::Refused(Cause { text: &text, ..WRONG }),
                Instant::now(),
            ),
        }
    }
    assert!(bytes(&recorder) <= CAPACITY);
    let flood = bytes_of(&recorder, Some("flood"));
    assert!((NAMESPACE_CAPACITY / 2..=NAMESPACE_CAPACITY).contains(&flood), "{flood}");
    assert_eq!(told(&recorder), before);
    // It says of the flooded namespace that something is forgotten, and of the other that nothing is.
    let window = Window { at: None, before: LIFETIME, after: Duration::ZERO };
    seconds(10).await;
    recorder.told(Asker { namespace: "flood", ..asker(2) }, Answer::Value(0.5), Instant::now());
    assert_eq!(recorder.lock().tenants[&Some(Arc::from("billing"))].forgot, None);
    assert!(recorder.lock().tenants[&Some(Arc::from("flood"))].forgot.is_some());
    assert!(!recorder.history("flood", "flood-9999", window).triggers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn names_that_were_made_up_take_a_quarter_together() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    recorder.told(refused(), Answer::Refused(WRONG), Instant::now());
    let before = told(&recorder);
    for number in 0..30_000 {
        let namespace = format!("made-up-{number}");
        recorder.told(Asker { namespace: &namespace, ..refused() }, Answer::Refused(WRONG), Instant::now());
    }
    assert!(bytes_of(&recorder, None) <= NAMESPACE_CAPACITY);
    assert_eq!(told(&recorder), before);
    // Those that are answered can take everything, and the newest stay.
    for number in 0..30_000 {
        let namespace = format!("answered-{number}");
        let asker = Asker { namespace: &namespace, ..asker(number + 2) };
        recorder.told(asker, Answer::Value(1.0), Instant::now());
    }
    assert!(bytes(&recorder) <= CAPACITY);
    let window = Window { at: None, before: LIFETIME, after: Duration::ZERO };
    let newest = recorder.history("answered-29999", "invoices", window).triggers;
    assert!(newest.len() == 1 && newest[0].changes.len() == 1, "{newest:?}");
    let entries: usize = recorder.lock().tenants.values().map(|tenant| tenant.log.entries().count()).sum();
    assert!(entries > 1_000, "{entries} changes are left");
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_given_back() {
    let recorder = Recorder::default();
    for number in 0..3_000_u32 {
        let text = format!("{number}: unknown key");
        let answer = Answer::NoValue(Cause { text: &text, ..AWAY });
        recorder.told(asker(u64::from(number % 7) + 1), answer, Instant::now());
        recorder.told(refused(), Answer::Refused(Cause { text: &text, ..WRONG }), Instant::now());
        seconds(30).await;
    }
    let mut store = recorder.lock();
    for tenant in [Some(Arc::from("billing")), None] {
        while store.forget_changes(&tenant) || store.forget_triggers(Some(&tenant), 0) {}
    }
    assert!(store.texts.is_empty() && store.triggers.is_empty() && store.objects.is_empty());
    assert!(store.bytes <= TENANT_BYTES, "{}", store.bytes);
}

#[test]
fn a_list_is_cut_after_a_whole_member() {
    assert_eq!(shortened_list("a, b", 4), "a, b");
    assert_eq!(shortened_list("queries.a.sql, queries.b.sql", 27), "queries.a.sql and 1 more");
    assert_eq!(shortened_list("queries.a.sql, queries.b.sql and 3 more", 30), "queries.a.sql and 4 more");
    assert_eq!(shortened_list(&"é".repeat(1_000), 30), "1 key");
}

#[tokio::test(start_paused = true)]
async fn the_triggers_of_other_objects_are_counted_by_whether_keda_still_asks() {
    let recorder = Recorder::default();
    let others = || {
        let history =
            recorder.history("billing", "invoices", Window { at: None, before: Duration::ZERO, after: Duration::ZERO });
        (history.others_asked, history.others_silent)
    };
    let of = |id: u64, name: &'static str| Asker { name, ..asker(id) };
    recorder.told(asker(1), Answer::Value(0.0), Instant::now());
    assert_eq!(others(), (0, 0));
    for (id, name) in [(2, "mails"), (3, "exports"), (4, LOOKING)] {
        recorder.told(of(id, name), Answer::Value(0.0), Instant::now());
    }
    recorder.told(Asker { name: "made-up", ..refused() }, Answer::Refused(WRONG), Instant::now());
    assert_eq!(others(), (2, 0));
    for _ in 0..4 {
        seconds(30).await;
        recorder.told(of(3, "exports"), Answer::Value(0.0), Instant::now());
    }
    assert_eq!(others(), (1, 1));
    seconds(600).await;
    assert_eq!(others(), (0, 2));
    seconds(LIFETIME.as_secs()).await;
    assert_eq!(others(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn why_of_an_object_that_nobody_knows_names_those_that_may_be_meant() {
    let recorder = Recorder::default();
    let near = |namespace: &str, name: &str| {
        let window = Window { at: None, before: Duration::ZERO, after: Duration::ZERO };
        recorder.history(namespace, name, window).near_objects
    };
    let answer = |id: u64, namespace: &str, name: &str| {
        recorder.told(Asker { namespace, name, ..asker(id) }, Answer::Value(0.0), Instant::now());
    };
    assert!(near("billing", "invoices").is_empty());
    answer(1, "billing", "invoices");
    answer(2, "media", "pdfs");
    answer(3, "billing", LOOKING);
    recorder.told(Asker { name: "made-up", ..refused() }, Answer::Refused(WRONG), Instant::now());
    assert!(near("billing", "invoices").is_empty(), "it is known");
    assert_eq!(near("biling", "invoices"), ["billing/invoices", "media/pdfs"]);
    answer(4, "archive", "invoices");
    answer(5, "media", "mails");
    for (namespace, name, meant) in [
        ("biling", "invoices", Some("billing/invoices")),
        ("default", "pdfs", Some("media/pdfs")),
        ("media", "mail", Some("media/mails")),
        ("media", "something-else", None),
    ] {
        assert_eq!(near(namespace, name), meant.map_or_else(Vec::new, |meant| vec![meant.to_owned()]));
    }
    seconds(LIFETIME.as_secs() + 1).await;
    assert!(near("biling", "invoices").is_empty(), "that was long ago");
}

#[tokio::test(start_paused = true)]
async fn other_metadata_are_told_with_the_keys_and_take_no_memory_for_ever() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(412.0), Instant::now());
    seconds(30).await;
    recorder.changed(asker(2), "divideBy, param.region", Instant::now());
    recorder.told(asker(2), Answer::Value(5.0), Instant::now());
    let keys = "divideBy, param.region".to_owned();
    assert_eq!(told(&recorder), [vec![(30, value(412.0))], vec![(0, Event::Metadata { keys }), (0, value(5.0))]]);
    for number in 0..100_000 {
        recorder.changed(asker(2), &format!("param.{number}"), Instant::now());
    }
    assert!(bytes(&recorder) <= NAMESPACE_CAPACITY, "{}", bytes(&recorder));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_the_same_after_a_silence_is_no_change() {
    let recorder = Recorder::default();
    for _ in 0..2 {
        recorder.told(asker(1), Answer::Value(3.0), Instant::now());
        recorder.told(asker(1), Answer::Active(true), Instant::now());
        seconds(600).await;
    }
    let [changes] = <[_; 1]>::try_from(told(&recorder)).unwrap();
    let ago: Vec<i64> = changes.iter().map(|(ago, _)| *ago).collect();
    assert_eq!(ago, [1_200, 1_200, 600], "{changes:?}");
    assert!(matches!(changes[2].1, Event::Silence { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_time_with_other_metadata_or_a_refusal_is_no_silence_and_what_follows_it_begins_then() {
    for meanwhile in [(asker(2), Answer::Value(9.0)), (refused(), Answer::Refused(WRONG))] {
        let recorder = Recorder::default();
        let poll = || {
            recorder.told(asker(1), Answer::Value(7.0), Instant::now());
            recorder.told(asker(1), Answer::Active(true), Instant::now());
        };
        poll();
        for _ in 0..60 {
            seconds(5).await;
            recorder.told(meanwhile.0, meanwhile.1, Instant::now());
        }
        // The autoscaler had just asked with what was there meanwhile.
        advance(Duration::from_millis(400)).await;
        poll();
        let again = Event::Activity { active: true };
        let expected = [(300, value(7.0)), (300, again.clone()), (0, value(7.0)), (0, again)];
        assert_eq!(told(&recorder)[0], expected);
        let silent = |episode: &Episode| matches!(episode.matter, Matter::Triggers { trouble: Trouble::Silent, .. });
        assert!(!recorder.episodes().iter().any(silent));
        seconds(300).await;
        poll();
        assert!(recorder.episodes().iter().any(silent), "nobody asked meanwhile");
        bytes(&recorder);
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_of_two_triggers_is_silent_for_both() {
    let recorder = Recorder::default();
    let poll = async || {
        for id in [1, 2] {
            recorder.told(asker(id), Answer::Value(7.0), Instant::now());
            advance(Duration::from_millis(200)).await;
        }
    };
    for _ in 0..3 {
        poll().await;
        seconds(5).await;
    }
    seconds(300).await;
    poll().await;
    for changes in told(&recorder) {
        assert!(changes.iter().any(|(_, event)| matches!(event, Event::Silence { .. })), "{changes:?}");
    }
}
