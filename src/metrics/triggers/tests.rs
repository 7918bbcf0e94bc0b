use super::*;

/// The triggers with a registry that shows them.
struct World {
    registry: Registry,
    triggers: Arc<Triggers>,
}

impl World {
    fn new() -> Self {
        let mut registry = Registry::default();
        let triggers = Arc::new(Triggers::new(&mut registry));
        registry.register_collector(Box::new(Arc::clone(&triggers)));
        Self { registry, triggers }
    }

    /// Asks for a trigger, and tells it this value.
    fn poll(&self, trigger: TriggerId<'_>, value: f64) -> Vec<String> {
        let (key, _) = self.triggers.asked(trigger, Instant::now());
        self.triggers.told(key, Told::Value(value), Instant::now())
    }

    fn refuse(&self, trigger: TriggerId<'_>, text: u64) -> RefusalNews {
        let refused = Refused { code: "PermissionDenied", message: "not configured", text: Some(text) };
        self.triggers.refused(trigger, refused, Instant::now()).0
    }

    fn series(&self, name: &str) -> Vec<String> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("a String takes everything");
        let name = format!("{name}{{");
        text.lines().filter(|line| line.starts_with(&name)).map(str::to_owned).collect()
    }

    fn names(&self) -> Vec<String> {
        self.series("clapometer_trigger_last_request_timestamp_seconds")
    }

    fn knows(&self, name: &str) -> bool {
        let wanted = format!("name=\"{name}\"");
        self.names().iter().any(|series| series.contains(&wanted))
    }

    fn knows_query(&self, query: &str) -> bool {
        let wanted = format!("query=\"{query}\"");
        self.names().iter().any(|series| series.contains(&wanted))
    }

    fn value(&self) -> Option<String> {
        let series = self.series("clapometer_trigger_value");
        assert!(series.len() <= 1, "{series:?}");
        series.first().and_then(|line| line.split_whitespace().last().map(str::to_owned))
    }
}

fn trigger(name: &str) -> TriggerId<'_> {
    TriggerId {
        hash: 1,
        namespace: "default",
        name,
        query: "pending-claps",
        thresholds: None,
        divide_by: None,
        metadata: None,
    }
}

#[tokio::test(start_paused = true)]
async fn the_places_are_capped_and_the_longest_silent_gives_way_after_an_hour() {
    let world = World::new();
    for number in 0..2_500 {
        world.poll(trigger(&format!("job-{number}")), 1.0);
    }
    assert_eq!(world.names().len(), CAPACITY);
    assert_eq!(world.triggers.untracked.get(), 500);

    tokio::time::advance(REPLACEABLE_AFTER).await;
    world.poll(trigger("job-1"), 1.0);
    world.poll(trigger("newcomer"), 1.0);
    assert_eq!(world.names().len(), CAPACITY);
    assert!(world.knows("newcomer") && world.knows("job-1"));
}

#[tokio::test(start_paused = true)]
async fn a_hundred_thousand_made_up_names_take_their_share_and_blind_nobody() {
    let world = World::new();
    world.refuse(trigger("refused-for-real"), 7);
    for number in 0..1_000 {
        world.poll(trigger(&format!("job-{number}")), 1.0);
    }
    let mut untracked = 0;
    for number in 0..100_000 {
        if number % 1_000 == 0 {
            // A hundred polls, ten seconds apart.
            tokio::time::advance(Duration::from_secs(10)).await;
            assert_eq!(world.refuse(trigger("refused-for-real"), 7), RefusalNews::Known);
        }
        let news = world.refuse(trigger(&format!("made-up-{number}")), 7);
        untracked += usize::from(news == RefusalNews::Untracked);
    }
    assert_eq!(world.names().len(), 1_000 + REFUSED_CAPACITY);
    assert!(untracked > 90_000, "{untracked} requests were not remembered");
    // Those that are answered take all the rest, and then the places of the refused.
    for number in 1_000..2_000 {
        world.poll(trigger(&format!("job-{number}")), 1.0);
    }
    assert_eq!(world.names().len(), CAPACITY);
    assert!(
        (0..2_000).all(|number| world
            .triggers
            .lock()
            .by_key
            .values()
            .any(|place| place.labels.name == format!("job-{number}")))
    );
    assert!(!world.knows("refused-for-real"));
}

