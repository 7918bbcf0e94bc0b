use tokio::time::advance;

use super::*;
use crate::metrics::{Build, Refused, Told, TriggerId};

fn metrics() -> Metrics {
    Metrics::new(Build { version: "0", commit: "0", rustc: "0" })
}

fn trigger(name: &str) -> TriggerId<'_> {
    TriggerId { hash: 1, namespace: "billing", name, query: "jobs", thresholds: None, divide_by: None, metadata: None }
}

fn poll(metrics: &Metrics, names: &[&str]) {
    for name in names {
        let (key, _) = metrics.trigger_asked(trigger(name), Instant::now());
        metrics.trigger_told(key, Told::Value(1.0), Instant::now());
    }
}

/// Returns the kind, the counts and the name of each news about triggers.
fn told(lookout: &mut Lookout, metrics: &Metrics) -> Vec<(&'static str, usize, usize, String)> {
    told_beside(lookout, metrics, Present::default())
}

/// The same beside these connections.
fn told_beside(
    lookout: &mut Lookout,
    metrics: &Metrics,
    connections: Present,
) -> Vec<(&'static str, usize, usize, String)> {
    let news = lookout.look(metrics, connections, Instant::now(), SystemTime::UNIX_EPOCH).into_iter();
    news.map(|news| match news {
        News::Left { count, .. } => ("left", count, 0, String::new()),
        News::Hangs { count, .. } => ("hangs", count, 0, String::new()),
        News::Stopped { count, asked, latest, .. } => ("stopped", count, asked, latest.name.clone()),
        News::Resumed { count, one } => ("resumed", count, 0, one.name.clone()),
        other => panic!("it is about something else: {other:?}"),
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn a_silence_is_told_once_and_so_is_its_end() {
    let (metrics, mut lookout) = (metrics(), Lookout::default());
    let refused = Refused { code: "PermissionDenied", message: "not configured", text: Some(1) };
    metrics.trigger_refused(trigger("made-up"), refused, Instant::now());
    poll(&metrics, &["mails", "exports", LOOKING]);
    assert!(told(&mut lookout, &metrics).is_empty());
    for _ in 0..5 {
        advance(Duration::from_secs(30)).await;
        poll(&metrics, &["mails"]);
    }
    assert_eq!(told(&mut lookout, &metrics), [("stopped", 1, 1, "exports".to_owned())]);
    assert!(told(&mut lookout, &metrics).is_empty());
    poll(&metrics, &["mails", "exports"]);
    assert_eq!(told(&mut lookout, &metrics), [("resumed", 1, 0, "exports".to_owned())]);
    assert!(told(&mut lookout, &metrics).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_changed_target_is_told_once_and_a_second_trigger_of_the_same_labels_is_no_change() {
    let (metrics, mut lookout) = (metrics(), Lookout::default());
    let mut told = |thresholds: &[(u64, f64, f64)]| {
        for (hash, target, activation) in thresholds {
            let thresholds = Some(Thresholds { target: *target, activation: *activation });
            metrics.trigger_asked(TriggerId { hash: *hash, thresholds, ..trigger("mails") }, Instant::now());
        }
        let news = lookout.look(&metrics, Present::default(), Instant::now(), SystemTime::UNIX_EPOCH).into_iter();
        news.map(|news| match news {
            News::Changed { keys, before, after, .. } => {
                (keys.is_some(), format!("{} to {}", in_words(&before), in_words(&after)))
            }
            other => panic!("it is about something else: {other:?}"),
        })
        .collect::<Vec<_>>()
    };
    assert!(told(&[(1, 5.0, 0.0)]).is_empty());
    assert!(told(&[(1, 5.0, 0.0), (2, 7.0, 0.0)]).is_empty());
    advance(Duration::from_secs(61)).await;
    assert!(told(&[(1, 5.0, 0.0)]).is_empty());
    let changes = [(false, "target 5, activation 0 to target 500, activation 0".to_owned())];
    assert_eq!(told(&[(1, 500.0, 0.0)]), changes, "by a reload");
    assert!(told(&[(1, 500.0, 0.0)]).is_empty());
    advance(Duration::from_secs(1)).await;
    let changes = [(true, "target 500, activation 0 to target 500, activation 1000".to_owned())];
    assert_eq!(told(&[(3, 500.0, 1000.0)]), changes, "by a deployment");
    for _ in 0..3 {
        advance(Duration::from_secs(30)).await;
        assert!(told(&[(3, 500.0, 1000.0)]).is_empty());
    }
    advance(Duration::from_secs(1)).await;
    let changes = [(true, "target 500, activation 1000 to target 500, activation 1000".to_owned())];
    assert_eq!(told(&[(4, 500.0, 1000.0)]), changes, "of other keys");
}

#[tokio::test(start_paused = true)]
async fn of_several_triggers_of_the_same_labels_a_number_that_goes_is_no_change() {
    let (metrics, mut lookout) = (metrics(), Lookout::default());
    let mut told = |thresholds: &[(u64, f64)]| {
        for (hash, target) in thresholds {
            let thresholds = Some(Thresholds { target: *target, activation: 0.0 });
            metrics.trigger_asked(TriggerId { hash: *hash, thresholds, ..trigger("mails") }, Instant::now());
        }
        lookout.look(&metrics, Present::default(), Instant::now(), SystemTime::UNIX_EPOCH).len()
    };
    assert_eq!(told(&[(1, 5.0), (2, 7.0)]), 0);
    advance(Duration::from_secs(120)).await;
    assert_eq!(told(&[(1, 5.0), (2, 7.0)]), 0);
    advance(Duration::from_secs(30)).await;
    assert_eq!(told(&[(1, 5.0), (3, 8.0)]), 1, "7 has become 8");
    for _ in 0..6 {
        advance(Duration::from_secs(30)).await;
        assert_eq!(told(&[(1, 5.0), (3, 8.0)]), 0);
    }
    assert_eq!(told(&[(3, 8.0)]), 0, "one was taken away");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_keda_leaves_for_another_says_so_after_an_hour_and_nothing_when_it_comes_back() {
    let (metrics, mut lookout) = (metrics(), Lookout::default());
    poll(&metrics, &["mails", "exports"]);
    assert!(told(&mut lookout, &metrics).is_empty());
    advance(Duration::from_secs(600)).await;
    assert!(told(&mut lookout, &metrics).is_empty());
    poll(&metrics, &["mails"]);
    assert!(told(&mut lookout, &metrics).is_empty(), "the turn of the other is to come");
    advance(Duration::from_secs(30)).await;
    poll(&metrics, &["exports"]);
    assert!(told(&mut lookout, &metrics).is_empty());
    advance(Duration::from_secs(3_601)).await;
    assert_eq!(told(&mut lookout, &metrics), [("stopped", 2, 0, "exports".to_owned())]);
    assert!(told(&mut lookout, &metrics).is_empty());
    poll(&metrics, &["mails", "exports"]);
    let news = told(&mut lookout, &metrics);
    assert_eq!((news.len(), news[0].0, news[0].1), (1, "resumed", 2));
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_ends_its_connection_is_missed_after_five_minutes_and_one_that_is_sent_away_is_not() {
    for (by, pause, is_told) in
        [(EndedBy::Peer, 10, true), (EndedBy::Clapometer, 10, false), (EndedBy::Peer, 100, false)]
    {
        let (metrics, mut lookout) = (metrics(), Lookout::default());
        poll(&metrics, &["mails", "exports"]);
        // Whoever ends a connection long after KEDA has asked is somebody else.
        advance(Duration::from_secs(pause)).await;
        let ended = Present { open_since: None, latest_end: Some((Instant::now(), by)) };
        advance(Duration::from_secs(240)).await;
        assert!(told_beside(&mut lookout, &metrics, ended).is_empty());
        advance(Duration::from_secs(60)).await;
        let expected = [("left", 2, 0, String::new())];
        assert_eq!(told_beside(&mut lookout, &metrics, ended), expected[..usize::from(is_told)]);
        advance(Duration::from_secs(60)).await;
        assert!(told_beside(&mut lookout, &metrics, ended).is_empty());
        poll(&metrics, &["mails", "exports"]);
        let resumed: Vec<_> = told_beside(&mut lookout, &metrics, ended).iter().map(|news| news.0).collect();
        assert_eq!(resumed, ["resumed"][..usize::from(is_told)]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_asks_for_nothing_over_an_open_connection_is_missed_after_five_minutes() {
    let (metrics, mut lookout) = (metrics(), Lookout::default());
    let open = Present { open_since: Some(Instant::now()), latest_end: None };
    poll(&metrics, &["mails", "exports"]);
    assert!(told_beside(&mut lookout, &metrics, open).is_empty());
    advance(Duration::from_secs(299)).await;
    assert!(told_beside(&mut lookout, &metrics, open).is_empty());
    advance(Duration::from_secs(2)).await;
    assert_eq!(told_beside(&mut lookout, &metrics, open), [("hangs", 2, 0, String::new())]);
    assert!(told_beside(&mut lookout, &metrics, open).is_empty());
    poll(&metrics, &["mails", "exports"]);
    assert_eq!(told_beside(&mut lookout, &metrics, open)[0].0, "resumed");
}

#[tokio::test]
async fn a_certificate_is_told_at_each_step_to_its_end_and_again_after_it_was_renewed() {
    let (metrics, mut lookout) = (metrics(), Lookout::default());
    let mut told = |days: f64| {
        let end = &metrics.certificate_expiry;
        end.get_or_create(&CertificateLabels { certificate: CERTIFICATES[0] }).set(days * 86_400.0);
        let news = lookout.look(&metrics, Present::default(), Instant::now(), SystemTime::UNIX_EPOCH + 1_000 * DAY);
        news.into_iter()
            .map(|news| match news {
                News::Ending(_, remaining) => remaining,
                other => panic!("no trigger is known: {other:?}"),
            })
            .collect::<Vec<_>>()
    };
    assert!(told(1_030.0).is_empty());
    assert_eq!(told(1_006.9), [Remaining::Days]);
    assert!(told(1_006.0).is_empty());
    assert_eq!(told(1_000.5), [Remaining::Hours]);
    assert_eq!(told(1_000.0), [Remaining::Nothing]);
    assert!(told(999.0).is_empty());
    assert!(told(1_090.0).is_empty());
    assert_eq!(told(999.0), [Remaining::Nothing]);
}
