//! Dry runs of a version's Deployment before the version is recorded. A ControllerRevision can
//! never be changed: one whose pods cannot be created would have to be deleted by hand.

use std::{collections::HashMap, time::Duration};

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::Status,
};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::Refusal;
use crate::{
    api::{MANAGER, ModelDeployment, Revision, SERVER, conditions::reasons, validate::Invalid},
    k8s::{NoAnswer, VersionDeployment, body, is_child, reason, shortened, timely, words},
};

/// Pause after the first denial. Each further one doubles it, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after denials.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Pause after an object was found invalid. Most often it stays so until the spec changes.
const INVALID_PAUSE: Duration = Duration::from_secs(600);
/// Errors that are kept of one answer.
const ERRORS_KEPT: usize = 3;

/// Why the API server would refuse a version's Deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRunRefusal {
    /// The spec asks for a Deployment that is invalid.
    Invalid(Vec<Invalid>),
    /// A webhook, a policy or a quota denies it, or the API server does not answer. The next try
    /// may succeed.
    Denied(Refusal),
}

/// Tries Deployments, and remembers the answers, so that a model at rest costs no request.
#[derive(Default)]
pub struct DryRuns(Mutex<HashMap<(String, String), Answer>>);

/// What was tried: UID and generation of the model, and the version.
type Subject = (Option<String>, Option<i64>, Revision);

struct Answer {
    subject: Subject,
    refused: Option<DryRunRefusal>,
    /// Refusals in a row.
    count: u32,
    again_at: Option<Instant>,
}

impl DryRuns {
    /// Forgets a model that is gone.
    pub fn forget(&self, model: &(String, String)) {
        self.0.lock().remove(model);
    }

