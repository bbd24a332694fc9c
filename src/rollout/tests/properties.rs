//! What holds in every life of a rollout, whatever happens and whatever people say.

use proptest::prelude::*;

use super::*;
use crate::api::{Approval, CanaryVersion, OnFailure, Pause, commands::Command};

/// What can happen between two looks.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Traffic {
        canary: (u64, u64),
        stable: (u64, u64),
    },
    Outage,
    Time(i64),
    Apply(u8),
    Health {
        version: u8,
        ready: i32,
        fails: bool,
        trouble: bool,
    },
    Pause(bool),
    Token(u8),
    /// Steps that wait for people, or do not.
    People {
        pause: bool,
        approval: bool,
        hold: bool,
    },
    /// A person sets an annotation, or takes all away.
    Say(u8, u8, u8),
    Unsay,
}

fn happening() -> impl Strategy<Value = Happening> {
    let tally = || (0_u64..2000, 0_u64..200).prop_map(|(n, k)| (n, k.min(n)));
    let weight = || prop_oneof![Just(10_u8), Just(50), Just(100)];
    prop_oneof![
        4 => (tally(), tally()).prop_map(|(canary, stable)| Happening::Traffic { canary, stable }),
        4 => (0_u64..300).prop_map(|n| Happening::Traffic { canary: (n, 0), stable: (n * 9, 0) }),
        1 => Just(Happening::Outage),
        3 => (1_i64..400).prop_map(Happening::Time),
        1 => (1_u8..4).prop_map(Happening::Apply),
        3 => (1_u8..4, 0_i32..3, prop::bool::weighted(0.05), prop::bool::weighted(0.3))
            .prop_map(|(version, ready, fails, trouble)| {
                Happening::Health { version, ready, fails, trouble }
            }),
        1 => any::<bool>().prop_map(Happening::Pause),
        1 => (0_u8..3).prop_map(Happening::Token),
        1 => any::<(bool, bool, bool)>()
            .prop_map(|(pause, approval, hold)| Happening::People { pause, approval, hold }),
        2 => (0_u8..4, 1_u8..4, weight()).prop_map(|(verb, version, weight)| {
            Happening::Say(verb, version, weight)
        }),
        1 => Just(Happening::Unsay),
    ]
}

fn command(verb: u8, version: u8, weight: u8) -> Command {
    let revision = World::revision(&version.to_string());
    match verb {
        0 => Command::Approve(revision, weight),
        1 => Command::Skip(revision, weight),
        2 => Command::PromoteFull(revision),
        _ => Command::Abort(revision),
    }
}

impl World {
    /// Lets it happen. Returns what the metrics then say.
    fn live_through(&mut self, happening: Happening) -> Result<Reading, BlindReason> {
        let rollout = &mut self.spec.rollout;
        match happening {
            Happening::Traffic { canary, stable } => return reading(canary, stable),
            Happening::Outage => return blind(),
            Happening::Time(seconds) => self.pass(seconds),
            Happening::Apply(version) => {
                let rollout = rollout.clone();
                self.spec = spec(&version.to_string());
                self.spec.rollout = rollout;
            }
            Happening::Health {
                version,
                ready,
                fails,
                trouble,
            } => {
                let health = VersionHealth {
                    ready,
                    endpoints: usize::try_from(ready).unwrap(),
                    unready: if trouble { 0 } else { 2 - ready },
                    trouble: trouble.then(|| PodProblem::Text("no node has room".to_owned())),
                    failure: fails.then(|| PodProblem::Text("it fails".to_owned())),
                    ..super::ready()
                };
                self.set_health(&version.to_string(), health);
            }
            Happening::Pause(paused) => rollout.paused = paused,
            Happening::Token(token) => rollout.retry_token = Some(token.to_string()),
            Happening::People {
                pause,
                approval,
                hold,
            } => {
                rollout.steps[0].pause = pause.then(Pause::default);
                rollout.approval = if approval {
                    Approval::BeforePromotion
                } else {
                    Approval::Never
                };
                rollout.on_failure = if hold {
                    OnFailure::Hold
                } else {
                    OnFailure::Rollback
                };
            }
            Happening::Say(verb, version, weight) => {
                let said = command(verb, version, weight);
                // An annotation holds one value.
                let annotation = said.annotation();
                let asked = &mut self.commands.asked;
                asked.retain(|other| other.annotation() != annotation);
                asked.push(said);
            }
            Happening::Unsay => self.commands.asked.clear(),
        }
        reading((0, 0), (0, 0))
    }

