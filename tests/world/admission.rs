//! Admission: webhooks and policies that deny, quotas, and webhooks that change objects.

use serde_json::{Value, json};

use crate::{
    kinds::Kind,
    objects::{ApiError, Objects},
    request::{Request, Verb},
};

/// Who denies, and so in which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// A validating webhook.
    Webhook,
    /// A ValidatingAdmissionPolicy.
    Policy,
    /// A webhook that does not answer.
    Timeout,
    /// The authorizer.
    Rbac,
}

/// Writes that are denied, until they are allowed again.
#[derive(Clone, Debug)]
pub struct Denial {
    pub kinds: &'static [Kind],
    pub manner: Manner,
    /// The message of the denial; empty where it has none.
    pub words: &'static str,
}

/// What the API server refuses and changes.
#[derive(Default)]
pub struct Admission {
    pub denials: Vec<Denial>,
    /// So many Deployments may there be in a namespace.
    pub deployments: Option<usize>,
    /// Mutating webhooks add to every Deployment.
    pub mutates: bool,
    /// Each write of an operator's that was refused: when, its kind, and the words.
    pub refused: Vec<(u64, Kind, String)>,
    /// Objects that were changed on their way.
    pub mutated: u64,
}

/// What a ResourceQuota says, but for the object.
pub const QUOTA: &str = "exceeded quota: objects, requested: count/deployments.apps=1";

impl Admission {
    /// Refuses a request, or lets it pass.
    pub fn review(&mut self, objects: &Objects, request: &Request) -> Result<(), ApiError> {
        if !request.verb.writes() || matches!(request.kind, Kind::Model | Kind::Lease) {
            return Ok(());
        }
        let refusal = Self::invalid(request)
            .or_else(|| self.denied(request))
            .or_else(|| self.beyond_quota(objects, request));
        let Some(refusal) = refusal else {
            return Ok(());
        };
        let refused = (objects.now_ms, request.kind, refusal.message.clone());
        self.refused.push(refused);
        Err(refusal)
    }

    fn denied(&self, request: &Request) -> Option<ApiError> {
        let mut denials = self.denials.iter();
        let Denial { manner, words, .. } = denials.find(|one| one.kinds.contains(&request.kind))?;
        let what = format!("{} \"{}\"", request.kind, request.name);
        Some(match manner {
            Manner::Webhook => {
                let text =
                    format!("admission webhook \"guard.example.com\" denied the request: {words}");
                ApiError::new(403, "Forbidden", text)
            }
            Manner::Policy => {
                let text = format!(
                    "{what} is forbidden: ValidatingAdmissionPolicy 'guard' with binding 'guard' \
                     denied request: {words}"
                );
                ApiError::new(422, "Invalid", text)
            }
            Manner::Timeout => {
                let text = format!(
                    "Internal error occurred: failed calling webhook \"guard.example.com\": {words}"
                );
                ApiError::new(500, "InternalError", text)
            }
            Manner::Rbac => {
                let text = format!(
                    "{what} is forbidden: User \"system:serviceaccount:serin-system:serin\" cannot \
                     patch it: {words}"
                );
                ApiError::new(403, "Forbidden", text)
            }
        })
    }

    fn beyond_quota(&self, objects: &Objects, request: &Request) -> Option<ApiError> {
        let creates = matches!(request.verb, Verb::Create | Verb::Apply)
            && objects.get(&request.key()).is_none();
        let limit = self.deployments?;
        if request.kind != Kind::Deployment || !creates {
            return None;
        }
        let all = objects.of(Kind::Deployment);
        let used = all
            .filter(|(key, _)| key.namespace == request.namespace)
            .count();
        (used >= limit).then(|| {
            let text = format!(
                "deployments.apps \"{}\" is forbidden: {QUOTA}, used: \
                 count/deployments.apps={used}, limited: count/deployments.apps={limit}",
                request.name
            );
            ApiError::new(403, "Forbidden", text)
        })
    }

    /// As much of the API server's validation as cells need: a rule that neither the CRD nor the
    /// operator repeats.
    fn invalid(request: &Request) -> Option<ApiError> {
        if request.kind != Kind::Deployment {
            return None;
        }
        let containers = request.body["spec"]["template"]["spec"]["containers"].as_array();
        let breaks = |container: &Value| {
            let resources = &container["resources"];
            let asked: Vec<&String> = [&resources["requests"], &resources["limits"]]
                .into_iter()
                .filter_map(Value::as_object)
                .flat_map(|amounts| amounts.keys())
                .collect();
            let alone = !asked
                .iter()
                .any(|name| ["cpu", "memory"].contains(&name.as_str()));
            alone && asked.iter().any(|name| name.starts_with("hugepages-"))
        };
        containers.into_iter().flatten().any(breaks).then(|| {
            let text = format!(
                "Deployment.apps \"{}\" is invalid: spec.template.spec.containers[0].resources: \
                 Forbidden: {HUGE_PAGES}",
                request.name
            );
            ApiError::new(422, "Invalid", text)
        })
    }

    /// Changes an object as mutating webhooks do.
    pub fn mutate(&mut self, kind: Kind, object: &mut Value) {
        if !self.mutates || kind != Kind::Deployment {
            return;
        }
        self.mutated += 1;
        object["metadata"]["labels"]["example.com/cost-centre"] = json!("4711");
        let template = &mut object["spec"]["template"];
        template["metadata"]["annotations"]["sidecar.example.com/status"] = json!("injected");
        let containers = template["spec"]["containers"].as_array_mut();
        let Some(containers) = containers else { return };
        for container in &mut *containers {
            container["imagePullPolicy"] = json!("Always");
        }
        if !containers.iter().any(|one| one["name"] == "proxy") {
            containers.push(json!({"name": "proxy", "image": "proxy:1"}));
        }
    }
}

/// What the API server says of a quantity that is none.
pub const HUGE_PAGES: &str = "HugePages require cpu or memory";
