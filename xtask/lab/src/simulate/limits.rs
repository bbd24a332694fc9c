//! What no test can beat: the requests that a certainty costs.
//!
//! A sequential test that rejects "at most `p0`" wrongly with probability at most `α`, and rightly
//! for sure, needs at a true share `p` at least `ln(1/α) / KL(p ‖ p0)` requests on average (Wald
//! 1945, with his approximations made exact by Lorden 1971). Tests of power a little below 1 may be
//! a little faster; none is by much.

use serin::gate::GatePolicy;

use super::gate::STEPS;
use super::serin::{BUDGET, GATES};

/// The certainties of Serin's own gates.
fn policy() -> GatePolicy {
    GatePolicy::new(BUDGET, GATES, STEPS.len() as u32)
}

/// Kullback-Leibler divergence of two shares, in nats.
fn divergence(p: f64, p0: f64) -> f64 {
    let term = |a: f64, b: f64| if a > 0.0 { a * (a / b).ln() } else { 0.0 };
    term(p, p0) + term(1.0 - p, 1.0 - p0)
}

/// Canary requests that proving a share of `p` to be over the budget takes on average.
pub fn to_fail(p: f64) -> f64 {
    policy().fail_threshold().ln() / divergence(p, BUDGET)
}

/// Canary requests that proving a share of `p` to fit the budget at `weight` percent takes on
/// average.
pub fn to_pass(p: f64, weight: u8) -> f64 {
    (1.0 / policy().beta).ln() / divergence(p, BUDGET * 100.0 / f64::from(weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_budget_takes_thirteen_hundred_requests() {
        assert!((to_fail(0.02) - 1_354.0).abs() < 5.0, "{}", to_fail(0.02));
        // The design's figure is that of one gate.
        assert!((100.0_f64.ln() / divergence(0.02, 0.01) - 1_177.0).abs() < 5.0);
        assert!((to_pass(0.0, 100) - 298.0).abs() < 1.0);
    }
}
