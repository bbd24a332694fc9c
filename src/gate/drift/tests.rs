use super::super::simulation::Random;
use super::*;

fn policy() -> GatePolicy {
    GatePolicy::new(0.2, 1, 4)
}

fn counts(counts: &[u64]) -> BTreeMap<String, u64> {
    (0..)
        .zip(counts)
        .map(|(class, n): (u32, _)| (class.to_string(), *n))
        .collect()
}

/// The class that a prediction falls into.
fn class(random: &mut Random, shares: &[f64]) -> usize {
    let mut at = random.uniform();
    let class = shares.iter().position(|share| {
        at -= share;
        at < 0.0
    });
    class.unwrap_or(shares.len() - 1)
}

fn draw(random: &mut Random, shares: &[f64], predictions: u64) -> Vec<u64> {
    let mut drawn = vec![0; shares.len()];
    for _ in 0..predictions {
        drawn[class(random, shares)] += 1;
    }
    drawn
}

/// Plays steps of 10, 25, 50 and 100 %, 20 scrapes of so many batches each, all rows of a batch of
/// one class and for one version; returns whether the gate ever failed.
fn fails(seed: u64, canary: &[f64], stable: &[f64], batches: u64, rows: u64) -> bool {
    let mut random = Random(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
    let mut state = DriftState::new();
    for weight in [10_u8, 25, 50, 100] {
        state.begin_step(weight);
        for _ in 0..20 {
            let mut of_canary = vec![0; canary.len()];
            let mut of_stable = vec![0; stable.len()];
            for _ in 0..batches {
                let (shares, counts) = if random.uniform() * 100.0 < f64::from(weight) {
                    (canary, &mut of_canary)
                } else {
                    (stable, &mut of_stable)
                };
                counts[class(&mut random, shares)] += rows;
            }
            state.observe(&counts(&of_canary), &counts(&of_stable), &policy());
            if state.judge(&policy()).verdict == GateVerdict::Fail {
                return true;
            }
        }
    }
    false
}

#[test]
fn versions_that_predict_alike_are_failed_in_less_than_one_rollout_of_a_hundred() {
    let ten = [0.1; 10];
    let two = [0.97, 0.03];
    for (shares, per_scrape) in [(&ten[..], 10), (&ten, 100), (&two, 10), (&two, 100)] {
        let failed = (0..500)
            .filter(|seed| fails(*seed, shares, shares, per_scrape, 1))
            .count();
        assert!(failed <= 5, "{failed} of 500");
    }
}

#[test]
fn nor_where_rows_come_in_batches() {
    let (ten, two) = ([0.1; 10], [0.9, 0.1]);
    for shares in [&ten[..], &two] {
        for (batches, rows) in [(1, 500), (3, 500), (10, 50), (30, 20), (100, 5)] {
            let failed = (0..300)
                .filter(|seed| fails(*seed, shares, shares, batches, rows))
                .count();
            assert!(failed <= 3, "{failed} of 300: {batches} batches of {rows}");
        }
    }
}

#[test]
fn a_bare_psi_would_alarm() {
    // What the proof is for: at 100 predictions of 10 classes, PSI alone exceeds 0.1 in most
    // samples.
    let ten = [0.1; 10];
    let mut random = Random(1);
    let alarms = (0..200)
        .filter(|_| {
            let mut state = DriftState::new();
            state.begin_step(50);
            let (canary, stable) = (draw(&mut random, &ten, 100), draw(&mut random, &ten, 1000));
            state.observe(&counts(&canary), &counts(&stable), &policy());
            state.distance().unwrap().psi > 0.1
        })
        .count();
    assert!(alarms > 40, "{alarms} of 200");
}

#[test]
fn a_version_that_predicts_otherwise_is_failed() {
    for (canary, stable) in [
        (&[0.5, 0.5][..], &[0.7, 0.3][..]),
        (&[0.2, 0.2, 0.2, 0.4], &[0.4, 0.2, 0.2, 0.2]),
        (&[1.0, 0.0], &[0.9, 0.1]),
    ] {
        let failed = (0..50)
            .filter(|seed| fails(*seed, canary, stable, 100, 1))
            .count();
        assert_eq!(failed, 50, "{canary:?}");
    }
}

#[test]
fn a_proven_difference_that_is_small_does_not_matter() {
    let mut state = DriftState::new();
    state.begin_step(50);
    for _ in 0..10 {
        let (canary, stable) = (counts(&[52_000, 48_000]), counts(&[50_000, 50_000]));
        state.observe(&canary, &stable, &policy());
    }
    let judged = state.judge(&policy());
    assert!(judged.evidence >= 100.0);
    assert_eq!(judged.verdict, GateVerdict::Pass);
}

fn labelled(fraud: u64, none: u64) -> BTreeMap<String, u64> {
    [("fraud".to_owned(), fraud), ("none".to_owned(), none)].into()
}

#[test]
fn batches_are_told() {
    let mut state = DriftState::new();
    state.begin_step(50);
    for scrape in 0..20 {
        // Each version has 100 of one class in every second scrape.
        let (fraud, none) = if scrape % 2 == 0 { (100, 0) } else { (0, 100) };
        state.observe(&labelled(fraud, none), &labelled(none, fraud), &policy());
    }
    let judged = state.judge(&policy());
    assert_eq!(judged.verdict, GateVerdict::Pass);
    // Shares of 1 and 0 around ½: 20 scrapes · 100 · ¼ / ¼ for each class, 1,999/2,000 of that,
    // over the 5 % quantile of χ² with 2·19 degrees of freedom, 24.88.
    let effect = judged.effect.unwrap();
    assert!((effect - 3_998.0 / 24.88).abs() < 0.1, "{effect}");
    let sentence = judged.sentence();
    assert!(
        sentence.contains("they come in batches, 161 count as one"),
        "{sentence}"
    );
}

#[test]
fn the_sentence_names_the_class_that_drifted() {
    let mut state = DriftState::new();
    state.begin_step(10);
    for _ in 0..9 {
        state.observe(&labelled(13, 29), &labelled(45, 334), &policy());
    }
    state.observe(&labelled(13, 29), &labelled(51, 338), &policy());
    assert_eq!(
        state.judge(&policy()).sentence(),
        "The predictions drifted: class \"fraud\" is 31 % of the canary's 420 predictions and 12 % \
         of stable's 3,800 (PSI 0.23 of 0.2, Jensen-Shannon divergence 0.04 of 0.02 bit). The \
         chance that two versions which predict alike look this different is under 1 in 1,000,000."
    );
}

#[test]
fn without_predictions_of_both_nothing_is_said() {
    let mut state = DriftState::new();
    state.begin_step(10);
    assert_eq!(state.judge(&policy()).verdict, GateVerdict::NeedMoreData);
    state.observe(&counts(&[100]), &counts(&[]), &policy());
    assert_eq!(state.judge(&policy()).verdict, GateVerdict::NeedMoreData);
    state.observe(&counts(&[]), &counts(&[1000]), &policy());
    assert_eq!(state.judge(&policy()).verdict, GateVerdict::Pass);
}

#[test]
fn a_thousand_classes_stay_bounded() {
    let mut state = DriftState::new();
    state.begin_step(50);
    for scrape in 0..10 {
        let many: BTreeMap<String, u64> = (0..1000)
            .map(|i| (format!("{}", i * 7 + scrape), 1))
            .collect();
        state.observe(&many, &many, &policy());
    }
    assert!(state.canary.len() <= MOST_CLASSES + 1);
    assert_eq!(total(&state.canary), 10_000);
    let judged = state.judge(&policy());
    assert_eq!(judged.verdict, GateVerdict::Pass);
}

#[test]
fn it_survives_status_in_the_middle_of_a_rollout() {
    let mut state = DriftState::new();
    for weight in [10, 50] {
        state.begin_step(weight);
        state.observe(&counts(&[30, 70]), &counts(&[33, 66]), &policy());
        let json = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<DriftState>(&json).unwrap(), state);
    }
}
