//! The status that follows from a state, for people and for tools. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;

use crate::{
    api::{
        MODEL_LABEL, ModelDeployment, ModelDeploymentStatus, Phase, State, Verdict, VersionSpec,
        conditions::{reasons, types},
        validate::Invalid,
    },
    observe::{Refusal, VersionHealth},
    rollout::Unfit,
    router::{InForce, Reachability},
    sentences::{Message, ServingPods},
};

/// Whether the spec can be used.
#[derive(Clone, Debug, PartialEq)]
pub enum SpecValidity {
    /// The spec is valid, and the state answers it.
    Valid,
    /// The spec cannot be used.
    Invalid(Vec<Invalid>),
    /// The model is being deleted, and a finalizer of another controller keeps it for a while.
    Deleting,
}

impl SpecValidity {
    /// Why no version can be on trial, if none can.
    pub fn unfit(&self) -> Option<Unfit> {
        match self {
            Self::Valid => None,
            Self::Invalid(_) => Some(Unfit::InvalidSpec),
            Self::Deleting => Some(Unfit::Deleting),
        }
    }
}

/// The status that follows from a state. Conditions keep their transition time unless they change.
pub fn build_status(
    model: &ModelDeployment,
    state: &State,
    stable: &VersionHealth,
    (validity, refused): (&SpecValidity, &[Refusal]),
    reachability: Reachability,
    now: Timestamp,
) -> ModelDeploymentStatus {
    let old = model
        .status
        .as_ref()
        .map(|status| status.conditions.as_slice())
        .unwrap_or_default();
    let generation = model.metadata.generation;
    let conditions = conditions(model, state, stable, (validity, refused), reachability)
        .into_iter()
        .map(|(type_, status, reason, message)| {
            let status = if status { "True" } else { "False" };
            let since = old
                .iter()
                .find(|old| old.type_ == type_ && old.status == status)
                .map(|old| old.last_transition_time.clone());
            Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason,
                message: message.to_string(),
                observed_generation: generation,
                last_transition_time: since.unwrap_or(Time(now)),
            }
        })
        .collect();
    let desired = match &state.stable {
        Some(_) => stable.desired,
        None => model.spec.replicas,
    };
    let ready = format!("{}/{desired}", stable.ready);
    ModelDeploymentStatus {
        observed_generation: generation,
        last_update_time: Some(now),
        state: state.clone(),
        conditions,
        ready: Some(ready),
        ready_replicas: stable.ready,
        replicas: stable.desired,
        verified: None,
        selector: Some(format!("{MODEL_LABEL}={}", model.name_any())),
    }
}

/// Adds a condition with the reason why routers do not apply the model's route, where they do not.
/// Returns the reason where `old` has no such condition.
pub fn add_pending(
    status: &mut ModelDeploymentStatus,
    old: Option<&ModelDeploymentStatus>,
    in_force: &InForce,
    now: Timestamp,
) -> Option<String> {
    let InForce::Pending { why } = in_force else {
        return None;
    };
    let before = old.into_iter().flat_map(|old| &old.conditions);
    let since = before
        .filter(|condition| condition.type_ == types::ROUTER_REFUSED)
        .map(|condition| condition.last_transition_time.clone())
        .next();
    let why = why.to_string();
    let news = since.is_none().then(|| why.clone());
    status.conditions.push(Condition {
        type_: types::ROUTER_REFUSED.to_owned(),
        status: "True".to_owned(),
        reason: reasons::ROUTER_REFUSED.to_owned(),
        message: why,
        observed_generation: status.observed_generation,
        last_transition_time: since.unwrap_or(Time(now)),
    });
    news
}

/// If `new` turns Ready, returns when it became Available.
pub fn becomes_ready(
    old: Option<&ModelDeploymentStatus>,
    new: &ModelDeploymentStatus,
) -> Option<Timestamp> {
    let since = |status: &ModelDeploymentStatus, wanted: &str| {
        let mut holding = status.conditions.iter().filter(|c| c.status == "True");
        let found = holding.find(|condition| condition.type_ == wanted);
        found.map(|condition| condition.last_transition_time.0)
    };
    let is_ready = |status: &ModelDeploymentStatus| since(status, types::READY).is_some();
    if old.is_some_and(is_ready) || !is_ready(new) {
        return None;
    }
    since(new, types::AVAILABLE)
}

