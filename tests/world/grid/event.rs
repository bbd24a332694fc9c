//! The events of a cluster, and the states in which each is impossible.

use super::place::Place;
use crate::kinds::Kind;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    RoutersReplaced,
    OperatorReplaced,
    OperatorKilled,
    OperatorUpgraded,
    NodeDrained,
    PodEvicted,
    /// The scheduler finds no node for new pods.
    Unschedulable,
    /// The same, but one pod of each version fits; `minReady` is one pod.
    OnePodFits,
    /// A webhook denies all writes of Deployments; the same for other kinds.
    DeploymentsDenied,
    ServicesDenied,
    HistoryDenied,
    SlicesDenied,
    EventsDenied,
    /// A webhook that Deployments and Services pass does not answer.
    WebhookTimesOut,
    /// A policy requires a label that no child has.
    LabelsRequired,
    /// The namespace has all the Deployments that its quota allows.
    DeploymentQuota,
    /// The same for pods.
    PodQuota,
    /// The namespace is labelled so that its admission takes no new pods.
    NamespaceRelabelled,
    /// Webhooks add a label, an annotation and a sidecar, and change how images are pulled.
    Mutated,
    HpaUp,
    HpaDown,
    ScaledByHand,
    ServiceEdited,
    DeploymentDeleted,
    ServiceDeleted,
    VersionServiceDeleted,
    SliceDeleted,
    HistoryDeleted,
    /// Two replicas of Prometheus behind one address answer in turn.
    PrometheusSwitches,
    PrometheusDown,
    CrdUpgraded,
    /// The spec changes to another version, and back.
    SpecEditedAndBack,
    /// The spec changes to a version whose Deployment the API server finds invalid.
    SpecRefused,
    StatusDeleted,
}

impl Event {
    pub const ALL: [Self; 34] = [
        Self::RoutersReplaced,
        Self::OperatorReplaced,
        Self::OperatorKilled,
        Self::OperatorUpgraded,
        Self::NodeDrained,
        Self::PodEvicted,
        Self::Unschedulable,
        Self::OnePodFits,
        Self::DeploymentsDenied,
        Self::ServicesDenied,
        Self::HistoryDenied,
        Self::SlicesDenied,
        Self::EventsDenied,
        Self::WebhookTimesOut,
        Self::LabelsRequired,
        Self::DeploymentQuota,
        Self::PodQuota,
        Self::NamespaceRelabelled,
        Self::Mutated,
        Self::HpaUp,
        Self::HpaDown,
        Self::ScaledByHand,
        Self::ServiceEdited,
        Self::DeploymentDeleted,
        Self::ServiceDeleted,
        Self::VersionServiceDeleted,
        Self::SliceDeleted,
        Self::HistoryDeleted,
        Self::PrometheusSwitches,
        Self::PrometheusDown,
        Self::CrdUpgraded,
        Self::SpecEditedAndBack,
        Self::SpecRefused,
        Self::StatusDeleted,
    ];

    /// Whether the user applies version 3, so that the operator writes the objects that the event
    /// is about.
    pub fn asks_for_another(self) -> bool {
        matches!(
            self,
            Self::HistoryDenied | Self::DeploymentQuota | Self::EventsDenied
        )
    }

    /// Whether a model's address depends on writes that it denies.
    pub fn denies_the_way(self) -> bool {
        matches!(self, Self::SlicesDenied | Self::LabelsRequired)
    }

