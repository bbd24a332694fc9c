//! Trouble that a cluster brings: writes that a policy denies, a quota, a drain, a spec that cannot
//! be used.
//!
//! Each scenario waits until the trouble is seen to take effect, and says what clients and the
//! status saw of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use kube::api::{DeleteParams, EvictParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use serin::api::ModelDeployment;
use serin::api::conditions::reasons;

use super::checks::Checks;
use super::demo::{BACK_WITHIN, V2, V3, crossing, sufficed};
use super::faults::{Play, has_settled, second_version, state, was_rolled_back, weight};
use super::timeline::event;
use super::{Lab, condition, decision};

/// Requests a second where a version turns bad: so few that a policy is in force before the
/// evidence suffices.
const SLOW_RATE: u32 = 40;
/// Longest time until an API server applies a policy that was just made.
const POLICY_IN_FORCE: Duration = Duration::from_secs(30);
/// How long a rollout is held up where it must neither fail nor continue.
const HELD_UP: Duration = Duration::from_secs(20);
/// Longest time until pods that are replaced have gone.
const REPLACED: Duration = Duration::from_secs(180);
/// The policy's name and its message.
const POLICY: &str = "serin-lab-freeze";
const FROZEN: &str = "deployments are frozen";
/// Whom it denies: all but the cluster's own controllers.
const OTHERS: &str = "!request.userInfo.username.startsWith('system:serviceaccount:kube-system:') \
    && request.userInfo.username != 'system:kube-controller-manager'";

/// A canary with 20 % errors, once without trouble and once while a policy denies every write of a
/// Deployment.
pub async fn policy_denies() -> Result<()> {
    let mut checks = Checks::default();
    let free = time_back("platform-free", false, &mut checks).await?;
    let denied = time_back("platform-denied", true, &mut checks).await;
    let denied = denied?;
    checks.note(
        "from evidence that suffices to 100 % on stable, without and with the denial",
        format!("{:.1} s, {:.1} s", free.as_secs_f64(), denied.as_secs_f64()),
    );
    checks.finish()
}

/// How long after the evidence sufficed a bad canary got its last request.
async fn time_back(namespace: &str, deny: bool, checks: &mut Checks) -> Result<Duration> {
    let mut play = Play::begin_at(namespace, SLOW_RATE).await?;
    let lab = play.lab.clone();
    lab.apply(V3).await?;
    lab.at_once(super::faults::ROLLOUT, |model| weight(model) > 0)
        .await?;
    let denied_at = if deny {
        let namespace = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
        let words = freeze_deployments(&lab.client, &namespace).await?;
        let denied_at = lab.until_refused(words).await;
        if denied_at.is_err() {
            thaw_deployments(&lab.client).await?;
        }
        event("a policy denies every write of a Deployment");
        Some(denied_at?)
    } else {
        None
    };
    // Whatever comes of it, the policy goes before anything else is done.
    let watched = play
        .watch(|model| decision(&state(model), reasons::ROLLED_BACK, "3.0.0").is_some())
        .await;
    let held = play.hold(BACK_WITHIN).await;
    if deny {
        thaw_deployments(&lab.client).await?;
        event("the policy is gone");
    }
    let (model, _) = (watched?, held?);
    let record = |action| decision(&state(&model), action, "3.0.0").map(|record| record.at);
    let started = record(reasons::CANARY_STARTED).context("the canary never started")?;
    let decided = record(reasons::ROLLED_BACK).context("it was never rolled back")?;
    if denied_at.is_some_and(|denied_at| denied_at > decided) {
        bail!("the policy came into force after the rollback was decided: nothing was seen");
    }
    let (started, decided) = (play.traffic.at(started), play.traffic.at(decided));
    let answers = play.traffic.settled().await;
    let crossed = crossing(&answers, "3.0.0", "1.0.0", started, |answer| {
        !answer.is_ok()
    });
    let last = answers.of("3.0.0").0.iter().map(|answer| answer.sent).max();
    let took = last
        .unwrap_or_default()
        .saturating_sub(sufficed(crossed, decided));
    let what = if deny {
        "a policy denies Deployments"
    } else {
        "nothing is denied"
    };
    checks.claim(
        took <= BACK_WITHIN,
        format!(
            "{what}: 100 % on stable after evidence that suffices (bound {} s)",
            BACK_WITHIN.as_secs()
        ),
        format!("{:.1} s", took.as_secs_f64()),
    );
    let over = play.watch(was_rolled_back).await;
    checks.claim(
        over.is_ok(),
        format!("{what}: the rollout ends"),
        over.map_or_else(|error| format!("{error:#}"), |model| ready_message(&model)),
    );
    Ok(took)
}

