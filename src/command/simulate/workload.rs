//! The options that say when rows arrive and how long things take.

use std::{fs::File, io::Read, ops::RangeInclusive, time::Duration};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    command::input::utf_8,
    config::duration::{is_too_long, parse, show},
    keda::{comparison::seconds, model::Milliseconds, workload::Arrivals},
    terminal::text::plural,
};

/// More rows would take too long to simulate.
const MOST_ROWS: usize = 200_000;

/// The most bytes of a CSV file, 160 for each row.
const LARGEST_FILE: u64 = 32 << 20;

/// `--arrivals`
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Arriving {
    /// This many rows within this time, over and over.
    Rate { rows: f64, text: String, per: Milliseconds },
    /// This many rows at once.
    AtOnce(usize),
    /// The rows of a CSV file.
    File(String),
}

/// A duration, or a least and a greatest one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    least: Milliseconds,
    most: Milliseconds,
}

impl Arriving {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(rows) = text.parse() {
            return if rows > 0 { Ok(Self::AtOnce(rows)) } else { Err("there must be a row".to_owned()) };
        }
        let rate = text.split_once('/').and_then(|(rows, unit)| {
            let per = match unit {
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return None,
            };
            Some((rows.parse::<f64>().ok()?, per))
        });
        match rate {
            Some((rows, per)) if rows.is_finite() && rows > 0.0 => Ok(Self::Rate { rows, text: text.to_owned(), per }),
            Some(_) => Err("a rate must be a number above 0".to_owned()),
            None => Ok(Self::File(text.to_owned())),
        }
    }

    /// Returns the times of arrival.
    ///
    /// # Errors
    /// Says what is wrong with the file, or that there are too many rows.
    pub(super) fn arrivals(&self, period: Milliseconds) -> Result<Arrivals, String> {
        let arrivals = match self {
            Self::AtOnce(rows) => Arrivals::AtOnce(*rows),
            Self::Rate { rows, per, .. } => {
                let rows = (rows * seconds(period) / seconds(*per)).round();
                let rows = format!("{rows:.0}").parse().unwrap_or(usize::MAX);
                Arrivals::Random(rows, period)
            }
            Self::File(path) => {
                let rows = text_of(path).and_then(|text| rows(&text));
                Arrivals::Known(rows.map_err(|problem| format!("--arrivals {path}: {problem}"))?)
            }
        };
        match arrivals.len() {
            0 => Err("--arrivals: there is no row; raise the rate or --for, or look into the file".to_owned()),
            rows if rows > MOST_ROWS => {
                let advice = if matches!(self, Self::Rate { .. }) { "; shorten --for" } else { "" };
                Err(format!("--arrivals: {rows} rows are more than {MOST_ROWS}{advice}"))
            }
            _ => Ok(arrivals),
        }
    }

    /// Returns the option in words.
    pub(super) fn described(&self, period: Milliseconds) -> String {
        match self {
            Self::AtOnce(rows) => format!("{} at once", plural(*rows, "row", "rows")),
            Self::Rate { text, .. } => {
                format!("rows at random times, {text} for {}", show(Duration::from_millis(period)))
            }
            Self::File(path) => format!("the rows of {path}"),
        }
    }
}

impl Span {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (least, most) = match text.split_once("..") {
            Some((least, most)) => (duration(least)?, duration(most)?),
            None => (duration(text)?, duration(text)?),
        };
        if least > most {
            Err("the first duration is longer than the second".to_owned())
        } else {
            Ok(Self { least, most })
        }
    }

    pub(super) fn range(self) -> RangeInclusive<Milliseconds> {
        self.least..=self.most
    }
}

/// Reads a duration of at most a year.
pub(super) fn duration(text: &str) -> Result<Milliseconds, String> {
    const YEAR: Milliseconds = 366 * 86_400_000;
    let duration = match parse(text) {
        Some(duration) => Milliseconds::try_from(duration.as_millis()).ok(),
        None if is_too_long(text) => None,
        None => return Err("a duration is a whole number with a unit: 1500ms, 40s, 10m, 2h".to_owned()),
    };
    duration.filter(|duration| *duration <= YEAR).ok_or_else(|| "the longest is a year, 8784h".to_owned())
}

/// Reads a CSV file.
fn text_of(path: &str) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|error| {
        format!("neither a rate (9/s, 9/m, 9/h or 9/d), nor a number of rows, nor a file that can be read: {error}")
    })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST_FILE) {
        return Err(format!("is larger than {} MiB, which {MOST_ROWS} rows are not", LARGEST_FILE >> 20));
    }
    utf_8("the file", bytes, "a CSV file")
}

