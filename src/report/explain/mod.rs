//! The text of `kubectl serin explain`: the last decisions with their evidence, what comes next,
//! what the user can do, and the values in force. It reads the ModelDeployment and the versions
//! that are kept.

mod in_force;
mod now;
mod page;
mod prospects;
mod verbs;

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::Value;

use self::{
    now::{standing, unverified},
    page::Page,
    prospects::{prospects, way_back},
    verbs::verbs,
};
use super::{figures_of, text::moment};
use crate::{
    api::{ModelDeployment, ModelDeploymentStatus, Revision, VersionSpec},
    k8s::KnownVersion,
};

/// Returns the last decisions of one model and its values in force as plain text of `width`
/// columns.
/// `stored` is its spec as the API server has it, `known` are the versions that are kept.
pub fn explain(
    model: &ModelDeployment,
    stored: &Value,
    known: &BTreeMap<Revision, KnownVersion>,
    now: Timestamp,
    width: usize,
) -> String {
    let name = model.name_any();
    let mut page = Page::new(now, width);
    page.line(&format!("{}/{name}", model.namespace().unwrap_or_default()));
    let desired = VersionSpec::of(&model.spec).revision();
    match &model.status {
        Some(status) => rollout(&mut page, model, status, known, now),
        None => page.paragraph(
            "The operator has not reconciled it yet: is it running, and does it watch this \
             namespace?",
        ),
    }
    in_force::write(&mut page, model, stored, known.get(&desired));
    page.text()
}

/// Writes where the rollout stands, what comes next, and what was decided.
fn rollout(
    page: &mut Page,
    model: &ModelDeployment,
    status: &ModelDeploymentStatus,
    known: &BTreeMap<Revision, KnownVersion>,
    now: Timestamp,
) {
    let name = model.name_any();
    let state = &status.state;
    let desired = VersionSpec::of(&model.spec).revision();
    let refused = state
        .refused
        .iter()
        .find(|refused| refused.revision == desired);
    page.heading("Now");
    page.paragraph(&standing(state, &model.spec, now));
    page.paragraph(&state.message);
    if let Some(at) = figures_of(status) {
        page.paragraph(&format!("These figures are of {}.", moment(at, now)));
    }
    for line in unverified(status, model.spec.serving.image.is_some()) {
        page.paragraph(&line);
    }
    for ignored in &state.invalid_annotations {
        page.paragraph(&format!("Ignored: {ignored}"));
    }
    page.heading("What comes next");
    for line in prospects(state, &model.spec.rollout, refused, now) {
        page.item(&line);
    }
    if state.stable.is_some() {
        page.item(&way_back(state, &model.spec, known, now));
    }
    page.heading("What you can do");
    let verbs = verbs(state, &model.spec.rollout, refused);
    let commands: Vec<String> = verbs
        .iter()
        .map(|(verb, _)| format!("kubectl serin {}", verb.replace("NAME", &name)))
        .collect();
    let column = commands.iter().map(String::len).max().unwrap_or(0) + 2;
    for (command, (_, effect)) in commands.iter().zip(&verbs) {
        page.labelled(2, &format!("{command:<column$}"), effect);
    }
    page.heading("Decisions, the newest first");
    if state.decisions.is_empty() {
        page.paragraph("None yet.");
    }
    for (index, record) in state.decisions.iter().enumerate().rev() {
        let before = index
            .checked_sub(1)
            .and_then(|before| state.decisions.get(before));
        page.decision(record, before);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
