//! What the tests of several packages share.
#![allow(clippy::unwrap_used)]

mod authority;
mod ports;

pub use self::authority::certify;
pub use self::ports::free_port;