#[tokio::test(start_paused = true)]
async fn a_trigger_that_was_served_keeps_its_place_when_it_is_refused() {
    let world = World::new();
    for number in 0..CAPACITY {
        world.poll(trigger(&format!("job-{number}")), 1.0);
    }
    for number in 0..CAPACITY {
        world.refuse(trigger(&format!("job-{number}")), 7);
    }
    world.refuse(trigger("made-up"), 7);
    assert_eq!(world.names().len(), CAPACITY);
    assert!(!world.knows("made-up"));
}

#[tokio::test(start_paused = true)]
async fn series_end_a_day_after_the_last_request() {
    let world = World::new();
    world.poll(trigger("gone"), 1.0);
    tokio::time::advance(LIFETIME - Duration::from_secs(1)).await;
    world.poll(trigger("present"), 1.0);
    assert!(world.knows("gone"));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!world.knows("gone") && world.knows("present"));
}

#[tokio::test(start_paused = true)]
async fn answers_are_counted_by_code_and_an_error_takes_the_value_away() {
    let world = World::new();
    world.poll(trigger("job"), 3.5);
    assert_eq!(world.value().as_deref(), Some("3.5"));
    let (key, _) = world.triggers.asked(trigger("job"), Instant::now());
    world.triggers.told(key, Told::NoValue("Unavailable", Fault::BreakerOpen), Instant::now());
    assert_eq!(world.value(), None);
    world.triggers.told(key, Told::Active { is_active: true, activity: 1.0 }, Instant::now());
    assert!(world.series("clapometer_trigger_active")[0].ends_with(" 1"));
    world.triggers.streamed(trigger("job"), false);
    assert!(world.series("clapometer_trigger_active")[0].ends_with(" 0"));
    let requests = world.series("clapometer_trigger_requests_total");
    assert_eq!(
        requests,
        [
            "clapometer_trigger_requests_total{namespace=\"default\",name=\"job\",query=\"pending-claps\",code=\"OK\"} 2",
            "clapometer_trigger_requests_total{namespace=\"default\",name=\"job\",query=\"pending-claps\",code=\"Unavailable\"} 1",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn of_several_triggers_with_the_same_labels_the_largest_value_is_shown_until_one_is_gone() {
    let world = World::new();
    let of = |hash| TriggerId { hash, ..trigger("job") };
    world.poll(of(1), 9.0);
    world.poll(of(2), 4.0);
    assert_eq!(world.value().as_deref(), Some("9.0"));
    tokio::time::advance(Duration::from_secs(90)).await;
    world.poll(of(2), 4.0);
    assert_eq!(world.value().as_deref(), Some("4.0"));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_news_once_and_so_is_its_end() {
    let world = World::new();
    world.poll(trigger("job"), 1.0);
    assert_eq!(world.refuse(trigger("job"), 7), RefusalNews::New);
    assert_eq!(world.refuse(trigger("job"), 7), RefusalNews::Known);
    assert_eq!(world.refuse(trigger("job"), 8), RefusalNews::New);
    tokio::time::advance(Duration::from_secs(30)).await;
    let mended = TriggerId { hash: 2, ..trigger("job") };
    assert_eq!(world.poll(mended, 1.0), ["pending-claps"]);
    assert!(world.poll(mended, 1.0).is_empty());
    assert_eq!(world.refuse(trigger("job"), 7), RefusalNews::New);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_when_its_object_asks_for_another_query() {
    let world = World::new();
    assert_eq!(world.refuse(TriggerId { query: "pending-clasp", ..trigger("job") }, 7), RefusalNews::New);
    assert_eq!(world.poll(trigger("another"), 1.0), [""; 0]);
    assert_eq!(world.poll(trigger("job"), 1.0), ["pending-clasp"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_trigger_beside_one_that_is_answered_fills_no_log() {
    let world = World::new();
    let mut lines = 0;
    for _ in 0..100 {
        tokio::time::advance(Duration::from_secs(30)).await;
        lines += usize::from(world.refuse(trigger("job"), 7) == RefusalNews::New);
        lines += world.poll(TriggerId { hash: 2, ..trigger("job") }, 1.0).len();
    }
    assert!(lines <= 3, "{lines} lines");
}

#[tokio::test(start_paused = true)]
async fn ever_new_refusals_of_one_trigger_fill_no_log() {
    let world = World::new();
    let news = (0..100_000).filter(|text| world.refuse(trigger("job"), *text) == RefusalNews::New);
    assert_eq!(news.count(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_trigger_is_silent_after_four_polls_of_its_own_rhythm() {
    let world = World::new();
    let state = || world.triggers.states(Instant::now()).0.remove(0);
    for _ in 0..10 {
        world.poll(trigger("slow"), 1.0);
        world.poll(trigger("slow"), 1.0);
        tokio::time::advance(Duration::from_secs(300)).await;
    }
    assert_eq!(state().rhythm, Duration::from_secs(300));
    tokio::time::advance(Duration::from_secs(900)).await;
    assert!(!state().is_silent(Instant::now()));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(state().is_silent(Instant::now()));
    // After an outage of twenty minutes it is polled every 30 s again, and its rhythm comes back.
    for _ in 0..30 {
        world.poll(trigger("slow"), 1.0);
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    assert!(state().rhythm < Duration::from_secs(60), "{:?}", state().rhythm);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_a_fault_are_known_with_their_beginning_until_an_answer() {
    let world = World::new();
    let state = || world.triggers.states(Instant::now()).0.remove(0);
    let began_at = Instant::now();
    for _ in 0..3 {
        world.refuse(trigger("job"), 7);
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    let refusal = state().refusal.expect("it is refused");
    assert_eq!((refusal.code, &*refusal.text, refusal.since), ("PermissionDenied", "not configured", began_at));
    assert_eq!(state().answered_since, None);
    let answered_at = Instant::now();
    world.poll(trigger("job"), 1.0);
    assert!(state().refusal.is_none());

    let (key, _) = world.triggers.asked(trigger("job"), Instant::now());
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(state().answered_since, Some(answered_at));
    let failed_at = Instant::now();
    for fault in [Fault::ConnectionLost, Fault::BreakerOpen] {
        world.triggers.told(key, Told::NoValue("Unavailable", fault), Instant::now());
        tokio::time::advance(Duration::from_secs(10)).await;
    }
    let told = state().fault.expect("it fails");
    assert_eq!((told.fault, told.since), (Fault::BreakerOpen, failed_at));
    world.poll(trigger("job"), 1.0);
    assert!(state().fault.is_none() && state().answered_since.is_some());
}

#[tokio::test(start_paused = true)]
async fn the_text_of_a_refusal_is_cut_where_a_character_ends() {
    let world = World::new();
    let message = "é".repeat(10_000);
    for _ in 0..2 {
        let refused = Refused { code: "InvalidArgument", message: &message, text: Some(7) };
        world.triggers.refused(trigger("job"), refused, Instant::now());
    }
    let refusal = world.triggers.states(Instant::now()).0.remove(0).refusal.expect("it is refused");
    assert_eq!(&*refusal.text, &message[..512]);
}

/// Returns a trigger of one object, whose metadata have this hash.
fn asking(hash: u64) -> TriggerId<'static> {
    TriggerId { hash, thresholds: Some(Thresholds { target: 5.0, activation: 0.0 }), ..trigger("mails") }
}

/// Returns the seconds since the metadata changed last, and the value before the present one.
fn changed(world: &World) -> (Option<u64>, Option<f64>) {
    let (states, _) = world.triggers.states(Instant::now());
    let [state] = &states[..] else { panic!("there is one trigger") };
    (state.changed.as_ref().map(|change| change.at.elapsed().as_secs()), state.value_before)
}

#[tokio::test(start_paused = true)]
async fn an_error_between_two_equal_values_is_no_other_value() {
    let world = World::new();
    world.poll(trigger("mails"), 3.0);
    world.poll(trigger("mails"), 5.0);
    let (key, _) = world.triggers.asked(trigger("mails"), Instant::now());
    world.triggers.told(key, Told::NoValue("Unavailable", Fault::Unreachable), Instant::now());
    world.poll(trigger("mails"), 5.0);
    assert_eq!(changed(&world).1, Some(3.0));
}

#[tokio::test(start_paused = true)]
async fn metadata_that_come_back_are_a_change() {
    let world = World::new();
    let mut changes = Vec::new();
    for hash in [1, 2, 1] {
        for _ in 0..8 {
            tokio::time::advance(Duration::from_secs(30)).await;
            world.poll(asking(hash), 1.0);
        }
        changes.push(changed(&world).0);
    }
    assert_eq!(changes, [None, Some(210), Some(210)]);
}

#[tokio::test(start_paused = true)]
async fn metadata_that_come_back_soon_are_a_change_too() {
    let world = World::new();
    for hash in [1, 1, 1, 2, 2, 1, 1] {
        tokio::time::advance(Duration::from_secs(30)).await;
        world.poll(asking(hash), 1.0);
    }
    let state = || world.triggers.states(Instant::now()).0.remove(0);
    assert_eq!((changed(&world).0, state().variants.len()), (Some(0), 1));
    tokio::time::advance(Duration::from_secs(30)).await;
    world.poll(asking(1), 1.0);
    assert_eq!(changed(&world).0, Some(30));
}

#[tokio::test(start_paused = true)]
async fn triggers_of_one_object_in_two_rhythms_keep_their_series_and_their_numbers() {
    let world = World::new();
    let slow = TriggerId { query: "slow", ..trigger("mails") };
    let state = |query: &str| {
        let (states, _) = world.triggers.states(Instant::now());
        states.into_iter().find(|state| state.labels.query == query).expect("it has a place")
    };
    for poll in 0..60 {
        if poll % 20 == 0 {
            world.poll(slow, 7.0);
        }
        if poll % 3 == 0 {
            world.poll(asking(1), 3.0);
        }
        world.poll(asking(2), 2.0);
        tokio::time::advance(Duration::from_secs(15)).await;
        assert!(world.knows_query("slow"), "{poll}");
        if poll > 6 {
            assert_eq!((state("pending-claps").variants.len(), state("pending-claps").value), (2, Some(3.0)), "{poll}");
        }
    }
    assert_eq!(state("slow").codes, [("OK", 3)]);
}

#[tokio::test(start_paused = true)]
async fn new_metadata_are_a_change_after_two_polls() {
    let world = World::new();
    for _ in 0..3 {
        world.poll(asking(1), 1.0);
        assert_eq!(changed(&world).0, None);
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    world.poll(asking(2), 1.0);
    assert_eq!(changed(&world).0, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_trigger_is_answered_since_keda_asks_again() {
    let world = World::new();
    let answered_since = || world.triggers.states(Instant::now()).0[0].answered_since;
    for pause in [5, 5, 300] {
        world.poll(trigger("mails"), 1.0);
        tokio::time::advance(Duration::from_secs(pause)).await;
    }
    assert!(answered_since().unwrap().elapsed() > Duration::from_secs(300));
    world.poll(trigger("mails"), 1.0);
    assert_eq!(answered_since(), Some(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn more_triggers_of_one_object_than_there_are_places_for_are_no_changes() {
    let world = World::new();
    for _ in 0..8 {
        tokio::time::advance(Duration::from_secs(61)).await;
        for hash in 0..12 {
            world.poll(asking(hash), 1.0);
        }
        assert_eq!(changed(&world).0, None);
    }
}

#[tokio::test(start_paused = true)]
async fn of_several_triggers_of_one_object_the_one_that_differs_least_is_the_one_that_changed() {
    let world = World::new();
    let asked = |pairs: &[(&str, &str)]| {
        let metadata: HashMap<String, String> =
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let hash = pairs.iter().fold(0, |sum, pair| sum ^ RandomState::hash_one(&world.triggers.hasher, pair));
        let (_, changed) =
            world.triggers.asked(TriggerId { hash, metadata: Some(&metadata), ..trigger("mails") }, Instant::now());
        changed.map(|keys| keys.to_string())
    };
    let (eu, us) = (&[("param.region", "eu"), ("activityColumn", "n")][..], &[("param.region", "us")][..]);
    for _ in 0..4 {
        assert_eq!((asked(eu), asked(us)), (None, None));
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    let divided = &[("param.region", "us"), ("divideBy", "100")];
    assert_eq!((asked(eu), asked(divided)), (None, Some("divideBy".to_owned())));
    for _ in 0..8 {
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!((asked(eu), asked(divided)), (None, None));
    }
    // One that is long gone differs less, and is not what was replaced.
    let rounded = &[("param.region", "us"), ("rounding", "floor")];
    assert_eq!(asked(rounded), Some("divideBy, rounding".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn what_replaced_a_trigger_is_told_with_both_numbers_and_without_its_value() {
    let world = World::new();
    let numbered = |hash, target, divide_by| {
        let thresholds = Some(Thresholds { target, activation: 0.0 });
        TriggerId { hash, thresholds, divide_by: Some(divide_by), ..trigger("mails") }
    };
    let state = || world.triggers.states(Instant::now()).0.remove(0);
    for _ in 0..4 {
        world.poll(numbered(1, 5.0, 1.0), 40.0);
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    world.poll(numbered(2, 50.0, 100.0), 0.4);
    let (now, changed) = (state(), state().changed.expect("it changed"));
    assert_eq!((now.value, now.variants.len(), now.value_before), (Some(0.4), 1, Some(40.0)));
    let told = |numbers: Numbers| (numbers.thresholds.map(|thresholds| thresholds.target), numbers.divide_by);
    assert_eq!(changed.before.map(told), Some((Some(5.0), Some(1.0))));
    assert_eq!(told(changed.after), (Some(50.0), Some(100.0)));

    // The first one is asked for still: the second one has come beside it, as the next poll shows.
    for _ in 0..2 {
        world.poll(numbered(1, 5.0, 1.0), 40.0);
        tokio::time::advance(Duration::from_secs(5)).await;
        world.poll(numbered(2, 50.0, 100.0), 0.4);
    }
    world.poll(numbered(1, 5.0, 1.0), 40.0);
    let both = state();
    assert!(both.changed.is_none());
    let values: Vec<_> = both.variants.iter().map(|variant| variant.value).collect();
    assert_eq!(values, [Some(40.0), Some(0.4)]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_mended_is_not_told_beside_a_fault() {
    let world = World::new();
    let state = || world.triggers.states(Instant::now()).0.remove(0);
    for _ in 0..4 {
        world.refuse(trigger("job"), 7);
        tokio::time::advance(Duration::from_secs(30)).await;
    }
    assert!(state().refusal.is_some());
    let (key, _) = world.triggers.asked(trigger("job"), Instant::now());
    world.triggers.told(key, Told::NoValue("Unavailable", Fault::Unreachable), Instant::now());
    assert!(state().refusal.is_none() && state().fault.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_trigger_of_another_query_ends_the_series_of_the_one_before_and_a_silent_object_keeps_its_own() {
    let world = World::new();
    for _ in 0..2 {
        world.poll(trigger("mails"), 1.0);
        world.poll(trigger("exports"), 1.0);
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    let renamed = TriggerId { query: "orders", ..trigger("mails") };
    for _ in 0..4 {
        assert_eq!(world.names().len(), 2 + usize::from(world.knows_query("orders")));
        tokio::time::advance(Duration::from_secs(30)).await;
        world.poll(renamed, 1.0);
    }
    assert!(world.knows("mails") && world.knows("exports") && world.knows_query("orders"));
    assert_eq!(world.names().len(), 2, "{:?}", world.names());
    let (states, _) = world.triggers.states(Instant::now());
    let silent: Vec<_> = states.iter().filter(|state| state.is_silent(Instant::now())).collect();
    assert_eq!((states.len(), silent.len(), silent[0].labels.name.as_str()), (2, 1, "exports"));
}

#[tokio::test(start_paused = true)]
async fn metadata_that_is_refused_say_which_keys_of_those_before_changed_and_name_no_other() {
    let metadata = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let world = World::new();
    let right = metadata(&[("query", "mails"), ("divideBy", "2"), ("param.region", "eu")]);
    world.poll(TriggerId { metadata: Some(&right), ..asking(1) }, 3.0);
    tokio::time::advance(Duration::from_secs(30)).await;
    let refuse = |metadata: &HashMap<String, String>, text: u64| {
        let refused = Refused { code: "InvalidArgument", message: "wrong", text: Some(text) };
        world.triggers.refused(TriggerId { metadata: Some(metadata), ..trigger("mails") }, refused, Instant::now()).1
    };
    let wrong = metadata(&[("query", "mails"), ("canary", "2"), ("param.region", "us")]);
    assert_eq!(refuse(&wrong, 1).as_deref(), Some("divideBy, param.region, 1 new key"));
    assert_eq!((refuse(&wrong, 1), changed(&world).0), (None, Some(0)), "once");
    // It is mended, and then a reload refuses what was right.
    world.poll(TriggerId { metadata: Some(&right), ..asking(1) }, 3.0);
    assert_eq!(changed(&world).0, None);
    assert_eq!((refuse(&right, 2), changed(&world).0), (None, None));
}