    /// The kinds whose writes it denies.
    pub fn denies(self) -> &'static [Kind] {
        match self {
            Self::DeploymentsDenied => &[Kind::Deployment],
            Self::ServicesDenied => &[Kind::Service],
            Self::HistoryDenied => &[Kind::History],
            Self::SlicesDenied => &[Kind::Slice],
            Self::EventsDenied => &[Kind::Event],
            Self::WebhookTimesOut => &[Kind::Deployment, Kind::Service],
            Self::LabelsRequired => &[Kind::Deployment, Kind::Service, Kind::History, Kind::Slice],
            _ => &[],
        }
    }

    /// The kind of object that it deletes, without which no request reaches a pod.
    pub fn takes_from_the_way(self) -> Option<Kind> {
        match self {
            Self::ServiceDeleted | Self::VersionServiceDeleted => Some(Kind::Service),
            Self::SliceDeleted => Some(Kind::Slice),
            _ => None,
        }
    }

    /// Whether it is about pods that cannot be made or placed.
    pub fn is_about_capacity(self) -> bool {
        matches!(
            self,
            Self::Unschedulable | Self::OnePodFits | Self::PodQuota | Self::NamespaceRelabelled
        )
    }

    /// Whether an autoscaler runs.
    pub fn has_hpa(self) -> bool {
        matches!(self, Self::HpaUp | Self::HpaDown)
    }

    /// Its shortest duration, in seconds. Events about capacity last longer than
    /// `progressDeadline`.
    pub fn lasts(self) -> u64 {
        match self {
            Self::Unschedulable | Self::OnePodFits | Self::PodQuota | Self::NamespaceRelabelled => {
                80
            }
            Self::HpaUp | Self::HpaDown => 70,
            _ => 45,
        }
    }

    /// Whether another event may come while it lasts, so that their effects can still be
    /// distinguished.
    pub fn goes_with(self, other: Self) -> bool {
        let edits = |event: Self| {
            event.asks_for_another() || matches!(event, Self::SpecEditedAndBack | Self::SpecRefused)
        };
        let takes = |event: Self| matches!(event, Self::DeploymentDeleted | Self::HistoryDeleted);
        let hpa = |event: Self| event.has_hpa();
        let places = |event: Self| event.is_about_capacity() || event == Self::NodeDrained;
        let prometheus =
            |event: Self| matches!(event, Self::PrometheusDown | Self::PrometheusSwitches);
        let replaces = |event: Self| {
            use Event::{OperatorKilled, OperatorReplaced, OperatorUpgraded};
            matches!(event, OperatorReplaced | OperatorKilled | OperatorUpgraded)
        };
        let both = |is: fn(Self) -> bool| is(self) && is(other);
        // One pod is too few for an autoscaler.
        let outgrows = |one: Self, other: Self| one == Self::OnePodFits && other.has_hpa();
        // A version whose Deployment would be denied gets no place in the history, and does not
        // begin.
        let is_held = |one: Self, other: Self| {
            matches!(other, Self::HistoryDenied | Self::EventsDenied)
                && one.denies().contains(&Kind::Deployment)
        };
        // Of two denials, only one is reported.
        let denied_twice = self
            .denies()
            .iter()
            .any(|kind| other.denies().contains(kind));
        // Denied writes are not mutated.
        let mutated = |one: Self, other: Self| {
            one == Self::Mutated && other.denies().contains(&Kind::Deployment)
        };
        self != other
            && !denied_twice
            && !outgrows(self, other)
            && !outgrows(other, self)
            && !is_held(self, other)
            && !both(replaces)
            && !mutated(self, other)
            && !mutated(other, self)
            && !both(edits)
            && !both(takes)
            && !both(hpa)
            && !both(places)
            && !both(prometheus)
    }

    /// The reason why it is impossible in a state.
    #[rustfmt::skip]
    pub fn is_impossible(self, place: Place) -> Option<&'static str> {
        use Place::{Deleting, InvalidInTrial, InvalidSpec, Pending};
        match self {
            Self::HistoryDenied | Self::DeploymentQuota | Self::EventsDenied | Self::SpecRefused
                if matches!(place, InvalidSpec | InvalidInTrial) =>
                Some("an invalid spec makes no version, so nothing new is created or reported"),
            Self::HistoryDenied | Self::DeploymentQuota | Self::EventsDenied | Self::SpecRefused
                if place == Deleting =>
                Some("a model that is being deleted gets no new version, so nothing new is \
                    created or reported"),
            Self::PrometheusSwitches | Self::PrometheusDown if !place.has_weight() =>
                Some("nothing is measured while no version on trial has weight"),
            Self::HpaUp | Self::HpaDown if place == Pending =>
                Some("the first version has no traffic, so there is no work to scale by"),
            Self::StatusDeleted if place == Pending =>
                Some("no version is in force yet, so the first one starts anew, which is \
                    what it did"),
            Self::SpecEditedAndBack if place == Deleting =>
                Some("what is being deleted follows its spec no more"),
            _ => None,
        }
    }
}
