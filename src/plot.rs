//! Plots as SVG, drawn by hand: bars, lines and sparklines, for light and dark screens.
//!
//! A plot needs no other file, and can be inserted into a page unchanged. Texts are escaped here.

mod bars;
mod lines;
mod sparkline;

use std::fmt::{self, Write as _};

pub use self::{bars::Bars, lines::Lines, sparkline::sparkline};

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 34.0;

/// Distinct also without colours, from dark to light.
const COLOURS: [&str; 4] = ["#1b4965", "#e07a3f", "#8fb8de", "#c9c9c9"];

/// The colours on a dark screen. Attributes have those of a light one, for programs that know no style sheets.
const DARK: &str = "<style>@media (prefers-color-scheme: dark) { \
    .plot { fill: #d6dae0 } .plot-paper { fill: #14171c } .plot-grid { stroke: #333a44 } \
    .plot-0 { fill: #6cb6e8 } .plot-1 { fill: #f0935a } .plot-2 { fill: #3f7cac } .plot-3 { fill: #6a717b } \
    .plot-line-0 { stroke: #6cb6e8 } .plot-line-1 { stroke: #f0935a } .plot-line-2 { stroke: #3f7cac } \
    .plot-line-3 { stroke: #6a717b } .plot-bar { stroke: #ff7b72 } .plot-bar-text { fill: #ff7b72 } }</style>";

/// The mapping of values to heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Equal distances are equal differences; from 0.
    Linear,
    /// Equal distances are equal ratios; from the decade of the least value that is more than 0.
    Logarithmic,
}

/// A plot under way: what bars and lines have in common.
struct Canvas<'a> {
    svg: String,
    scale: Scale,
    least: f64,
    most: f64,
    title: &'a str,
}

impl<'a> Canvas<'a> {
    /// Starts a plot of values, which decide on its scale.
    fn new(title: &'a str, scale: Scale, values: impl Iterator<Item = f64> + Clone) -> Self {
        let most = values.clone().filter(|value| value.is_finite()).fold(0.0, f64::max);
        let least = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        // A plot of nothing but zeros still has an axis.
        let most = if most > 0.0 { most } else { 1.0 };
        let least = 10f64.powf(least.min(most).log10().floor());
        let mut canvas = Self { svg: String::new(), scale, least, most, title };
        canvas.open();
        canvas
    }

    fn open(&mut self) {
        let title = escaped(self.title);
        self.write(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" class=\"plot\" \
             aria-label=\"{title}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n{DARK}\n\
             <rect class=\"plot-paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n",
        ));
    }

    fn legend<'n>(&mut self, names: impl Iterator<Item = &'n str>) {
        let mut x = LEFT;
        for ((index, name), colour) in names.enumerate().zip(COLOURS) {
            self.write(format_args!(
                "<rect class=\"plot-{index}\" x=\"{x}\" y=\"31\" width=\"11\" height=\"11\" fill=\"{colour}\"/>\
                 <text x=\"{tx}\" y=\"41\">{name}</text>\n",
                tx = x + 16.0,
                name = escaped(name)
            ));
            x += 34.0 + 6.6 * count(name.chars().count());
        }
    }

    fn axis(&mut self, unit: &str) {
        for tick in self.ticks() {
            let y = self.y(tick);
            self.write(format_args!(
                "<line class=\"plot-grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{x}\" y=\"{ty:.1}\" text-anchor=\"end\">{tick}</text>\n",
                x = LEFT - 6.0,
                ty = y + 4.0,
                tick = short(tick)
            ));
        }
        self.write(format_args!(
            "<text transform=\"rotate(-90)\" x=\"{x}\" y=\"14\" text-anchor=\"middle\">{unit}</text>\n",
            x = -(TOP + HEIGHT - BOTTOM) / 2.0,
            unit = escaped(unit)
        ));
    }

    /// Writes a label below the plot.
    fn label(&mut self, x: f64, text: &str) {
        self.write(format_args!(
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>\n",
            y = HEIGHT - 12.0,
            text = escaped(text)
        ));
    }

    /// Draws a line across the plot that says what is asked for.
    fn bar(&mut self, value: f64, text: &str) {
        let y = self.y(value);
        self.write(format_args!(
            "<line class=\"plot-bar\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" stroke=\"#b00020\" stroke-dasharray=\"6 4\"/>\n\
             <text class=\"plot-bar-text\" x=\"{x}\" y=\"{ty:.1}\" text-anchor=\"end\" fill=\"#b00020\">{text}</text>\n",
            x = WIDTH - 6.0,
            ty = y - 4.0,
            text = escaped(text)
        ));
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / (self.most * 1.08),
            Scale::Logarithmic => (value.max(self.least) / self.least).log10() / (self.most * 1.6 / self.least).log10(),
        };
        HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = 10f64.powf(self.most.log10().floor());
                let step = if self.most / step < 2.0 { step / 5.0 } else { step };
                (0u8..20).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.most * 1.05).collect()
            }
            Scale::Logarithmic => {
                let tick = |n: i32| self.least * 10f64.powi(n);
                (0i32..12).map(tick).take_while(|tick| *tick <= self.most * 1.5).collect()
            }
        }
    }

    fn write(&mut self, arguments: fmt::Arguments<'_>) {
        self.svg.write_fmt(arguments).expect("a string takes everything");
    }

    fn finish(mut self) -> String {
        self.svg.push_str("</svg>\n");
        self.svg
    }
}

/// Returns a text as it may stand in markup, in an attribute, too.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Formats a value with as many digits as a reader needs.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    let text = match magnitude {
        m if m >= 999.5 => return grouped(value.round()),
        m if m >= 100.0 => format!("{value:.0}"),
        m if m >= 10.0 => format!("{value:.1}"),
        m if m >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_wherever_they_stand() {
        let hostile = "\"><script>&";
        let bars = Bars {
            title: hostile,
            unit: hostile,
            scale: Scale::Linear,
            series: vec![hostile],
            groups: vec![(hostile.to_owned(), vec![1.0])],
            bar: Some((1.0, hostile)),
        };
        let lines = Lines {
            title: hostile,
            unit: hostile,
            series: vec![(hostile, vec![(0.0, 1.0)])],
            labels: vec![(0.0, hostile.to_owned())],
            bar: Some((1.0, hostile)),
        };
        for svg in [bars.svg(), lines.svg()] {
            assert_eq!(svg.matches("&quot;&gt;&lt;script&gt;&amp;").count(), 6, "{svg}");
            assert!(!svg.contains("<script"), "{svg}");
        }
    }

    #[test]
    fn a_plot_of_nothing_has_no_number_that_is_none() {
        for scale in [Scale::Linear, Scale::Logarithmic] {
            for groups in [vec![], vec![("zero".to_owned(), vec![0.0])]] {
                let bars = Bars { title: "", unit: "", scale, series: vec!["a"], groups, bar: None };
                assert!(!bars.svg().contains("NaN") && !bars.svg().contains("inf"), "{}", bars.svg());
            }
        }
        let lines = Lines { title: "", unit: "", series: vec![("a", vec![])], labels: vec![], bar: None };
        assert!(!lines.svg().contains("NaN") && !lines.svg().contains("inf"), "{}", lines.svg());
    }

    #[test]
    fn a_value_has_the_digits_that_a_reader_needs() {
        let texts = [0.0, 0.0125, 1.5, 12.25, 345.6, 75_106.4, 1_234_567.0].map(short);
        assert_eq!(texts, ["0", "0.013", "1.5", "12.2", "346", "75,106", "1,234,567"]);
    }
}
