//! The cluster: caches and their watches, names and labels, ownership, calls to the API server. It
//! decides nothing.

mod call;
mod dirty;
mod endpoints;
mod history;
mod kinship;
mod listen;
mod models;
mod names;
mod objects;
mod stores;
pub mod targets;
mod watch;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use call::{CALL_LIMIT, NoAnswer, is_code, reason, shortened, timely, words};
pub use dirty::{Dirty, Marked};
pub use endpoints::{
    SERVICE_NAME_LABEL, SLICE_MANAGED_BY_LABEL, endpoints, endpoints_of, endpoints_of_service,
    ready_addresses, service_of,
};
pub use history::{
    KnownVersion, REIGN_ANNOTATION, StableBefore, TEMPLATE_FIELD, UNTIL_ANNOTATION, in_force,
    known_version, known_versions, stable_before,
};
pub use kinship::{Kinship, is_child, kinship};
pub use listen::{ListenError, listen};
pub use models::Models;
pub use names::{model_labels, version_labels, version_name, version_selector};
pub use objects::{
    HTTP_PORT_NAME, Intent, Object, VersionDeployment, VersionDeploymentSpec, body, owned,
};
pub use stores::Stores;
pub use watch::{Concerned, Pace, Watched, Watches};

/// Whether one state of an object is older than another. Resource versions of one kind are numbers
/// in the order of their writes. `false` if a server's are no numbers.
pub fn is_older(one: &ObjectMeta, other: &ObjectMeta) -> bool {
    let number = |meta: &ObjectMeta| meta.resource_version.as_ref()?.parse::<u64>().ok();
    let numbers = number(one).zip(number(other));
    numbers.is_some_and(|(one, other)| one < other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_numbers() {
        let of = |version: &str| ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        assert!(is_older(&of("99"), &of("100")), "numbers, not texts");
        assert!(!is_older(&of("100"), &of("100")));
        assert!(!is_older(&of("101"), &of("100")));
        assert!(!is_older(&of("a"), &of("b")));
    }
}
