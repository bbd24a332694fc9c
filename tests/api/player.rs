//! Simulates the Deployment and EndpointSlice controllers and the kubelet for one namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

/// Versions whose pods do not become Ready.
pub type Held = Arc<Mutex<BTreeSet<String>>>;

/// Reports the pods of every Deployment as Ready, but those of the versions that are held, until
/// the runtime ends.
pub async fn play(client: Client, namespace: String, held: Held) {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), &namespace);
    let mut reported: BTreeMap<String, (i64, i32)> = BTreeMap::new();
    loop {
        for deployment in deployments.list(&ListParams::default()).await.unwrap() {
            let version = deployment.annotations()["serin.dev/version"].clone();
            let wanted = deployment.spec.replicas.unwrap_or(1);
            let is_held = held.lock().unwrap().contains(&version);
            let ready = if is_held { 0 } else { wanted };
            let state = (deployment.metadata.generation.unwrap(), ready);
            let key = deployment.uid().unwrap();
            if reported.get(&key) == Some(&state) {
                continue;
            }
            let status = json!({"status": {
                "observedGeneration": state.0, "replicas": wanted, "updatedReplicas": wanted,
                "readyReplicas": ready, "availableReplicas": ready,
            }});
            let name = deployment.name_any();
            let written = deployments
                .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
                .await;
            let silent = is_held && wanted > 0;
            if written.is_ok()
                && report_silent_pod(&client, &deployment, silent).await
                && report_endpoints(&client, &deployment, ready).await
            {
                reported.insert(key, state);
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A held version has a pod that runs and is not Ready, which counts as the version's own failure.
async fn report_silent_pod(client: &Client, deployment: &Deployment, is_silent: bool) -> bool {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &deployment.namespace().unwrap());
    let name = format!("{}-silent", deployment.name_any());
    if !is_silent {
        let gone = pods
            .delete(&name, &DeleteParams::default().grace_period(0))
            .await;
        return gone.is_ok() || pods.get_opt(&name).await.is_ok_and(|pod| pod.is_none());
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": deployment.labels()},
        "spec": {"containers": [{"name": "server", "image": "serve:1"}]},
    });
    let status = json!({"status": {"phase": "Running", "containerStatuses": [{
        "name": "server", "image": "serve:1", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"running": {}},
    }]}});
    let made = pods
        .patch(&name, &PatchParams::apply("player"), &Patch::Apply(&pod))
        .await;
    let params = PatchParams::default();
    made.is_ok()
        && pods
            .patch_status(&name, &params, &Patch::Merge(&status))
            .await
            .is_ok()
}

/// The slice that the EndpointSlice controller makes of a Service's ready pods; it copies the
/// Service's labels.
async fn report_endpoints(client: &Client, deployment: &Deployment, ready: i32) -> bool {
    let name = deployment.name_any();
    let mut labels = deployment.labels().clone();
    labels.insert("kubernetes.io/service-name".to_owned(), name.clone());
    labels.insert(
        "endpointslice.kubernetes.io/managed-by".to_owned(),
        "endpointslice-controller.k8s.io".to_owned(),
    );
    let addresses: Vec<_> = (1..=ready).map(|pod| format!("10.244.0.{pod}")).collect();
    let slice = slice(&format!("{name}-x1"), &json!(labels), &addresses);
    apply_slice(client, &deployment.namespace().unwrap(), &slice).await
}

/// An EndpointSlice of these addresses.
pub fn slice(name: &str, labels: &Value, addresses: &[String]) -> Value {
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "labels": labels},
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

/// Applies an EndpointSlice; says whether the server took it.
pub async fn apply_slice(client: &Client, namespace: &str, slice: &Value) -> bool {
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    let name = slice["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("endpointslice-controller").force();
    slices
        .patch(name, &params, &Patch::Apply(slice))
        .await
        .is_ok()
}
