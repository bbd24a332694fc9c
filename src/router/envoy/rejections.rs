//! What routers reject, gathered from all operators.
//!
//! Each router is connected to one of the operators, and only that one learns what the router
//! rejects. Each operator serves what it has learned under [`PATH`]; the leader reads them all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    k8s::Dirty,
    router::{
        PendingReason, RouterRejection,
        envoy::{Rejection, ResourceType, Routers},
    },
};

/// The path under which an operator serves what its own routers reject.
pub(super) const PATH: &str = "/refusals";

/// How often the other operators are asked.
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// Longest time for one answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// What routers reject, by the namespace and name of the model.
type ByModel = BTreeMap<(String, String), BTreeSet<Rejection>>;

/// What routers reject, by model. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Rejections {
    by_model: Arc<Mutex<ByModel>>,
}

impl Rejections {
    /// What routers reject of one model, sorted by router.
    pub fn of(&self, model: &(String, String)) -> Vec<Rejection> {
        let by_model = self.by_model.lock();
        by_model.get(model).into_iter().flatten().cloned().collect()
    }

    /// Replaces everything. Returns the models for which that changes something.
    fn replace(&self, all: impl IntoIterator<Item = Rejection>) -> BTreeSet<(String, String)> {
        let mut new = ByModel::new();
        for rejection in all {
            if let Some(model) = rejection.model() {
                new.entry(model).or_default().insert(rejection);
            }
        }
        let mut old = self.by_model.lock();
        let models: BTreeSet<_> = old.keys().chain(new.keys()).cloned().collect();
        let changed = models
            .into_iter()
            .filter(|model| old.get(model) != new.get(model))
            .collect();
        *old = new;
        changed
    }

    /// Keeps this up to date until `stop`, and marks the models for which something changes.
    /// `peers` is `HOST:PORT`; the host resolves to the addresses of all operators.
    pub async fn gather(
        &self,
        own: &Routers,
        peers: &str,
        dirty: &Dirty,
        stop: &CancellationToken,
    ) {
        let mut changes = own.changes();
        let mut answers = BTreeMap::new();
        loop {
            answers = ask(peers, answers).await;
            let others = answers.values().flatten().cloned();
            for (namespace, name) in self.replace(own.rejected().into_iter().chain(others)) {
                dirty.mark(&namespace, &name);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(ASKED_EVERY) => {}
                news = changes.changed() => if news.is_err() { return },
            }
        }
    }
}

/// What each operator answers now, or what it answered before if it does not.
async fn ask(
    peers: &str,
    mut before: BTreeMap<SocketAddr, Vec<Rejection>>,
) -> BTreeMap<SocketAddr, Vec<Rejection>> {
    let Ok(addresses) = tokio::net::lookup_host(peers).await else {
        return before;
    };
    let mut answers = BTreeMap::new();
    let addresses: BTreeSet<SocketAddr> = addresses.collect();
    for address in addresses {
        let url = format!("http://{address}{PATH}");
        let answer = async { reqwest::get(url).await?.error_for_status()?.json().await };
        let rejections = match tokio::time::timeout(ANSWERED_WITHIN, answer).await {
            Ok(Ok(rejections)) => rejections,
            Ok(Err(_)) | Err(_) => before.remove(&address).unwrap_or_default(),
        };
        answers.insert(address, rejections);
    }
    answers
}

/// Most rejections that one message names.
const MOST_NAMED: usize = 3;
/// Most characters of a router's own message that are kept.
const MOST_WORDS: usize = 300;

/// Why routers do not follow a model, by what they reject of it. `port` is the model's.
pub(super) fn pending(rejections: &[Rejection], port: Option<u16>) -> PendingReason {
    let named = rejections
        .iter()
        .take(MOST_NAMED)
        .map(|rejection| RouterRejection {
            router: rejection.router.clone(),
            what: rejection.kind.word().to_owned(),
            port: port.filter(|_| rejection.kind == ResourceType::Listener),
            words: rejection.message.chars().take(MOST_WORDS).collect(),
        });
    PendingReason::Rejected {
        rejections: named.collect(),
        more: rejections.len().saturating_sub(MOST_NAMED),
    }
}

/// Removes the routers that reject something of a model: they keep an old weight, or have no route.
/// Where none would be left, all stay.
pub(super) fn leave_out(
    routers: &mut BTreeSet<IpAddr>,
    slices: &[Arc<EndpointSlice>],
    rejections: &[Rejection],
) {
    if rejections.is_empty() {
        return;
    }
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let rejecting: BTreeSet<IpAddr> = endpoints
        .filter(|endpoint| {
            let pod = endpoint.target_ref.as_ref();
            let pod = pod.and_then(|pod| pod.name.as_deref());
            rejections
                .iter()
                .any(|rejection| pod == Some(&*rejection.router))
        })
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
        .collect();
    if !routers.is_subset(&rejecting) {
        routers.retain(|router| !rejecting.contains(router));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(router: &str, name: &str) -> Rejection {
        Rejection {
            router: router.to_owned(),
            kind: ResourceType::Listener,
            name: name.to_owned(),
            message: "Address already in use".to_owned(),
        }
    }

    #[test]
    fn the_first_three_routers_are_named_and_the_others_counted() {
        let churn = |router| rejection(router, "ml/churn");
        let rejected = |all: &[Rejection], port| match pending(all, port) {
            PendingReason::Rejected { rejections, more } => (rejections, more),
            PendingReason::Words(words) => panic!("{words}"),
        };
        let (one, more) = rejected(&[churn("a")], Some(54_070));
        assert_eq!((one[0].port, more), (Some(54_070), 0));
        assert_eq!(one[0].words, "Address already in use");
        let (first, more) = rejected(&["a", "b", "c", "d", "e"].map(churn), None);
        let first: Vec<_> = first.iter().map(|one| one.router.as_str()).collect();
        assert_eq!((first, more), (vec!["a", "b", "c"], 2));
    }

    #[test]
    fn news_names_the_models_that_it_concerns() {
        let rejections = Rejections::default();
        let model = |name: &str| ("ml".to_owned(), name.to_owned());
        let churn = [
            rejection("a", "ml/churn"),
            rejection("b", "ml/churn/1a2b3c4d"),
        ];
        let both = churn.iter().cloned().chain([rejection("a", "ml/fraud")]);
        let news = rejections.replace(both);
        assert_eq!(news, [model("churn"), model("fraud")].into());
        let news = rejections.replace(churn.iter().rev().chain(&churn).cloned());
        assert_eq!(news, [model("fraud")].into(), "in whatever order, twice");
        assert_eq!(rejections.of(&model("churn")), churn);
        assert_eq!(rejections.of(&model("fraud")), []);
    }
}
