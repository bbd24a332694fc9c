//! The security context of every container.

use k8s_openapi::api::core::v1::{Capabilities, SecurityContext};

/// The context that the `restricted` Pod Security Standard requires, with a read-only root
/// filesystem.
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
