//! What the tests of several packages share. A panic here fails the test, as it should.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod authority;
mod ports;

pub use self::authority::certify;
pub use self::ports::free_port;
