//! What routers refuse, as every operator knows it.
//!
//! Routers share themselves out among the operators, and only the operator that a router is connected to hears what it
//! refuses. Each serves what it has heard under [`PATH`], and the leader's is the sum of all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    k8s::{Dirty, Stores},
    router::envoy::{Refusal, ResourceType, Routers},
};

/// The path under which an operator serves what its own routers refuse.
pub const PATH: &str = "/refusals";

/// How often the other operators are asked.
const ASKED_EVERY: Duration = Duration::from_secs(5);
/// Longest time for one answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// What routers refuse, by the namespace and name of the model.
type ByModel = BTreeMap<(String, String), BTreeSet<Refusal>>;

/// What routers refuse, by model. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    by_model: Arc<Mutex<ByModel>>,
}

impl Refusals {
    /// What routers refuse of one model, sorted by router.
    pub fn of(&self, model: &(String, String)) -> Vec<Refusal> {
        let by_model = self.by_model.lock();
        by_model.get(model).into_iter().flatten().cloned().collect()
    }

    /// Replaces everything; returns the models for which that is news.
    fn replace(&self, all: impl IntoIterator<Item = Refusal>) -> BTreeSet<(String, String)> {
        let mut new = ByModel::new();
        for refusal in all {
            if let Some(model) = refusal.model() {
                new.entry(model).or_default().insert(refusal);
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

    /// Keeps this up to date, and marks the models for which there is news, until `stop`. `peers` is `HOST:PORT`, a name
    /// with the address of every operator.
    pub async fn gather(
        &self,
        own: &Routers,
        peers: &str,
        dirty: &Dirty,
        stop: &CancellationToken,
    ) {
        let mut changes = own.changes();
        let mut told = BTreeMap::new();
        loop {
            told = ask(peers, told).await;
            let others = told.values().flatten().cloned();
            for (namespace, name) in self.replace(own.refused().into_iter().chain(others)) {
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

/// What each operator says now; what it said before where it does not answer.
async fn ask(
    peers: &str,
    mut before: BTreeMap<SocketAddr, Vec<Refusal>>,
) -> BTreeMap<SocketAddr, Vec<Refusal>> {
    let Ok(addresses) = tokio::net::lookup_host(peers).await else {
        return before;
    };
    let mut told = BTreeMap::new();
    let addresses: BTreeSet<SocketAddr> = addresses.collect();
    for address in addresses {
        let url = format!("http://{address}{PATH}");
        let answer = async { reqwest::get(url).await?.error_for_status()?.json().await };
        let refusals = match tokio::time::timeout(ANSWERED_WITHIN, answer).await {
            Ok(Ok(refusals)) => refusals,
            Ok(Err(_)) | Err(_) => before.remove(&address).unwrap_or_default(),
        };
        told.insert(address, refusals);
    }
    told
}

/// Most refusals of routers that one message names.
const MOST_NAMED: usize = 3;
/// Most characters of a router's words.
const MOST_WORDS: usize = 300;

/// What routers refuse of a model, in words: each router, and its own words.
pub(super) fn sentence(refusals: &[Refusal], port: Option<u16>) -> String {
    let mut message = String::new();
    for refusal in refusals.iter().take(MOST_NAMED) {
        let Refusal {
            router,
            kind,
            message: words,
            ..
        } = refusal;
        let _ = write!(
            message,
            "Router {router} refuses this model's {}",
            kind.word()
        );
        if let (ResourceType::Listener, Some(port)) = (kind, port) {
            let _ = write!(message, " on port {port}");
        }
        let words: String = words.chars().take(MOST_WORDS).collect();
        let _ = write!(message, ": {words}. ");
    }
    if let Some(more) = refusals.len().checked_sub(MOST_NAMED + 1) {
        let _ = write!(message, "So do {} more. ", more + 1);
    }
    message.push_str(
        "New connections go to the other routers, if there are any. It is offered again every 30 s; \
         if this stays, delete the router's pod.",
    );
    message
}

/// Takes those routers out that refuse something of a model: they keep what they had, an old weight or nothing at all.
/// Where none would be left, all stay.
pub fn leave_out(routers: &mut BTreeSet<IpAddr>, stores: &Stores, refusals: &[Refusal]) {
    if refusals.is_empty() {
        return;
    }
    let slices = stores.routers.state();
    let endpoints = slices
        .iter()
        .flat_map(|slice| slice.endpoints.iter().flatten());
    let refusing: BTreeSet<IpAddr> = endpoints
        .filter(|endpoint| {
            let pod = endpoint.target_ref.as_ref();
            let pod = pod.and_then(|pod| pod.name.as_deref());
            refusals.iter().any(|refusal| pod == Some(&*refusal.router))
        })
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
        .collect();
    if !routers.is_subset(&refusing) {
        routers.retain(|router| !refusing.contains(router));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(router: &str, name: &str) -> Refusal {
        Refusal {
            router: router.to_owned(),
            kind: ResourceType::Listener,
            name: name.to_owned(),
            message: "Address already in use".to_owned(),
        }
    }

    #[test]
    fn routers_are_quoted_and_the_first_three_named() {
        let churn = |router| refusal(router, "ml/churn");
        assert_eq!(
            sentence(&[churn("a")], Some(54_070)),
            "Router a refuses this model's listener on port 54070: Address already in use. \
             New connections go to the other routers, if there are any. It is offered again \
             every 30 s; if this stays, delete the router's pod."
        );
        let said = sentence(&["a", "b", "c", "d", "e"].map(churn), None);
        assert!(
            said.contains("Router c") && !said.contains("Router d"),
            "{said}"
        );
        assert!(said.contains("So do 2 more."), "{said}");
    }

    #[test]
    fn news_names_the_models_that_it_concerns() {
        let refusals = Refusals::default();
        let model = |name: &str| ("ml".to_owned(), name.to_owned());
        let churn = [refusal("a", "ml/churn"), refusal("b", "ml/churn/1a2b3c4d")];
        let both = churn.iter().cloned().chain([refusal("a", "ml/fraud")]);
        let news = refusals.replace(both);
        assert_eq!(news, [model("churn"), model("fraud")].into());
        let news = refusals.replace(churn.iter().rev().chain(&churn).cloned());
        assert_eq!(news, [model("fraud")].into(), "in whatever order, twice");
        assert_eq!(refusals.of(&model("churn")), churn);
        assert_eq!(refusals.of(&model("fraud")), []);
    }
}