    /// The time until a refused Deployment is tried again. `None` if none was refused.
    pub fn next(&self, model: &(String, String)) -> Option<Duration> {
        let at = self.0.lock().get(model)?.again_at?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Why the API server would refuse the Deployment of a version that is not recorded yet. `None`
    /// if it accepts it.
    pub async fn refused(
        &self,
        client: &Client,
        model: &ModelDeployment,
        revision: &Revision,
        deployment: &VersionDeployment,
    ) -> Option<DryRunRefusal> {
        let key = (
            ResourceExt::namespace(model).unwrap_or_default(),
            model.name_any(),
        );
        let subject = (model.uid(), model.metadata.generation, revision.clone());
        let mut count = 0;
        if let Some(known) = self.0.lock().get(&key)
            && known.subject == subject
        {
            if known.again_at.is_none_or(|at| Instant::now() < at) {
                return known.refused.clone();
            }
            count = known.count;
        }
        let api: Api<Deployment> = Api::namespaced(client.clone(), &key.0);
        let refused = try_apply(&api, model, deployment).await;
        count += 1;
        let pause = refused.as_ref().map(|refused| match refused {
            DryRunRefusal::Invalid(_) => INVALID_PAUSE,
            DryRunRefusal::Denied(_) => FIRST_PAUSE
                .saturating_mul(1 << (count - 1).min(10))
                .min(LONGEST_PAUSE),
        });
        let answer = Answer {
            subject,
            refused: refused.clone(),
            count,
            again_at: pause.map(|pause| Instant::now() + pause),
        };
        self.0.lock().insert(key, answer);
        refused
    }
}

async fn try_apply(
    api: &Api<Deployment>,
    model: &ModelDeployment,
    deployment: &VersionDeployment,
) -> Option<DryRunRefusal> {
    let name = deployment.metadata.name.clone().unwrap_or_default();
    let body = body::<Deployment>(deployment).unwrap_or_default();
    let params = PatchParams::apply(MANAGER).force().dry_run();
    let kind = "Deployment";
    // `None` if there was no answer.
    let error = match timely(api.patch(&name, &params, &Patch::Apply(&body))).await {
        Ok(Ok(_)) => return None,
        Ok(Err(error)) => Some(error),
        Err(NoAnswer) => None,
    };
    // An object of another owner is no fault of the spec. The apply reports the taken name.
    if let Ok(Ok(Some(found))) = timely(api.get_opt(&name)).await
        && !is_child(&found, model)
    {
        return None;
    }
    if let Some(kube::Error::Api(status)) = &error
        && is_invalid(status)
    {
        return Some(DryRunRefusal::Invalid(faults(status, &body)));
    }
    let (reason, words) = match &error {
        Some(error) => (reason(error), words(error)),
        None => (reasons::WRITE_REFUSED, NoAnswer.to_string()),
    };
    Some(DryRunRefusal::Denied(Refusal {
        kind: kind.to_owned(),
        name,
        revision: None, // so that the status shows it, as an object of the model itself
        reason: reason.to_owned(),
        words: shortened(&words),
        transient: false,
    }))
}

/// Whether the API server itself found the object invalid. Policies deny with 422 as well but name
/// no field. Webhooks deny with 400 as well but without its reason. A field that the API server
/// does not know, or of another type than it has, is an internal error to it.
fn is_invalid(status: &Status) -> bool {
    let names_a_field = || {
        let mut causes = status.details.iter().flat_map(|details| &details.causes);
        causes.any(|cause| !cause.field.is_empty())
    };
    status.code == 422 && names_a_field()
        || status.code == 400 && status.reason == "BadRequest"
        || untyped(status).is_some()
}

/// What server-side apply says of fields that its types do not have: one `.FIELD: WORDS` a line. Of
/// a value that its types cannot hold it says no field.
fn untyped(status: &Status) -> Option<Vec<(&str, &str)>> {
    let message = &status.message;
    if message.starts_with("failed to create typed patch object") {
        let (_, words) = message.split_once("): ")?;
        let fields = words
            .lines()
            .filter_map(|line| line.trim().strip_prefix('.'));
        return Some(fields.filter_map(|line| line.split_once(": ")).collect());
    }
    let words = message.strip_prefix("failed to convert new object")?;
    let (_, words) = words.rsplit_once("Kind=Deployment: ")?;
    Some(vec![("spec.template", words)])
}

/// The errors, each with the field of the spec that it comes from.
fn faults(status: &Status, deployment: &Value) -> Vec<Invalid> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let causes = causes
        .filter(|cause| !cause.field.is_empty())
        .map(|cause| (cause.field.as_str(), cause.message.as_str()));
    let mut faults: Vec<_> = causes
        .chain(untyped(status).into_iter().flatten())
        .map(|(field, words)| Invalid {
            field: declared(field, deployment),
            remedy: shortened(words),
        })
        .take(ERRORS_KEPT)
        .collect();
    if faults.is_empty() {
        faults.push(Invalid {
            field: "spec.serving.template".to_owned(),
            remedy: shortened(&status.message),
        });
    }
    faults
}

