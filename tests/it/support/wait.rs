//! Waiting with a bound. Tests wait in no other way.
//!
//! With `CLAPOMETER_WAITS` naming a file, every wait that takes more than half of its bound adds a line to it, which
//! `make test` prints: on a quiet machine such a bound is too narrow, or something is slower than it should be.

use std::{
    env,
    fs::OpenOptions,
    io::Write,
    panic::Location,
    time::{Duration, Instant},
};

/// The pause between two looks at a condition.
const LOOK: Duration = Duration::from_millis(5);

/// The pause between two calls of [`until`].
const CALL: Duration = Duration::from_millis(20);

/// Looks until the condition holds.
///
/// # Panics
/// At the caller's place, with `what`, when it does not hold `within` that time.
#[track_caller]
pub(crate) fn eventually<C>(what: &str, within: Duration, mut condition: C) -> impl Future<Output = ()>
where
    C: FnMut() -> bool,
{
    first(what, within, async move || condition().then_some(()))
}

/// Looks until there is something to see, and returns it: the asynchronous form of [`eventually`].
///
/// # Panics
/// At the caller's place, with `what`, when there is nothing `within` that time; also when one
/// look takes longer than is left.
#[track_caller]
pub(crate) fn first<T, L>(what: &str, within: Duration, mut look: L) -> impl Future<Output = T>
where
    L: AsyncFnMut() -> Option<T>,
{
    let (what, place) = (what.to_owned(), Location::caller());
    async move {
        let wait = Wait::begin(what, within, place);
        let searching = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(within, searching).await {
            Ok(found) => wait.end(found),
            Err(_) => panic!("{}: waited {:.1?} in vain until {}", wait.place, wait.start.elapsed(), wait.what),
        }
    }
}

/// Calls until a call succeeds, and returns its result. No call begins after `within`, and none is cut short: each must
/// have a bound of its own.
///
/// # Panics
/// At the caller's place, with `what` and the last failure, when no call has succeeded.
#[track_caller]
pub(crate) fn until<T, C>(what: &str, within: Duration, mut call: C) -> impl Future<Output = T> + use<T, C>
where
    C: AsyncFnMut() -> Result<T, String>,
{
    let (what, place) = (what.to_owned(), Location::caller());
    async move {
        let wait = Wait::begin(what, within, place);
        let mut last = "nothing yet".to_owned();
        while wait.start.elapsed() < within {
            match call().await {
                Ok(found) => return wait.end(found),
                Err(failure) => last = failure,
            }
            tokio::time::sleep(CALL).await;
        }
        panic!("{}: waited {within:?} in vain until {}; at last: {last}", wait.place, wait.what)
    }
}

/// Returns the result of a future that must not take longer than this.
///
/// # Panics
/// At the caller's place, with `what`, when it does.
#[track_caller]
pub(crate) fn bounded<T>(what: &str, within: Duration, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let (what, place) = (what.to_owned(), Location::caller());
    async move {
        let wait = Wait::begin(what, within, place);
        match tokio::time::timeout(within, future).await {
            Ok(output) => wait.end(output),
            Err(_) => panic!("{}: {} took longer than {within:.1?}", wait.place, wait.what),
        }
    }
}

/// A wait that is under way.
struct Wait {
    what: String,
    within: Duration,
    place: &'static Location<'static>,
    start: Instant,
}

impl Wait {
    fn begin(what: String, within: Duration, place: &'static Location<'static>) -> Self {
        Self { what, within, place, start: Instant::now() }
    }

    /// Reports the wait, and passes on what was waited for.
    fn end<T>(&self, found: T) -> T {
        let took = self.start.elapsed();
        if took > self.within / 2
            && let Some(path) = env::var_os("CLAPOMETER_WAITS")
        {
            let line = self.line(took);
            let mut file =
                OpenOptions::new().append(true).create(true).open(path).expect("CLAPOMETER_WAITS is writable");
            // In one write, so that lines of several threads do not mix.
            file.write_all(line.as_bytes()).expect("CLAPOMETER_WAITS is writable");
        }
        found
    }

    fn line(&self, took: Duration) -> String {
        let Self { what, within, place, .. } = self;
        let percent = 100.0 * took.as_secs_f64() / within.as_secs_f64();
        format!("{percent:.0} {took:.1?} of {within:.1?}, {place}: {what}\n")
    }
}

#[cfg(test)]
mod tests {
    use std::{future, panic::Location, time::Duration};

    use super::{Wait, bounded, eventually, first, until};

    const SHORT: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn a_condition_that_comes_true_is_waited_for() {
        let mut looks = 0;
        eventually("three looks", Duration::from_secs(10), || {
            looks += 1;
            looks == 3
        })
        .await;
        assert_eq!(looks, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain until pigs fly")]
    async fn a_condition_that_never_holds_fails_the_test() {
        eventually("pigs fly", SHORT, || false).await;
    }

    #[tokio::test]
    #[should_panic(expected = "in vain until the look ends")]
    async fn a_look_that_hangs_fails_the_test() {
        first::<(), _>("the look ends", SHORT, async || future::pending().await).await;
    }

    #[tokio::test]
    #[should_panic(expected = "an answer took longer than 30.0ms")]
    async fn a_future_that_hangs_fails_the_test() {
        bounded("an answer", SHORT, future::pending::<()>()).await;
    }

    #[tokio::test]
    #[should_panic(expected = "waited 30ms in vain until a call succeeds; at last: a failure")]
    async fn calls_that_never_succeed_fail_the_test() {
        until::<(), _>("a call succeeds", SHORT, async || Err("a failure".to_owned())).await;
    }

    #[tokio::test]
    async fn a_call_that_succeeds_after_the_bound_counts_if_it_began_before() {
        let slow = async || {
            tokio::time::sleep(2 * SHORT).await;
            Ok(7)
        };
        assert_eq!(until("the answer is seven", SHORT, slow).await, 7);
    }

    #[test]
    fn a_wait_is_reported_with_its_share_of_the_bound() {
        let wait = Wait::begin("the answer".to_owned(), Duration::from_secs(4), Location::caller());
        let line = wait.line(Duration::from_secs(3));
        assert!(line.starts_with("75 3.0s of 4.0s, tests/it/support/wait.rs:"), "{line}");
        assert!(line.ends_with(": the answer\n"), "{line}");
    }
}
