//! One world from its first second to its last.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::json;
use serin::{observe::MOST_IN_A_SECOND, runtime::leader::LEASE};
use tokio::time::Instant;

use crate::{
    endings,
    faults::{FROZEN_SECONDS, Fault, Faults},
    kinds::{Key, Kind},
    nodes::ROUTERS,
    operator::Routing,
    replicas::Replicas,
    story::Story,
    world::{Counts, State, World},
    written::Written,
};

/// A world that takes longer than this does not converge, in seconds.
const LONGEST: u64 = 4 * 3600;
/// Most reconciles after faults have stopped and the story is complete: two looks in each of a
/// rollout's 5 s intervals, and as many again for starting over. A version that never starts takes
/// 15 minutes of them.
const MOST_RECONCILES: u64 = 900;
/// Nothing may be written for this long after the end, in seconds.
const REST: u64 = 300;

/// How a world ended.
pub struct Outcome {
    /// Broken invariants.
    pub findings: Vec<String>,
    /// The journal.
    pub journal: Vec<String>,
    /// The objects that are left, without times and identities.
    pub end: BTreeSet<String>,
    pub counts: Counts,
    /// Changes that were checked.
    pub checked: u64,
    /// Its length, in seconds.
    pub seconds: u64,
    /// The most reconciles within a second.
    pub busiest: u64,
    /// Writes that operators tried before the first rest.
    pub writes: u64,
    /// Statuses and memories that were written.
    pub written: Vec<Written>,
}

/// Plays a world on a runtime of its own with paused time, which advances when nothing else can
/// run.
pub fn play(seed: u64, stories: impl IntoIterator<Item = Story>, faults: Faults) -> Outcome {
    play_by(Routing::ENVOY, seed, stories, faults)
}

/// The same with any router.
pub fn play_by(
    routing: Routing,
    seed: u64,
    stories: impl IntoIterator<Item = Story>,
    faults: Faults,
) -> Outcome {
    // The watches' backoff draws from this generator.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let world = runtime.block_on(async { World::routed(routing, seed, stories, faults) });
    runtime.block_on(live(seed, world))
}

