//! The accept loop, and an end in which no request is lost.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{debug, warn};

/// Connections at one time; more wait in the kernel's queue. Keeps file descriptors below the usual limit of 1,024
/// only where that is raised, and memory bounded everywhere: an idle connection costs about 10 KiB.
const MAX_CONNECTIONS: usize = 10_000;

/// An idle connection is closed after this time. Longer than a proxy's own (Envoy: 1 h), because a server that closes
/// first races with the proxy's next request on that connection, which is then lost.
const IDLE_TIMEOUT: Duration = Duration::from_hours(2);

/// The pause after a failed accept: out of file descriptors, the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Requests were still running when their time was over.
#[derive(Debug, thiserror::Error)]
#[error("{connections} connections were still busy {} s after the last one was accepted", after.as_secs_f64())]
pub struct Unfinished {
    /// How many.
    pub connections: usize,
    /// The time they had.
    pub after: Duration,
}

/// Serves until `stop` is done, then takes no new connection and finishes the requests in flight within `finish`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: impl Future<Output = ()>,
    finish: Duration,
) -> Result<(), Unfinished> {
    let service = TowerToHyperService::new(router);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let spawn = |stream: TcpStream, permit: Option<OwnedSemaphorePermit>| {
        let _ = stream.set_nodelay(true); // only latency is lost without
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    };

    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        tokio::select! {
            biased;
            () = &mut stop => break,
            (accepted, permit) = accept => match accepted {
                Ok((stream, _)) => spawn(stream, permit),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // The kernel has completed the handshake of what waits in its queue: those clients believe to be connected, and
    // would be reset if the listener just closed.
    while let Some(stream) = poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(Ok((stream, _))) => Poll::Ready(Some(stream)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    })
    .await
    {
        spawn(stream, None);
    }
    drop(listener);

    let connections = graceful.count();
    tokio::time::timeout(finish, graceful.shutdown())
        .await
        .map_err(|_| Unfinished {
            connections,
            after: finish,
        })
}
