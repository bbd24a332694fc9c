//! Line graphs as SVG, drawn without a library.

use std::fmt::Write as _;

use super::html::escape;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
/// Room for the labels of the axes.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// Colours that people with any colour vision tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000",
];

/// One line of a graph.
pub(super) struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// A graph. Marks of the x axis are places and their labels.
pub(super) struct Graph<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub marks: Vec<(f64, String)>,
    pub lines: Vec<Line>,
}

impl Graph<'_> {
    /// The graph as an `svg` element; nothing where no line has a point.
    pub(super) fn draw(&self) -> String {
        let points = || {
            self.lines
                .iter()
                .flat_map(|line| line.points.iter().copied())
        };
        let xs = points()
            .map(|point| point.0)
            .chain(self.marks.iter().map(|mark| mark.0));
        let (low, high) = xs.fold((f64::MAX, f64::MIN), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        if points().next().is_none() {
            return String::new();
        }
        let top = nice(points().map(|point| point.1).fold(0.0, f64::max));
        let place_x = |x: f64| LEFT + (x - low) / (high - low).max(1e-12) * (WIDTH - LEFT - RIGHT);
        let place_y = |y: f64| HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM);

        // Writing to a String cannot fail.
        let mut svg = format!(
            "<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{}\">",
            escape(self.title),
            escape(self.title)
        );
        for step in 0..=4 {
            let value = top * f64::from(step) / 4.0;
            let y = place_y(value);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{y:.1}\" \
                 y2=\"{y:.1}\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                y + 4.0,
                short(value)
            );
        }
        let floor = HEIGHT - BOTTOM;
        for (x, label) in &self.marks {
            let x = place_x(*x);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" \
                 y2=\"{floor:.1}\"/><text x=\"{x:.1}\" y=\"{:.1}\" \
                 text-anchor=\"middle\">{}</text>",
                floor + 16.0,
                escape(label)
            );
        }
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text><text x=\"12\" \
             y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 12 {:.1})\">{}</text>",
            f64::midpoint(LEFT, WIDTH - RIGHT),
            HEIGHT - 6.0,
            escape(self.x),
            f64::midpoint(TOP, floor),
            f64::midpoint(TOP, floor),
            escape(self.y)
        );
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let _ = write!(svg, "<polyline stroke=\"{colour}\" points=\"");
            for (x, y) in &line.points {
                let _ = write!(svg, "{:.1},{:.1} ", place_x(*x), place_y(*y));
            }
            svg += "\"/>";
        }
        svg += "</svg><p class=\"legend\">";
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            let _ = write!(
                svg,
                "<span><i style=\"background:{colour}\"></i>{}</span> ",
                escape(&line.name)
            );
        }
        svg + "</p></figure>"
    }
}

/// The next of 1, 2, 2.5, 5 × 10ⁿ: an axis whose quarters are readable.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    steps
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(10.0 * power)
}

fn short(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_readable_numbers() {
        for (value, end) in [
            (0.0, 1.0),
            (0.07, 0.1),
            (1.0, 1.0),
            (13.0, 20.0),
            (21.0, 25.0),
            (260.0, 500.0),
            (501.0, 1000.0),
        ] {
            assert!((nice(value) - end).abs() < 1e-9, "{value}: {}", nice(value));
        }
        assert_eq!(
            (short(2.5), short(100.0), short(0.025)),
            ("2.5".into(), "100".into(), "0.025".into())
        );
    }

    #[test]
    fn lines_keep_inside_their_frame_and_names_are_escaped() {
        let graph = Graph {
            title: "a < b",
            x: "x",
            y: "y",
            marks: vec![(0.0, "0".into()), (2.0, "2".into())],
            lines: vec![Line {
                name: "<script>".into(),
                points: vec![(0.0, 0.0), (2.0, 10.0)],
            }],
        };
        let svg = graph.draw();
        assert!(svg.contains("points=\"70.0,260.0 704.0,12.0 \""), "{svg}");
        assert!(
            svg.contains("a &lt; b") && svg.contains("&lt;script&gt;") && !svg.contains("<script")
        );
        let empty = Graph {
            lines: vec![],
            ..graph
        };
        assert_eq!(empty.draw(), "");
    }
}
