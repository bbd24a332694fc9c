//! `serin-serve fetch` as a process, against real servers and hostile ones.
#![allow(clippy::unwrap_used)]

#[path = "../common/authority.rs"]
mod authority;
mod bucket;
mod cache;
mod folder;
mod guard;
#[path = "../../../tests/support/ports.rs"]
mod ports;
mod registry;
mod server;
mod support;
mod trouble;
