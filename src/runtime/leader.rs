//! Leader election by a Lease: one replica acts, all of them serve routers.
//!
//! The rules are those of client-go's `leaderelection`. A holder counts as silent for as long as
//! its record has not changed, by this replica's monotonic clock. The times in the record are for
//! people: by them, a holder whose clock was an hour ahead would keep its lease for an hour after
//! its death, and no replica would roll back.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{controller::clock::Clock, k8s::is_code};

/// Name of the Lease.
pub const LEASE: &str = "serin-operator";
/// The holder renews its lease this many times while it lasts.
const RENEWALS: u32 = 3;

/// This replica's part in the election.
pub struct Election {
    leads: watch::Receiver<bool>,
    api_server_silent: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Election {
    /// Takes part under the pod's name: a container that was restarted takes its own lease back
    /// without waiting.
    ///
    /// A leader that cannot renew its lease gives up after two thirds of its `duration`, and
    /// another replica takes it after the whole of it. So clocks may differ in speed by up to a
    /// half.
    pub fn join(
        client: Client,
        namespace: &str,
        pod: &str,
        duration: Duration,
        clock: Clock,
    ) -> Self {
        let api_server_silent = CancellationToken::new();
        let candidate = Candidate {
            leases: Api::namespaced(client, namespace),
            pod: pod.to_owned(),
            duration,
            clock,
            seen: None,
            api_server_silent: api_server_silent.clone(),
        };
        let (sender, leads) = watch::channel(false);
        let stop = CancellationToken::new();
        let task = tokio::spawn(candidate.run(sender, stop.clone()));
        Self {
            leads,
            api_server_silent,
            stop,
            task,
        }
    }

    /// Cancelled once the API server has answered nothing for two thirds of the lease: the caches
    /// of this replica are old, and others may act on newer ones.
    pub fn api_server_silent(&self) -> CancellationToken {
        self.api_server_silent.clone()
    }

    /// Whether this replica leads, and each change of it.
    pub fn leads(&self) -> watch::Receiver<bool> {
        self.leads.clone()
    }

    /// Resolves once this replica leads.
    pub async fn won(&mut self) {
        if self.leads.wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Resolves once this replica leads no more.
    pub async fn lost(&mut self) {
        // An error means that the election has ended, and the lease with it.
        let _ = self.leads.wait_for(|leads| !*leads).await;
    }

    /// Releases the lease, so that the next leader need not wait until it expires.
    pub async fn leave(mut self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(5), &mut self.task).await;
    }
}

impl Drop for Election {
    fn drop(&mut self) {
        self.task.abort(); // a replica that is gone must not renew
    }
}

/// A replica that wants the lease or has it.
struct Candidate {
    leases: Api<Lease>,
    pod: String,
    duration: Duration,
    /// The clock of the times in the record.
    clock: Clock,
    /// The Lease as it was read or written last.
    seen: Option<Seen>,
    api_server_silent: CancellationToken,
}

/// A Lease, and since when it is unchanged.
struct Seen {
    lease: Lease,
    since: Instant,
}

impl Candidate {
    async fn run(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut renewed: Option<Instant> = None;
        let mut heard = Instant::now();
        let limit = self.duration * 2 / RENEWALS;
        loop {
            let now = Instant::now();
            // After this time the next leader may act, so this one must have stopped.
            let deadline = renewed.unwrap_or(heard) + limit;
            match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(leads)) => {
                    renewed = leads.then_some(now);
                    heard = now;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "cannot read or renew the leader's lease");
                    if matches!(error, kube::Error::Api(_)) {
                        heard = now; // a refusal is an answer
                    }
                }
                Err(_) => tracing::warn!("no answer to a request for the leader's lease"),
            }
            if Instant::now() >= heard + limit {
                self.api_server_silent.cancel();
            }
            let is_fresh = renewed == Some(now);
            if !is_fresh && Instant::now() >= deadline {
                renewed = None;
            }
            let is_leader = renewed.is_some();
            leads.send_if_modified(|leads| std::mem::replace(leads, is_leader) != is_leader);
            let next = if is_fresh {
                now + self.duration / RENEWALS
            } else if is_leader {
                deadline.min(now + self.duration / (2 * RENEWALS))
            } else {
                now + self.duration / (2 * RENEWALS)
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(next) => {}
            }
        }
        leads.send_replace(false);
        if renewed.is_some() {
            match self.give_back().await {
                Ok(()) => tracing::info!("released the lease"),
                Err(error) => tracing::warn!(%error, "cannot release the lease; it ends by itself"),
            }
        }
    }

    /// Takes or renews the lease if it is this pod's or free. Returns whether this pod has it now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        if self.holds() {
            match self.claim().await {
                Err(error) if is_code(&error, 409) || is_code(&error, 404) => {} // it has changed
                renewed => return renewed.map(|()| true),
            }
        }
        match self.leases.get_opt(LEASE).await? {
            Some(lease) => self.see(lease),
            None => self.seen = None,
        }
        if !self.holds() && !self.is_free() {
            return Ok(false);
        }
        match self.claim().await {
            // Another replica was first.
            Err(error) if is_code(&error, 409) => Ok(false),
            claimed => claimed.map(|()| true),
        }
    }

    /// Notes a Lease that was read. A change shows that its holder is alive.
    fn see(&mut self, lease: Lease) {
        let known = self.seen.as_ref().map(|seen| &seen.lease.spec);
        if known != Some(&lease.spec) {
            let since = Instant::now();
            self.seen = Some(Seen { lease, since });
        } else if let Some(seen) = &mut self.seen {
            seen.lease = lease; // by another version of the object
        }
    }

    fn spec(&self) -> Option<&LeaseSpec> {
        self.seen.as_ref().and_then(|seen| seen.lease.spec.as_ref())
    }

    /// Whether it is this pod's, by what was read or written last.
    fn holds(&self) -> bool {
        self.spec()
            .is_some_and(|spec| spec.holder_identity.as_ref() == Some(&self.pod))
    }

    /// Whether it has no holder, or its holder has been silent for as long as it lasts.
    fn is_free(&self) -> bool {
        let (Some(seen), Some(spec)) = (&self.seen, self.spec()) else {
            return true;
        };
        let is_held = spec
            .holder_identity
            .as_ref()
            .is_some_and(|holder| !holder.is_empty());
        let lasts = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(self.duration, Duration::from_secs);
        !is_held || seen.since.elapsed() >= lasts
    }

    /// Writes this pod's name and the time, on top of what was read. Fails if that has changed.
    async fn claim(&mut self) -> Result<(), kube::Error> {
        let now = Some(MicroTime(self.clock.now()));
        let before = self.spec().cloned().unwrap_or_default();
        let renews = self.holds();
        let transitions = before.lease_transitions.unwrap_or(0);
        let spec = LeaseSpec {
            holder_identity: Some(self.pod.clone()),
            lease_duration_seconds: i32::try_from(self.duration.as_secs()).ok(),
            acquire_time: if renews {
                before.acquire_time
            } else {
                now.clone()
            },
            lease_transitions: Some(transitions + i32::from(!renews && self.seen.is_some())),
            renew_time: now,
            ..LeaseSpec::default()
        };
        self.write(spec).await
    }

    /// Removes the holder, so that the first other replica takes it.
    async fn give_back(&mut self) -> Result<(), kube::Error> {
        let before = self.spec().cloned().unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: None,
            ..before
        };
        self.write(spec).await
    }

    async fn write(&mut self, spec: LeaseSpec) -> Result<(), kube::Error> {
        let params = PostParams::default();
        let written = if let Some(seen) = &self.seen {
            let lease = Lease {
                spec: Some(spec),
                ..seen.lease.clone()
            };
            self.leases.replace(LEASE, &params, &lease).await
        } else {
            let mut lease = Lease {
                spec: Some(spec),
                ..Lease::default()
            };
            lease.metadata.name = Some(LEASE.to_owned());
            self.leases.create(&params, &lease).await
        };
        self.see(written?);
        Ok(())
    }
}
