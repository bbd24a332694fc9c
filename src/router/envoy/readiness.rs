//! Whether a model's address answers, asked before the model is called Ready.
//!
//! Each router is connected to one of the operators, so no operator knows what all routers have
//! applied. But each can connect to all of them: a router takes connections for a model once it has
//! the model's route and warm clusters.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use tokio::net::TcpStream;

use crate::{
    k8s::{Stores, endpoints_of_service},
    router::{Reachability, ReachabilityQuery},
};

/// Timeout of one connection. One within a cluster takes a millisecond. Packets to an address that
/// its node does not know yet are lost.
const CONNECTED_WITHIN: Duration = Duration::from_millis(250);
/// After this time an address counts as answering without being asked: a network policy may keep
/// the operator from the routers. kube-proxy may take a second, and a router that has lost its
/// operator finds another one within 4 s.
const ASSUMED_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// Whether the address of a model that has been available since then counts as answering.
fn is_assumed(available_since: Timestamp, now: Timestamp) -> bool {
    let waited = now.duration_since(available_since);
    // Negative: the clock that noted the start was ahead, by an unknown time.
    waited >= ASSUMED_AFTER || waited < SignedDuration::ZERO
}

/// Connects to addresses to see whether they answer. Cheap to clone.
#[derive(Clone)]
pub struct Prober {
    asks: Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, bool> + Send + Sync>,
}

impl Prober {
    /// By a TCP connection that carries nothing.
    pub fn by_tcp() -> Self {
        Self::asking(|address| {
            Box::pin(async move {
                let connected = TcpStream::connect(address);
                matches!(
                    tokio::time::timeout(CONNECTED_WITHIN, connected).await,
                    Ok(Ok(_))
                )
            })
        })
    }

    /// By a function of the caller's.
    pub fn asking(
        asks: impl Fn(SocketAddr) -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) -> Self {
        let asks = Arc::new(asks);
        Self { asks }
    }

    /// Connects to the address of a model and to each router behind it, all at once. While the
    /// model moves, the answer is `Silent` without a connection.
    pub(super) async fn probe(&self, query: ReachabilityQuery<'_>) -> Reachability {
        let ReachabilityQuery {
            stores,
            model,
            available_since,
            now,
            moves,
        } = query;
        let (namespace, name) = (model.namespace().unwrap_or_default(), model.service_name());
        let routers = endpoints_of_service(stores, &namespace, &name);
        if routers.is_empty() {
            return Reachability::NoRouter;
        }
        if is_assumed(available_since, now) {
            return Reachability::Answers;
        }
        if moves {
            return Reachability::Silent;
        }
        let routers = routers.into_iter().map(SocketAddr::from);
        let addresses = routers.chain(own_addresses(stores, &namespace, &name));
        let answers = join_all(addresses.map(|address| (self.asks)(address))).await;
        if answers.into_iter().all(|connected| connected) {
            Reachability::Answers
        } else {
            Reachability::Silent
        }
    }
}

/// The addresses of a model's Service, as its clients use them.
fn own_addresses(stores: &Stores, namespace: &str, name: &str) -> BTreeSet<SocketAddr> {
    let service = stores.services.get(&ObjectRef::new(name).within(namespace));
    let Some(spec) = service.as_ref().and_then(|service| service.spec.as_ref()) else {
        return BTreeSet::new();
    };
    let port = spec.ports.iter().flatten().map(|port| port.port);
    let Some(port) = port.flat_map(u16::try_from).next() else {
        return BTreeSet::new();
    };
    let addresses = spec
        .cluster_ip
        .iter()
        .chain(spec.cluster_ips.iter().flatten());
    addresses
        .filter_map(|address| Some(SocketAddr::new(address.parse().ok()?, port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_counts_as_answering_after_10_seconds() {
        let since = Timestamp::UNIX_EPOCH;
        let after = |seconds| is_assumed(since, since + SignedDuration::from_secs(seconds));
        assert_eq!([-1, 0, 9, 10].map(after), [true, false, false, true]);
    }

    #[tokio::test]
    async fn a_connection_is_an_answer_and_a_refusal_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("its address");
        assert!((Prober::by_tcp().asks)(address).await);
        drop(listener);
        assert!(!(Prober::by_tcp().asks)(address).await);
    }
}