/// The spec cannot be used any more, and then every router pod is replaced: clients notice nothing.
pub async fn invalid_and_routers_replaced() -> Result<()> {
    let mut play = Play::begin("platform-invalid").await?;
    let mut spec: Value = serde_norway::from_str(V2)?;
    // A scheme that the operator of the demo does not allow.
    spec["spec"]["model"]["uri"] = "s3://models/iris".into();
    play.lab.apply_object(spec).await?;
    let model = play
        .watch(|model| condition(model, "Ready") == Some(("False", reasons::INVALID_SPEC)))
        .await?;
    let mut checks = Checks::default();
    checks.note("the status", ready_message(&model));
    let old = play.lab.replace_routers().await?;
    event("every router pod is being replaced");
    let left = play.until_gone(&old).await?;
    checks.claim(
        !old.is_empty() && left == 0,
        "router pods from before, and how many of them are left",
        format!("{}, {left}", old.len()),
    );
    play.hold(HELD_UP).await?;
    play.end(checks, |_| true).await
}

/// A quota leaves no room for the canary's pods; then it goes.
pub async fn quota_denies() -> Result<()> {
    let mut play = Play::begin("platform-quota").await?;
    let quotas: Api<ResourceQuota> = Api::namespaced(play.lab.client.clone(), &play.lab.namespace);
    let pods = play.lab.pods("1.0.0").await?.len();
    create(
        &quotas,
        json!({"metadata": {"name": "full"}, "spec": {"hard": {"pods": pods.to_string()}}}),
    )
    .await?;
    let deadline = Instant::now() + POLICY_IN_FORCE;
    while !is_counted(&quotas.get("full").await?) {
        if Instant::now() > deadline {
            bail!("the quota does not come into force");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    play.lab.apply_object(second_version()?).await?;
    event("a quota leaves no room for the canary's pods");
    let said = play.watch(|model| all_messages(model).contains("exceeded quota"));
    let said = tokio::time::timeout(HELD_UP, said).await;
    let mut checks = Checks::default();
    checks.claim(
        matches!(said, Ok(Ok(_))),
        format!(
            "the server's words are in the status within {} s",
            HELD_UP.as_secs()
        ),
        all_messages(&play.lab.model().await?),
    );
    let (_, held) = play.hold(HELD_UP).await?;
    checks.claim(
        held == 0 && play.lab.pods("2.0.0").await?.is_empty(),
        "the canary's weight while it has no pod",
        format!("{held} %"),
    );
    quotas.delete("full", &DeleteParams::default()).await?;
    event("the quota is gone");
    play.promoted(&mut checks).await?;
    play.end(checks, |_| true).await
}

/// The node of a canary's pod is drained: no other takes it until the node is back.
pub async fn node_drained() -> Result<()> {
    let mut play = Play::begin("platform-drain").await?;
    play.lab.apply_object(second_version()?).await?;
    play.watch(|model| weight(model) >= 25).await?;
    let nodes: Api<Node> = Api::all(play.lab.client.clone());
    let names: Vec<String> = nodes
        .list(&ListParams::default())
        .await?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    for name in &names {
        nodes.cordon(name).await?;
    }
    let drained = drain(&mut play).await;
    for name in &names {
        nodes.uncordon(name).await?;
    }
    event("the node takes pods again");
    let (before, after, said) = drained?;
    let mut checks = Checks::default();
    checks.claim(
        after <= before,
        "the canary's weight before the drain and while a pod has no node",
        format!("{before} %, {after} %"),
    );
    checks.claim(
        said.contains("unschedulable"),
        "the scheduler's words are in the status",
        said,
    );
    play.promoted(&mut checks).await?;
    play.end(checks, |_| true).await
}

/// Evicts one of the canary's pods. Returns the weight before and 20 s later, and what the status
/// says.
async fn drain(play: &mut Play) -> Result<(u8, u8, String)> {
    let pods: Api<Pod> = Api::namespaced(play.lab.client.clone(), &play.lab.namespace);
    let canary = play.lab.pods_of("2.0.0").await?;
    let pod = canary.first().context("the canary has no pod")?.name_any();
    pods.evict(&pod, &EvictParams::default()).await?;
    event("the node is cordoned, and a pod of the canary evicted");
    let pending = |pod: &Pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Pending")
    };
    let deadline = Instant::now() + REPLACED;
    while !play.lab.pods_of("2.0.0").await?.iter().any(pending) {
        if Instant::now() > deadline {
            bail!("no pod waits for a node: nothing was drained");
        }
        play.hold(Duration::from_secs(1)).await?;
    }
    let (before, after) = play.hold(HELD_UP).await?;
    Ok((before, after, all_messages(&play.lab.model().await?)))
}

/// Makes a policy that denies every write of a Deployment in these namespaces but by the cluster's
/// own controllers. Returns its words.
pub async fn freeze_deployments(client: &Client, namespaces: &Value) -> Result<&'static str> {
    create::<ValidatingAdmissionPolicy>(
        &Api::all(client.clone()),
        json!({"metadata": {"name": POLICY}, "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": namespaces,
                "resourceRules": [{
                    "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"],
                    "operations": ["CREATE", "UPDATE", "DELETE"],
                }],
            },
            "matchConditions": [{
                "name": "not-the-clusters-own",
                "expression": OTHERS,
            }],
            "validations": [{"expression": "false", "message": FROZEN}],
        }}),
    )
    .await?;
    create::<ValidatingAdmissionPolicyBinding>(
        &Api::all(client.clone()),
        json!({"metadata": {"name": POLICY}, "spec": {
            "policyName": POLICY, "validationActions": ["Deny"],
        }}),
    )
    .await?;
    Ok(FROZEN)
}

