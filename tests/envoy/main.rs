//! The bundled router: the control plane against a real Envoy 1.40, with real HTTP on both sides.
//!
//! Needs Envoy's executable (`SERIN_ENVOY`, or the cache that `cargo xtask cluster up` fills);
//! without one each test says that it was skipped.
#![allow(clippy::unwrap_used)]

mod broken_off;
mod configuration;
mod drain;
mod families;
mod harness;
mod protocol;
mod traffic;

/// Envoy's executable, or the end of the test.
macro_rules! envoy_or_skip {
    () => {
        match crate::harness::envoy_binary() {
            Some(binary) => binary,
            None => {
                println!("skipped: needs Envoy (SERIN_ENVOY, or `cargo xtask cluster up` once)");
                return;
            }
        }
    };
}
pub(crate) use envoy_or_skip;
