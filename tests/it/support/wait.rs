//! Waiting with a bound, the only kind there is here.

use std::{
    panic::Location,
    time::{Duration, Instant},
};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

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

/// Looks until there is something to see, and returns it; the asynchronous form of [`eventually`].
///
/// # Panics
/// At the caller's place, with `what`, when there is nothing `within` that time; also when one
/// look takes longer than is left.
#[track_caller]
pub(crate) fn first<T, L>(what: &str, within: Duration, mut look: L) -> impl Future<Output = T>
where
    L: AsyncFnMut() -> Option<T>,
{
    let place = Location::caller();
    let what = what.to_owned();
    async move {
        let start = Instant::now();
        let searching = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(within, searching).await {
            Ok(found) => found,
            Err(_) => panic!("{place}: waited {:.1?} in vain until {what}", start.elapsed()),
        }
    }
}

/// The result of a future that must not take longer than this.
///
/// # Panics
/// At the caller's place, with `what`, when it does.
#[track_caller]
pub(crate) fn bounded<T>(what: &str, within: Duration, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let place = Location::caller();
    let what = what.to_owned();
    async move {
        match tokio::time::timeout(within, future).await {
            Ok(output) => output,
            Err(_) => panic!("{place}: {what} took longer than {within:.1?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use super::{bounded, eventually, first};

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
}
