//! Plots as SVG, drawn by hand: bars in groups, with a linear or a logarithmic scale.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const TOP: f64 = 58.0;
const BOTTOM: f64 = 34.0;

/// Distinct also without colours, from dark to light.
const COLOURS: [&str; 4] = ["#1b4965", "#e07a3f", "#8fb8de", "#c9c9c9"];

/// The mapping of values to heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

/// Bars: a group for each label, in it a bar for each series.
#[derive(Debug, Clone)]
pub(crate) struct Bars<'a> {
    pub(crate) title: &'a str,
    pub(crate) unit: &'a str,
    pub(crate) scale: Scale,
    pub(crate) series: Vec<&'a str>,
    pub(crate) groups: Vec<(String, Vec<f64>)>,
    /// A line that says what is asked for.
    pub(crate) bar: Option<(f64, &'a str)>,
}

impl Bars<'_> {
    /// Returns the picture.
    pub(crate) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n",
            title = self.title
        );
        self.legend(&mut svg);
        self.axis(&mut svg);
        self.bars(&mut svg);
        if let Some((value, text)) = self.bar {
            let y = self.y(value);
            write(
                &mut svg,
                format_args!(
                    "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" stroke=\"#b00020\" stroke-dasharray=\"6 4\"/>\n\
                 <text x=\"{x}\" y=\"{ty:.1}\" text-anchor=\"end\" fill=\"#b00020\">{text}</text>\n",
                    x = WIDTH - 6.0,
                    ty = y - 4.0
                ),
            );
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for (name, colour) in self.series.iter().zip(COLOURS) {
            write(
                svg,
                format_args!(
                    "<rect x=\"{x}\" y=\"31\" width=\"11\" height=\"11\" fill=\"{colour}\"/><text x=\"{tx}\" y=\"41\">{name}</text>\n",
                    tx = x + 16.0
                ),
            );
            x += 34.0 + 6.6 * characters(name);
        }
    }

    fn axis(&self, svg: &mut String) {
        for tick in self.ticks() {
            let y = self.y(tick);
            write(
                svg,
                format_args!(
                    "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{x}\" y=\"{ty:.1}\" text-anchor=\"end\">{tick}</text>\n",
                    x = LEFT - 6.0,
                    ty = y + 4.0,
                    tick = short(tick)
                ),
            );
        }
        write(
            svg,
            format_args!(
                "<text transform=\"rotate(-90)\" x=\"{x}\" y=\"14\" text-anchor=\"middle\">{unit}</text>\n",
                x = -(TOP + HEIGHT - BOTTOM) / 2.0,
                unit = self.unit
            ),
        );
    }

    fn bars(&self, svg: &mut String) {
        let width = (WIDTH - LEFT) / count(self.groups.len());
        let bar = (width * 0.8 / count(self.series.len())).min(70.0);
        let mut middle = LEFT + width / 2.0;
        for (label, values) in &self.groups {
            let mut x = middle - bar * count(values.len()) / 2.0;
            for (value, colour) in values.iter().zip(COLOURS) {
                let y = self.y(*value);
                write(
                    svg,
                    format_args!(
                        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"{colour}\"/>\
                     <text x=\"{tx:.1}\" y=\"{ty:.1}\" text-anchor=\"middle\" font-size=\"11\">{text}</text>\n",
                        w = bar - 3.0,
                        h = HEIGHT - BOTTOM - y,
                        tx = x + bar / 2.0,
                        ty = y - 4.0,
                        text = short(*value)
                    ),
                );
                x += bar;
            }
            write(
                svg,
                format_args!(
                    "<text x=\"{middle:.1}\" y=\"{y}\" text-anchor=\"middle\">{label}</text>\n",
                    y = HEIGHT - 12.0
                ),
            );
            middle += width;
        }
    }

    fn most(&self) -> f64 {
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().copied());
        values.chain(self.bar.map(|(value, _)| value)).fold(0.0, f64::max)
    }

    /// Returns the start of the decade below the least value.
    fn least(&self) -> f64 {
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().copied()).filter(|value| *value > 0.0);
        10f64.powf(values.fold(f64::INFINITY, f64::min).log10().floor())
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / (self.most() * 1.08),
            Scale::Logarithmic => {
                let least = self.least();
                (value.max(least) / least).log10() / (self.most() * 1.6 / least).log10()
            }
        };
        let height = HEIGHT - BOTTOM - TOP;
        // A value at the foot of the scale still has a bar to be seen.
        HEIGHT - BOTTOM - (share * height).max(1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = 10f64.powf(self.most().log10().floor());
                let step = if self.most() / step < 2.0 { step / 5.0 } else { step };
                (0u8..20).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.most() * 1.05).collect()
            }
            Scale::Logarithmic => {
                let least = self.least();
                (0i32..12).map(|n| least * 10f64.powi(n)).take_while(|tick| *tick <= self.most() * 1.5).collect()
            }
        }
    }
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

fn characters(text: &str) -> f64 {
    count(text.chars().count())
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn write(svg: &mut String, arguments: std::fmt::Arguments<'_>) {
    svg.write_fmt(arguments).expect("a string takes everything");
}
