//! When a story has ended, and what its end is.

use std::collections::BTreeSet;

use crate::{invariants::text, kinds::Kind, objects::Objects, story::Story};

/// Whether nothing is left to be done.
pub fn is_done(objects: &Objects, story: &Story) -> bool {
    if story.ends_with_nothing() {
        let mut all = objects.all();
        return !all.any(|(key, object)| key.kind != Kind::Event && story.model.owns(key, object));
    }
    let Some(model) = story.model.of(objects) else {
        return false;
    };
    let status = &model["status"];
    let is_asleep = model["spec"]["replicas"] == 0 && status["phase"] == "Asleep";
    status["observedGeneration"] == model["metadata"]["generation"]
        && (status["phase"] == "Stable" || is_asleep)
        && status["canary"].is_null()
        && status["retiring"].is_null()
}

/// The end of a story for comparison: everything but times, identities and counts.
pub fn end(objects: &Objects) -> BTreeSet<String> {
    let mut end = BTreeSet::new();
    for (key, object) in objects.all() {
        let what = match key.kind {
            Kind::Event | Kind::Pod | Kind::Lease => continue,
            Kind::Model => {
                let status = &object["status"];
                let refused: BTreeSet<&str> = status["refused"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|refused| text(&refused["version"]))
                    .collect();
                let conditions: Vec<String> = status["conditions"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|one| {
                        format!(
                            "{}={}/{}",
                            text(&one["type"]),
                            text(&one["status"]),
                            text(&one["reason"])
                        )
                    })
                    .collect();
                format!(
                    "stable {} of {}, phase {}, refused {refused:?}, {conditions:?}, port {}",
                    text(&status["stable"]["version"]),
                    text(&object["spec"]["model"]["version"]),
                    text(&status["phase"]),
                    status["listenerPort"]
                )
            }
            Kind::Deployment => format!(
                "{} replicas, {} ready, owned {}",
                object["spec"]["replicas"],
                object["status"]["readyReplicas"],
                object["metadata"]["ownerReferences"]
                    .as_array()
                    .map_or(0, Vec::len)
            ),
            Kind::Slice => {
                let endpoints = object["endpoints"].as_array().map_or(0, Vec::len);
                format!("{endpoints} endpoints")
            }
            Kind::History => format!("number {}", object["revision"]),
            Kind::Service => format!("{}", object["spec"]["selector"]),
        };
        end.insert(format!("{key}: {what}"));
    }
    end
}
