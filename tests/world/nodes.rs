//! Simulates the rest of a cluster: the Deployment and endpoint controllers, the kubelets, the
//! garbage collector.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde_json::{Value, json};

use crate::{
    kinds::{Key, Kind},
    objects::{Change, Objects, owners},
    rng::Rng,
    story::{Behaviour, Start},
};

/// Where the routers run.
pub const ROUTERS: &str = "serin-system";
/// How many nodes run pods of models.
const NODES: u64 = 2;

/// A time that is never reached.
const NEVER_MS: u64 = u64::MAX / 2;

/// All nodes and controllers.
pub struct Nodes {
    rng: Rng,
    deployments: BTreeMap<String, Played>,
    /// When the garbage collector gets to an object whose owner is gone.
    doomed: BTreeMap<Key, u64>,
    addresses: u64,
    /// The longest time that the garbage collector takes, in milliseconds.
    pub collector_ms: u64,
    /// The version of the objects at which nothing is left to be done, not even later.
    idle_at: Option<u64>,
    /// Why no node takes a new pod, in the scheduler's words.
    full: Option<String>,
    /// Whether nodes take one pod of each Deployment all the same.
    pub one_fits: bool,
    /// The limit of pods in a namespace, and the message of the denial.
    pod_limit: Option<(usize, String)>,
    /// Pods that were denied so far, looks of one step counted once.
    pub denied: u64,
    /// Pods that no node took so far.
    pub unplaced: u64,
}

/// One Deployment's pods.
struct Played {
    generation: i64,
    /// When the controller gets to see this generation.
    seen_at_ms: u64,
    pods: Vec<Pod>,
    /// The template that the newest pods were made from.
    template: Value,
    /// Ready addresses as of the step before, which the endpoint controller publishes.
    published: Vec<String>,
    /// The version of the objects at which nothing is left to be done for it, not even later.
    settled_at: Option<u64>,
}

struct Pod {
    name: String,
    address: String,
    /// The node that runs it; none while the scheduler finds no node.
    node: Option<u64>,
    /// Made from an older template than the Deployment's.
    is_outdated: bool,
    ready_at_ms: u64,
    /// Not ready before this, for some passing reason.
    down_until_ms: u64,
    restarts: i64,
    next_restart_ms: u64,
    /// When its server was started, and when it last became Ready or ceased to be.
    started: String,
    turned: String,
    is_ready: bool,
}

impl Played {
    /// Whether nothing is left to change.
    fn is_calm(&self, now_ms: u64) -> bool {
        self.seen_at_ms <= now_ms
            && self.pods.iter().all(|pod| {
                if pod.node.is_none() || pod.is_outdated {
                    return false;
                }
                let due = pod.ready_at_ms > now_ms && pod.ready_at_ms < NEVER_MS;
                !due && pod.down_until_ms <= now_ms && pod.next_restart_ms == NEVER_MS
            })
    }
}

