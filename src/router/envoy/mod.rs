//! The bundled router: Envoy pods, of which the operator is the control plane.
//!
//! ```text
//! RouterModel ─► Resources ─► Session (one a router) ─► gRPC ─► Envoy
//!   weights,      (pure)       (pure)                            │
//!   endpoints                     └──────── ACK, NACK ◄──────────┘
//! ```
//!
//! [`ControlPlane::publish`] says what should be, [`Routers::acknowledged`] what is. While the
//! operator is away, routers keep their last configuration. An operator that comes back recognises
//! it by its versions and sends only what differs.

mod bundled;
mod model;
mod ports;
pub mod proto;
mod readiness;
mod rejections;
mod resources;
mod routers;
mod routes;
mod server;
mod service;
mod session;

use std::sync::Arc;

use super::{Router, Setup};

pub use bundled::{Envoy, Flags};
pub use model::{Backend, DEFAULT_TIMEOUT, ModelRoute, RouteKey, RouterModel};
pub use readiness::Prober;
pub use resources::{Resource, ResourceType, Resources};
pub use routers::{Rejection, Routers};
pub use routes::routes;
pub use server::{ControlPlane, ServeError};

/// Makes the bundled router.
pub fn router(setup: &Setup) -> Arc<dyn Router> {
    Arc::new(Envoy::new(setup, Prober::by_tcp()))
}
