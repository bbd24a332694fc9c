//! What every container of ours runs under.

use k8s_openapi::api::core::v1::{Capabilities, SecurityContext};

/// What the `restricted` Pod Security Standard asks of a container, and a root that cannot be
/// written.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        ..SecurityContext::default()
    }
}
