//! Incidents, and the episodes that are made of them and of the troubles of triggers.

use super::{super::incidents::INCIDENTS, *};

#[tokio::test(start_paused = true)]
async fn incidents_are_told_and_bounded() {
    let recorder = Recorder::default();
    for _ in 0..5_000 {
        recorder.happened(Incident::Standstill { seconds: 2 });
    }
    let reload = |changed: String| Incident::Reload { changed };
    let keys = |numbers: std::ops::Range<u32>| {
        numbers.map(|number| format!("queries.q{number}.sql")).collect::<Vec<_>>().join(", ")
    };
    recorder.happened(reload(keys(0..20) + " and 80 more"));
    let window = Window { at: None, before: LIFETIME, after: Duration::ZERO };
    let incidents = recorder.history("billing", "invoices", window).incidents;
    assert_eq!(
        (incidents.len(), &incidents[INCIDENTS - 1].incident),
        (INCIDENTS, &reload(keys(0..11) + " and 89 more"))
    );
}

#[tokio::test(start_paused = true)]
async fn what_held_when_the_time_began_that_is_asked_about_is_told() {
    let recorder = Recorder::default();
    let database = |name: &str| name.to_owned();
    let down =
        |name: &str| Incident::DatabaseDown { database: database(name), reason: "lagging".to_owned(), step: None };
    let path = Incident::SearchPath { database: database("claps") };
    let ended = Incident::DatabaseUp { database: database("mails") };
    for incident in [down("claps"), down("mails"), path.clone(), ended, path.clone()] {
        recorder.happened(incident);
    }
    seconds(7_200).await;
    recorder.happened(Incident::DatabaseUp { database: database("claps") });
    let window = Window { at: None, before: Duration::from_secs(60), after: Duration::ZERO };
    let told = recorder.history("billing", "invoices", window).incidents;
    let told: Vec<Incident> = told.into_iter().map(|happening| happening.incident).collect();
    assert_eq!(told, [down("claps"), path, Incident::DatabaseUp { database: database("claps") }]);
}

#[tokio::test(start_paused = true)]
async fn a_state_that_lasts_is_told_after_a_day_and_what_was_over_before_is_not() {
    let recorder = Recorder::default();
    let told = |hours_ago: u64| {
        let ago = Duration::from_secs(3_600 * hours_ago);
        let at = (hours_ago > 0).then(|| recorder.now() - ago);
        let window = Window { at, before: Duration::from_secs(60), after: Duration::ZERO };
        let happened = recorder.history("billing", "invoices", window).incidents;
        happened.into_iter().map(|happening| happening.incident).collect::<Vec<_>>()
    };
    let down =
        |name: &str| Incident::DatabaseDown { database: name.to_owned(), reason: "unreachable".to_owned(), step: None };
    let up = |name: &str| Incident::DatabaseUp { database: name.to_owned() };
    let path = |name: &str| Incident::SearchPath { database: name.to_owned() };
    for incident in [down("claps"), down("mails"), path("claps"), up("jobs")] {
        recorder.happened(incident);
    }
    seconds(3_600).await;
    assert_eq!(told(0), [down("claps"), down("mails"), path("claps")], "an end that ends nothing is none");
    recorder.happened(up("mails"));
    seconds(30 * 3_600).await;
    assert_eq!(told(0), [down("claps")]);
    // It was so when what is remembered began.
    assert_eq!(told(28), [down("claps")]);
    recorder.happened(path("claps"));
    recorder.happened(path("mails"));
    seconds(60).await;
    recorder.happened(Incident::SearchPathSet { database: "claps".to_owned() });
    recorder.happened(up("claps"));
    recorder.happened(up("claps"));
    seconds(3_600).await;
    assert_eq!(told(0), [path("mails")]);
    recorder.happened(down("claps"));
    assert_eq!(told(0), [path("mails"), down("claps")], "without the outage before");
}

#[tokio::test(start_paused = true)]
async fn what_a_person_who_looks_is_told_is_no_trouble() {
    let recorder = Recorder::default();
    let person = |asker| Asker { name: LOOKING, ..asker };
    recorder.told(person(refused()), Answer::Refused(WRONG), Instant::now());
    recorder.told(person(asker(1)), Answer::NoValue(AWAY), Instant::now());
    recorder.changed(person(asker(2)), "divideBy", Instant::now());
    assert_eq!(episodes(&recorder), []);
    recorder.told(refused(), Answer::Refused(WRONG), Instant::now());
    assert_eq!(episodes(&recorder).len(), 1);
}

