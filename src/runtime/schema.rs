//! The CRD in the cluster, brought up to date by the operator. Helm installs `crds/` once and never upgrades it, and an
//! older schema prunes the newer fields of every status.

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
/// Time for every API server to take a new schema in.
const SETTLES: Duration = Duration::from_secs(3);
/// Pause before a CRD that is older, and may not be changed, is looked at again: a person may bring it.
const LOOKED_AGAIN: Duration = Duration::from_secs(30);

/// Why the cluster's CRD is older than this operator; nothing where it is not. Shared with `/readyz`.
pub type Outdated = Arc<Mutex<Option<String>>>;

/// Brings the CRD up to date once, unless it is already, or is a newer one's.
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
            // Nothing is known of it: a Role of one namespace cannot read it.
            Err(error) if is_code(&error, 403) || is_code(&error, 404) => {
                tracing::info!(why = words(&error), "the CRD cannot be looked at");
                return Ok(());
            }
            Err(error) => return Err(words(&error)),
        };
        if schema_of(&live) >= SCHEMA {
            return Ok(());
        }
        // A merge replaces the list of versions as a whole: an apply would keep rules that others own.
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
                    "the CRD {name} is of schema {}, this operator needs {SCHEMA} and cannot upgrade it: {}. Newer fields of \
                     statuses are lost: apply crds/ of this release",
                    schema_of(&live),
                    words(&error)
                ));
            }
        }
    }
}

/// Tries until the CRD is up to date. What stands in the way is in the log and in `outdated`.
pub async fn keep(client: Client, outdated: Outdated) {
    while let Err(why) = upgrade(&client).await {
        tracing::error!(why, "the CRD is older than this operator");
        *outdated.lock() = Some(why);
        tokio::time::sleep(LOOKED_AGAIN).await;
    }
    *outdated.lock() = None;
}

/// The number of a CRD's schema; 1 for those from before they had one.
fn schema_of(crd: &CustomResourceDefinition) -> u32 {
    let number = crd.annotations().get(SCHEMA_ANNOTATION);
    number.and_then(|number| number.parse().ok()).unwrap_or(1)
}