impl Nodes {
    pub fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed, "nodes"),
            deployments: BTreeMap::new(),
            doomed: BTreeMap::new(),
            addresses: 0,
            collector_ms: 20_000,
            idle_at: None,
            full: None,
            one_fits: false,
            pod_limit: None,
            denied: 0,
            unplaced: 0,
        }
    }

    /// One step: everything that is due at `now_ms` happens.
    pub fn step(
        &mut self,
        objects: &mut Objects,
        now_ms: u64,
        behaviour: impl Fn(&Key, &Value, &str) -> Behaviour,
    ) {
        let version = objects.version();
        if self.idle_at == Some(version) {
            return;
        }
        let deployments: Vec<(Key, Arc<Value>)> = objects
            .of(Kind::Deployment)
            .map(|(key, object)| (key.clone(), object.clone()))
            .collect();
        let mut alive = BTreeSet::new();
        for (key, deployment) in deployments {
            let uid = text(&deployment["metadata"]["uid"]);
            self.play(objects, &key, &deployment, &uid, now_ms, &behaviour);
            alive.insert(uid);
        }
        self.deployments.retain(|uid, _| alive.contains(uid));
        self.collect_garbage(objects, now_ms);
        let calm = self.doomed.is_empty() && self.deployments.values().all(|d| d.is_calm(now_ms));
        self.idle_at = (calm && objects.version() == version).then_some(version);
    }

    fn play(
        &mut self,
        objects: &mut Objects,
        key: &Key,
        deployment: &Value,
        uid: &str,
        now_ms: u64,
        behaviour: impl Fn(&Key, &Value, &str) -> Behaviour,
    ) {
        let generation = deployment["metadata"]["generation"].as_i64().unwrap_or(0);
        let rng = &mut self.rng;
        let played = self
            .deployments
            .entry(uid.to_owned())
            .or_insert_with(|| Played {
                generation: 0,
                seen_at_ms: 0,
                pods: Vec::new(),
                template: deployment["spec"]["template"].clone(),
                published: Vec::new(),
                settled_at: None,
            });
        if played.generation != generation {
            played.generation = generation;
            played.seen_at_ms = now_ms + rng.below(2_000);
        }
        if now_ms < played.seen_at_ms {
            return;
        }
        let before = objects.version();
        if let Some(settled_at) = &mut played.settled_at {
            let mut news = objects.since(*settled_at).iter();
            if !news.any(|change| is_about(change, key)) {
                *settled_at = before;
                return;
            }
        }
        let version = text(&deployment["metadata"]["annotations"]["serin.dev/version"]);
        let behaviour = behaviour(key, deployment, &version);
        let desired = deployment["spec"]["replicas"].as_u64().unwrap_or(1) as usize;
        if played.template != deployment["spec"]["template"] {
            played.template = deployment["spec"]["template"].clone();
            for pod in &mut played.pods {
                pod.is_outdated = true;
            }
        }
        while played.pods.len() > desired {
            if let Some(pod) = played.pods.pop() {
                let _ = objects.delete(&Key::new(Kind::Pod, &key.namespace, &pod.name));
            }
        }
        // A new template is rolled out pod by pod, each once all others are ready.
        let is_ready = |pod: &Pod| pod.ready_at_ms <= now_ms && pod.down_until_ms <= now_ms;
        if played.pods.iter().all(is_ready)
            && let Some(index) = played.pods.iter().position(|pod| pod.is_outdated)
        {
            let pod = played.pods.remove(index);
            let _ = objects.delete(&Key::new(Kind::Pod, &key.namespace, &pod.name));
        }
        let in_namespace = |key: &Key, of: &Key| key.namespace == of.namespace;
        let mut denied = None;
        while played.pods.len() < desired {
            if let Some((limit, words)) = &self.pod_limit
                && objects
                    .of(Kind::Pod)
                    .filter(|(pod, _)| in_namespace(pod, key))
                    .count()
                    >= *limit
            {
                let text = format!("pods \"{}-7c9d6b5f4-\" is forbidden: {words}", key.name);
                self.denied += 1;
                denied = Some(text);
                break;
            }
            self.addresses += 1;
            let none_placed = played.pods.iter().all(|pod| pod.node.is_none());
            let fits = self.full.is_none() || self.one_fits && none_placed;
            let starts_in = match behaviour.start {
                Start::Ready => rng.between(2_000, 9_000),
                Start::After(seconds) => seconds * 1000,
                Start::Never | Start::Crashing => NEVER_MS,
            };
            played.pods.push(Pod {
                name: format!("{}-7c9d6b5f4-{:05}", key.name, self.addresses),
                address: format!(
                    "10.244.{}.{}",
                    self.addresses / 250,
                    self.addresses % 250 + 1
                ),
                node: fits.then(|| emptiest(&played.pods)),
                is_outdated: false,
                ready_at_ms: now_ms.saturating_add(starts_in).min(NEVER_MS),
                down_until_ms: 0,
                restarts: 0,
                next_restart_ms: match behaviour.start {
                    Start::Crashing => now_ms + 4_000,
                    Start::Ready | Start::Never | Start::After(_) => NEVER_MS,
                },
                started: objects.now_text.clone(),
                turned: objects.now_text.clone(),
                is_ready: false,
            });
            if let Some(pod) = played.pods.last() {
                let words = self.full.as_deref().unwrap_or_default();
                let made = pod_object(key, deployment, uid, pod, words);
                let _ = objects.create(&Key::new(Kind::Pod, &key.namespace, &pod.name), made);
            }
        }
        let mut ready_addresses = Vec::new();
        for pod in &mut played.pods {
            if pod.node.is_none() {
                self.unplaced += 1;
                if self.full.is_none() {
                    self.addresses += 1;
                    pod.node = Some(self.addresses % NODES);
                    pod.ready_at_ms = pod.ready_at_ms.max(now_ms + 5_000);
                    pod.started.clone_from(&objects.now_text);
                }
            }
            if now_ms >= pod.next_restart_ms {
                pod.restarts += 1;
                pod.next_restart_ms = now_ms + 10_000;
            }
            let ready = pod.node.is_some()
                && now_ms >= pod.ready_at_ms
                && now_ms >= pod.down_until_ms
                && behaviour.start != Start::Never;
            if ready {
                ready_addresses.push(pod.address.clone());
            }
            if ready != pod.is_ready {
                pod.is_ready = ready;
                pod.turned.clone_from(&objects.now_text);
            }
            let why = self.full.as_deref().unwrap_or_default();
            let wanted = pod_object(key, deployment, uid, pod, why);
            let pod_key = Key::new(Kind::Pod, &key.namespace, &pod.name);
            objects.edit(&pod_key, |live| live["status"] = wanted["status"].clone());
        }
        let (ready, made) = (ready_addresses.len(), played.pods.len());
        let updated = played.pods.iter().filter(|pod| !pod.is_outdated).count();
        objects.edit(key, |live| {
            live["status"] = json!({
                "observedGeneration": generation, "replicas": made, "updatedReplicas": updated,
                "readyReplicas": ready, "availableReplicas": ready,
            });
            if let Some(message) = &denied {
                live["status"]["conditions"] = json!([{
                    "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                    "message": message,
                }]);
            }
        });
        let earlier = std::mem::replace(&mut played.published, ready_addresses);
        // An address that is gone is taken out at once, a new one comes a step later.
        let both: Vec<String> = earlier
            .into_iter()
            .filter(|address| played.published.contains(address))
            .collect();
        publish_endpoints(objects, key, &both);
        let is_settled = objects.version() == before && denied.is_none() && played.is_calm(now_ms);
        played.settled_at = is_settled.then_some(before);
    }

    /// Sets or removes the scheduler's message with which no node takes new pods.
    pub fn set_full(&mut self, words: Option<String>) {
        self.full = words;
        self.look_again();
    }

    /// Sets or removes a limit of pods in a namespace, with the message of the denial.
    pub fn set_pod_limit(&mut self, limit: Option<(usize, String)>) {
        self.pod_limit = limit;
        self.look_again();
    }

    /// Drains a node: its pods are evicted at once and created elsewhere. Returns how many there
    /// were.
    pub fn drain(&mut self, node: u64, objects: &mut Objects) -> usize {
        self.evict(objects, |pod| pod.node == Some(node), usize::MAX)
    }

    /// One pod is evicted, of a Deployment by its name. Returns whether there was one.
    pub fn evict_one(&mut self, deployment: &str, objects: &mut Objects) -> bool {
        let start = format!("{deployment}-");
        self.evict(objects, |pod| pod.name.starts_with(&start), 1) == 1
    }

    fn evict(&mut self, objects: &mut Objects, which: impl Fn(&Pod) -> bool, most: usize) -> usize {
        let mut gone = 0;
        for played in self.deployments.values_mut() {
            while gone < most
                && let Some(index) = played.pods.iter().position(&which)
            {
                let pod = played.pods.remove(index);
                let found = objects.of(Kind::Pod).find(|(key, _)| key.name == pod.name);
                if let Some(key) = found.map(|(key, _)| key.clone()) {
                    let _ = objects.delete(&key);
                }
                gone += 1;
            }
        }
        self.look_again();
        gone
    }

    /// Versions behave otherwise from now on.
    pub fn look_again(&mut self) {
        self.idle_at = None;
        for played in self.deployments.values_mut() {
            played.settled_at = None;
        }
    }

    /// One ready pod is not ready for a while.
    pub fn trip_a_pod(&mut self, now_ms: u64, for_ms: u64) -> Option<String> {
        let mut ready: Vec<&mut Pod> = self
            .deployments
            .values_mut()
            .flat_map(|played| &mut played.pods)
            .filter(|pod| now_ms >= pod.ready_at_ms && now_ms >= pod.down_until_ms)
            .collect();
        if ready.is_empty() {
            return None;
        }
        let index = self.rng.below(ready.len() as u64) as usize;
        ready[index].down_until_ms = now_ms + for_ms;
        let name = ready[index].name.clone();
        self.look_again();
        Some(name)
    }

    fn collect_garbage(&mut self, objects: &mut Objects, now_ms: u64) {
        let uids: BTreeSet<String> = objects
            .all()
            .map(|(_, object)| text(&object["metadata"]["uid"]))
            .collect();
        let orphans: Vec<Key> = objects
            .all()
            .filter(|(_, object)| {
                let mut owned = false;
                let mut alive = false;
                for owner in owners(object) {
                    owned = true;
                    alive |= uids.contains(owner);
                }
                owned && !alive
            })
            .map(|(key, _)| key.clone())
            .collect();
        self.doomed.retain(|key, _| orphans.contains(key));
        for key in orphans {
            let rng = &mut self.rng;
            let due = self
                .doomed
                .entry(key.clone())
                .or_insert_with(|| now_ms + rng.below(self.collector_ms.max(1)));
            if now_ms >= *due {
                let _ = objects.delete(&key);
            }
        }
    }
}

