//! Claims, each with the figure that was seen and the bound that it must keep.

use anyhow::{Result, bail};

/// The claims of one run.
#[derive(Default)]
pub struct Checks {
    lines: Vec<(bool, String)>,
}

impl Checks {
    /// A claim: what, what was seen, and whether it holds.
    pub fn claim(&mut self, holds: bool, what: impl Into<String>, seen: impl std::fmt::Display) {
        self.lines.push((holds, format!("{}: {seen}", what.into())));
    }

    /// A figure without a bound.
    pub fn note(&mut self, what: impl Into<String>, seen: impl std::fmt::Display) {
        self.lines.push((true, format!("{}: {seen}", what.into())));
    }

    /// Prints every line; an error if any claim did not hold.
    pub fn finish(self) -> Result<()> {
        println!();
        for (holds, line) in &self.lines {
            println!("  {} {line}", if *holds { '✓' } else { '✗' });
        }
        println!();
        let broken = self.lines.iter().filter(|(holds, _)| !holds);
        let broken: Vec<&str> = broken.map(|(_, line)| line.as_str()).collect();
        if !broken.is_empty() {
            // Again, since this is what the end of a log shows.
            bail!(
                "{} of {} claims did not hold: {}",
                broken.len(),
                self.lines.len(),
                broken.join("; ")
            );
        }
        println!("All {} claims hold.", self.lines.len());
        Ok(())
    }
}
