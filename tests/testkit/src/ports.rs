//! Ports to listen on that nothing else takes meanwhile.

use std::{
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// They lie below those that systems give to outgoing connections (32,768 and up on Linux): of
/// those, one that was free a moment ago may be any connection's of any test.
const FIRST: u16 = 10_000;
const COUNT: u32 = 20_000;
/// Tests run in processes of their own, whose numbers follow each other: from one's first port to
/// the next one's.
const STRIDE: u32 = 53;

/// A port on which nothing listens now, and that this process has not been given before.
pub fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let place = process::id().wrapping_mul(STRIDE).wrapping_add(tried) % COUNT;
        let port = FIRST + place as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}