/// The node with the fewest of these pods.
fn emptiest(pods: &[Pod]) -> u64 {
    let on = |node: u64| pods.iter().filter(|pod| pod.node == Some(node)).count();
    (0..NODES).min_by_key(|node| on(*node)).unwrap_or(0)
}

/// Whether a change is of a Deployment, or of what belongs to it and has its name before its own.
fn is_about(change: &Change, deployment: &Key) -> bool {
    change.key.namespace == deployment.namespace && change.key.name.starts_with(&deployment.name)
}

/// The EndpointSlice of a version's Service, which has its labels.
fn publish_endpoints(objects: &mut Objects, deployment: &Key, addresses: &[String]) {
    let service = Key::new(Kind::Service, &deployment.namespace, &deployment.name);
    let Some(service) = objects.get(&service).cloned() else {
        return;
    };
    let key = Key::new(
        Kind::Slice,
        &deployment.namespace,
        &format!("{}-x1", deployment.name),
    );
    let mut labels = service["metadata"]["labels"].clone();
    labels["kubernetes.io/service-name"] = json!(deployment.name);
    labels["endpointslice.kubernetes.io/managed-by"] = json!("endpointslice-controller.k8s.io");
    let endpoints: Vec<Value> = addresses
        .iter()
        .map(|address| json!({"addresses": [address], "conditions": {"ready": true}}))
        .collect();
    let slice = json!({
        "metadata": {
            "namespace": key.namespace, "name": key.name, "labels": labels,
            "ownerReferences": [{
                "apiVersion": "v1", "kind": "Service", "name": deployment.name,
                "uid": service["metadata"]["uid"], "controller": true,
            }],
        },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    });
    if objects.get(&key).is_none() {
        let _ = objects.create(&key, slice);
    } else {
        objects.edit(&key, |live| {
            for field in ["endpoints", "ports"] {
                live[field] = slice[field].clone();
            }
            live["metadata"]["ownerReferences"] = slice["metadata"]["ownerReferences"].clone();
        });
    }
}

