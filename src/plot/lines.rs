//! Values over time, as steps.

use super::{COLOURS, Canvas, LEFT, Scale, WIDTH};

/// The space on the right, so that the last label is not cut off.
const RIGHT: f64 = 24.0;

/// Lines: each value holds until the next point of its series.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    /// The title, which is also the name for a screen reader.
    pub title: &'a str,
    /// The unit of the values.
    pub unit: &'a str,
    /// The names of the series, at most four, each with its points: time and value, in the order of time.
    pub series: Vec<(&'a str, Vec<(f64, f64)>)>,
    /// Times that have a label below the plot.
    pub labels: Vec<(f64, String)>,
    /// A line that says what is asked for.
    pub bar: Option<(f64, &'a str)>,
}

impl Lines<'_> {
    /// Returns the plot.
    pub fn svg(&self) -> String {
        let points = self.series.iter().flat_map(|(_, points)| points.iter().copied());
        let values = points.clone().map(|(_, value)| value).chain(self.bar.map(|(value, _)| value));
        let mut canvas = Canvas::new(self.title, Scale::Linear, values);
        let times = points.map(|(time, _)| time).chain(self.labels.iter().map(|(time, _)| *time));
        let (first, last) = times.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), time| (a.min(time), b.max(time)));
        let width = if last > first { (WIDTH - LEFT - RIGHT) / (last - first) } else { 0.0 };
        let x = |time: f64| LEFT + (time - first) * width;
        canvas.legend(self.series.iter().map(|(name, _)| *name));
        canvas.axis(self.unit);
        for (time, text) in &self.labels {
            canvas.label(x(*time), text);
        }
        for ((index, (_, points)), colour) in self.series.iter().enumerate().zip(COLOURS) {
            let Some(((time, value), others)) = points.split_first() else { continue };
            let y = canvas.y(*value);
            canvas.write(format_args!(
                "<path class=\"plot-line-{index}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" d=\"M{:.1} {y:.1}",
                x(*time)
            ));
            for (time, value) in others {
                let y = canvas.y(*value);
                canvas.write(format_args!("H{:.1}V{y:.1}", x(*time)));
            }
            canvas.write(format_args!("\"/>\n"));
        }
        if let Some((value, text)) = self.bar {
            canvas.bar(value, text);
        }
        canvas.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_holds_until_the_next_point() {
        let lines = Lines {
            title: "Jobs",
            unit: "Jobs",
            series: vec![("running", vec![(0.0, 0.0), (30.0, 10.0), (60.0, 10.0)])],
            labels: vec![(0.0, "03:00".to_owned()), (60.0, "03:01".to_owned())],
            bar: None,
        };
        let svg = lines.svg();
        assert!(svg.contains("d=\"M70.0 266.0H383.0V73.4H696.0V73.4\""), "{svg}");
        assert!(svg.contains(">03:01</text>"), "{svg}");
    }
}
