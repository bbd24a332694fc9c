//! The user's name: from the API server, else from the kubeconfig.

use kube::{Client, config::Kubeconfig};
use serde_json::Value;

use crate::k8s::is_code;

/// Versions of SelfSubjectReview, newest first: Kubernetes has it since 1.26, under its final name
/// since 1.28.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// Asks the API server for the user's name. `None` where it cannot tell, as before 1.26.
pub(super) async fn ask(client: &Client) -> Option<String> {
    for version in VERSIONS {
        let body = serde_json::json!({
            "apiVersion": format!("authentication.k8s.io/{version}"), "kind": "SelfSubjectReview",
        });
        let request = http::Request::post(format!(
            "/apis/authentication.k8s.io/{version}/selfsubjectreviews"
        ))
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(serde_json::to_vec(&body).ok()?)
        .ok()?;
        match client.request::<Value>(request).await {
            Ok(review) => {
                let name = review["status"]["userInfo"]["username"].as_str()?;
                return (!name.is_empty()).then(|| name.to_owned());
            }
            Err(error) if is_code(&error, 404) => {}
            Err(_) => return None,
        }
    }
    None
}

/// The user of a context.
pub(super) fn of_kubeconfig(kubeconfig: &Kubeconfig, context: Option<&str>) -> Option<String> {
    let context = context.or(kubeconfig.current_context.as_deref())?;
    let mut contexts = kubeconfig.contexts.iter();
    let found = contexts.find(|named| named.name == context)?;
    found.context.as_ref()?.user.clone()
}
