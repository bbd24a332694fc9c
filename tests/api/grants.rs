//! The operator's permissions in these tests: the chart's, on a cluster that requires as much as
//! OpenShift.

use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule},
};
use kube::{Api, Client, Resource, api::PostParams, core::ClusterResourceScope};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::operator::{FIRST, SECOND};

/// The admission plugin that requires the right to an owner's finalizers for setting an
/// ownerReference.
pub const OF_OWNERS: &str = "--enable-admission-plugins=OwnerReferencesPermissionEnforcement";

/// The rules of all roles that the chart gives the operator; there is no template in them.
fn rules_of_the_chart() -> Vec<PolicyRule> {
    let chart = include_str!("../../charts/serin/templates/operator-rbac.yaml");
    let roles = chart.split("\n---");
    roles
        .filter_map(|role| role.split_once("\nrules:\n"))
        .flat_map(|(_, rules)| serde_norway::from_str::<Vec<PolicyRule>>(rules).unwrap())
        .collect()
}

/// Grants it, and makes the policy that asks for it.
pub async fn install(client: &Client) {
    let name = json!({"name": "serin-operator"});
    let role = json!({"metadata": name, "rules": rules_of_the_chart()});
    make::<ClusterRole>(client, role).await;
    let users = [FIRST, SECOND].map(|user| json!({"kind": "User", "name": user}));
    let binding = json!({
        "metadata": name,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
            "name": "serin-operator"},
        "subjects": users,
    });
    make::<ClusterRoleBinding>(client, binding).await;
    // OpenShift's plugin RestrictedEndpointsAdmission, as a policy.
    let name = json!({"name": "restricted-endpoints"});
    let policy = json!({
        "metadata": name,
        "spec": {
            "matchConstraints": {"resourceRules": [{
                "apiGroups": ["discovery.k8s.io"], "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"], "resources": ["endpointslices"],
            }]},
            "validations": [{
                "expression": "authorizer.group('discovery.k8s.io').resource('endpointslices')\
                    .subresource('restricted')\
                    .namespace(namespaceObject.metadata.name).check('create').allowed()",
                "message": "endpoint address 10.244.0.7 is not allowed",
            }],
        },
    });
    make::<ValidatingAdmissionPolicy>(client, policy).await;
    let binding = json!({
        "metadata": name,
        "spec": {"policyName": "restricted-endpoints", "validationActions": ["Deny"]},
    });
    make::<ValidatingAdmissionPolicyBinding>(client, binding).await;
}

async fn make<K>(client: &Client, object: Value)
where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned,
{
    let object: K = serde_json::from_value(object).unwrap();
    let api = Api::<K>::all(client.clone());
    api.create(&PostParams::default(), &object).await.unwrap();
}
