//! Kayenta's rules (spinnaker/kayenta: `NetflixACAJudge`, `MannWhitneyClassifier`, `MannWhitney`,
//! `WeightedSumScorer`; docs/canary-config.md), with one point a minute of the success rate
//! (direction `decrease`) and of p99 (`increase`):
//!
//! - NaN points are removed; a metric without points on either side is Nodata; identical points,
//!   and points that are all one value, Pass;
//! - else the Mann-Whitney U test by its normal approximation, with continuity and ties corrected,
//!   gives the 98 % confidence interval of the shift; High where its lower end is above a quarter
//!   of the Hodges-Lehmann estimate's size, Low where its upper end is below minus that. Where each
//!   side has one value only, Gaussian noise of 10⁻⁵ is added first; equal values aside that makes
//!   the sides separate completely, which is what is done here;
//! - the score is the share of metrics that Pass, of those that have data; 0 if half of all or more
//!   have none;
//! - each five minutes all points since the rollout began are judged ("growing" look-back): below
//!   `pass` (75) the rollout is rolled back. Two metrics score 100, 50 or 0, so `marginal` plays no
//!   part.

use super::gate::{Gate, Move, STEPS};
use super::prometheus::{Answer, Counters, Prometheus, Sample};

/// Seconds between two points.
const POINT: u32 = 60;
/// Seconds between two judgements.
const JUDGE: u32 = 300;
/// `scoreThresholds.pass`.
const PASS: f64 = 75.0;
/// The normal distribution's quantile for a confidence of 98 %: 1 % on either side.
const Z: f64 = 2.326_347_874;
/// The shift must exceed this part of its estimate.
const TOLERANCE: f64 = 0.25;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Increase,
    Decrease,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Pass,
    /// High where an increase is bad, Low where a decrease is.
    Worse,
    Nodata,
}

/// The points of one metric.
#[derive(Debug, Default)]
struct Points {
    canary: Vec<f64>,
    stable: Vec<f64>,
}

/// One rollout by a pipeline with Kayenta.
#[derive(Debug, Default)]
pub struct Kayenta {
    success_rate: Points,
    p99: Points,
    step: usize,
}

impl Gate for Kayenta {
    fn evaluate(&mut self, now: u32, prometheus: &Prometheus) -> Move {
        if !now.is_multiple_of(POINT) {
            return Move::Stay;
        }
        self.success_rate
            .take(|of| prometheus.success_rate(now, of));
        self.p99.take(|of| prometheus.p99(now, of));
        if !now.is_multiple_of(JUDGE) {
            return Move::Stay;
        }
        let classes = [
            self.success_rate.classify(Direction::Decrease),
            self.p99.classify(Direction::Increase),
        ];
        if score(&classes) < PASS {
            return Move::RollBack;
        }
        self.step += 1;
        STEPS
            .get(self.step)
            .map_or(Move::Promote, |weight| Move::Weight(*weight))
    }
}

impl Points {
    fn take(&mut self, query: impl Fn(fn(&Sample) -> &Counters) -> Answer) {
        for (points, answer) in [
            (&mut self.canary, query(|sample| &sample.canary)),
            (&mut self.stable, query(|sample| &sample.stable)),
        ] {
            match answer {
                Answer::Value(value) if !value.is_nan() => points.push(value),
                Answer::Value(_) | Answer::Empty | Answer::Unreachable => {}
            }
        }
    }

