//! Writes that the API server refused. They are remembered until they succeed, and tried again with
//! growing pauses.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::error::ApplyError;
use crate::{api::Revision, k8s::shortened, observe::Refusal};

/// Pause after the first refusal of an object. Each further one doubles it, up to
/// [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause before a refused object is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The same for an object that requests depend on: the model's address has to answer soon after the
/// object may be written again.
const LONGEST_PAUSE_OF_TRAFFIC: Duration = Duration::from_secs(8);
/// Longest pause before an object that is being deleted is looked for again.
const DELETION_PAUSE: Duration = Duration::from_secs(2);
/// Failures in a row after which a transient failure is shown: with pauses of 0.5, 1 and 2 s.
const SHOWN_AFTER: u32 = 3;

/// The refused objects of every model, by namespace and name.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<(String, String), BTreeMap<String, Attempts>>>);

/// An object that was refused, and when it is tried again.
struct Attempts {
    refusal: Refusal,
    /// What was sent. Another body is tried at once.
    body: Value,
    count: u32,
    again_at: Instant,
}

/// An object that is about to be written.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) kind: &'a str,
    pub(super) name: &'a str,
    pub(super) revision: Option<&'a Revision>,
    /// Whether the model's address depends on it: it belongs to the model itself, or to the version
    /// in force.
    pub(super) carries_traffic: bool,
}

impl Subject<'_> {
    fn key(self) -> String {
        format!("{}/{}", self.kind, self.name)
    }
}

impl Refusals {
    /// The refused objects, by kind and name.
    pub(super) fn of(&self, model: &(String, String)) -> Vec<Refusal> {
        let models = self.0.lock();
        let refused = models.get(model).into_iter().flat_map(BTreeMap::values);
        refused.map(|attempts| attempts.refusal.clone()).collect()
    }