/// Type, status, reason and message of a condition.
type Row<'a> = (&'static str, bool, String, Message<'a>);

fn conditions<'a>(
    model: &ModelDeployment,
    state: &'a State,
    stable: &'a VersionHealth,
    (validity, refused): (&'a SpecValidity, &'a [Refusal]),
    reachability: Reachability,
) -> Vec<Row<'a>> {
    let is_asleep = state.phase == Phase::Asleep;
    let has_traffic = !state.phase.is_without_traffic();
    let available = has_traffic && state.stable.is_some() && stable.endpoints > 0;
    let all_ready = state.stable.is_some() && stable.has_capacity(model.spec.pods_needed());
    let stable_version = state.stable.as_ref().map(|stable| stable.version.as_str());
    let pods = ServingPods {
        version: stable_version,
        health: stable,
        replicas: model.spec.replicas,
    };
    let pods_reason = match (available, all_ready) {
        _ if is_asleep => reasons::ASLEEP,
        (false, _) => reasons::NO_ENDPOINT,
        (true, false) => reasons::NOT_ALL_READY,
        (true, true) => reasons::ALL_READY,
    };
    let refused: Vec<_> = Refusal::shown(refused, state).collect();
    let hindrance = refused.first().copied();
    let (mut progress, mut message) = match validity {
        // A person repairs the spec first; what is refused is of the version that serves.
        SpecValidity::Invalid(faults) => (
            Progress::stuck(reasons::INVALID_SPEC),
            Message::InvalidSpec {
                faults,
                stable: stable_version,
                refused: refused.clone(),
            },
        ),
        SpecValidity::Valid | SpecValidity::Deleting => {
            let progress = progress(model, state, all_ready, reachability);
            let message = match progress.reason {
                reasons::NOT_ALL_READY => Message::Pods(pods),
                reasons::NO_ROUTER => Message::NoRouter(pods),
                reasons::NOT_ANSWERING => Message::NotAnswering(pods),
                _ => Message::Decided(state),
            };
            (progress, message)
        }
    };
    let mut reason = progress.reason.to_owned();
    if let (Some(refusal), SpecValidity::Valid | SpecValidity::Deleting) = (hindrance, validity) {
        progress.ready = false;
        progress.stalled = true;
        reason.clone_from(&refusal.reason);
        message = Message::Refused(refused, Box::new(message));
    }
    // The API server takes no empty message.
    let message_if = |holds: bool, otherwise| if holds { message.clone() } else { otherwise };
    vec![
        (
            types::READY,
            progress.ready,
            reason.clone(),
            message.clone(),
        ),
        (
            types::AVAILABLE,
            available,
            pods_reason.to_owned(),
            if is_asleep {
                Message::Decided(state)
            } else {
                Message::Pods(pods)
            },
        ),
        (
            types::RECONCILING,
            progress.reconciling,
            reason.clone(),
            message_if(progress.reconciling, Message::Idle),
        ),
        (
            types::STALLED,
            progress.stalled,
            reason,
            message_if(progress.stalled, Message::NeedsNobody),
        ),
    ]
}

/// What kstatus reads, and the reason for it.
struct Progress {
    ready: bool,
    reconciling: bool,
    stalled: bool,
    reason: &'static str,
}

impl Progress {
    fn ready(reason: &'static str) -> Self {
        Self {
            ready: true,
            reconciling: false,
            stalled: false,
            reason,
        }
    }
    fn under_way(reason: &'static str) -> Self {
        Self {
            ready: false,
            reconciling: true,
            stalled: false,
            reason,
        }
    }
    fn stuck(reason: &'static str) -> Self {
        Self {
            ready: false,
            reconciling: false,
            stalled: true,
            reason,
        }
    }
}

