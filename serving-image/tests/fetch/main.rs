//! `serin-serve fetch` as a process, against real servers and hostile ones.
#![allow(clippy::unwrap_used)]

mod bucket;
mod cache;
mod folder;
mod guard;
mod image;
mod registry;
mod server;
mod support;
mod trouble;
