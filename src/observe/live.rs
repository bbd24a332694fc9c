//! The live read that every decision begins with.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Api, Resource};
use kube_runtime::reflector::{ObjectRef, Store};

use crate::{
    api::ModelDeployment,
    apply::{CALL_LIMIT, words},
};

/// Why a model could not be read; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The API server refused.
    #[error("cannot read the ModelDeployment: {}", words(.0))]
    Refused(#[source] kube::Error),
    /// The API server did not answer in time.
    #[error("cannot read the ModelDeployment: no answer within {} s", CALL_LIMIT.as_secs())]
    Timeout,
    /// One of several API servers lags behind: the watch has told of a newer model than this one has.
    #[error("the API server answered with an older ModelDeployment than it has told of before")]
    Stale,
}

/// Reads a model live; `None` where there is none. An answer that is older than what the watch has told already is none:
/// whoever acted on it would undo what was done since.
pub async fn model(
    api: &Api<ModelDeployment>,
    told: &Store<ModelDeployment>,
    namespace: &str,
    name: &str,
) -> Result<Option<ModelDeployment>, ReadError> {
    let answer = tokio::time::timeout(CALL_LIMIT, api.get_opt(name))
        .await
        .map_err(|_| ReadError::Timeout)?
        .map_err(ReadError::Refused)?;
    let told = told.get(&ObjectRef::new(name).within(namespace));
    if told.is_some_and(|told| is_older(answer.as_ref().map(Resource::meta), told.meta())) {
        return Err(ReadError::Stale);
    }
    Ok(answer)
}

/// Whether an answer is older than an object that was told of. Resource versions of one kind are numbers in the order of
/// their writes; where a server's are not, nothing is said. A model that is gone is gone from the cache a moment later.
fn is_older(answer: Option<&ObjectMeta>, told: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
    match answer {
        None => true,
        Some(answer) => number(answer)
            .zip(number(told))
            .is_some_and(|(answer, told)| answer < told),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_from_before_what_was_told_is_older() {
        let of = |version: &str| ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        assert!(is_older(Some(&of("99")), &of("100")), "numbers, not texts");
        assert!(!is_older(Some(&of("100")), &of("100")));
        assert!(!is_older(Some(&of("101")), &of("100")));
        assert!(!is_older(Some(&of("a")), &of("b")));
        assert!(is_older(None, &of("100")));
    }
}