/// Where the state stands on its way to what the spec asks for.
fn progress(
    model: &ModelDeployment,
    state: &State,
    all_ready: bool,
    reachability: Reachability,
) -> Progress {
    match state.phase {
        // What the spec asks for, so that GitOps tools call it healthy, as they do a Deployment or
        // a Knative Revision at zero.
        Phase::Asleep => return Progress::ready(reasons::ASLEEP),
        Phase::Waking => return Progress::under_way(reasons::WAKING),
        _ => {}
    }
    let last_action = state
        .last_move()
        .map(|record| record.action.as_str())
        .unwrap_or_default();
    let Some(canary) = &state.canary else {
        let desired = VersionSpec::of(&model.spec).revision();
        let serves = state
            .stable
            .as_ref()
            .is_some_and(|stable| stable.revision == desired);
        let refused = state
            .refused
            .iter()
            .any(|refused| refused.revision == desired);
        return match (serves, refused) {
            (true, _) if !all_ready => Progress::under_way(reasons::NOT_ALL_READY),
            (true, _) => match reachability {
                Reachability::Answers => Progress::ready(reasons::PROMOTED),
                Reachability::Silent => Progress::under_way(reasons::NOT_ANSWERING),
                Reachability::NoRouter => Progress::under_way(reasons::NO_ROUTER),
            },
            (false, true) if last_action == reasons::REFUSED => Progress::stuck(reasons::REFUSED),
            (false, true) => Progress::stuck(reasons::ROLLED_BACK),
            (false, false) if state.postponed.is_some() => {
                Progress::under_way(reasons::PLATFORM_TROUBLE)
            }
            (false, false) => Progress::under_way(reasons::PREPARING),
        };
    };
    if last_action == reasons::FAILURE_HELD {
        return Progress::stuck(reasons::FAILURE_HELD);
    }
    Progress::under_way(match &canary.progress {
        _ if model.spec.rollout.paused => reasons::PAUSED,
        None if state.phase == Phase::Pending => reasons::FIRST_VERSION,
        None if last_action == reasons::NOT_MEASURABLE => {
            return Progress::stuck(reasons::NOT_MEASURABLE);
        }
        None if canary.rollback => reasons::FAST_ROLLBACK_STARTED,
        None => reasons::PREPARING,
        Some(progress) if progress.metrics_outage_since.is_some() => reasons::METRICS_OUTAGE,
        Some(_) if last_action == reasons::INSUFFICIENT_DATA => reasons::INSUFFICIENT_DATA,
        Some(_) if last_action == reasons::STEP_PAUSED => reasons::STEP_PAUSED,
        Some(_) if last_action == reasons::AWAITING_APPROVAL => reasons::AWAITING_APPROVAL,
        Some(_) => reasons::GATHERING_EVIDENCE,
    })
}

