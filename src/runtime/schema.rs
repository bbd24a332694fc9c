//! The CRD in the cluster, upgraded by the operator. Helm installs `crds/` once and never upgrades
//! it, and an older schema drops the newer fields of every status.

use std::{sync::Arc, time::Duration};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::{
    api::{SCHEMA, SCHEMA_ANNOTATION, crd},
    k8s::{is_code, timely, words},
};

/// Field manager of the CRD.
const MANAGER: &str = "serin-operator-crd";
/// Time for every API server to load a new schema.
const SETTLES: Duration = Duration::from_secs(3);
/// Pause before an older CRD that may not be changed is read again: a person may upgrade it.
const LOOKED_AGAIN: Duration = Duration::from_secs(30);

/// Why the cluster's CRD is older than this operator. `None` if it is not. Shared with `/readyz`.
pub type Outdated = Arc<Mutex<Option<String>>>;

/// Upgrades the CRD, unless it is as new as this operator or newer.
///
/// # Errors
/// Why it cannot be upgraded, with the remedy.
pub async fn upgrade(client: &Client) -> Result<(), String> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let wanted = crd().map_err(|error| error.to_string())?;
    let name = wanted.name_any();
    loop {
        let answer = timely(api.get(&name))
            .await
            .map_err(|late| late.to_string())?;
        let live = match answer {
            Ok(live) => live,
            // A Role of one namespace cannot read it.
            Err(error) if is_code(&error, 403) || is_code(&error, 404) => {
                tracing::info!(why = words(&error), "the CRD cannot be read");
                return Ok(());
            }
            Err(error) => return Err(words(&error)),
        };
        if schema_of(&live) >= SCHEMA {
            return Ok(());
        }
        // A merge patch replaces the whole list of versions. An apply would keep rules of other
        // owners.
        let mut patch = json!({
            "metadata": {
                "resourceVersion": live.resource_version(),
                "annotations": {SCHEMA_ANNOTATION: SCHEMA.to_string()},
            },
        });
        let spec = serde_json::to_value(&wanted.spec).unwrap_or_default();
        for field in ["names", "versions"] {
            patch["spec"][field] = spec.get(field).cloned().unwrap_or(Value::Null);
        }
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let written = timely(api.patch(&name, &params, &Patch::Merge(&patch))).await;
        match written.map_err(|late| late.to_string())? {
            Ok(_) => {
                tracing::info!(schema = SCHEMA, "the CRD is upgraded");
                tokio::time::sleep(SETTLES).await;
                return Ok(());
            }
            Err(error) if is_code(&error, 409) => {} // another replica was first
            Err(error) => {
                return Err(format!(
                    "the CRD {name} is of schema {}, this operator needs {SCHEMA} and cannot \
                     upgrade it: {}. Newer fields of statuses are lost: \
                     apply crds/ of this release",
                    schema_of(&live),
                    words(&error)
                ));
            }
        }
    }
}

/// Tries until the CRD is upgraded. The obstacle is in the log and in `outdated`.
pub async fn keep(client: Client, outdated: Outdated) {
    while let Err(why) = upgrade(&client).await {
        tracing::error!(why, "the CRD is older than this operator");
        *outdated.lock() = Some(why);
        tokio::time::sleep(LOOKED_AGAIN).await;
    }
    *outdated.lock() = None;
}

/// The number of a CRD's schema. 1 for a CRD without one, of an older release.
fn schema_of(crd: &CustomResourceDefinition) -> u32 {
    let number = crd.annotations().get(SCHEMA_ANNOTATION);
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}
