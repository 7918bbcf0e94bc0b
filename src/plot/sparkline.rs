//! A line of the height of a word.

use std::fmt::Write as _;

use super::count;

/// The size of the drawing. A page may give it another one: strokes keep their width.
const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 24.0;

/// Returns values, oldest first, as a small line with the area below it, from 0 or the least value to the greatest.
///
/// Where there is no value there is no line. It has the colour of the text around it, and says nothing to a screen
/// reader: whoever draws it says in words what it shows.
pub fn sparkline(values: &[Option<f64>]) -> String {
    let values: Vec<_> = values.iter().map(|value| value.filter(|value| value.is_finite())).collect();
    let (least, most) =
        values.iter().flatten().fold((0.0, 0.0), |(a, b): (f64, f64), value| (a.min(*value), b.max(*value)));
    let height = if most > least { (HEIGHT - 3.0) / (most - least) } else { 0.0 };
    let y = |value: f64| HEIGHT - 1.5 - (value - least) * height;
    let step = WIDTH / count(values.len().saturating_sub(1).max(1));
    let (mut line, mut area) = (String::new(), String::new());
    let mut x = 0.0;
    for run in values.chunk_by(|a, b| a.is_some() == b.is_some()) {
        let points: Vec<(f64, f64)> =
            run.iter().enumerate().filter_map(|(index, value)| Some((x + count(index) * step, y((*value)?)))).collect();
        x += count(run.len()) * step;
        let Some(((from, _), (to, last))) = points.first().zip(points.last()) else { continue };
        // A value between two gaps is a dot: a line of no length with round ends.
        let path = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect::<Vec<_>>().join("L");
        let dot = if points.len() == 1 { format!("L{to:.1} {last:.1}") } else { String::new() };
        write!(line, "M{path}{dot}").expect("a string takes everything");
        write!(area, "M{from:.1} {HEIGHT}L{path}L{to:.1} {HEIGHT}Z").expect("a string takes everything");
    }
    format!(
        "<svg class=\"sparkline\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <path d=\"{area}\" fill=\"currentColor\" opacity=\".15\"/>\
         <path d=\"{line}\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.5\" stroke-linecap=\"round\" \
         stroke-linejoin=\"round\" vector-effect=\"non-scaling-stroke\"/></svg>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_has_no_line_and_a_lone_value_is_a_dot() {
        let svg = sparkline(&[Some(0.0), Some(10.0), None, Some(5.0), None]);
        assert!(svg.contains("d=\"M0.0 22.5L30.0 1.5M90.0 12.0L90.0 12.0\""), "{svg}");
    }

    #[test]
    fn no_values_and_equal_values_are_drawn() {
        for values in [&[][..], &[None, None], &[Some(0.0)], &[Some(f64::INFINITY), Some(1.0)]] {
            let svg = sparkline(values);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
