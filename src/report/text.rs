//! Formatting of text and numbers for a terminal.

use std::fmt::Write as _;

use jiff::{SignedDuration, Timestamp};

/// Columns of a text that is not written to a terminal.
const USUAL: usize = 100;
/// Most columns of a text: longer lines are hard to read.
const WIDEST: usize = 140;
/// A percent sign after a non-breaking space.
const UNIT_GLUE: &str = "\u{a0}%";
/// Fewest columns at which text is wrapped; in narrower terminals, lines overflow.
const NARROWEST: usize = 40;

/// Returns the columns of a text on standard output: the terminal's, at most [`WIDEST`].
pub fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(USUAL, |(width, _)| usize::from(width.0).min(WIDEST))
}

/// Writes `text` after `label`, wrapped at `width` columns. Further lines are indented by the
/// label's width.
pub(crate) fn labelled(out: &mut String, indent: usize, label: &str, text: &str, width: usize) {
    let depth = indent + label.chars().count();
    let room = width.saturating_sub(depth).max(NARROWEST);
    for (number, line) in wrapped(text, room).iter().enumerate() {
        // Writing into a String cannot fail, here and below.
        let _ = if number == 0 {
            writeln!(out, "{:indent$}{label}{line}", "")
        } else {
            writeln!(out, "{:depth$}{line}", "")
        };
    }
}

/// Breaks `text` into lines at spaces, and after commas within a word that is longer than a line (a
/// query). A part that is still longer stays whole.
pub(crate) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    // A number stays with its unit.
    let text = text.replace(" %", UNIT_GLUE);
    for word in text.split_ascii_whitespace() {
        let length = word.chars().count();
        let pieces: Vec<&str> = if length > room {
            word.split_inclusive(',').collect()
        } else {
            vec![word]
        };
        for (number, piece) in pieces.into_iter().enumerate() {
            let length = piece.chars().count();
            let gap = usize::from(number == 0 && used > 0);
            if used > 0 && used + gap + length > room {
                lines.push(String::new());
                used = 0;
            }
            if let Some(line) = lines.last_mut() {
                if gap == 1 && used > 0 {
                    line.push(' ');
                    used += 1;
                }
                line.push_str(&piece.replace(UNIT_GLUE, " %"));
                used += length;
            }
        }
    }
    lines
}

/// Formats a count with separators: "1,350".
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a share (0 to 1) in percent with at most three significant digits: "21.3 %", "0.04 %".
pub(crate) fn percent(share: f64) -> String {
    if share <= 0.0 {
        return "0 %".to_owned();
    }
    let percent = share * 100.0;
    let decimals = (2 - percent.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{percent:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text} %")
}

/// Formats a duration in its largest fitting unit: "45 s", "12 min", "3.5 h", "2 d".
pub(crate) fn span(time: SignedDuration) -> String {
    let seconds = time.as_secs_f64().abs();
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// Formats a duration of the spec, likewise.
pub(crate) fn declared(time: crate::api::Duration) -> String {
    span(SignedDuration::try_from(std::time::Duration::from(time)).unwrap_or(SignedDuration::MAX))
}

/// Formats a time and its distance from `now`: "14:02:11Z (3 min ago)", with the date where it is
/// not today.
pub(crate) fn moment(at: Timestamp, now: Timestamp) -> String {
    let today = at.strftime("%F").to_string() == now.strftime("%F").to_string();
    let form = if today { "%H:%M:%SZ" } else { "%F %H:%M:%SZ" };
    let away = now.duration_since(at);
    let mut text = at.strftime(form).to_string();
    let _ = if away.is_negative() {
        write!(text, " (in {})", span(away))
    } else {
        write!(text, " ({} ago)", span(away))
    };
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_for_people() {
        let counts = [0, 999, 1_350, 1_000_000].map(count);
        assert_eq!(counts, ["0", "999", "1,350", "1,000,000"]);
        let shares = [0.0, 0.000_4, 0.01, 0.213_4, 0.999_6, 1.0].map(percent);
        assert_eq!(shares, ["0 %", "0.04 %", "1 %", "21.3 %", "100 %", "100 %"]);
    }

    #[test]
    fn a_time_is_shown_with_its_distance() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let at = |text: &str| moment(text.parse().unwrap(), now);
        assert_eq!(at("2026-11-21T11:57:00Z"), "11:57:00Z (3 min ago)");
        assert_eq!(at("2026-11-21T12:00:15Z"), "12:00:15Z (in 15 s)");
        assert_eq!(
            at("2026-11-20T12:00:00Z"),
            "2026-11-20 12:00:00Z (24.0 h ago)"
        );
    }

    #[test]
    fn a_query_breaks_after_commas_and_still_parses() {
        let mut out = String::new();
        let query = concat!(
            r#"{__name__=~"requests|up",namespace="serin-system",pod=~"router-[a-z]+","#,
            r#"envoy_cluster_name=~"|ml/churn/bbbbbbbb"}[60s]"#,
        );
        labelled(&mut out, 2, "asked  ", query, 70);
        assert!(out.lines().all(|line| line.chars().count() <= 70), "{out}");
        assert_eq!(
            out.split_whitespace().skip(1).collect::<String>(),
            query,
            "nothing is lost"
        );
    }
}
