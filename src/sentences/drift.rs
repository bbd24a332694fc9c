//! A judgement on predicted classes in words, with the numbers.

use super::numbers::{count, one_in, percent, short};
use crate::gate::{BIT_PER_PSI, DriftJudgement, GateVerdict};

/// From so many predictions that count as one on, the sentence says so: fewer may be what is not
/// known after few scrapes.
const TOLD_FROM: f64 = 4.0;

impl DriftJudgement {
    /// The limit in words.
    pub fn limit(&self) -> String {
        format!(
            "PSI below {} and Jensen-Shannon divergence below {} bit",
            short(self.max),
            short(self.max * BIT_PER_PSI)
        )
    }

    /// The judgement in words.
    pub fn sentence(&self) -> String {
        let (canary, stable) = self.predictions;
        if self.alone && self.verdict == GateVerdict::Pass {
            return "At 100 % there are no predictions of stable to compare with.".to_owned();
        }
        let Some(distance) = &self.compared else {
            return format!(
                "{} canary predictions and {} of stable: nothing to compare yet.",
                count(canary),
                count(stable)
            );
        };
        let batches = self
            .effect
            .filter(|effect| *effect >= TOLD_FROM)
            .map(|effect| format!("; they come in batches, {effect:.0} count as one"));
        let apart = format!(
            "PSI {} of {}, Jensen-Shannon divergence {} of {} bit{}",
            short(distance.psi),
            short(self.max),
            short(distance.js),
            short(self.max * BIT_PER_PSI),
            batches.unwrap_or_default(),
        );
        let most = format!(
            "class \"{}\" is {} of the canary's {} predictions and {} of stable's {}",
            distance.class,
            percent(distance.canary),
            count(canary),
            percent(distance.stable),
            count(stable)
        );
        match self.verdict {
            GateVerdict::Fail => format!(
                "The predictions drifted: {most} ({apart}). The chance that two versions which \
                 predict alike look this different is under {}.",
                one_in(self.evidence)
            ),
            GateVerdict::Pass => format!("The predictions are alike ({apart}): {most}."),
            GateVerdict::NeedMoreData if self.suspect => format!(
                "The predictions may have drifted: {most} ({apart}); by chance under {}, which is \
                 not proof; holding.",
                one_in(self.evidence)
            ),
            GateVerdict::NeedMoreData if canary >= self.needed => {
                format!(
                    "The predictions look different, which is not proven: {most} ({apart}); \
                     holding."
                )
            }
            GateVerdict::NeedMoreData => format!(
                "Too few predictions to tell, {} at least: {most} ({apart}).",
                count(self.needed)
            ),
        }
    }
}
