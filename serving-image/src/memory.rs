//! This process's memory, as the kernel counts it.

use std::fs;

/// Resident memory now, in bytes; `None` without `/proc`.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// The most that was ever resident, in bytes.
pub fn peak() -> Option<u64> {
    status("VmHWM:")
}

fn status(key: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_peak_is_at_least_what_is_resident() {
        let now = resident().unwrap();
        assert!(now > 1 << 20, "{now}");
        assert!(peak().unwrap() >= now);
    }
}
