//! HTTP worker threads. Each has an event loop of its own and shares nothing: a connection stays on
//! the worker that it was given to.
//!
//! A request to a small model is answered in a few microseconds, less than it takes to wake a
//! second thread. A runtime that spreads its tasks over threads wakes one for nearly every request:
//! at one connection, this took half of all system calls and a third of the time. Long
//! computations, which would block a loop, run on other threads anyway.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, warn};

use super::spin_wait::SpinWait;
use crate::log;

/// An idle connection is closed after this time. It is longer than a proxy's (Envoy: 1 h): a server
/// that closes first races with the proxy's next request on that connection, which is then lost.
const IDLE_TIMEOUT: Duration = Duration::from_hours(2);

/// An accepted connection, before a worker has it.
pub(super) struct Connection {
    /// Not blocking.
    pub stream: TcpStream,
    /// Signals the connection to end.
    pub watcher: Watcher,
    /// Its permit among all connections; `None` where it was accepted without one, at shutdown.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// The HTTP workers of a server. Dropping them ends their threads and the unfinished requests.
#[derive(Debug)]
pub struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    /// `None` once the worker must end.
    connections: Option<UnboundedSender<(Connection, Held)>>,
    /// One clone here, and one with each connection: their number.
    held: Held,
    thread: Option<JoinHandle<()>>,
}

type Held = Arc<()>;

impl Workers {
    /// Starts `count` threads (at least 1), all of which serve `router`. An error where the system
    /// starts no thread or no runtime.
    pub fn start(count: usize, router: &Router) -> io::Result<Self> {
        let worker = |index| {
            let (sender, connections) = unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                // The answers are on their way when a loop has nothing else to do.
                .on_thread_park(log::flush)
                .build()?;
            let router = router.clone();
            let thread = thread::Builder::new()
                .name(format!("http-{index}"))
                .spawn(move || {
                    log::hold_lines();
                    runtime.block_on(run(connections, router));
                    drop(runtime); // ends unfinished requests, which write their log lines
                    log::flush();
                })?;
            Ok(Worker {
                connections: Some(sender),
                held: Held::default(),
                thread: Some(thread),
            })
        };
        (0..count.max(1))
            .map(worker)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Gives a connection to the worker that has the fewest.
    pub(super) fn serve(&self, connection: Connection) {
        let least = self
            .0
            .iter()
            .min_by_key(|worker| Arc::strong_count(&worker.held));
        if let Some(Worker {
            connections: Some(connections),
            held,
            ..
        }) = least
        {
            // fails at the end of the process only
            let _ = connections.send((connection, Arc::clone(held)));
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.0 {
            worker.connections = None;
        }
        for thread in self.0.iter_mut().filter_map(|worker| worker.thread.take()) {
            let _ = thread.join(); // panics of requests do not get as far as here
        }
    }
}

/// Serves connections until the worker is asked to end.
async fn run(mut connections: UnboundedReceiver<(Connection, Held)>, router: Router) {
    let router = TowerToHyperService::new(router);
    let spin_wait = SpinWait::default();
    tokio::spawn(spin_wait.clone().run());
    while let Some((connection, held)) = connections.recv().await {
        let Connection {
            stream,
            watcher,
            permit,
        } = connection;
        let stream = match tokio::net::TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                warn!(%error, "cannot wait for a connection");
                continue;
            }
        };
        let (router, client) = (router.clone(), spin_wait.client());
        let service = service_fn(move |request| {
            client.request();
            let (answer, client) = (router.call(request), client.clone());
            async move {
                let answer = answer.await;
                client.answer();
                answer
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = watcher.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop((permit, held));
        });
    }
}
