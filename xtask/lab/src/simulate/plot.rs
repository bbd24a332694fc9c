//! False rollback against time to rollback, as an SVG: the nearer to the lower left corner, the
//! better.

use std::fmt::Write;

use super::cells::Cell;
use super::gate::Contender;
use super::play::End;
use super::scenario::Deserves;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 520.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 64.0;
/// The shortest and the longest time, in seconds.
const TIMES: (f64, f64) = (10.0, 7_200.0);

/// The regressions that make one point each.
const POINTS: [(&str, f64, &str); 4] = [
    ("100 % errors", 20.0, "100 %"),
    ("20 %", 20.0, "20 %"),
    ("p99 doubles", 20.0, "p99×2"),
    ("2 % (twice the budget)", 20.0, "2 %"),
];

/// What the points are.
const WHAT: &str = "20 requests a second; points are 100 % errors, 20 %, p99 doubled and 2 % \
                    (twice the budget)";

/// The axes.
const ACROSS: &str = "median time to rollback of a bad version";
const UPWARDS: &str = "false rollback, mean over all cells that deserve trust";

/// A colour for each gate.
fn colour(gate: Contender) -> &'static str {
    match gate {
        Contender::Flagger => "#8c564b",
        Contender::Argo => "#ff7f0e",
        Contender::ArgoMissingPasses => "#e0a400",
        Contender::Kayenta => "#7f7f7f",
        Contender::Serin => "#1f77b4",
        _ => "#17becf",
    }
}

/// The plot of all gates: each false rollback share is the mean over all cells whose canary
/// deserves trust; each point is one regression's median time.
pub fn svg(cells: &[Cell]) -> String {
    let mut text = String::new();
    text.push_str(r#"<svg xmlns="http://www.w3.org/2000/svg""#);
    let _ = writeln!(
        text,
        r##" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>
<text x="{LEFT}" y="24" font-size="16">False rollback against time to rollback</text>
<text x="{LEFT}" y="42" fill="#555">{WHAT}</text>"##
    );
    axes(&mut text);
    for gate in Contender::COLUMNS {
        series(&mut text, cells, gate);
    }
    text.push_str("</svg>\n");
    text
}

fn x(seconds: f64) -> f64 {
    let place = (seconds.clamp(TIMES.0, TIMES.1) / TIMES.0).ln() / (TIMES.1 / TIMES.0).ln();
    LEFT + place * (WIDTH - LEFT - RIGHT)
}

/// The square root makes room near 0, where gates should be.
fn y(share: f64) -> f64 {
    HEIGHT - BOTTOM - share.clamp(0.0, 1.0).sqrt() * (HEIGHT - TOP - BOTTOM)
}

fn axes(text: &mut String) {
    for (seconds, label) in [
        (10.0, "10 s"),
        (15.0, "15 s"),
        (60.0, "1 min"),
        (300.0, "5 min"),
        (600.0, "10 min"),
        (1_800.0, "30 min"),
        (7_200.0, "2 h"),
    ] {
        let _ = write!(
            text,
            r##"<line x1="{0:.1}" y1="{TOP}" x2="{0:.1}" y2="{1:.1}" stroke="#ddd"/>"##,
            x(seconds),
            y(0.0)
        );
        let _ = writeln!(
            text,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
            x(seconds),
            y(0.0) + 18.0
        );
    }
    for percent in [0, 1, 5, 10, 25, 50, 100] {
        let colour = if percent == 1 { "#c00" } else { "#ddd" };
        let height = y(f64::from(percent) / 100.0);
        let _ = write!(
            text,
            r#"<line x1="{LEFT}" y1="{height:.1}" x2="{:.1}" y2="{height:.1}" stroke="{colour}"/>"#,
            WIDTH - RIGHT
        );
        let _ = writeln!(
            text,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{percent} %</text>"#,
            LEFT - 8.0,
            height + 4.0
        );
    }
    let _ = writeln!(
        text,
        r#"<text x="{:.1}" y="{:.1}" text-anchor="middle">{ACROSS}</text>"#,
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 16.0
    );
    let middle = f64::midpoint(TOP, HEIGHT - BOTTOM);
    let turned = format!("rotate(-90 18 {middle:.1})");
    let _ = writeln!(
        text,
        r#"<text x="18" y="{middle:.1}" text-anchor="middle" transform="{turned}">{UPWARDS}</text>"#
    );
}

fn series(text: &mut String, cells: &[Cell], gate: Contender) {
    let trusted: Vec<f64> = cells
        .iter()
        .filter(|cell| cell.scenario.deserves == Deserves::Trust)
        .map(|cell| cell.of(gate).share(End::RolledBack))
        .collect();
    let share = trusted.iter().sum::<f64>() / trusted.len().max(1) as f64;
    let colour = colour(gate);
    let height = y(share);
    let points: Vec<(f64, &str)> = POINTS
        .iter()
        .filter_map(|(name, rate, label)| {
            let cell = cells
                .iter()
                .find(|cell| cell.scenario.name == *name && (cell.rate - rate).abs() < 0.1)?;
            Some((f64::from(cell.of(gate).rollback_after(0.5)?), *label))
        })
        .collect();
    let (Some(first), Some(last)) = (
        points.iter().map(|point| point.0).reduce(f64::min),
        points.iter().map(|point| point.0).reduce(f64::max),
    ) else {
        return;
    };
    let _ = write!(
        text,
        r#"<line x1="{:.1}" y1="{height:.1}" x2="{:.1}" y2="{height:.1}" "#,
        x(first),
        x(last)
    );
    let _ = writeln!(
        text,
        r#"stroke="{colour}" stroke-width="2" opacity="0.5"/>"#
    );
    for (seconds, label) in points {
        let _ = write!(
            text,
            r#"<circle cx="{0:.1}" cy="{height:.1}" r="5" fill="{colour}"/><text x="{0:.1}""#,
            x(seconds)
        );
        let _ = writeln!(
            text,
            r#" y="{:.1}" text-anchor="middle" fill="{colour}" font-size="10">{label}</text>"#,
            height - 9.0
        );
    }
    let place = gate.place() as f64;
    let _ = write!(
        text,
        r#"<circle cx="{:.1}" cy="{:.1}" r="5" fill="{colour}"/>"#,
        WIDTH - RIGHT + 18.0,
        TOP + 12.0 + place * 20.0
    );
    let _ = writeln!(
        text,
        r#"<text x="{:.1}" y="{:.1}">{}, {:.1} %</text>"#,
        WIDTH - RIGHT + 28.0,
        TOP + 16.0 + place * 20.0,
        gate.name(),
        share * 100.0
    );
}