    fn classify(&self, direction: Direction) -> Class {
        let (canary, stable) = (sorted(&self.canary), sorted(&self.stable));
        let (Some(lowest), Some(_)) = (canary.first(), stable.first()) else {
            return Class::Nodata;
        };
        let one_value = canary
            .iter()
            .chain(&stable)
            .all(|value| value.total_cmp(lowest).is_eq());
        if one_value || canary == stable {
            return Class::Pass;
        }
        let shift = Shift::between(&canary, &stable);
        let limit = TOLERANCE * shift.estimate.abs();
        let worse = match direction {
            Direction::Increase => shift.lower > limit,
            Direction::Decrease => shift.upper < -limit,
        };
        if worse { Class::Worse } else { Class::Pass }
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// The summary score of one group of metrics, 0 to 100.
fn score(classes: &[Class]) -> f64 {
    let count = |class| classes.iter().filter(|other| **other == class).count() as f64;
    let (passed, worse, nodata) = (
        count(Class::Pass),
        count(Class::Worse),
        count(Class::Nodata),
    );
    if nodata / classes.len() as f64 >= 0.5 {
        return 0.0;
    }
    passed / (passed + worse) * 100.0
}

/// By how much one sample lies above another: the Hodges-Lehmann estimate and its confidence
/// interval.
#[derive(Debug)]
struct Shift {
    lower: f64,
    estimate: f64,
    upper: f64,
}

impl Shift {
    /// The ends are where the statistic, as a falling step function of the shift, crosses its
    /// quantiles, so they lie at differences between two points.
    fn between(canary: &[f64], stable: &[f64]) -> Self {
        let differences: Vec<f64> = canary
            .iter()
            .flat_map(|x| stable.iter().map(move |y| x - y))
            .collect();
        let differences = sorted(&differences);
        let just_above = 1e-9 * (differences[differences.len() - 1] - differences[0]).abs();
        let crossing = |quantile: f64| {
            let after = differences.partition_point(|shift| {
                statistic(shift + just_above, canary, stable) - quantile > 0.0
            });
            differences[after.min(differences.len() - 1)]
        };
        Self {
            lower: crossing(Z),
            estimate: crossing(0.0),
            upper: crossing(-Z),
        }
    }
}

/// The standardised U statistic of `canary − shift` against `stable`.
fn statistic(shift: f64, canary: &[f64], stable: &[f64]) -> f64 {
    let (nx, ny) = (canary.len() as f64, stable.len() as f64);
    let shifted: Vec<f64> = canary.iter().map(|x| x - shift).collect();
    let mut above = 0.0;
    for x in &shifted {
        for y in stable {
            above += match x.total_cmp(y) {
                _ if (x - y).abs() < 1e-12 => 0.5,
                std::cmp::Ordering::Greater => 1.0,
                _ => 0.0,
            };
        }
    }
    let all = sorted(&[shifted, stable.to_vec()].concat());
    let ties: f64 = all
        .chunk_by(|a, b| (a - b).abs() < 1e-12)
        .map(|tied| (tied.len() as f64).powi(3) - tied.len() as f64)
        .sum();
    let distance = above - nx * ny / 2.0;
    let correction = if distance == 0.0 {
        0.0
    } else {
        0.5 * distance.signum()
    };
    let n = nx + ny;
    let variance = nx * ny / 12.0 * (n + 1.0 - ties / (n * (n - 1.0)));
    if variance <= 0.0 {
        return 0.0;
    }
    (distance - correction) / variance.sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::gate::tests::{end, looks};
    use super::*;

    #[test]
    fn a_shift_lies_where_the_statistic_crosses_its_quantiles() {
        let canary = [1.1, 2.2, 3.3, 4.4, 5.5, 6.6];
        let stable = [0.5, 1.0, 1.5, 2.0, 2.5, 3.0];
        let shift = Shift::between(&canary, &stable);
        for (place, quantile) in [(shift.lower, Z), (shift.estimate, 0.0), (shift.upper, -Z)] {
            let at = |shift| statistic(shift, &canary, &stable);
            assert!(at(place - 1e-6) >= quantile, "{shift:?}");
            assert!(at(place + 1e-6) <= quantile, "{shift:?}");
        }
        // All of one sample above all of the other, by hand: U = 36, (36 − 18 − ½)/√(3·13).
        let apart = statistic(-10.0, &canary, &stable);
        assert!((apart - 17.5 / 39.0_f64.sqrt()).abs() < 1e-12, "{apart}");
    }

    #[test]
    fn five_points_a_side_are_worse_only_if_they_separate() {
        let points = |canary: [f64; 5]| Points {
            canary: canary.to_vec(),
            stable: vec![0.999, 1.0, 0.998, 0.9985, 0.9995],
        };
        let separate = points([0.8, 0.81, 0.79, 0.82, 0.8]).classify(Direction::Decrease);
        assert_eq!(separate, Class::Worse);
        let mixed = points([0.8, 0.81, 1.0, 0.999, 0.8]).classify(Direction::Decrease);
        assert_eq!(mixed, Class::Pass);
        let better = points([0.8, 0.81, 0.79, 0.82, 0.8]).classify(Direction::Increase);
        assert_eq!(better, Class::Pass);
    }

    #[test]
    fn one_bad_metric_of_two_fails_and_so_does_one_without_data() {
        assert!(score(&[Class::Pass, Class::Pass]) >= PASS);
        assert!(score(&[Class::Pass, Class::Worse]) < PASS);
        assert!(score(&[Class::Pass, Class::Nodata]) < PASS);
    }

    #[test]
    fn a_version_that_fails_a_fifth_is_rolled_back_at_the_first_judgement() {
        let bad = end(&mut Kayenta::default(), |second, prometheus| {
            looks(prometheus, second, 300, 60 + u64::from(second) % 7);
        });
        assert_eq!(bad, (Move::RollBack, 300));
        let good = end(&mut Kayenta::default(), |second, prometheus| {
            looks(prometheus, second, 300, 0);
        });
        assert_eq!(good, (Move::Promote, 1_200));
    }
}
