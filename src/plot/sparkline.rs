//! A line of the height of a word.

use std::fmt::Write as _;

use super::count;

/// The space for a value, and the height: in whole numbers, which are short. A page gives the drawing another size, and
/// strokes keep their width.
const STEP: usize = 2;
const HEIGHT: f64 = 40.0;

/// The space above the greatest and below the least value, so that no stroke is cut.
const MARGIN: f64 = 2.0;

/// Returns values, oldest first, as a small line with the area below it, from 0 or the least value to the greatest.
///
/// The line has a gap at a missing value, and the colour of the text around it. An upright stroke stands at the value
/// with the number `mark`. It is hidden from screen readers, so the caller must describe it in words.
pub fn sparkline(values: &[Option<f64>], mark: Option<usize>) -> String {
    let values: Vec<_> = values.iter().map(|value| value.filter(|value| value.is_finite())).collect();
    let (least, most) = values.iter().flatten().fold((0.0, 0.0), |(a, b): (f64, f64), v| (a.min(*v), b.max(*v)));
    let height = if most > least { (HEIGHT - 2.0 * MARGIN) / (most - least) } else { 0.0 };
    let y = |value: f64| format!("{:.0}", HEIGHT - MARGIN - (value - least) * height);
    let (mut line, mut area) = (String::new(), String::new());
    let mut before = 0;
    for run in values.chunk_by(|a, b| a.is_some() == b.is_some()) {
        let points = run.iter().enumerate().filter_map(|(index, value)| Some(((before + index) * STEP, y((*value)?))));
        let points: Vec<(usize, String)> = points.collect();
        before += run.len();
        let (Some((from, _)), Some((to, last))) = (points.first(), points.last()) else { continue };
        // Within a level stretch only its ends are drawn.
        let is_corner =
            |index: usize| match (index.checked_sub(1).and_then(|left| points.get(left)), points.get(index + 1)) {
                (Some((_, left)), Some((_, right))) => *left != points[index].1 || *right != points[index].1,
                _ => true,
            };
        let corners = (0..points.len()).filter(|index| is_corner(*index)).map(|index| &points[index]);
        let path = corners.map(|(x, y)| format!("{x} {y}")).collect::<Vec<_>>().join(" ");
        // A value between two gaps is a dot: a line of no length with round ends.
        let dot = if points.len() == 1 { format!(" {to} {last}") } else { String::new() };
        write!(line, "M{path}{dot}").expect("a string takes everything");
        write!(area, "M{from} {HEIGHT} {path} {to} {HEIGHT}Z").expect("a string takes everything");
    }
    let mark = mark.map_or_else(String::new, |mark| {
        let x = mark * STEP;
        format!(
            "<path d=\"M{x} 0V{HEIGHT}\" stroke=\"currentColor\" stroke-dasharray=\"2\" vector-effect=\"non-scaling-stroke\"/>"
        )
    });
    format!(
        "<svg class=\"sparkline\" viewBox=\"0 0 {width} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <path d=\"{area}\" fill=\"currentColor\" opacity=\".15\"/>\
         <path d=\"{line}\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"1.8\" stroke-linecap=\"round\" \
         stroke-linejoin=\"round\" vector-effect=\"non-scaling-stroke\"/>{mark}</svg>",
        width = count(values.len().saturating_sub(1).max(1) * STEP)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_stands_at_its_value() {
        let values = [Some(1.0), Some(2.0), Some(3.0)];
        assert!(sparkline(&values, Some(2)).contains("d=\"M4 0V40\""));
        assert!(!sparkline(&values, None).contains("0V40"));
    }

    #[test]
    fn a_gap_has_no_line_and_a_lone_value_is_a_dot() {
        let svg = sparkline(&[Some(0.0), Some(10.0), None, Some(5.0), None], None);
        assert!(svg.contains("d=\"M0 38 2 2M6 20 6 20\""), "{svg}");
    }

    #[test]
    fn of_a_level_stretch_the_ends_are_drawn() {
        let svg = sparkline(&[Some(5.0), Some(5.0), Some(5.0), Some(5.0), Some(10.0), Some(10.0)], None);
        assert!(svg.contains("d=\"M0 20 6 20 8 2 10 2\""), "{svg}");
    }

    #[test]
    fn no_values_and_equal_values_are_drawn() {
        for values in [&[][..], &[None, None], &[Some(0.0)], &[Some(f64::INFINITY), Some(1.0)]] {
            let svg = sparkline(values, None);
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