/// Takes it away again.
pub async fn thaw_deployments(client: &Client) -> Result<()> {
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    bindings.delete(POLICY, &DeleteParams::default()).await?;
    policies.delete(POLICY, &DeleteParams::default()).await?;
    Ok(())
}

impl Lab {
    /// Waits until a write of a Deployment is refused in these words, as a dry run sees it. Returns
    /// when it first was.
    pub async fn until_refused(&self, words: &str) -> Result<jiff::Timestamp> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = deployments.list(&ListParams::default()).await?;
        let name = found.items.first().context("no Deployment")?.name_any();
        let params = PatchParams {
            dry_run: true,
            ..PatchParams::default()
        };
        let touch = json!({"metadata": {"annotations": {"serin.dev/lab-probe": "true"}}});
        let deadline = Instant::now() + POLICY_IN_FORCE;
        loop {
            let answer = deployments
                .patch(&name, &params, &Patch::Merge(&touch))
                .await;
            if let Err(error) = answer {
                if error.to_string().contains(words) {
                    return Ok(jiff::Timestamp::now());
                }
                return Err(error.into());
            }
            if Instant::now() > deadline {
                bail!("no write is refused: {words}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Play {
    /// Watches until all these router pods have gone. Returns how many are left.
    pub async fn until_gone(&mut self, old: &[String]) -> Result<usize> {
        let deadline = Instant::now() + REPLACED; // two pods, one after the other, each drained
        loop {
            let mut left = self.lab.routers().await?;
            left.retain(|router| old.contains(router));
            if left.is_empty() || Instant::now() > deadline {
                return Ok(left.len());
            }
            self.hold(Duration::from_secs(2)).await?;
        }
    }

    /// Claims that version 2.0.0 is promoted after all, and was never blamed.
    async fn promoted(&mut self, checks: &mut Checks) -> Result<()> {
        let model = self.watch(has_settled).await?;
        let blamed = decision(&state(&model), reasons::ROLLED_BACK, "2.0.0")
            .map(|record| record.sentence.clone());
        checks.claim(
            blamed.is_none(),
            "promoted once the trouble was over, and never blamed for it",
            blamed.unwrap_or_else(|| ready_message(&model)),
        );
        Ok(())
    }
}

/// Whether the quota's controller has counted what is there.
pub fn is_counted(quota: &ResourceQuota) -> bool {
    let status = quota.status.as_ref();
    status.is_some_and(|status| status.used.as_ref().is_some_and(|used| !used.is_empty()))
}

/// Creates an object that is given as JSON.
pub async fn create<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Resource + Clone + std::fmt::Debug + Serialize + DeserializeOwned,
{
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    Ok(())
}

fn ready_message(model: &ModelDeployment) -> String {
    messages(model, |kind| kind == "Ready")
}

/// Every condition, with its words.
pub fn all_messages(model: &ModelDeployment) -> String {
    messages(model, |_| true)
}

fn messages(model: &ModelDeployment, wanted: impl Fn(&str) -> bool) -> String {
    let conditions = model.status.iter().flat_map(|status| &status.conditions);
    let messages: Vec<String> = conditions
        .filter(|condition| wanted(&condition.type_))
        .map(|condition| {
            format!(
                "{}={} {}: {}",
                condition.type_, condition.status, condition.reason, condition.message
            )
        })
        .collect();
    messages.join("; ")
}