/// Reads the rows of a CSV file: a time of arrival, and perhaps the time of the work in seconds. Times count from the
/// first of them.
fn rows(text: &str) -> Result<Vec<(Milliseconds, Option<Milliseconds>)>, String> {
    let mut rows = Vec::new();
    let lines = (1..).zip(text.trim_start_matches('\u{feff}').lines()).filter(|(_, line)| !line.trim().is_empty());
    for (place, (number, line)) in lines.enumerate() {
        let mut cells = line.split([',', ';', '\t']).map(|cell| cell.trim().trim_matches('"').trim());
        let (arrival, work) = (cells.next().unwrap_or_default(), cells.next().filter(|cell| !cell.is_empty()));
        let Some(arrival) = moment(arrival) else {
            // The first line may have names.
            if place == 0 {
                continue;
            }
            return Err(format!("line {number}: the first column is neither seconds nor a time"));
        };
        let work =
            work.map(|work| length(work).ok_or(format!("line {number}: the second column is no number of seconds")));
        rows.push((arrival, work.transpose()?));
    }
    let first = rows.iter().map(|(arrival, _)| *arrival).min().unwrap_or(0);
    let mut rows: Vec<(Milliseconds, Option<Milliseconds>)> =
        rows.into_iter().map(|(arrival, work)| (Milliseconds::try_from(arrival - first).unwrap_or(0), work)).collect();
    rows.sort_by_key(|(arrival, _)| *arrival);
    Ok(rows)
}

/// Reads seconds, or a time as PostgreSQL and RFC 3339 write it, in milliseconds.
fn moment(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<f64>() {
        return milliseconds(seconds);
    }
    let mut text = text.replacen(' ', "T", 1);
    let zone = text.get(19..)?.find(['Z', '+', '-']).map(|place| place + 19);
    match zone {
        None => text.push('Z'),
        // `+00`, as PostgreSQL writes it.
        Some(zone) if text.len() - zone == 3 => text.push_str(":00"),
        Some(_) => {}
    }
    let time = OffsetDateTime::parse(&text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

fn length(text: &str) -> Option<Milliseconds> {
    match text.parse::<f64>() {
        Ok(seconds) => milliseconds(seconds).and_then(|length| Milliseconds::try_from(length).ok()),
        Err(_) => duration(text).ok(),
    }
}

/// Times up to the year 5138 are exact.
fn milliseconds(seconds: f64) -> Option<i64> {
    let milliseconds = (seconds * 1_000.0).round();
    (milliseconds.abs() < 1e14).then(|| format!("{milliseconds:.0}").parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_a_rate_a_number_or_a_file() {
        let rate = Arriving::parse("9/m").expect("a rate");
        assert_eq!(rate.arrivals(3_600_000), Ok(Arrivals::Random(540, 3_600_000)));
        assert_eq!(rate.described(3_600_000), "rows at random times, 9/m for 1h");
        assert_eq!(Arriving::parse("60"), Ok(Arriving::AtOnce(60)));
        assert_eq!(Arriving::parse("dir/m.csv"), Ok(Arriving::File("dir/m.csv".to_owned())));
        for bad in ["0", "-1/m", "0/h"] {
            assert!(Arriving::parse(bad).is_err(), "{bad}");
        }
        let too_many = Arriving::parse("1000/s").expect("a rate").arrivals(3_600_000);
        assert!(too_many.is_err_and(|problem| problem.contains("more than")));
    }

    #[test]
    fn times_are_read_as_databases_write_them_and_count_from_the_first() {
        let expected = Ok(vec![(0, Some(40_000)), (1_500, None), (61_500, Some(2_000))]);
        assert_eq!(rows("100,40\n101.5\n161.5;2s\n"), expected);
        let text = "\u{feff}created_at,seconds\n2026-11-29 10:00:01.5+00,\n\"2026-11-29 10:00:00+00\",40\n\n2026-11-29T11:01:01.500+01:00\t2\n";
        assert_eq!(rows(text), expected);
        assert_eq!(rows("2026-11-29 10:00:00\n"), Ok(vec![(0, None)]));
        for (bad, line) in
            [("1\nx\n", "line 2"), ("1,y\n", "line 1"), ("1,-2\n", "line 1"), ("1\n2026-11-29\n", "line 2")]
        {
            assert!(rows(bad).is_err_and(|problem| problem.starts_with(line)), "{bad}");
        }
    }

    #[test]
    fn a_span_has_one_duration_or_two() {
        let range = |text| Span::parse(text).map(Span::range);
        assert_eq!((range("40s"), range("2s..6s")), (Ok(40_000..=40_000), Ok(2_000..=6_000)));
        for bad in ["", "40", "6s..2s", "2s..", "1d"] {
            assert!(range(bad).is_err(), "{bad}");
        }
        for long in ["8785h", "9000000h", "99999999999999999999s"] {
            assert_eq!(range(long), Err("the longest is a year, 8784h".to_owned()), "{long}");
        }
    }
}
