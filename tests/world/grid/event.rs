//! What a cluster brings, and where it cannot.

use super::place::Place;
use crate::kinds::Kind;

/// Something that happens to a model.
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
    /// The same, but for one pod of each version; `minReady` says that one is enough.
    OnePodFits,
    /// A webhook denies all writes of Deployments; the same for other kinds.
    DeploymentsDenied,
    ServicesDenied,
    HistoryDenied,
    SlicesDenied,
    EventsDenied,
    /// A webhook that Deployments and Services pass does not answer.
    WebhookTimesOut,
    /// A policy asks for a label that no child has.
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
    /// One address, two replicas: queries get to the one and to the other.
    PrometheusSwitches,
    PrometheusDown,
    CrdUpgraded,
    /// Another version is asked for, and then what was asked for before.
    SpecEditedAndBack,
    /// A version is asked for whose Deployment the API server calls invalid.
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

    /// Whether the user asks for version 3, so that the operator has to make what the event is about.
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

    /// The kind of an object that it takes away, without which no request gets to a pod.
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

    /// How long it lasts at the least, in seconds. What is about capacity lasts longer than `progressDeadline`.
    pub fn lasts(self) -> u64 {
        match self {
            Self::Unschedulable | Self::OnePodFits | Self::PodQuota | Self::NamespaceRelabelled => {
                80
            }
            Self::HpaUp | Self::HpaDown => 70,
            _ => 45,
        }
    }

    /// Whether another event may come while it lasts, so that both can still be told apart.
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
        // One pod is not enough for what an autoscaler asks for.
        let outgrows = |one: Self, other: Self| one == Self::OnePodFits && other.has_hpa();
        // A version whose Deployment would be denied gets no place in the history, and does not
        // begin.
        let is_held = |one: Self, other: Self| {
            matches!(other, Self::HistoryDenied | Self::EventsDenied)
                && one.denies().contains(&Kind::Deployment)
        };
        // Of two that deny, one answers.
        let denied_twice = self
            .denies()
            .iter()
            .any(|kind| other.denies().contains(kind));
        // What is denied is not changed.
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

    /// Why it cannot happen in a state.
    #[rustfmt::skip]
    pub fn is_impossible(self, place: Place) -> Option<&'static str> {
        use Place::{Deleting, InvalidInTrial, InvalidSpec, Pending};
        match self {
            Self::HistoryDenied | Self::DeploymentQuota | Self::EventsDenied | Self::SpecRefused if matches!(place, InvalidSpec | InvalidInTrial) =>
                Some("an invalid spec makes no version, so nothing new is created or told"),
            Self::HistoryDenied | Self::DeploymentQuota | Self::EventsDenied | Self::SpecRefused if place == Deleting =>
                Some("a model that is being deleted gets no new version, so nothing new is created or told"),
            Self::PrometheusSwitches | Self::PrometheusDown if !place.has_weight() =>
                Some("nothing is measured while no version on trial has weight"),
            Self::HpaUp | Self::HpaDown if place == Pending =>
                Some("the first version has no traffic, so there is no work to scale by"),
            Self::StatusDeleted if place == Pending =>
                Some("no version is in force yet, so the first one starts anew, which is what it did"),
            Self::SpecEditedAndBack if place == Deleting =>
                Some("what is being deleted follows its spec no more"),
            _ => None,
        }
    }
}
