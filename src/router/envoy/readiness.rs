//! Whether a model's address answers, asked before the model is called Ready.
//!
//! Routers share themselves out among the operators, so none knows what all of them have taken over. That a router takes
//! connections for a model is for everybody to see, and it does so once it has the model's routes and warm clusters.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::{BoxFuture, join_all};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use tokio::net::TcpStream;

use crate::{
    k8s::{Stores, endpoints_of_service},
    router::{Asked, Reachability},
};

/// Longest time for one connection. One within a cluster takes a millisecond; packets to an address that its node does not
/// know yet are lost.
const CONNECTED_WITHIN: Duration = Duration::from_millis(250);
/// Where a network policy keeps the operator from the routers, nobody answers it, ever: it believes in them after this time.
/// kube-proxy may take a second, a router that has lost its operator finds another one within 4 s.
const PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Whether an address need not be asked any more whose model has been available since then.
fn is_believed(available_since: Timestamp, now: Timestamp) -> bool {
    let waited = now.duration_since(available_since);
    // Before it began: the clock that noted it was ahead, nobody knows by how much.
    waited >= PATIENCE || waited < SignedDuration::ZERO
}

/// Asks whether addresses take connections. Cheap to clone.
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

    /// By whatever `asks` does.
    pub fn asking(
        asks: impl Fn(SocketAddr) -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) -> Self {
        let asks = Arc::new(asks);
        Self { asks }
    }

    /// Asks at the address of a model, and at each router behind it: all at once. While the model
    /// moves, it is silent without being asked.
    pub(super) async fn probe(&self, asked: Asked<'_>) -> Reachability {
        let Asked {
            stores,
            model,
            available_since,
            now,
            moves,
        } = asked;
        let (namespace, name) = (model.namespace().unwrap_or_default(), model.name_any());
        let routers = endpoints_of_service(stores, &namespace, &name);
        if routers.is_empty() {
            return Reachability::NoRouter;
        }
        if is_believed(available_since, now) {
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
    fn an_address_is_believed_in_after_a_while() {
        let since = Timestamp::UNIX_EPOCH;
        let after = |seconds| is_believed(since, since + SignedDuration::from_secs(seconds));
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
