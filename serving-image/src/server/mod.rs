//! The accept loop, and a shutdown that loses no request.

mod spin_wait;
mod workers;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use workers::Connection;
pub use workers::Workers;

/// Most connections at one time; more wait in the kernel's queue. Bounds memory: an idle connection
/// costs about 10 KiB. The usual limit of 1,024 file descriptors must be raised to reach it.
const MAX_CONNECTIONS: usize = 10_000;

/// The pause after a failed accept: out of file descriptors, the next one fails as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Requests were still running at the end of the drain timeout.
#[derive(Debug, thiserror::Error)]
#[error("{connections} connections were still busy {} s after the last one was accepted",
    after.as_secs_f64())]
pub struct Unfinished {
    /// How many.
    pub connections: usize,
    /// The time they had.
    pub after: Duration,
}

/// Serves on `workers` until `stop` is done. Then takes no new connection, and finishes the
/// requests in flight within `finish`, or fails.
pub async fn serve(
    listener: TcpListener,
    workers: Workers,
    stop: impl Future<Output = ()>,
    finish: Duration,
) -> Result<(), Unfinished> {
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let hand_over = |stream: TcpStream, permit: Option<OwnedSemaphorePermit>| -> io::Result<()> {
        let _ = stream.set_nodelay(true); // without it, only latency suffers
        workers.serve(Connection {
            stream: stream.into_std()?,
            watcher: graceful.watcher(),
            permit,
        });
        Ok(())
    };

    let mut stop = std::pin::pin!(stop);
    loop {
        let accept = async {
            let permit = Arc::clone(&permits).acquire_owned().await.ok();
            let (stream, _) = listener.accept().await?;
            hand_over(stream, permit)
        };
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept => if let Err(error) = accepted {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            },
        }
    }
    // The kernel has completed the handshake of what waits in its queue: those clients believe to
    // be connected, and would be reset if the listener just closed.
    while let Some(stream) = poll_fn(|context| match listener.poll_accept(context) {
        Poll::Ready(Ok((stream, _))) => Poll::Ready(Some(stream)),
        Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
    })
    .await
    {
        let _ = hand_over(stream, None); // a failure here only loses this connection
    }
    drop(listener);

    let connections = graceful.count();
    let finished = tokio::time::timeout(finish, graceful.shutdown()).await;
    finished.map_err(|_| Unfinished {
        connections,
        after: finish,
    })
}
