//! The process: everything that runs beside the controller, and how it starts and stops.

pub mod http;
pub mod leader;
pub mod log;
pub mod operator;
pub mod schema;
pub mod settings;
pub mod watch;
