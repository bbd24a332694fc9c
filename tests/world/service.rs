//! The Service that clients use gets another name in the middle of a rollout.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::{
    faults::{Fault, Faults, Window},
    kinds::{Key, Kind},
    model_ref::IRIS,
    replicas::Replicas,
    story::Story,
    tests::on_all_cores,
    world::{State, World},
};

/// When the spec gets the other name, in seconds.
const RENAMED_AT: u64 = 60;
/// The end, in seconds.
const END: u64 = 200;
/// For how long the new Service has led to the routers at least when the old one goes, in seconds.
const REPLACED_AFTER: u64 = 29;

/// Whether a Service of this name leads to the routers.
fn leads(state: &State, name: &str) -> bool {
    let service = state.objects.get(&Key::new(Kind::Service, "ml", name));
    let slice = Key::new(Kind::Slice, "ml", &format!("{name}-router"));
    let is_wired = |slice: &serde_json::Value| {
        let endpoints = slice["endpoints"].as_array();
        slice["metadata"]["labels"]["kubernetes.io/service-name"] == name
            && slice["ports"][0]["name"] == "http"
            && endpoints.is_some_and(|endpoints| !endpoints.is_empty())
    };
    service.is_some()
        && state
            .objects
            .get(&slice)
            .is_some_and(|slice| is_wired(slice))
}

/// Plays it, and returns the number of writes before the other name and in all.
fn play(faults: Faults) -> (u64, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stories = (0..Story::count()).map(Story::number);
        let story = stories.find(|story| story.name == "a version is promoted");
        let world = World::new(1, story, faults);
        let mut replicas = Replicas::new(world.clone(), 1);
        let begin = Instant::now();
        let (mut old_led, mut new_led_for, mut before) = (false, 0, 0);
        for second in 1..=END {
            world.with(|state| state.step(second));
            replicas.look(second, &[]);
            world.with(|state| {
                if second < RENAMED_AT {
                    before = state.faults.writes;
                }
                if second >= RENAMED_AT
                    && IRIS
                        .of(&state.objects)
                        .is_some_and(|model| model["spec"]["service"].is_null())
                {
                    "user".clone_into(&mut state.objects.actor);
                    let key = Key::new(Kind::Model, "ml", "iris");
                    state.objects.edit(&key, |model| {
                        model["spec"]["service"] = json!({"name": "flowers"});
                    });
                }
                let (old, new) = (leads(state, "iris"), leads(state, "flowers"));
                new_led_for = if new { new_led_for + 1 } else { 0 };
                assert!(
                    old || !old_led || new_led_for > REPLACED_AFTER,
                    "{second} s: the old name leads nowhere, the new one for {new_led_for} s"
                );
                old_led |= old;
            });
            tokio::time::sleep_until(begin + Duration::from_secs(second)).await;
        }
        world.with(|state| {
            assert!(old_led && leads(state, "flowers"));
            for (kind, name) in [(Kind::Service, "iris"), (Kind::Slice, "iris-router")] {
                assert_eq!(state.objects.get(&Key::new(kind, "ml", name)), None);
            }
            (before, state.faults.writes)
        })
    })
}

#[test]
fn a_crash_at_any_write_leaves_no_moment_without_a_name_that_leads_to_the_routers() {
    let (before, writes) = play(Faults::none(1));
    assert!(writes > before + 10, "{before} of {writes}");
    on_all_cores(2 * (writes - before), |job| {
        let fault = Fault::KillAt {
            write: before + job / 2 + 1,
            after: job % 2 == 1,
            away: 0,
        };
        let kill = Window {
            fault,
            from_ms: 0,
            to_ms: 600_000,
        };
        play(Faults::of(1, vec![kill]));
    });
}
