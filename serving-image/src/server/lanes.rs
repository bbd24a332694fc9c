//! Threads with an event loop each, which share nothing: a connection stays on the one that it was given to.
//!
//! A request to a small model is answered in a few microseconds, less than it takes to wake a second thread. A runtime
//! that spreads its tasks over threads wakes one for nearly every request: measured at one connection, half of all
//! system calls were for that, and a third of the time was spent in it. What would hold a loop up, long computations
//! above all, is done by other threads anyway.

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

use super::vigil::Vigil;
use crate::log;

/// An idle connection is closed after this time. Longer than a proxy's own (Envoy: 1 h), because a server that closes
/// first races with the proxy's next request on that connection, which is then lost.
const IDLE_TIMEOUT: Duration = Duration::from_hours(2);

/// A client, on its way to a lane.
pub(super) struct Connection {
    /// Not blocking.
    pub stream: TcpStream,
    /// Tells the connection when it must end.
    pub watcher: Watcher,
    /// Its place among all connections; none where it was let in without one.
    pub permit: Option<OwnedSemaphorePermit>,
}

/// The event loops of a server. Dropping them ends their threads, and what is unfinished there.
#[derive(Debug)]
pub struct Lanes(Vec<Lane>);

#[derive(Debug)]
struct Lane {
    /// None once the lane is asked to end.
    connections: Option<UnboundedSender<(Connection, Held)>>,
    /// One clone here, and one with each connection: their number.
    held: Held,
    thread: Option<JoinHandle<()>>,
}

type Held = Arc<()>;

impl Lanes {
    /// Starts that many threads, all of which serve `router`.
    pub fn start(count: usize, router: &Router) -> io::Result<Self> {
        let lane = |index| {
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
                    drop(runtime); // and with it what is unfinished, which is told in the log, too
                    log::flush();
                })?;
            Ok(Lane {
                connections: Some(sender),
                held: Held::default(),
                thread: Some(thread),
            })
        };
        (0..count.max(1))
            .map(lane)
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Gives a connection to the lane that has the fewest.
    pub(super) fn serve(&self, connection: Connection) {
        let least = self
            .0
            .iter()
            .min_by_key(|lane| Arc::strong_count(&lane.held));
        if let Some(Lane {
            connections: Some(connections),
            held,
            ..
        }) = least
        {
            let _ = connections.send((connection, Arc::clone(held))); // fails at the end of the process only
        }
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in &mut self.0 {
            lane.connections = None;
        }
        for thread in self.0.iter_mut().filter_map(|lane| lane.thread.take()) {
            let _ = thread.join(); // panics of requests do not get as far as here
        }
    }
}

/// Serves connections until the lane is asked to end.
async fn run(mut connections: UnboundedReceiver<(Connection, Held)>, router: Router) {
    let router = TowerToHyperService::new(router);
    let vigil = Vigil::default();
    tokio::spawn(vigil.clone().keep());
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
        let (router, client) = (router.clone(), vigil.client());
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
