//! `history`: the versions that are kept as ControllerRevisions.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use kube::ResourceExt;

use crate::{
    api::{ModelDeployment, REVISION_LABEL, Revision, State, VersionSpec},
    k8s::{KnownVersion, is_child},
    sentences::named_among,
};

/// One kept version.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    /// Its digest.
    pub(super) revision: Revision,
    /// Its declaration: a spec with it has this revision.
    pub(super) declared: VersionSpec,
    /// When it was first started.
    since: Option<Timestamp>,
    /// Its record, unchanged.
    known: KnownVersion,
}

impl Entry {
    /// What people type for it: its version, with its revision where another entry has the same
    /// version.
    pub(super) fn name(&self, entries: &[Self]) -> String {
        let names: Vec<_> = entries.iter().map(|entry| entry.declared.name()).collect();
        let revisions = entries.iter().map(|entry| &entry.revision);
        let all = revisions.zip(names.iter().map(String::as_str));
        named_among(all, &self.revision, &self.declared.name())
    }

    /// Whether people mean it by this text: its version, or its revision.
    pub(super) fn is_called(&self, text: &str) -> bool {
        self.declared.name() == text || self.revision.0 == text
    }
}

/// The versions of these entries, as the operator knows them.
pub(super) fn known(entries: &[Entry]) -> BTreeMap<Revision, KnownVersion> {
    let known = entries
        .iter()
        .map(|entry| (entry.revision.clone(), entry.known.clone()));
    known.collect()
}

/// Returns the model's entries, oldest first. Unreadable ones are left out.
pub(super) fn entries(model: &ModelDeployment, found: Vec<ControllerRevision>) -> Vec<Entry> {
    let own = found.into_iter().filter(|found| is_child(found, model));
    let mut entries: Vec<_> = own.filter_map(|found| entry(&found)).collect();
    entries.sort_by_key(|entry| entry.known.number);
    entries
}

fn entry(found: &ControllerRevision) -> Option<Entry> {
    let revision = Revision(found.labels().get(REVISION_LABEL)?.clone());
    let since = found.creation_timestamp().map(|time| time.0);
    let known = KnownVersion::read(found).ok()?;
    Some(Entry {
        declared: as_declared(known.spec.clone(), &revision),
        revision,
        since,
        known,
    })
}

/// Removes what the operator filled in: image, port, and how the artefact is fetched. A spec that
/// declared them would have another revision.
fn as_declared(kept: VersionSpec, revision: &Revision) -> VersionSpec {
    let kept = VersionSpec {
        fetch: None,
        ..kept
    };
    let without = |image: bool, port: bool| {
        let mut declared = kept.clone();
        let serving = &mut declared.serving;
        serving.image = serving.image.take().filter(|_| !image);
        serving.port = serving.port.filter(|_| !port);
        declared
    };
    let declarations = [
        without(true, true),
        without(true, false),
        without(false, true),
    ];
    let mut declarations = declarations.into_iter();
    let declared = declarations.find(|declared| declared.revision() == *revision);
    declared.unwrap_or(kept)
}

/// The history as a table.
pub(super) fn table(model: &ModelDeployment, entries: &[Entry]) -> String {
    let nothing = State::default();
    let state = model
        .status
        .as_ref()
        .map_or(&nothing, |status| &status.state);
    let names: Vec<_> = entries.iter().map(|entry| entry.name(entries)).collect();
    let width = names.iter().map(|name| name.chars().count()).max();
    let width = width.unwrap_or_default().max("VERSION".len());
    let mut text = format!("{:<width$}  {:<20}  STATE\n", "VERSION", "SINCE");
    for (entry, name) in entries.iter().zip(names) {
        let since = entry
            .since
            .map(|since| since.strftime("%F %TZ").to_string());
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "{name:<width$}  {:<20}  {}",
            since.unwrap_or_default(),
            standing(state, &entry.revision)
        );
    }
    text
}

/// The state of a version in words.
pub(super) fn standing(state: &State, revision: &Revision) -> String {
    let is = |other: &Revision| other == revision;
    if state
        .stable
        .as_ref()
        .is_some_and(|stable| is(&stable.revision))
    {
        return "serves".to_owned();
    }
    if let Some(canary) = state.canary.as_ref().filter(|canary| is(&canary.revision)) {
        return format!("on trial at {} %", canary.weight);
    }
    if let Some(refused) = state.refused.iter().find(|refused| is(&refused.revision)) {
        return format!("refused: {}", refused.reason);
    }
    let warm = state.retiring.iter().any(|retiring| is(&retiring.revision));
    if warm {
        "kept, its pods still warm"
    } else {
        "kept"
    }
    .to_owned()
}