/// Whether a decision's Event is a warning.
pub fn is_warning(action: &str, verdict: Option<Verdict>) -> bool {
    matches!(verdict, Some(Verdict::Fail | Verdict::NoMetrics))
        || [
            reasons::ROLLED_BACK,
            reasons::PLATFORM_TROUBLE,
            reasons::REFUSED,
            reasons::INSUFFICIENT_DATA,
        ]
        .contains(&action)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api::{Revision, VersionRef},
        observe::PodProblem,
        router::PendingReason,
    };

    /// Three pods are asked for.
    fn model(min_ready: &str) -> ModelDeployment {
        serde_json::from_value(json!({
            "apiVersion": "serin.dev/v1alpha1", "kind": "ModelDeployment",
            "metadata": {"name": "churn", "namespace": "ml", "generation": 1},
            "spec": {
                "model": {"uri": "file:///m", "version": "1", "digest": "sha256:0"},
                "replicas": 3, "rollout": {"minReady": min_ready},
                "objectives": [{"name": "errors", "errorRate": {"max": "1%"}}],
            },
        }))
        .unwrap()
    }

    /// The state in which the spec's version serves.
    fn serving(model: &ModelDeployment) -> State {
        State {
            phase: Phase::Stable,
            stable: Some(VersionRef {
                revision: VersionSpec::of(&model.spec).revision(),
                version: "1".to_owned(),
            }),
            ..State::default()
        }
    }

    /// Version 1 serves, and its pods are like this.
    fn of(stable: &VersionHealth, min_ready: &str) -> ModelDeploymentStatus {
        let model = model(min_ready);
        let state = serving(&model);
        let now = Timestamp::UNIX_EPOCH;
        build_status(
            &model,
            &state,
            stable,
            (&SpecValidity::Valid, &[]),
            Reachability::Answers,
            now,
        )
    }

    fn holds<'a>(status: &'a ModelDeploymentStatus, type_: &str) -> (&'a str, &'a str) {
        let found = status.conditions.iter().find(|one| one.type_ == type_);
        let found = found.unwrap();
        (&found.status, &found.reason)
    }

    fn pods(ready: i32, endpoints: usize) -> VersionHealth {
        VersionHealth {
            desired: 3,
            ready,
            endpoints,
            ..VersionHealth::default()
        }
    }

    #[test]
    fn a_model_is_available_while_a_pod_of_it_can_be_reached_and_ready_once_enough_can() {
        for (ready, endpoints, min_ready, available, is_ready) in [
            (3, 3, "100%", ("True", reasons::ALL_READY), "True"),
            (2, 2, "100%", ("True", reasons::NOT_ALL_READY), "False"),
            (2, 2, "60%", ("True", reasons::ALL_READY), "True"),
            (0, 1, "100%", ("True", reasons::NOT_ALL_READY), "False"),
            (3, 0, "100%", ("False", reasons::NO_ENDPOINT), "False"),
        ] {
            let status = of(&pods(ready, endpoints), min_ready);
            assert_eq!(holds(&status, types::AVAILABLE), available);
            assert_eq!(
                holds(&status, types::READY).0,
                is_ready,
                "{ready} of 3, {min_ready}"
            );
        }
    }

    #[test]
    fn asleep_is_ready_and_not_available() {
        let mut model = model("100%");
        model.spec.replicas = 0;
        let mut state = serving(&model);
        state.phase = Phase::Asleep;
        let of = |state: &State| {
            let validity = (&SpecValidity::Valid, &[][..]);
            let (answers, now) = (Reachability::Answers, Timestamp::UNIX_EPOCH);
            build_status(&model, state, &pods(0, 0), validity, answers, now)
        };
        let status = of(&state);
        assert_eq!(holds(&status, types::READY), ("True", reasons::ASLEEP));
        assert_eq!(holds(&status, types::AVAILABLE), ("False", reasons::ASLEEP));
        assert_eq!(holds(&status, types::RECONCILING).0, "False");
        assert_eq!(holds(&status, types::STALLED).0, "False");
        // Also where another version waits in the spec, and where none has served yet.
        state.stable.as_mut().unwrap().revision = Revision("00000000".to_owned());
        assert_eq!(holds(&of(&state), types::READY).0, "True");
        state.stable = None;
        assert_eq!(holds(&of(&state), types::READY).0, "True");
        state.phase = Phase::Waking;
        assert_eq!(holds(&of(&state), types::READY), ("False", reasons::WAKING));
    }

    /// What `kubectl get` shows of a model that has served before: READY, AVAILABLE and REASON.
    #[test]
    fn a_healthy_rollout_reads_as_broken_in_no_phase() {
        const GOOD: [&str; 7] = [
            reasons::PREPARING,
            reasons::GATHERING_EVIDENCE,
            reasons::STEP_PAUSED,
            reasons::AWAITING_APPROVAL,
            reasons::PAUSED,
            reasons::FAST_ROLLBACK_STARTED,
            reasons::PROMOTED,
        ];
        let moves = [
            reasons::CANARY_STARTED,
            reasons::STEP_ADVANCED,
            reasons::STEP_PAUSED,
            reasons::AWAITING_APPROVAL,
            reasons::METRICS_BACK,
            reasons::PROMOTED,
            reasons::SUPERSEDED,
        ];
        let phases: [(Phase, &[u8]); 5] = [
            (Phase::Preparing, &[0]),
            (Phase::Canary, &[1, 10, 100]),
            (Phase::Promoting, &[0]),
            (Phase::RollingBack, &[0]),
            (Phase::Stable, &[0]),
        ];
        let weights = phases
            .iter()
            .flat_map(|(phase, weights)| weights.iter().map(move |weight| (*phase, *weight)));
        for (phase, weight) in weights {
            for (last, paused) in moves.iter().flat_map(|last| [(last, false), (last, true)]) {
                let mut model = model("100%");
                model.spec.rollout.paused = paused;
                let mut state = serving(&model);
                let at = "2026-01-01T00:00:00Z";
                if matches!(phase, Phase::Preparing | Phase::Canary) {
                    let mut canary = json!(state.stable);
                    canary["weight"] = json!(weight);
                    canary["since"] = json!(at);
                    if weight > 0 {
                        canary["progress"] = json!({"step": 0, "stepSince": at, "gates": []});
                    }
                    state.canary = serde_json::from_value(canary).unwrap();
                    state.stable.as_mut().unwrap().revision = Revision("00000000".to_owned());
                }
                let last = json!({
                    "at": at, "action": last, "version": "1", "weight": weight, "sentence": "",
                });
                (state.phase, state.decisions) =
                    (phase, vec![serde_json::from_value(last).unwrap()]);
                let status = build_status(
                    &model,
                    &state,
                    &pods(3, 3),
                    (&SpecValidity::Valid, &[]),
                    Reachability::Answers,
                    Timestamp::UNIX_EPOCH,
                );
                let told = format!("{phase:?} at {weight} %, {:?}", state.decisions[0].action);
                assert_eq!(status.ready.as_deref(), Some("3/3"), "{told}");
                assert_eq!(holds(&status, types::AVAILABLE).0, "True", "{told}");
                assert_eq!(holds(&status, types::STALLED).0, "False", "{told}");
                let reason = holds(&status, types::READY).1;
                assert!(GOOD.contains(&reason), "{told}: {reason}");
            }
        }
    }

    #[test]
    fn what_keeps_stables_pods_from_serving_stands_in_the_conditions() {
        let words = "0/3 nodes are available: insufficient nvidia.com/gpu.";
        let health = VersionHealth {
            trouble: Some(PodProblem::NotScheduled {
                words: words.to_owned(),
            }),
            ..pods(0, 0)
        };
        let status = of(&health, "100%");
        for type_ in [types::READY, types::AVAILABLE] {
            let found = status.conditions.iter().find(|one| one.type_ == type_);
            let message = &found.unwrap().message;
            assert_eq!(
                *message,
                format!("Version 1: 0 of 3 pods are Ready: the scheduler says: {words}")
            );
        }
    }

    #[test]
    fn an_autoscaler_sees_the_pods_of_all_versions_and_the_number_that_one_is_to_have() {
        let status = of(&pods(2, 2), "100%");
        assert_eq!(status.selector.as_deref(), Some("serin.dev/model=churn"));
        assert_eq!((status.replicas, status.ready_replicas), (3, 2));
        assert_eq!(status.ready.as_deref(), Some("2/3"));
    }

    #[test]
    fn why_routers_do_not_follow_stands_in_the_status_while_they_do_not() {
        let pending = InForce::Pending {
            why: PendingReason::Words("Router a refuses it.".to_owned()),
        };
        let (first, later) = (Timestamp::UNIX_EPOCH, Timestamp::MAX);
        let mut old = ModelDeploymentStatus::default();
        let news = add_pending(&mut old, None, &pending, first);
        assert_eq!(news.as_deref(), Some("Router a refuses it."));
        let mut new = ModelDeploymentStatus::default();
        assert_eq!(add_pending(&mut new, Some(&old), &pending, later), None);
        assert_eq!(new.conditions[0].message, "Router a refuses it.");
        assert_eq!(new.conditions[0].last_transition_time, Time(first));
        let mut none = ModelDeploymentStatus::default();
        let applied = InForce::Applied { generation: 1 };
        assert_eq!(add_pending(&mut none, Some(&new), &applied, later), None);
        assert_eq!(none.conditions, []);
    }
}
