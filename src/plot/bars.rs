//! Bars in groups.

use super::{BOTTOM, COLOURS, Canvas, HEIGHT, LEFT, Scale, WIDTH, count, short};

/// Bars: a group for each label, in it a bar for each series.
#[derive(Debug, Clone)]
pub struct Bars<'a> {
    /// The title, which is also the name for a screen reader.
    pub title: &'a str,
    /// The unit of the values.
    pub unit: &'a str,
    /// The mapping of values to heights.
    pub scale: Scale,
    /// The names of the series, at most four.
    pub series: Vec<&'a str>,
    /// The label of each group, and a value for each series.
    pub groups: Vec<(String, Vec<f64>)>,
    /// A line that says what is asked for.
    pub bar: Option<(f64, &'a str)>,
}

impl Bars<'_> {
    /// Returns the plot.
    pub fn svg(&self) -> String {
        let values = self.groups.iter().flat_map(|(_, values)| values.iter().copied());
        let mut canvas = Canvas::new(self.title, self.scale, values.chain(self.bar.map(|(value, _)| value)));
        canvas.legend(self.series.iter().copied());
        canvas.axis(self.unit);
        self.bars(&mut canvas);
        if let Some((value, text)) = self.bar {
            canvas.bar(value, text);
        }
        canvas.finish()
    }

    fn bars(&self, canvas: &mut Canvas<'_>) {
        let width = (WIDTH - LEFT) / count(self.groups.len().max(1));
        let bar = (width * 0.8 / count(self.series.len().max(1))).min(70.0);
        let mut middle = LEFT + width / 2.0;
        for (label, values) in &self.groups {
            let mut x = middle - bar * count(values.len()) / 2.0;
            for ((index, value), colour) in values.iter().enumerate().zip(COLOURS) {
                // A value at the lower end of the scale still has a visible bar.
                let y = canvas.y(*value).min(HEIGHT - BOTTOM - 1.0);
                canvas.write(format_args!(
                    "<rect class=\"plot-{index}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" fill=\"{colour}\"/>\
                     <text x=\"{tx:.1}\" y=\"{ty:.1}\" text-anchor=\"middle\" font-size=\"11\">{text}</text>\n",
                    w = bar - 3.0,
                    h = HEIGHT - BOTTOM - y,
                    tx = x + bar / 2.0,
                    ty = y - 4.0,
                    text = short(*value)
                ));
                x += bar;
            }
            canvas.label(middle, label);
            middle += width;
        }
    }
}
