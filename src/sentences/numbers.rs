//! Numbers as people write them.

use std::time::Duration;

/// "1 in 340", rounded so that the chance is not understated; no more than a million is claimed.
pub(super) fn one_in(evidence: f64) -> String {
    let evidence = evidence.clamp(1.0, 1e6);
    let unit = 10_f64.powi((evidence.log10().floor() as i32 - 1).max(0));
    format!("1 in {}", count(((evidence / unit).floor() * unit) as u64))
}

/// "request" or "requests".
pub(super) fn plural(requests: u64) -> &'static str {
    if requests == 1 { "request" } else { "requests" }
}

/// "1,350"
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A share in percent with two significant digits: "21 %", "9.5 %", "0.1 %".
pub(super) fn percent(share: f64) -> String {
    two_digits(share * 100.0, f64::round)
}

/// The same, rounded up: an upper bound must stay one.
pub(super) fn percent_up(share: f64) -> String {
    // The tolerance keeps 4.000000000000001 from becoming 4.1.
    two_digits(share * 100.0, |value| (value - 1e-9).ceil())
}

fn two_digits(percent: f64, round: impl Fn(f64) -> f64) -> String {
    if percent <= 0.0 {
        return "0 %".to_owned();
    }
    let scale = 10_f64.powi(1 - percent.log10().floor() as i32);
    format!("{} %", tidy(round(percent * scale) / scale))
}

/// Without the digits that only binary fractions need: 99.9, not 99.90000000000001.
pub(super) fn tidy(value: f64) -> f64 {
    (value * 1e9).round() / 1e9
}

/// A threshold as people write it: "250 ms", "1.5 s".
pub(super) fn span(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{} ms", tidy(time.as_secs_f64() * 1_000.0))
    } else {
        format!("{} s", tidy(time.as_secs_f64()))
    }
}

/// A time to wait, in its largest fitting unit: "45 s", "54 min", "6.1 h", "3 d".
pub(super) fn about(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..120.0 => format!("{seconds:.0} s"),
        ..7_200.0 => format!("{:.0} min", seconds / 60.0),
        ..172_800.0 => format!("{:.1} h", seconds / 3_600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

/// Two significant digits.
pub(super) fn short(value: f64) -> String {
    if value <= 0.0 {
        return "0".to_owned();
    }
    let scale = 10_f64.powi(1 - value.log10().floor() as i32);
    let value = (value * scale).round() / scale;
    format!("{}", (value * 1e9).round() / 1e9)
}
