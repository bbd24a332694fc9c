//! Decisions as Events on the ModelDeployment, as `kubectl describe mdep` lists them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube_runtime::events::{Event, EventType, Recorder, Reporter};

use crate::{api::DecisionRecord, controller::status::is_warning, k8s::timely, sentences};

/// The API server refuses longer notes.
const NOTE_LIMIT: usize = 1000;

/// Publishes Events. One that cannot be published is logged; no reconcile fails for it.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Publishes in the name of the operator's pod.
    pub fn new(client: Client, pod: String) -> Self {
        let reporter = Reporter {
            controller: "serin-operator".to_owned(),
            instance: Some(pod),
        };
        Self {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Publishes a decision.
    pub async fn decision(&self, about: &ObjectReference, record: &DecisionRecord) {
        // The note is not part of what makes an Event a repetition of an earlier one, so version
        // and weight are part of the action.
        let action = format!("{}-{}-{}", record.action, record.version, record.weight);
        self.publish(
            about,
            is_warning(&record.action, record.verdict),
            &record.action,
            action,
            &sentences::note(record),
        )
        .await;
    }

    /// Publishes a problem that needs a person.
    pub async fn problem(&self, about: &ObjectReference, reason: &str, note: &str) {
        self.publish(about, true, reason, reason.to_owned(), note)
            .await;
    }

    async fn publish(
        &self,
        about: &ObjectReference,
        warning: bool,
        reason: &str,
        mut action: String,
        note: &str,
    ) {
        truncate(&mut action, 128);
        let mut note = note.to_owned();
        truncate(&mut note, NOTE_LIMIT);
        let event = Event {
            type_: if warning {
                EventType::Warning
            } else {
                EventType::Normal
            },
            reason: reason.to_owned(),
            note: Some(note),
            action,
            secondary: None,
        };
        match timely(self.recorder.publish(&event, about)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, reason, "cannot publish an Event"),
            Err(error) => tracing::warn!(%error, reason, "cannot publish an Event"),
        }
    }
}

/// Cuts a text to at most `limit` bytes, at a character's edge.
fn truncate(text: &mut String, limit: usize) {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}