fn pod_object(key: &Key, deployment: &Value, uid: &str, pod: &Pod, unplaced: &str) -> Value {
    let ready = pod.is_ready;
    let state = if pod.restarts > 0 {
        json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting failed \
            container"}})
    } else {
        json!({"running": {"startedAt": pod.started}})
    };
    let condition = |name: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": name, "status": status, "lastTransitionTime": pod.turned})
    };
    let status = match pod.node {
        Some(_) => json!({
            "phase": "Running", "podIP": pod.address,
            "conditions": [
                condition("PodScheduled", true), condition("Initialized", true),
                condition("ContainersReady", ready), condition("Ready", ready),
            ],
            "containerStatuses": [{
                "name": "server", "ready": ready, "started": true, "restartCount": pod.restarts,
                "image": "serve:1", "imageID": "serve:1", "state": state,
            }],
        }),
        None => json!({
            "phase": "Pending",
            "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": unplaced,
            }],
        }),
    };
    json!({
        "metadata": {
            "namespace": key.namespace, "name": pod.name,
            "labels": deployment["spec"]["template"]["metadata"]["labels"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": key.name,
                    "uid": uid, "controller": true}],
        },
        "spec": {
            "nodeName": pod.node.map(|node| format!("node-{node}")),
            "containers": [{"name": "server", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": status,
    })
}

/// How many pods of a version are ready, and how many of them a router can reach.
pub fn capacity(objects: &Objects, namespace: &str, name: &str) -> (i64, i64) {
    let deployment = objects.get(&Key::new(Kind::Deployment, namespace, name));
    let ready = deployment.map_or(0, |deployment| {
        deployment["status"]["readyReplicas"].as_i64().unwrap_or(0)
    });
    let slice = objects.get(&Key::new(Kind::Slice, namespace, &format!("{name}-x1")));
    let endpoints = slice
        .and_then(|slice| slice["endpoints"].as_array())
        .map_or(0, Vec::len);
    (ready, endpoints as i64)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