/// Returns the episodes, the latest first: what, how many other triggers, the seconds since the beginning, and those
/// since the end.
pub(super) fn episodes(recorder: &Recorder) -> Vec<(String, usize, u64, Option<u64>)> {
    let episodes = recorder.episodes().into_iter();
    episodes
        .map(|episode| {
            let (what, others) = match episode.matter {
                Matter::Triggers { trouble, code, text, name, others, .. } => {
                    (format!("{trouble:?} {name} {code} {text}"), others)
                }
                Matter::Incident(incident) => (format!("{incident:?}"), 0),
            };
            let ago = |at: Instant| at.elapsed().as_secs();
            (what, others, ago(episode.began_at), episode.ended_at.map(ago))
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_many_triggers_is_one_episode_with_its_end() {
    let recorder = Recorder::default();
    let names: Vec<String> = (0..500).map(|number| format!("job-{number}")).collect();
    let of = |number: usize| Asker { name: &names[number], ..asker(u64::try_from(number).unwrap()) };
    let poll = |answer: Answer<'_>| (0..500).for_each(|number| recorder.told(of(number), answer, Instant::now()));
    poll(Answer::Value(1.0));
    seconds(30).await;
    for text in ["the connection was lost", "the database has failed repeatedly"] {
        poll(Answer::NoValue(Cause { code: "Unavailable", text }));
        seconds(30).await;
    }
    let what = || "Failing job-0 Unavailable the connection was lost".to_owned();
    assert_eq!(episodes(&recorder), [(what(), 499, 60, None)]);
    poll(Answer::Value(1.0));
    seconds(600).await;
    poll(Answer::Value(2.0));
    let silent = ("Silent job-0  ".to_owned(), 499, 600, Some(0));
    assert_eq!(episodes(&recorder), [silent, (what(), 499, 660, Some(600))]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_over_when_its_object_is_answered_or_when_nobody_asks_any_more() {
    let recorder = Recorder::default();
    let wrong = "Refused invoices InvalidArgument divedBy: unknown key; did you mean divideBy?".to_owned();
    let refuse = async || {
        for _ in 0..3 {
            recorder.told(refused(), Answer::Refused(WRONG), Instant::now());
            seconds(30).await;
        }
    };
    refuse().await;
    assert_eq!(episodes(&recorder), [(wrong.clone(), 0, 90, None)]);
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    assert_eq!(episodes(&recorder), [(wrong.clone(), 0, 90, Some(30))]);
    // One of two triggers of an object is refused all the while, whatever the other is told.
    seconds(600).await;
    recorder.told(asker(1), Answer::Value(2.0), Instant::now());
    for number in 0..4 {
        recorder.told(refused(), Answer::Refused(WRONG), Instant::now());
        seconds(30).await;
        recorder.told(asker(1), Answer::Value(f64::from(number)), Instant::now());
    }
    recorder.told(refused(), Answer::Refused(WRONG), Instant::now());
    assert_eq!(episodes(&recorder)[0], (wrong.clone(), 0, 120, None));
    seconds(300).await;
    assert_eq!(episodes(&recorder)[0], (wrong, 0, 420, Some(300)), "it was deleted");
}

#[tokio::test(start_paused = true)]
async fn an_incident_is_joined_with_its_end_and_what_comes_back_soon_is_not_over() {
    let recorder = Recorder::default();
    let database = || "claps".to_owned();
    let down = |reason: &str| Incident::DatabaseDown { database: database(), reason: reason.to_owned(), step: None };
    recorder.happened(Incident::DatabaseUp { database: database() });
    for incident in [down("unreachable"), down("lagging"), Incident::DatabaseUp { database: database() }] {
        recorder.happened(incident);
        seconds(10).await;
    }
    recorder.happened(Incident::SearchPath { database: database() });
    recorder.happened(Incident::Reload { changed: String::new() });
    let first = || format!("{:?}", down("unreachable"));
    let path = || format!("{:?}", Incident::SearchPath { database: database() });
    assert_eq!(episodes(&recorder), [(path(), 0, 0, Some(0)), (first(), 0, 30, Some(10))]);
    recorder.happened(down("lagging"));
    assert_eq!(episodes(&recorder)[1], (first(), 0, 30, None));
    recorder.happened(Incident::DatabaseUp { database: database() });
    seconds(300).await;
    recorder.happened(Incident::Standstill { seconds: 60 });
    assert_eq!(episodes(&recorder)[0], ("Standstill { seconds: 60 }".to_owned(), 0, 60, Some(0)));
    recorder.happened(down("lagging"));
    assert_eq!(episodes(&recorder)[0], (format!("{:?}", down("lagging")), 0, 0, None));
    assert_eq!(episodes(&recorder).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn one_namespace_and_made_up_names_leave_room_for_the_troubles_of_others() {
    let recorder = Recorder::default();
    recorder.told(asker(1), Answer::Value(1.0), Instant::now());
    recorder.told(asker(1), Answer::NoValue(AWAY), Instant::now());
    for number in 0..2_000 {
        let text = format!("no key {number}");
        let cause = Cause { code: "InvalidArgument", text: &text };
        let name = number.to_string();
        let flood = Asker { namespace: "flood", name: &name, ..asker(number + 10) };
        recorder.told(flood, Answer::NoValue(cause), Instant::now());
        recorder.told(Asker { name: &name, ..refused() }, Answer::Refused(cause), Instant::now());
    }
    let known = episodes(&recorder);
    assert!(known.iter().any(|(what, ..)| what.contains(AWAY.text)), "{known:?}");
    assert!(known.len() <= 33, "{}", known.len());
}
