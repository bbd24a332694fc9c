//! `serin-serve fetch` as a process, against real servers and hostile ones.
#![allow(clippy::unwrap_used)]

mod cache;
mod folder;
mod guard;
mod server;
mod support;
mod trouble;