    /// The time until the next attempt. `None` if nothing was refused.
    pub(super) fn next_attempt(&self, model: &(String, String)) -> Option<Duration> {
        let models = self.0.lock();
        let next = models.get(model)?.values().map(|at| at.again_at).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Whether the same body was refused and its pause is not over.
    pub(super) fn waits(&self, model: &(String, String), of: Subject<'_>, body: &Value) -> bool {
        let models = self.0.lock();
        let refused = models.get(model).and_then(|all| all.get(&of.key()));
        refused.is_some_and(|refused| refused.body == *body && Instant::now() < refused.again_at)
    }

    /// Notes a refusal, and returns it.
    pub(super) fn note(
        &self,
        model: &(String, String),
        of: Subject<'_>,
        body: Value,
        error: &ApplyError,
    ) -> Refusal {
        let mut models = self.0.lock();
        let of_model = models.entry(model.clone()).or_default();
        let before = of_model.get(&of.key()).filter(|before| before.body == body);
        let count = before.map_or(1, |before| before.count.saturating_add(1));
        let refusal = Refusal {
            kind: of.kind.to_owned(),
            name: of.name.to_owned(),
            revision: of.revision.cloned(),
            reason: error.reason().to_owned(),
            words: shortened(&error.words()),
            transient: error.usually_passes() && count < SHOWN_AFTER,
        };
        let longest = match error {
            ApplyError::AwaitingDeletion { .. } => DELETION_PAUSE,
            _ if of.carries_traffic => LONGEST_PAUSE_OF_TRAFFIC,
            _ => LONGEST_PAUSE,
        };
        let pause = FIRST_PAUSE
            .saturating_mul(1 << (count - 1).min(10))
            .min(longest);
        let attempts = Attempts {
            refusal: refusal.clone(),
            body,
            count,
            again_at: Instant::now() + pause,
        };
        of_model.insert(of.key(), attempts);
        refusal
    }

    /// Removes an object that is now as wanted.
    pub(super) fn clear(&self, model: &(String, String), of: Subject<'_>) {
        let mut models = self.0.lock();
        if let Some(of_model) = models.get_mut(model) {
            of_model.remove(&of.key());
            if of_model.is_empty() {
                models.remove(model);
            }
        }
    }

    /// Removes objects that are no longer wanted.
    pub(super) fn keep_only(&self, model: &(String, String), wanted: &BTreeSet<String>) {
        let mut models = self.0.lock();
        if let Some(of_model) = models.get_mut(model) {
            of_model.retain(|key, _| wanted.contains(key));
            if of_model.is_empty() {
                models.remove(model);
            }
        }
    }

    /// Forgets a model that is gone.
    pub(super) fn forget(&self, model: &(String, String)) {
        self.0.lock().remove(model);
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::*;

    fn refused(code: u16, message: &str) -> ApplyError {
        let status = Status {
            code,
            message: message.to_owned(),
            ..Status::default()
        };
        ApplyError::refused("Deployment", "iris", kube::Error::Api(status.boxed()))
    }

    const IRIS: Subject<'_> = Subject {
        kind: "Deployment",
        name: "iris",
        revision: None,
        carries_traffic: false,
    };

    #[test]
    fn each_kind_of_refusal_has_its_reason() {
        #[rustfmt::skip]
        let table = [
            (403, "deployments.apps \"iris\" is forbidden: exceeded quota: few, requested: \
                   count/deployments.apps=1", "QuotaExceeded"),
            (403, "admission webhook \"images.example.com\" denied the request: \
                   no such registry", "AdmissionDenied"),
            (500, "Internal error occurred: failed calling webhook \
                   \"images.example.com\": timeout", "AdmissionDenied"),
            (422, "deployments.apps \"iris\" is forbidden: ValidatingAdmissionPolicy 'few' \
                   with binding 'few' denied request: no", "AdmissionDenied"),
            (422, "Deployment.apps \"iris\" is invalid: \
                   spec.template.spec: Invalid value", "ObjectInvalid"),
            (403, "deployments.apps \"iris\" is forbidden: \
                   User \"serin\" cannot patch resource", "Forbidden"),
            (503, "the server is currently unable to handle the request", "WriteRefused"),
        ];
        for (code, message, wanted) in table {
            assert_eq!(refused(code, message).reason(), wanted, "{code} {message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_object_is_tried_again_with_growing_pauses_and_another_one_at_once() {
        let refusals = Refusals::default();
        let model = ("ml".to_owned(), "iris".to_owned());
        let no = refused(403, "admission webhook \"w\" denied the request");
        for seconds in [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            refusals.note(&model, IRIS, json!(1), &no);
            let pause = refusals.next_attempt(&model).unwrap_or_default();
            assert!((pause.as_secs_f64() - seconds).abs() < 1e-6, "{pause:?}");
            assert!(refusals.waits(&model, IRIS, &json!(1)));
            assert!(!refusals.waits(&model, IRIS, &json!(2)), "another object");
            tokio::time::advance(pause).await;
            assert!(!refusals.waits(&model, IRIS, &json!(1)));
        }
        let carrying = Subject {
            carries_traffic: true,
            ..IRIS
        };
        refusals.note(&model, carrying, json!(1), &no);
        let pause = refusals.next_attempt(&model);
        assert_eq!(pause, Some(LONGEST_PAUSE_OF_TRAFFIC));
        refusals.clear(&model, IRIS);
        assert_eq!(refusals.of(&model), []);
        assert_eq!(refusals.next_attempt(&model), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_shown_when_it_lasts() {
        let refusals = Refusals::default();
        let model = ("ml".to_owned(), "iris".to_owned());
        let busy = refused(503, "busy");
        let shown = (0..4).map(|_| !refusals.note(&model, IRIS, json!(1), &busy).transient);
        assert_eq!(shown.collect::<Vec<_>>(), [false, false, true, true]);
        let no = refused(422, "invalid");
        assert!(!refusals.note(&model, IRIS, json!(2), &no).transient);
    }
}