/// The field of a ModelDeployment that a field of its pods is made from. An item of a list is named
/// as in `containers[server]`: its place in the user's template is another one.
fn declared(field: &str, deployment: &Value) -> String {
    let Some(mut rest) = field.strip_prefix("spec.template") else {
        return field.to_owned();
    };
    let mut at = &deployment["spec"]["template"];
    let mut path = "spec.serving.template".to_owned();
    while !rest.is_empty() {
        if let Some(index) = rest.strip_prefix('[') {
            let (index, after) = index.split_once(']').unwrap_or((index, ""));
            let item = index.parse::<usize>().ok().and_then(|index| at.get(index));
            let name = item.and_then(|item| item["name"].as_str());
            let name = name.or_else(|| index.strip_prefix("name=\"")?.strip_suffix('"'));
            path.push('[');
            path.push_str(name.unwrap_or(index));
            path.push(']');
            at = item.unwrap_or(&Value::Null);
            rest = after;
        } else {
            let member = rest.trim_start_matches('.');
            let end = member.find(['.', '[']).unwrap_or(member.len());
            path.push('.');
            path.push_str(&member[..end]);
            at = &at[&member[..end]];
            rest = &member[end..];
        }
    }
    if path == format!("spec.serving.template.spec.containers[{SERVER}].image") {
        return "spec.serving.image".to_owned();
    }
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(code: u16, reason: &str, causes: &Value) -> Status {
        serde_json::from_value(json!({
            "status": "Failure", "message": "the whole", "code": code, "reason": reason,
            "details": {"causes": causes},
        }))
        .unwrap()
    }

    #[test]
    fn only_what_the_api_server_itself_finds_invalid_is_a_fault_of_the_spec() {
        let deployment = json!({"spec": {"template": {"spec": {"containers": [
            {"name": "server"}, {"name": "proxy", "env": [{"name": "A"}]},
        ]}}}});
        let field = "spec.template.spec.containers[0].resources.limits[cpu]";
        let message = "Invalid value: \"lots\"";
        let cause = json!([{"reason": "FieldValueInvalid", "field": field, "message": message}]);
        let invalid = status(422, "Invalid", &cause);
        assert!(is_invalid(&invalid));
        let faults = |status: &Status| faults(status, &deployment)[0].to_string();
        assert_eq!(
            faults(&invalid),
            "spec.serving.template.spec.containers[server].resources.limits[cpu]: Invalid value: \
             \"lots\""
        );
        for (field, of_spec) in [
            ("spec.nodeSelector", "spec.nodeSelector"),
            (
                "spec.containers[1].env[0].name",
                "spec.containers[proxy].env[A].name",
            ),
            ("spec.containers[2].name", "spec.containers[2].name"),
            ("metadata.labels", "metadata.labels"),
            ("spec.nodeSelector[a.b/c]", "spec.nodeSelector[a.b/c]"),
            (
                "spec.containers[name=\"proxy\"].tty",
                "spec.containers[proxy].tty",
            ),
        ] {
            let of_spec = format!("spec.serving.template.{of_spec}");
            assert_eq!(
                declared(&format!("spec.template.{field}"), &deployment),
                of_spec
            );
        }
        let image = "spec.template.spec.containers[0].image";
        assert_eq!(declared(image, &deployment), "spec.serving.image");
        let malformed = status(400, "BadRequest", &json!([]));
        assert!(is_invalid(&malformed));
        assert_eq!(faults(&malformed), "spec.serving.template: the whole");
        let mut unknown = status(500, "", &json!([]));
        let of = "(ml/iris-1; apps/v1, Kind=Deployment)";
        for (message, fault) in [
            (
                format!(
                    "failed to create typed patch object {of}: \
                     .spec.template.spec.newer: field not declared in schema"
                ),
                "spec.serving.template.spec.newer: field not declared in schema",
            ),
            (
                format!(
                    "failed to create typed patch object {of}: errors:\n  \
                     .spec.template.spec.containers[name=\"server\"].tty: expected boolean\n  .b: c"
                ),
                "spec.serving.template.spec.containers[server].tty: expected boolean",
            ),
            (
                format!(
                    "failed to convert new object {of} to proper version: unable to convert \
                     unstructured object to apps/v1, Kind=Deployment: quantities must match"
                ),
                "spec.serving.template: quantities must match",
            ),
        ] {
            unknown.message = message;
            assert!(is_invalid(&unknown), "{}", unknown.message);
            assert_eq!(faults(&unknown), fault);
        }
        let policy = status(422, "Invalid", &json!([{"message": "no such team"}]));
        for denied in [
            policy,
            status(403, "Forbidden", &json!([])),
            status(400, "", &json!([])),
            status(503, "ServiceUnavailable", &json!([])),
        ] {
            assert!(!is_invalid(&denied), "{denied:?}");
        }
    }
}
