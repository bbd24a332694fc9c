//! The bundled router: Envoy pods, of which the operator is the control plane.
//!
//! ```text
//! RouterModel ─► Resources ─► Session (one a router) ─► gRPC ─► Envoy
//!   weights,      (pure)       (pure)                            │
//!   endpoints                     └──────── ACK, NACK ◄──────────┘
//! ```
//!
//! [`ControlPlane::publish`] says what should be; [`Routers::acknowledged`] says what is. An operator that is away leaves the
//! routers with their last configuration, and one that comes back recognises it by its versions and sends nothing anew.

mod bundled;
mod model;
mod ports;
pub mod proto;
mod readiness;
pub mod refusals;
mod resources;
mod routers;
mod routes;
mod server;
mod service;
mod session;

pub use bundled::Envoy;
pub use model::{Backend, DEFAULT_TIMEOUT, ModelRoute, RouteKey, RouterModel, cluster_name};
pub use readiness::Prober;
pub use resources::{Resource, ResourceType, Resources};
pub use routers::{Refusal, Routers};
pub use routes::{publish, remains, router_port, router_slice_name, routes};
pub use server::{ControlPlane, ServeError};
