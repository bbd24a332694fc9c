//! Plain-text reports about rollouts for a terminal.

mod explain;
pub mod replay;
pub(crate) mod text;

use std::fmt::Write as _;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{ModelDeployment, ModelDeploymentStatus},
    sentences::named_among,
};

pub use explain::explain;
pub use text::terminal_width;

/// Returns the state, gates and decisions of one model's rollout as plain text, for `kubectl serin
/// status`.
pub fn report(model: &ModelDeployment) -> String {
    let mut text = String::new();
    // Writing into a String cannot fail, so the results below are dropped.
    let _ = writeln!(
        text,
        "{}/{}",
        model.namespace().unwrap_or_default(),
        model.name_any()
    );
    let Some(status) = &model.status else {
        let _ = writeln!(text, "  The operator has not reconciled it yet.");
        return text;
    };
    let state = &status.state;
    let _ = writeln!(text, "  Phase    {:?}", state.phase);
    if let Some(ready) = status
        .conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
    {
        let _ = writeln!(text, "  Ready    {} ({})", ready.status, ready.reason);
    }
    let canary_weight = state.canary.as_ref().map_or(0, |canary| canary.weight);
    if let Some(stable) = &state.stable {
        let weight = 100_u8.saturating_sub(canary_weight);
        let name = named_among(state.versions(), &stable.revision, &stable.version);
        let _ = writeln!(text, "  Stable   {name:<12} {weight:>3} %");
    }
    if let Some(canary) = &state.canary {
        let name = named_among(state.versions(), &canary.revision, &canary.version);
        let _ = writeln!(text, "  Canary   {name:<12} {canary_weight:>3} %");
        for gate in canary.progress.iter().flat_map(|progress| &progress.gates) {
            let _ = writeln!(text, "    {:<14} {}", gate.objective, gate.sentence);
        }
    }
    let _ = writeln!(text, "  Now      {}", state.message);
    if let Some(at) = figures_of(status) {
        let _ = writeln!(text, "  As of    {}", at.strftime("%F %TZ"));
    }
    if !state.refused.is_empty() {
        let _ = writeln!(text, "  Refused");
        for refused in &state.refused {
            let _ = writeln!(
                text,
                "    {} {:<12} {}",
                refused.at.strftime("%F %TZ"),
                refused.version,
                refused.reason
            );
        }
    }
    if !state.decisions.is_empty() {
        let _ = writeln!(text, "  Decisions");
        for record in &state.decisions {
            let _ = writeln!(
                text,
                "    {} {:<16} {:<10} {:>3} %  {}",
                record.at.strftime("%F %TZ"),
                record.action,
                record.version,
                record.weight,
                record.sentence
            );
        }
    }
    text
}

/// Of which time a status' figures are, where it has any.
fn figures_of(status: &ModelDeploymentStatus) -> Option<Timestamp> {
    let canary = status.state.canary.as_ref()?;
    canary.progress.as_ref()?;
    status.last_update_time
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_reads_from_phase_to_decisions() {
        let model = serde_json::from_value(serde_json::json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml"},
            "spec": {
                "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
            "status": {
                "phase": "Canary",
                "stable": {"revision": "aaaaaaaa", "version": "1"},
                "canary": {"revision": "bbbbbbbb", "version": "2", "weight": 10,
                    "since": "2026-01-01T00:00:00Z",
                    "progress": {"step": 0, "stepSince": "2026-01-01T00:00:00Z", "gates": [
                        {"objective": "errors", "sentence": "0 errors in 40 requests."},
                    ]}},
                "lastUpdateTime": "2026-01-01T00:00:40Z",
                "message": "0 errors in 40 requests.",
                "decisions": [{
                    "at": "2026-01-01T00:00:00Z", "action": "CanaryStarted", "version": "2",
                    "weight": 10,
                    "sentence": "Version 2 gets 10 % of the traffic.",
                }],
            },
        }))
        .unwrap();
        insta::assert_snapshot!(report(&model));
    }

    #[test]
    fn versions_of_one_name_are_told_apart_by_their_revisions() {
        let model = serde_json::from_value(serde_json::json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml"},
            "spec": {
                "model": {"uri": "file:///m", "version": "2", "digest": "sha256:0"},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
            "status": {
                "stable": {"revision": "aaaaaaaa", "version": "2"},
                "canary": {"revision": "bbbbbbbb", "version": "2", "weight": 10,
                    "since": "2026-01-01T00:00:00Z"},
            },
        }))
        .unwrap();
        let text = report(&model);
        assert!(text.contains("Stable   2 (aaaaaaaa)"), "{text}");
        assert!(text.contains("Canary   2 (bbbbbbbb)"), "{text}");
    }
}
