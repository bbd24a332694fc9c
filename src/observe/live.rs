//! Live reads: of the model at the start of every reconcile, of a version's pods before a cached
//! failure ends its trial, and of the history before a version gets its number in it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, Deployment},
        core::v1::Pod,
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, Resource, ResourceExt, api::ListParams};
use kube_runtime::reflector::ObjectRef;

use super::{
    VersionHealth, cluster,
    health::{health_of, is_answered},
};
use crate::{
    api::{MODEL_LABEL, ModelDeployment, Revision},
    k8s::{
        CALL_LIMIT, KnownVersion, Models, SERVICE_NAME_LABEL, Stores, endpoints_of, is_child,
        is_older, known_version, version_name, version_selector, words,
    },
};

/// Timeout of the live read that confirms a failing version. A breach in the metrics of the same
/// reconcile must not wait longer.
const CONFIRMATION_LIMIT: Duration = Duration::from_secs(3);

/// Why something could not be read. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server refused.
    #[error("cannot read the {kind}: {}", words(source))]
    Refused {
        /// The kind of what was asked for.
        kind: &'static str,
        /// The API server's answer.
        source: kube::Error,
    },
    /// The API server did not answer in time.
    #[error("cannot read the {kind}: no answer within {} s", limit.as_secs())]
    Timeout {
        /// The kind of what was asked for.
        kind: &'static str,
        /// The timeout.
        limit: Duration,
    },
    /// One of several API servers lags: its answer is older than the watch cache.
    #[error("stale read: {kind} is older than the watch cache")]
    Stale {
        /// The kind of what was asked for.
        kind: &'static str,
    },
    /// The Deployment's status is from before its spec changed.
    #[error("the Deployment's status is that of an older generation")]
    Unanswered,
}

/// Reads a model live. `None` if it does not exist.
///
/// # Errors
/// No answer, a refusal, or an answer older than the watch cache: acting on it would undo what was
/// done since.
pub async fn model(
    api: &Api<ModelDeployment>,
    known: &Models,
    namespace: &str,
    name: &str,
) -> Result<Option<ModelDeployment>, ReadError> {
    let kind = "ModelDeployment";
    let answer = within(CALL_LIMIT, kind, api.get_opt(name)).await?;
    let cached = known.get(namespace, name);
    if cached.is_some_and(|cached| is_stale(answer.as_ref().map(Resource::meta), cached.meta())) {
        return Err(ReadError::Stale { kind });
    }
    if let Some(answer) = &answer {
        known.answered(answer);
    }
    Ok(answer)
}

/// Reads a version's pods live, before a failure in the cache rolls the version back: behind a
/// silent watch, pods that are Ready now look as they did a minute ago.
///
/// If the read fails, the cached health is returned with `unconfirmed` set, and the version waits:
/// without Ready pods it gets no requests, so waiting costs none, while a version that is rolled
/// back stays so until a person retries it.
pub async fn health(
    client: &Client,
    stores: &Stores,
    model: &ModelDeployment,
    revision: &Revision,
    cached: VersionHealth,
) -> VersionHealth {
    match read_health(client, stores, model, revision).await {
        Ok(health) => health,
        Err(error) => {
            tracing::warn!(
                %revision, %error, "the failure of a version's pods cannot be confirmed"
            );
            VersionHealth {
                unconfirmed: Some(error.to_string()),
                ..cached
            }
        }
    }
}

async fn read_health(
    client: &Client,
    stores: &Stores,
    model: &ModelDeployment,
    revision: &Revision,
) -> Result<VersionHealth, ReadError> {
    let (name, namespace) = (model.name_any(), model.namespace().unwrap_or_default());
    let deployment_name = version_name(&name, revision);
    let labels: Vec<String> = version_selector(&name, revision)
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let of_version = ListParams::default().labels(&labels.join(","));
    let of_service = format!("{SERVICE_NAME_LABEL}={deployment_name}");
    let of_service = ListParams::default().labels(&of_service);
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &namespace);
    let (deployment, pods, slices) = futures::future::try_join3(
        within(
            CONFIRMATION_LIMIT,
            "Deployment",
            deployments.get_opt(&deployment_name),
        ),
        within(CONFIRMATION_LIMIT, "pods", pods.list(&of_version)),
        within(
            CONFIRMATION_LIMIT,
            "EndpointSlices",
            slices.list(&of_service),
        ),
    )
    .await?;
    let cached = stores
        .deployments
        .get(&ObjectRef::new(&deployment_name).within(&namespace));
    let found = deployment.as_ref().map(Resource::meta);
    if cached.is_some_and(|cached| is_stale(found, cached.meta())) {
        return Err(ReadError::Stale { kind: "Deployment" });
    }
    let deployment = deployment.filter(|deployment| is_child(deployment, model));
    let reachable = endpoints_of(slices.iter()).len();
    let pods = pods.items.into_iter().map(Arc::new).collect();
    let since = cluster::trial_since(model, revision);
    let health = health_of(deployment.as_ref(), pods, reachable, since);
    let unanswered = deployment.is_some_and(|deployment| !is_answered(&deployment));
    if unanswered && health.failure.is_none() {
        return Err(ReadError::Unanswered);
    }
    Ok(health)
}

/// Completes a model's history by a live read. A new version's number follows the highest one:
/// behind a silent watch two versions would get the same.
///
/// # Errors
/// No answer, or a refusal.
pub async fn history(
    client: &Client,
    model: &ModelDeployment,
    known: &mut BTreeMap<Revision, KnownVersion>,
) -> Result<(), ReadError> {
    let namespace = model.namespace().unwrap_or_default();
    let api: Api<ControllerRevision> = Api::namespaced(client.clone(), &namespace);
    let of_model = format!("{MODEL_LABEL}={}", model.name_any());
    let of_model = ListParams::default().labels(&of_model);
    let list = within(CALL_LIMIT, "ControllerRevisions", api.list(&of_model)).await?;
    for object in list.items {
        known.extend(known_version(&object, model));
    }
    Ok(())
}

/// Bounds a call by a timeout.
async fn within<T>(
    limit: Duration,
    kind: &'static str,
    call: impl Future<Output = kube::Result<T>>,
) -> Result<T, ReadError> {
    tokio::time::timeout(limit, call)
        .await
        .map_err(|_| ReadError::Timeout { kind, limit })?
        .map_err(|source| ReadError::Refused { kind, source })
}

/// Whether an answer is older than the cache. An object that is absent counts as stale: the cache
/// will drop it a moment later.
fn is_stale(answer: Option<&ObjectMeta>, cached: &ObjectMeta) -> bool {
    answer.is_none_or(|answer| is_older(answer, cached))
}
