//! The moment that `--at` names.

use time::{Duration, OffsetDateTime, PrimitiveDateTime, Time, UtcOffset, format_description::well_known::Rfc3339};

/// Reads RFC 3339, or `HH:MM[:SS]` in local time: the latest one past. No text is now. Returns the beginning of the
/// moment and its end: without seconds, a whole minute is meant.
///
/// # Errors
/// Says what the text must be.
pub(super) fn read(
    text: Option<&str>,
    now: OffsetDateTime,
    offset_at: impl Fn(OffsetDateTime) -> UtcOffset,
) -> Result<(OffsetDateTime, OffsetDateTime), String> {
    let local_now = now.to_offset(offset_at(now));
    let Some(text) = text else { return Ok((local_now, local_now)) };
    if let Ok(at) = OffsetDateTime::parse(text, &Rfc3339) {
        // A clock may be a little ahead of another.
        return match at <= now + Duration::minutes(1) {
            true => Ok((at, at)),
            false => Err("--at: is in the future; nothing is known of that".to_owned()),
        };
    }
    let time = clock(text).ok_or("--at: must be HH:MM, HH:MM:SS, or RFC 3339 such as 2026-11-29T03:12:00+01:00")?;
    let today = local_now.date();
    let on = |days_ago: i64| {
        let local = PrimitiveDateTime::new(today - Duration::days(days_ago), time);
        // The clocks may have been changed since: the offset is that of the moment itself.
        let guess = local.assume_offset(offset_at(now));
        local.assume_offset(offset_at(guess))
    };
    // A day on which the clocks are changed may lack a time, so there is one more.
    let latest = (0..3).map(on).find(|at| *at <= now);
    let at = latest.ok_or("--at: there is no such time")?;
    let is_minute = text.bytes().filter(|byte| *byte == b':').count() == 1;
    let end = if is_minute { at + Duration::seconds(59) } else { at };
    Ok((at, end.min(local_now.to_offset(at.offset()))))
}

/// Returns the offset of local time at a moment; UTC where it is not known.
pub(super) fn local_offset(at: OffsetDateTime) -> UtcOffset {
    UtcOffset::local_offset_at(at).unwrap_or(UtcOffset::UTC)
}

/// Reads `HH:MM` or `HH:MM:SS`.
fn clock(text: &str) -> Option<Time> {
    let is_number = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = |text: &str| is_number(text).then(|| text.parse::<u8>().ok()).flatten();
    let mut parts = text.split(':').map(number);
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().unwrap_or(Some(0))?;
    if parts.next().is_some() {
        return None;
    }
    Time::from_hms(hour, minute, second).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> OffsetDateTime {
        OffsetDateTime::parse(text, &Rfc3339).unwrap()
    }

    /// Summer time ends on 2026-10-25 at 03:00, which is 01:00 UTC.
    fn berlin(at_: OffsetDateTime) -> UtcOffset {
        let hours = if at_ < at("2026-10-25T01:00:00Z") { 2 } else { 1 };
        UtcOffset::from_hms(hours, 0, 0).unwrap()
    }

    #[test]
    fn a_time_of_the_day_is_the_latest_one_past() {
        for (now, text, expected) in [
            ("2026-11-29T09:00:00Z", "03:12", "2026-11-29T03:12:00+01:00"),
            ("2026-11-29T09:00:00Z", "10:00", "2026-11-29T10:00:00+01:00"),
            ("2026-11-29T09:00:00Z", "10:01", "2026-11-28T10:01:00+01:00"),
            ("2026-11-29T23:30:00Z", "00:10:59", "2026-11-30T00:10:59+01:00"),
            // Yesterday's offset was another one.
            ("2026-10-25T08:00:00Z", "23:00", "2026-10-24T23:00:00+02:00"),
            ("2026-10-25T08:00:00Z", "01:00", "2026-10-25T01:00:00+02:00"),
            ("2026-11-29T09:00:00Z", "2026-11-28T03:12:00-05:00", "2026-11-28T03:12:00-05:00"),
        ] {
            assert_eq!(read(Some(text), at(now), berlin).map(|(begin, _)| begin), Ok(at(expected)), "{text} at {now}");
        }
        let now = at("2026-11-29T09:00:00Z");
        assert_eq!(read(None, now, berlin).map(|(begin, _)| begin.offset()), Ok(berlin(now)));
    }

    #[test]
    fn a_time_without_seconds_is_the_whole_minute_as_far_as_it_is_past() {
        for (now, text, end) in [
            ("2026-11-29T09:00:00Z", "03:12", "2026-11-29T03:12:59+01:00"),
            ("2026-11-29T09:00:00Z", "03:12:00", "2026-11-29T03:12:00+01:00"),
            ("2026-11-29T09:00:20Z", "10:00", "2026-11-29T10:00:20+01:00"),
            ("2026-11-29T09:00:00Z", "2026-11-29T03:12:00Z", "2026-11-29T03:12:00Z"),
        ] {
            assert_eq!(read(Some(text), at(now), berlin).map(|(_, end)| end), Ok(at(end)), "{text} at {now}");
        }
    }

    #[test]
    fn nothing_is_known_of_the_future() {
        let now = at("2026-11-29T09:00:00Z");
        assert!(read(Some("2026-11-29T09:00:59Z"), now, berlin).is_ok());
        assert!(read(Some("2026-11-29T09:01:01Z"), now, berlin).unwrap_err().contains("in the future"));
    }

    #[test]
    fn nonsense_is_no_time() {
        for wrong in
            ["", "3", "3:12", "03:1", "24:00", "03:60", "03:12:00:00", "03-12", "2026-11-29", "+3:12", "yesterday"]
        {
            assert!(read(Some(wrong), at("2026-11-29T09:00:00Z"), berlin).is_err(), "{wrong}");
        }
    }
}
