//! The tests of the world: seeds, earlier findings and kills at each write.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    faults::{Fault, Faults, Window},
    kinds::Kind,
    prometheus::Illness,
    run::{Outcome, play},
    story::{Deed, Story, When},
};

/// Seeds without `SERIN_WORLD_SEEDS`, if there is time. Each takes 0.33 s of a core as `cargo xtask
/// test` compiles them.
const SEEDS: u64 = 2000;
/// Seeds that always run, however long they take.
const LEAST_SEEDS: u64 = 1000;
/// After this time no further seeds start: a busy machine runs fewer.
const LONG_ENOUGH: Duration = Duration::from_secs(8 * 60);

/// The number that an environment variable holds.
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text}: expected a number")),
    )
}

/// The stories of a seed. Only where reconciles of the model panic does it have a neighbour: kube's
/// queue is a HashSet, so the order of two models is random, and a seed should always play the
/// same.
fn stories(seed: u64) -> Vec<Story> {
    let panics = |window: &Window| matches!(window.fault, Fault::Panic(_));
    let mut stories = vec![Story::draw(seed)];
    if Faults::draw(seed).windows.iter().any(panics) {
        stories.push(Story::of_a_neighbour(seed));
    }
    stories
}

/// Plays a seed's world. Returns the outcome and the findings.
fn seed(seed: u64, ends: &Ends) -> (Outcome, Vec<String>) {
    let outcome = play(seed, stories(seed), Faults::draw(seed));
    let mut findings = outcome.findings.clone();
    let stories = stories(seed);
    let expected = stories.iter().flat_map(|story| ends.of(story)).collect();
    if findings.is_empty() && outcome.end != expected {
        let missing: Vec<_> = expected.difference(&outcome.end).collect();
        let added: Vec<_> = outcome.end.difference(&expected).collect();
        findings.push(format!(
            "same-end: \"{}\" ends with {added:#?} instead of {missing:#?}",
            stories[0].name
        ));
    }
    (outcome, findings)
}

/// Totals over all seeds.
#[derive(Default)]
struct Tally {
    /// Worlds.
    played: u64,
    /// Seconds of cluster time.
    lived: u64,
    /// Changes that were checked.
    checked: u64,
    /// Writes that operators sent.
    writes: u64,
    /// The most reconciles within a second, and the seed of them.
    busiest: (u64, u64),
    /// How often each fault occurred, by its number.
    faults: BTreeMap<u8, u64>,
}

/// The ends of stories without faults, each played once.
#[derive(Default)]
struct Ends(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Ends {
    fn of(&self, story: &Story) -> BTreeSet<String> {
        let title = format!("{}: {}", story.model, story.name);
        if let Some(known) = self.0.lock().unwrap().get(&title) {
            return known.clone();
        }
        let outcome = play(0, [story.clone()], Faults::none(0));
        let findings = outcome.findings;
        assert_eq!(findings, Vec::<String>::new(), "{title}, without faults");
        self.0.lock().unwrap().insert(title, outcome.end.clone());
        outcome.end
    }
}

/// Runs jobs on all cores.
pub fn on_all_cores(count: u64, job: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return;
                    }
                    job(index);
                }
            });
        }
    });
}

/// Formats a failing world: its log, the broken invariants, and the command that plays it again.
fn report(seed: u64, outcome: Option<&Outcome>, findings: &[String]) -> String {
    let log = outcome.map(|outcome| outcome.journal.join("\n"));
    format!(
        "{}\n\n{}\n\nto see it again: SERIN_WORLD_SEED={seed} cargo test -p serin --test world -- \
         one_seed --nocapture\n",
        log.unwrap_or_default(),
        findings.join("\n")
    )
}

