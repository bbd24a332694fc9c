//! Leader election by a Lease: one replica acts, all of them serve routers.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle};

/// Name of the Lease.
const LEASE: &str = "serin-operator";

/// This replica's part in the election.
pub struct Election {
    leads: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Election {
    /// Takes part, under the pod's name: a container that was restarted takes its own lease back without waiting.
    pub async fn join(
        client: Client,
        namespace: &str,
        pod: &str,
        duration: Duration,
    ) -> Result<Self, LeaseManagerError> {
        // Renewed at two thirds of its time, so that one failed renewal does not lose it.
        let grace = (duration / 3).max(Duration::from_secs(1));
        let manager = LeaseManagerBuilder::new(client, LEASE)
            .with_namespace(namespace)
            .with_identity(pod)
            .with_duration(duration.as_secs())
            .with_grace(grace.as_secs())
            .build()
            .await?;
        let (leads, handle) = manager.watch().await;
        let task = tokio::spawn(async move {
            match handle.await {
                Ok(Ok(_)) => tracing::info!("released the lease"),
                Ok(Err(error)) => tracing::error!(%error, "the election ended"),
                Err(error) => tracing::error!(%error, "the election's task failed"),
            }
        });
        Ok(Self { leads, task })
    }

    /// Resolves once this replica leads.
    pub async fn won(&mut self) {
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves once this replica leads no more.
    pub async fn lost(&mut self) {
        // An election that has ended is one that nobody here can win.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Gives the lease back, so that the next leader need not wait for its end.
    pub async fn leave(self) {
        drop(self.leads);
        let _ = tokio::time::timeout(Duration::from_secs(5), self.task).await;
    }
}
