//! A HorizontalPodAutoscaler on a model's scale subresource: it scales by the load of the pods that
//! the subresource's selector finds, as a share of their requests.

use serde_json::{Value, json};
use serin::router::envoy::RouterModel;

use crate::{
    kinds::Kind,
    model_ref::ModelRef,
    objects::{Objects, label},
    routers::shares,
};

/// Requests per second that use all of one pod's resource requests.
pub const POD_CARRIES: u64 = 150;
/// Target utilisation of a pod, as a share of its resource requests.
const TARGET: f64 = 0.5;
/// Time between two looks, in milliseconds.
const PERIOD_MS: u64 = 15_000;
/// It scales down to the highest number that it recommended within this time, in milliseconds.
const STABILIZATION_MS: u64 = 30_000;
/// The least and the most pods.
const BOUNDS: (u64, u64) = (1, 10);

/// The autoscaler of one model.
pub struct Hpa {
    model: ModelRef,
    /// When it looks next.
    next_ms: u64,
    recommended: Vec<(u64, u64)>,
    /// What it set `spec.replicas` to: before, after.
    pub scaled: Vec<(u64, u64)>,
}

impl Hpa {
    pub fn new(model: ModelRef) -> Self {
        Self {
            model,
            next_ms: 0,
            recommended: Vec::new(),
            scaled: Vec::new(),
        }
    }

    /// Returns the least number of pods for `rate` requests per second.
    pub fn needed(rate: u64) -> u64 {
        rate.div_ceil(POD_CARRIES)
    }

    pub fn step(&mut self, objects: &mut Objects, routers: &[RouterModel], rate: u64, now_ms: u64) {
        if now_ms < self.next_ms {
            return;
        }
        self.next_ms = now_ms + PERIOD_MS;
        let Some(live) = self.model.of(objects) else {
            return;
        };
        let current = live["spec"]["replicas"].as_u64().unwrap_or(1);
        let Some(selector) = live["status"]["selector"].as_str() else {
            return;
        };
        let (ready, work) = self.measure(objects, routers, rate, selector);
        if ready == 0 {
            return;
        }
        if self.recommended.is_empty() {
            // It has run for a long time under this load.
            let before = rate as f64 / POD_CARRIES as f64 / TARGET;
            self.recommended.push((now_ms, before.ceil() as u64));
        }
        let ratio = work / (ready * POD_CARRIES) as f64 / TARGET;
        let wanted = if (ratio - 1.0).abs() <= 0.1 {
            current
        } else {
            (ready as f64 * ratio).ceil() as u64
        };
        self.recommended.push((now_ms, wanted));
        self.recommended
            .retain(|(ms, _)| ms + STABILIZATION_MS >= now_ms);
        let lately = self.recommended.iter().map(|(_, wanted)| *wanted).max();
        // Up at once, down only to the highest recent recommendation.
        let next = if wanted < current {
            lately.unwrap_or(wanted).min(current)
        } else {
            wanted
        };
        let next = next.clamp(BOUNDS.0, BOUNDS.1);
        if next == current {
            return;
        }
        self.scaled.push((current, next));
        "hpa".clone_into(&mut objects.actor);
        let key = self.model.key();
        objects.edit(&key, |model| model["spec"]["replicas"] = json!(next));
    }

    /// The ready pods that a selector finds, and the requests a second that they answer together.
    fn measure(
        &self,
        objects: &Objects,
        routers: &[RouterModel],
        rate: u64,
        selector: &str,
    ) -> (u64, f64) {
        let pods: Vec<&Value> = objects
            .of(Kind::Pod)
            .filter(|(key, _)| key.namespace == self.model.namespace)
            .map(|(_, pod)| &**pod)
            .filter(|pod| is_selected(pod, selector) && is_ready(pod))
            .collect();
        let its_revisions: std::collections::BTreeSet<&str> = pods
            .iter()
            .filter_map(|pod| label(pod, "serin.dev/revision"))
            .collect();
        let of_router = rate as f64 / routers.len().max(1) as f64;
        let sent = routers.iter().flat_map(|router| shares(router, self.model));
        let work = sent
            .filter(|(revision, _)| its_revisions.contains(revision))
            .map(|(_, weight)| of_router * weight as f64 / 100.0);
        (pods.len() as u64, work.sum())
    }
}

/// Whether a pod has all labels of a selector like `a=b,c=d`, or `a in (b,c)`.
fn is_selected(pod: &Value, selector: &str) -> bool {
    selector.split(',').all(|part| match part.split_once('=') {
        Some((name, value)) => label(pod, name) == Some(value),
        None => label(pod, part).is_some(),
    })
}

/// Whether a pod's Ready condition holds.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|one| one["type"] == "Ready" && one["status"] == "True")
}