/// Every story without faults: the invariants must hold there.
#[test]
fn every_story_ends_well_without_faults() {
    let failed = Mutex::new(Vec::new());
    on_all_cores(Story::count() as u64, |index| {
        let story = Story::number(index as usize);
        let name = story.name;
        let outcome = play(index, [story], Faults::none(index));
        if !outcome.findings.is_empty() {
            let text = format!(
                "{name}\n{}\n{:#?}",
                outcome.journal.join("\n"),
                outcome.findings
            );
            failed.lock().unwrap().push(text);
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn the_same_seed_gives_the_same_log_to_the_byte() {
    let alone = (0..).filter(|number| stories(*number).len() == 1);
    let elected = alone
        .clone()
        .filter(|number| Faults::draw(*number).have_elections());
    for number in alone.take(3).chain(elected.take(3)) {
        let first = play(number, stories(number), Faults::draw(number));
        let second = play(number, stories(number), Faults::draw(number));
        assert_eq!(first.journal.join("\n"), second.journal.join("\n"));
    }
}

#[test]
fn many_seeds_keep_every_invariant() {
    let asked = number("SERIN_WORLD_SEEDS");
    let most = asked.unwrap_or(SEEDS);
    let least = asked.unwrap_or(LEAST_SEEDS);
    let from = number("SERIN_WORLD_FROM").unwrap_or(0);
    let ends = Ends::default();
    let began = Instant::now();
    let failed = Mutex::new(Vec::new());
    let tally = Mutex::new(Tally::default());
    on_all_cores(most, |index| {
        if index >= least && began.elapsed() > LONG_ENOUGH {
            return;
        }
        let number = from + index;
        let played = catch_unwind(AssertUnwindSafe(|| seed(number, &ends)));
        let (outcome, findings) = match played {
            Ok((outcome, findings)) => (Some(outcome), findings),
            Err(_) => (None, vec!["the world panicked".to_owned()]),
        };
        if let Some(outcome) = &outcome
            && std::env::var_os("SERIN_WORLD_VERBOSE").is_some()
        {
            eprintln!(
                "seed {number}: {} s, {:?}, {findings:?}",
                outcome.seconds, outcome.counts
            );
        }
        let mut tally = tally.lock().unwrap();
        tally.played += 1;
        if let Some(outcome) = &outcome {
            tally.lived += outcome.seconds;
            tally.checked += outcome.checked;
            tally.writes += outcome.counts.writes;
            tally.busiest = tally.busiest.max((outcome.busiest, number));
        }
        for window in &Faults::draw(number).windows {
            *tally.faults.entry(window.fault.number()).or_default() += 1;
        }
        if !findings.is_empty() {
            let mut failed = failed.lock().unwrap();
            if failed.is_empty() {
                eprintln!("{}", report(number, outcome.as_ref(), &findings));
            }
            failed.push((number, findings));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let tally = tally.into_inner().unwrap();
    let count = tally.played;
    println!(
        "{count} seeds in {seconds:.1} s ({:.1} a second): {:.0} h of cluster time, {} writes of \
         the operator, {} changes checked; at most {} reconciles within a second (seed {}); faults \
         by number: {:?}",
        count as f64 / seconds,
        tally.lived as f64 / 3600.0,
        tally.writes,
        tally.checked,
        tally.busiest.0,
        tally.busiest.1,
        tally.faults
    );
    let mut failed = failed.into_inner().unwrap();
    failed.sort();
    let lines: Vec<String> = failed
        .iter()
        .map(|(seed, findings)| format!("seed {seed}: {}", findings[0]))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {count} seeds failed:\n{}",
        failed.len(),
        lines.join("\n")
    );
}

/// Plays the seed of `SERIN_WORLD_SEED` and prints its log; without it, seed 0 without a log.
#[test]
fn one_seed() {
    let asked = number("SERIN_WORLD_SEED");
    let (outcome, findings) = seed(asked.unwrap_or(0), &Ends::default());
    if asked.is_some() || !findings.is_empty() {
        println!("{}", outcome.journal.join("\n"));
    }
    assert!(findings.is_empty(), "{}", findings.join("\n"));
}

/// Faults, each with the seconds of its beginning and end.
type Between = &'static [(Fault, u64, u64)];

/// Bugs that seeds found and that are fixed, each as a minimal scenario.
#[test]
fn earlier_findings_stay_fixed() {
    const FOUND: [(&str, Between); 17] = [
        // A sentence with an age was written at each look, and each write caused the next look
        // (seed 31).
        (
            "a version is promoted",
            &[(Fault::Ill(Illness::Stale), 40, 200)],
        ),
        // The same between two leaders, about a clock that is off (seed 39).
        (
            "a version is promoted",
            &[(Fault::Clock(-3600), 30, 120), (Fault::TwoLeaders, 40, 100)],
        ),
        // All watches are opened again after 60 s; a missing answer left a cache unchanged for ever
        // (seed 111).
        ("21: paused and resumed", &[(Fault::Timeouts(1000), 59, 63)]),
        // A version is rolled back, scaled down, tried again; the first scale-down, given up long
        // before, arrives only then.
        (
            "a refused version is retried",
            &[(Fault::LateApplies(70), 40, 48)],
        ),
        // The operator restarted on an API server whose reads lag and whose watches do not. A read
        // from before the canary began scaled the canary down, and the Deployment's
        // resourceVersion, which was current, did not prevent it (seed 427).
        ("21: paused and resumed", &[(Fault::Behind(29), 34, 305)]),
        // The same with a read from before more replicas were asked for: stable shrank in
        // mid-rollout (seed 222).
        (
            "more replicas in mid-rollout",
            &[(Fault::Behind(12), 40, 120)],
        ),
        // The same with a read from before the model was made: the model counted as deleted, and
        // was never reconciled again (seed 409).
        (
            "a version that fails is rolled back",
            &[(Fault::Behind(31), 8, 107)],
        ),
        // Delayed writes arrived at rest and counted as new ones: a bug of the invariants (seed
        // 404).
        (
            "a version that fails is rolled back",
            &[(
                Fault::Late {
                    chance: 400,
                    seconds: 118,
                },
                20,
                90,
            )],
        ),
        // A freeze ended at once, and half an hour of failures with it: a bug of the world (seed
        // 468).
        ("21: paused, then failing", &[(Fault::Freeze, 51, 132)]),
        // The clock jumped by an hour, and the pods had not been Ready within the 15 minutes that
        // were left (seed 846).
        ("a version is promoted", &[(Fault::Clock(3600), 15, 60)]),
        // The same after a freeze: the pods had been Ready for half an hour, and the cache did not
        // show it yet (seed 1639).
        ("a version is promoted", &[(Fault::Freeze, 14, 15)]),
        // Two leaders, one of which did not know the version on trial, overwrote each other a
        // hundred times a second (seed 1587).
        (
            "24: invalid at 10 %, then fixed",
            &[
                (
                    Fault::Lag {
                        kind: Kind::History,
                        ms: 106_000,
                    },
                    9,
                    191,
                ),
                (Fault::TwoLeaders, 97, 367),
            ],
        ),
        // Replicas were changed, then the watches went silent: for a minute the cache knew of no
        // Ready pod, and a good version was rolled back (seed 226).
        (
            "fewer replicas in mid-rollout",
            &[(Fault::HalfOpen(1000), 47, 122)],
        ),
        // The watch of the history was late, and a version got the number of the one before it
        // (seed 1702).
        (
            "19: a new version while one is prepared",
            &[(
                Fault::Lag {
                    kind: Kind::History,
                    ms: 100_000,
                },
                9,
                30,
            )],
        ),
        // Replicas were lowered and raised again: a Deployment that had not been shrunk yet needed
        // no write, and the delayed scale-down took pods from a version with traffic.
        (
            "fewer replicas and more again in mid-rollout",
            &[(Fault::LateApplies(60), 14, 29)],
        ),
        // The clock was an hour ahead when a version got its weight, which then warmed up for that
        // hour (seed 949).
        (
            "a slow version is rolled back",
            &[(Fault::Clock(3600), 10, 107)],
        ),
        // The clock was an hour ahead when a version got its weight, and its failures were counted
        // an hour later.
        (
            "a version that fails is rolled back",
            &[(Fault::Clock(3600), 10, 107)],
        ),
    ];
    for (name, faults) in FOUND {
        let index = (0..Story::count()).find(|index| Story::number(*index).name == name);
        let index = index.unwrap();
        let windows = faults.iter().map(|(fault, from, to)| Window {
            fault: *fault,
            from_ms: from * 1000,
            to_ms: to * 1000,
        });
        let whole = play(1, [Story::number(index)], Faults::none(1));
        let hurt = play(1, [Story::number(index)], Faults::of(1, windows.collect()));
        let log = hurt.journal.join("\n");
        assert_eq!(hurt.findings, Vec::<String>::new(), "{log}");
        assert_eq!(hurt.end, whole.end, "{log}");
    }
}

/// However a leader ends, and whatever its clock shows, another leads within the lease's duration,
/// and not before the first has stopped.
#[test]
fn a_leader_that_dies_or_is_cut_off_is_replaced() {
    let faults = [0, 3600, -3600].map(Fault::Dies);
    for fault in faults.into_iter().chain([Fault::CutOff]) {
        let window = Window {
            fault,
            from_ms: 30_000,
            to_ms: 90_000,
        };
        let outcome = play(1, [Story::number(0)], Faults::of(1, vec![window]));
        let log = outcome.journal.join("\n");
        assert_eq!(outcome.findings, Vec::<String>::new(), "{log}");
        let second =
            |line: &String| -> f64 { line.split_whitespace().next().unwrap().parse().unwrap() };
        let mut lines = outcome.journal.iter();
        let ends = lines.find(|line| line.ends_with("leads no more"));
        let follows = lines.find(|line| line.ends_with(" leads"));
        let vacancy = second(follows.unwrap()) - second(ends.unwrap());
        assert!(vacancy <= 20.0, "{vacancy} s\n{log}");
    }
}

/// Routers whose operator is cut off: the operator ends, or recovers, before a version that they
/// know is deleted.
#[test]
fn routers_follow_a_rollback_while_their_operator_is_cut_off_or_its_watches_are_silent() {
    let window = |fault, from: u64, to: u64| Window {
        fault,
        from_ms: from * 1000,
        to_ms: to * 1000,
    };
    let mut stories = (0..Story::count()).map(Story::number);
    let bad = stories.find(|story| story.name == "a version that fails is rolled back");
    // The version gets its weight after 25 s, loses it after 35 s, and its pods after 55 s.
    for (fault, end) in [(Fault::StandbyCutOff, 200), (Fault::HalfOpen(1000), 34)] {
        for seed in 0..10 {
            let elected = window(Fault::LeaseDeleted, 1, 2);
            let faults = Faults::of(seed, vec![elected, window(fault, 30, end)]);
            let outcome = play(seed, bad.clone(), faults);
            let log = outcome.journal.join("\n");
            assert_eq!(outcome.findings, Vec::<String>::new(), "{fault:?}\n{log}");
        }
    }
}

/// A deadline of 60 s takes effect although the operator restarts every 40 s.
#[test]
fn a_deadline_continues_across_restarts() {
    let index = (0..Story::count()).find(|index| Story::number(*index).name.starts_with("46:"));
    let restart = |second: u64| Window {
        fault: Fault::Sigterm,
        from_ms: second * 1000,
        to_ms: second * 1000 + 1000,
    };
    let restarts = (1..=7).map(|number| restart(number * 40));
    let outcome = play(
        1,
        [Story::number(index.unwrap())],
        Faults::of(1, restarts.collect()),
    );
    let log = outcome.journal.join("\n");
    assert_eq!(outcome.findings, Vec::<String>::new(), "{log}");
    let when = |event: &str| -> f64 {
        let line = outcome.journal.iter().find(|line| line.contains(event));
        let seconds = line.unwrap().split_whitespace().next().unwrap();
        seconds.parse().unwrap()
    };
    let lasted = when("Event RolledBack") - when("Behave(");
    assert!(lasted < 100.0, "{lasted} s\n{log}");
}

/// A stable version whose every answer is an error: from the revert of the spec to 100 % on the
/// version before, whose pods are gone and start within 11 s.
#[test]
fn a_revert_takes_as_long_as_the_pods_of_the_version_before() {
    let is_it = |index: &usize| Story::number(*index).name.starts_with("back to a promoted");
    let index = (0..Story::count()).find(is_it).unwrap();
    let mut longest: f64 = 0.0;
    for seed in 0..20 {
        let outcome = play(seed, [Story::number(index)], Faults::none(seed));
        let log = outcome.journal.join("\n");
        assert_eq!(outcome.findings, Vec::<String>::new(), "{log}");
        let when = |event: &str| -> f64 {
            let mut newest_first = outcome.journal.iter().rev();
            let line = newest_first.find(|line| line.contains(event));
            let line = line.unwrap_or_else(|| panic!("no {event}\n{log}"));
            let seconds = line.split_whitespace().next().unwrap();
            seconds.parse().unwrap()
        };
        longest = longest.max(when("Event FastRollback ") - when("Apply(\"1\")"));
    }
    println!("at most {longest} s");
    assert!(longest < 16.0, "{longest} s");
}

/// Longer than a version keeps its pods.
const LONG_AWAY: u64 = 60;

/// A rollout, a rollback and a way back without steps, killed before and after each single write,
/// with no operator for a minute.
#[test]
fn killed_before_and_after_every_write() {
    let stories: Vec<usize> = (0..Story::count())
        .filter(|index| {
            [
                "a version is promoted",
                "a version that fails is rolled back",
                "back from a version whose every answer is an error",
            ]
            .contains(&Story::number(*index).name)
        })
        .collect();
    let mut jobs = Vec::new();
    let mut ends = BTreeMap::new();
    for story in stories {
        let whole = play(1, [Story::number(story)], Faults::none(1));
        assert_eq!(whole.findings, Vec::<String>::new());
        for write in 1..=whole.writes {
            let kills = [(false, 0), (true, 0), (true, LONG_AWAY)];
            jobs.extend(kills.map(|(after, away)| (story, Fault::KillAt { write, after, away })));
        }
        ends.insert(story, whole.end);
    }
    let failed = Mutex::new(Vec::new());
    on_all_cores(jobs.len() as u64, |index| {
        let (story, fault) = jobs[index as usize];
        let kill = Window {
            fault,
            from_ms: 0,
            to_ms: 600_000,
        };
        let outcome = play(1, [Story::number(story)], Faults::of(1, vec![kill]));
        let same = outcome.end == ends[&story];
        if !outcome.findings.is_empty() || !same {
            let text = format!(
                "{fault:?}\n{}\n{:#?}\nthe same end: {same}",
                outcome.journal.join("\n"),
                outcome.findings
            );
            failed.lock().unwrap().push(text);
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("killed {} times", jobs.len());
    assert!(
        failed.is_empty(),
        "{} of {} failed, the first:\n{}",
        failed.len(),
        jobs.len(),
        failed[0]
    );
}

/// A model that is put to sleep in the middle of a rollout, and not woken up.
#[test]
fn a_model_that_is_put_to_sleep_ends_asleep() {
    let chapters = [
        (When::Now, Deed::Apply("1")),
        (When::Serves("1"), Deed::Apply("2")),
        (When::Weighs("2", 10), Deed::Replicas(0)),
    ];
    let story = Story::of("asleep for good", &chapters, &[], |_| {});
    let outcome = play(1, [story], Faults::none(1));
    let log = outcome.journal.join("\n");
    assert_eq!(outcome.findings, Vec::<String>::new(), "{log}");
    let asleep = |end: &String| end.contains("phase Asleep");
    assert!(outcome.end.iter().any(asleep), "{:?}", outcome.end);
}