async fn live(seed: u64, world: Arc<World>) -> Outcome {
    world.with(|state| {
        for index in 0..state.tales.len() {
            let Story { model, name, .. } = &state.tales[index].story;
            let title = format!("seed {seed}: {model}: {name}");
            state.note("", &title);
        }
        for window in state.faults.windows.clone() {
            let line = format!(
                "{:?} from {} s to {} s",
                window.fault,
                window.from_ms / 1000,
                window.to_ms / 1000
            );
            state.note("fault", &line);
        }
    });
    let mut replicas = Replicas::new(world.clone(), seed);
    let begin = Instant::now();
    let mut second = 0;
    // Reconciles and writes at the time from which nothing is left to be done.
    let mut calm: Option<Counts> = None;
    let mut busiest = 0;
    let mut rested_since: Option<(u64, Counts)> = None;
    loop {
        let mut begins = world.with(|state| one_second(state, second));
        if begins.contains(&Fault::Freeze) {
            world.with(|state| state.note("fault", "the operator stands still"));
            let each = |state: &mut State, second| begins.extend(one_second(state, second));
            world
                .outruns_the_operators(second, FROZEN_SECONDS, each)
                .await;
            world.with(|state| state.note("fault", "the operator resumes"));
            second += FROZEN_SECONDS;
        }
        replicas.look(second, &begins);
        let (done, over, counts) = world.with(|state| {
            let complete = state.tales.iter().all(|tale| tale.story.is_complete());
            let over = complete && state.faults.are_over();
            (over && state.is_done(), over, state.counts)
        });
        let looks = world.with(|state| {
            state
                .tales
                .iter_mut()
                .map(|tale| std::mem::take(&mut tale.looks))
                .max()
        });
        let looks = looks.unwrap_or(0);
        busiest = busiest.max(looks);
        // An operator begins 20 within a second at most. What is counted here are its requests,
        // some milliseconds later each: one more may arrive within the same second.
        if looks > ((MOST_IN_A_SECOND + 1) * replicas.present()) as u64 {
            world.with(|state| {
                let detail = format!("{looks} reconciles within a second");
                state.finds("converges-then-rests", &detail);
            });
            break;
        }
        if over {
            let since = calm.get_or_insert(counts);
            let needed = counts.reconciles - since.reconciles;
            if !done && (needed > MOST_RECONCILES || second > LONGEST) {
                world.with(|state| {
                    let detail = format!("not done after {needed} reconciles and {second} s");
                    state.finds("converges-then-rests", &detail);
                });
                break;
            }
        } else if second > LONGEST {
            world.with(|state| {
                let detail = format!("the story is not complete after {second} s");
                state.finds("converges-then-rests", &detail);
            });
            break;
        }
        match (done, rested_since) {
            (false, Some(_)) => {
                world.with(|state| {
                    state.finds("converges-then-rests", "what was done is undone");
                });
                break;
            }
            (true, None) => rested_since = Some((second, counts)),
            // The last writes may still be under way.
            (true, Some((since, _))) if second < since + 60 => {
                rested_since = Some((since, counts));
            }
            (true, Some((since, before))) if second >= since + 60 + REST => {
                if counts.writes != before.writes {
                    world.with(|state| {
                        let detail = format!("{} writes at rest", counts.writes - before.writes);
                        state.finds("converges-then-rests", &detail);
                    });
                }
                break;
            }
            _ => {}
        }
        second = begin.elapsed().as_secs() + 1;
        tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
    }
    drop(replicas);
    world.with(|state| {
        // The final objects are part of the journal: the same seed must end the same to the byte.
        let counts = state.counts;
        state.note("", &format!("{counts:?}"));
        Outcome {
            findings: (state
                .tales
                .iter()
                .flat_map(|tale| tale.invariants.findings.clone()))
            .collect(),
            journal: std::mem::take(&mut state.journal),
            end: endings::end(&state.objects),
            counts,
            checked: state.tales.iter().map(|tale| tale.invariants.checked).sum(),
            seconds: second,
            busiest,
            writes: state.faults.writes,
            written: std::mem::take(&mut state.written),
        }
    })
}

/// Plays one second of the world. Returns the faults that begin in it.
fn one_second(state: &mut State, second: u64) -> Vec<Fault> {
    state.step(second);
    let begins = state.faults.beginning();
    befall(state, &begins);
    begins
}

/// Starts the faults of the cluster.
fn befall(state: &mut State, begins: &[Fault]) {
    "fault".clone_into(&mut state.objects.actor);
    for fault in begins {
        match fault {
            Fault::RouterRestart => {
                state.traffic.restart_router(0);
                state.note("fault", "a router restarts");
            }
            Fault::Trip(seconds) => {
                let now_ms = state.objects.now_ms;
                if let Some(pod) = state.nodes.trip_a_pod(now_ms, seconds * 1000) {
                    state.note("fault", &format!("{pod} is not ready for {seconds} s"));
                }
            }
            Fault::LeaseDeleted => {
                let lease = Key::new(Kind::Lease, ROUTERS, LEASE);
                let _ = state.objects.delete(&lease);
            }
            Fault::Gone(_) => state.objects.oldest = state.objects.version(),
            _ => {}
        }
    }
    // Foreign labels on Serin's objects, which Serin must leave alone.
    let unmarked: Vec<_> = state
        .objects
        .all()
        .filter(|(key, object)| {
            matches!(key.kind, Kind::Deployment | Kind::Service | Kind::History)
                && object["metadata"]["annotations"]["example.com/foreign"].is_null()
        })
        .map(|(key, _)| key.clone())
        .collect();
    for key in unmarked {
        state.objects.edit(&key, |object| {
            object["metadata"]["labels"]["example.com/foreign"] = json!("kept");
            object["metadata"]["annotations"]["example.com/foreign"] = json!("kept");
        });
    }
}