    fn has_capacity(&self, revision: &Revision) -> bool {
        self.health
            .get(revision)
            .is_some_and(|health| health.has_capacity(2))
    }

    /// Whether this is asked for and has not had its effect yet.
    fn is_asked(&self, before: &State, command: &Command) -> bool {
        self.commands.ask(command) && !before.handled_commands.contains(&command.to_string())
    }
}

fn weight(state: &State) -> u8 {
    state.canary.as_ref().map_or(0, |canary| canary.weight)
}

/// Leaving a step that waits for people takes one's yes, or one's skip.
fn is_agreed(world: &World, before: &State, canary: &CanaryVersion) -> bool {
    let Some(progress) = &canary.progress else {
        return true;
    };
    let (revision, weight) = (canary.revision.clone(), canary.weight);
    !world.spec.rollout.needs_approval(progress.step as usize)
        || progress.approved.is_some()
        || world.is_asked(before, &Command::Approve(revision.clone(), weight))
        || world.is_asked(before, &Command::Skip(revision, weight))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// The invariants of the design that a pure decision can break.
    #[test]
    fn every_life_keeps_the_invariants(happenings in prop::collection::vec(happening(), 1..120)) {
        let mut world = World::with_stable_v1();
        for happening in happenings {
            let reading = world.live_through(happening);
            let is_blind = reading.is_err();
            let before = world.state.clone();
            let actions = world.look(Some(reading));
            let after = &world.state;

            let steps = world.spec.rollout.steps.iter();
            let declared: Vec<u8> = steps.map(|step| step.weight).collect();
            let is_declared = weight(after) == 0 || declared.contains(&weight(after));
            prop_assert!(is_declared, "a declared weight");
            let stable_before = before.stable.clone().unwrap();
            let stable = after.stable.clone().unwrap();
            if weight(after) > weight(&before) {
                let canary = after.canary.clone().unwrap();
                let canary_before = before.canary.clone().unwrap();
                let had_weight = canary_before.progress.is_some();
                prop_assert!(world.has_capacity(&canary.revision), "weight only with capacity");
                prop_assert!(world.has_capacity(&stable.revision), "weight only with a way back");
                prop_assert!(!(is_blind && had_weight), "unknown data raises nothing");
                prop_assert!(!world.spec.rollout.paused, "paused raises nothing");
                prop_assert!(is_agreed(&world, &before, &canary_before), "people are waited for");
                let token = &world.spec.rollout.retry_token;
                prop_assert!(before.refused.iter().all(|refused| {
                    refused.revision != canary.revision || refused.retry_token != *token
                }), "no refused version");
            }
            if stable != stable_before {
                let canary = before.canary.clone().unwrap();
                let has_capacity = world.has_capacity(&stable.revision);
                prop_assert!(has_capacity, "all traffic only with capacity");
                if !world.is_asked(&before, &Command::PromoteFull(stable.revision.clone())) {
                    let is_proven = !is_blind && weight(&before) == 100;
                    prop_assert!(is_proven, "promotion follows from evidence at 100 %");
                    prop_assert!(!world.spec.rollout.paused, "paused promotes nothing");
                    prop_assert!(is_agreed(&world, &before, &canary), "people are waited for");
                }
                let mut retiring = after.retiring.iter();
                prop_assert!(retiring.any(|version| version.revision == stable_before.revision));
            }
            if actions.iter().any(|action| action == reasons::PLATFORM_TROUBLE) {
                let (now, then) = (&after.refused, &before.refused);
                prop_assert_eq!(now, then, "trouble is not remembered against a version");
                prop_assert!(after.postponed.is_some(), "it is tried again");
            }
            let is_under_way = after.canary.is_some() || !after.retiring.is_empty();
            prop_assert_eq!(after.replicas_floor.is_some(), is_under_way);
            if actions.iter().any(|action| action == reasons::ABORTED) {
                let revision = before.canary.clone().unwrap().revision;
                let is_asked = world.is_asked(&before, &Command::Abort(revision));
                prop_assert!(is_asked, "an abort has its effect once");
            }
            prop_assert!(after.retiring.iter().all(|retiring| retiring.revision != stable.revision
                && after.canary.as_ref().is_none_or(|canary| canary.revision != retiring.revision)),
                "what serves is not about to be scaled down");
            let are_few = after.decisions.len() <= 10 && after.refused.len() <= 20;
            prop_assert!(are_few && after.handled_commands.len() <= 4,
                "status is bounded");
        }
    }
}
