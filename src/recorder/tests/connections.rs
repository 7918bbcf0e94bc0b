//! What became of the connection over which KEDA had asked.

use super::*;

/// Returns what is told of the connection while KEDA is silent, and after its silences that have ended.
fn fates(recorder: &Recorder) -> (Option<Connection>, Vec<Option<Connection>>) {
    let window = Window { at: None, before: Duration::from_secs(20_000), after: Duration::ZERO };
    let trigger = recorder.history("billing", "invoices", window).triggers.remove(0);
    let past = trigger.changes.iter().filter_map(|change| match change.event {
        Event::Silence { connection, .. } => Some(connection),
        _ => None,
    });
    (trigger.connection, past.collect())
}

/// Polls for two minutes over a connection that has just been opened, and returns since when it is open.
async fn polled(recorder: &Recorder) -> Instant {
    let since = Instant::now();
    recorder.connection_asks(since);
    for _ in 0..5 {
        recorder.told(asker(1), Answer::Value(0.0), Instant::now());
        seconds(30).await;
    }
    since
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_away_is_told_from_one_that_hangs_also_after_it_came_back() {
    let recorder = Recorder::default();
    let since = polled(&recorder).await;
    assert_eq!(fates(&recorder), (None, Vec::new()), "it is not silent");
    seconds(600).await;
    assert_eq!(fates(&recorder).0, Some(Connection::Open), "it hangs");
    let again = Instant::now();
    recorder.told(asker(1), Answer::Value(0.0), again);
    recorder.connection_ended(since, EndedBy::Peer, again);
    seconds(600).await;
    let (now, past) = fates(&recorder);
    let Some(Connection::Ended { at, by: EndedBy::Peer }) = now else { panic!("it is away: {now:?}") };
    assert_eq!((recorder.now() - at).whole_seconds(), 600);
    assert_eq!(past, [Some(Connection::Open)]);
    assert_eq!(recorder.latest_connection(), now);

    // A person who looks meanwhile is none of KEDA's connections.
    recorder.connection_asks(Instant::now());
    assert_eq!(fates(&recorder).0, now);
    polled(&recorder).await;
    let (now, past) = fates(&recorder);
    assert_eq!(now, None);
    assert!(
        matches!(past[..], [Some(Connection::Open), Some(Connection::Ended { by: EndedBy::Peer, .. })]),
        "{past:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_ended_for_its_age_long_after_the_last_poll_had_stayed_open() {
    for (pause, is_open) in [(60, false), (400, true)] {
        let recorder = Recorder::default();
        let since = polled(&recorder).await;
        seconds(pause).await;
        recorder.connection_ended(since, EndedBy::Clapometer, Instant::now());
        seconds(3_600).await;
        let (now, _) = fates(&recorder);
        assert_eq!(now == Some(Connection::Open), is_open, "{pause}: {now:?}");
        assert!(is_open || matches!(now, Some(Connection::Ended { by: EndedBy::Clapometer, .. })), "{now:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_ends_the_latest_are_remembered_and_of_a_person_who_looks_none() {
    let recorder = Recorder::default();
    for number in 0..1_000_u64 {
        let since = Instant::now();
        recorder.connection_asks(since);
        seconds(if number % 2 == 0 { 59 } else { 60 }).await;
        recorder.connection_ended(since, EndedBy::Peer, Instant::now());
    }
    let latest = recorder.connections(Instant::now());
    assert_eq!((latest.open_since, latest.latest_end.map(|(at, _)| at.elapsed())), (None, Some(Duration::ZERO)));
    assert_eq!(recorder.lock().connections.remembered(), (0, 288));
}
