//! The operator's process: the real watches and the real loop, on a fake wire.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use kube::Client;
use parking_lot::Mutex;
use serin::{
    api::{Fetch, validate::Limits},
    controller::{
        self, Context, TrialMemories, apply::Applier, clock::Clock, events::Events,
        metrics::Metrics,
    },
    k8s::Stores,
    observe::{DryRuns, EvidenceReader, History, ReconcileTracker},
    plan::PlatformDefaults,
    router::{
        Registry, Router, Setup,
        envoy::{self, Envoy, Prober, RouterModel},
    },
    runtime::{leader::Election, operator, watch},
};
use tokio::{sync::watch::Receiver, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    nodes::ROUTERS,
    prometheus,
    traffic::SCRAPE_SECONDS,
    wire::{Process, Wire},
    world::World,
};

/// The router of a world: the implementation that operators use, and the behaviour of the data
/// plane.
#[derive(Clone, Copy)]
pub struct Routing {
    pub router: fn(&Arc<World>) -> Arc<dyn Router>,
    pub routes: fn(&Stores) -> RouterModel,
}

impl Routing {
    /// The bundled one.
    pub const ENVOY: Self = Self {
        router: |world| {
            let world = world.clone();
            let prober = Prober::asking(move |address| {
                let answers = world.with(|state| state.takes_connections(address));
                Box::pin(std::future::ready(answers))
            });
            let setup = Setup {
                namespace: ROUTERS.to_owned(),
                ..Setup::default()
            };
            Arc::new(Envoy::new(&setup, prober))
        },
        routes: envoy::routes,
    };
}

/// A running operator.
pub struct Operator {
    pub process: Arc<Process>,
    /// Its name in leader elections, where there are any.
    pub pod: Option<String>,
    /// Its caches, once they are complete.
    stores: Arc<OnceLock<Stores>>,
    routes: fn(&Stores) -> RouterModel,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// Starts a process: with a `pod` it takes part in elections, without it leads at once.
    pub fn start(world: &Arc<World>, name: &str, pod: Option<String>, serving_image: &str) -> Self {
        let process = Process::new(name.to_owned());
        let stop = CancellationToken::new();
        let stores = Arc::default();
        let serving = serve(
            world.clone(),
            process.clone(),
            pod.clone(),
            serving_image.to_owned(),
            Arc::clone(&stores),
            stop.clone(),
        );
        let (killed, its_world, its_name) =
            (process.killed.clone(), world.clone(), name.to_owned());
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = serving => {}
            }
            // Its requests that are still under way get no answer.
            killed.cancel();
            its_world.with(|state| state.leads(&its_name, false));
        });
        Self {
            process,
            pod,
            stores,
            routes: world.routing.routes,
            stop,
            task,
        }
    }

    /// The routes that it serves to routers; `None` before its caches are complete.
    pub fn routes(&self) -> Option<RouterModel> {
        self.stores.get().map(self.routes)
    }

    pub fn name(&self) -> &str {
        &self.process.name
    }

    /// As `kill -9`.
    pub fn kill(&self) {
        self.process.killed.cancel();
    }

    /// As SIGTERM.
    pub fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Whether it ended by a panic, which is always a bug.
    pub fn has_panicked(&self) -> bool {
        self.is_over() && !self.process.killed.is_cancelled()
    }

    /// Whether the process has ended.
    pub fn is_over(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
    }
}

/// How long a leader that went silent keeps its lease.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// Reports to the world which operators lead.
async fn report_leading(world: Arc<World>, process: String, mut leads: Receiver<bool>) {
    loop {
        let now = *leads.borrow_and_update();
        world.with(|state| state.leads(&process, now));
        if leads.changed().await.is_err() {
            // No leader is left; running reconciles end with `serve`.
            return std::future::pending().await;
        }
    }
}

/// The same as `serin::runtime::operator`, without the parts that listen on sockets.
async fn serve(
    world: Arc<World>,
    process: Arc<Process>,
    pod: Option<String>,
    serving_image: String,
    complete: Arc<OnceLock<Stores>>,
    stop: CancellationToken,
) {
    let client = Client::new(Wire::new(world.clone(), process.clone()), "default");
    let routers = Registry::new((world.routing.router)(&world), Vec::new());
    let (stores, mut watches) = watch::start(&client, None, &routers);
    if watches.synced().await.is_err() {
        return;
    }
    let _ = complete.set(stores.clone());
    let clock = {
        let (world, process) = (world.clone(), process.clone());
        Clock::reading(move || world.time_of(&process))
    };
    let context = Arc::new(Context {
        evidence: EvidenceReader::new(
            prometheus::client(world.clone(), process.clone()),
            Duration::from_secs(SCRAPE_SECONDS),
            (ROUTERS.to_owned(), "serin-router".to_owned()),
        ),
        defaults: PlatformDefaults {
            fetch: Fetch {
                image: serving_image.clone(),
                hosts: Vec::new(),
                max_size: 1 << 30,
                cache: None,
                cache_limit: None,
            },
            serving_image: serving_image.clone(),
        },
        limits: Limits {
            allowed_schemes: vec!["file".to_owned()],
            bundled_image: serving_image.clone(),
        },
        applier: Applier::default(),
        history: History::default(),
        dry_runs: DryRuns::default(),
        memories: TrialMemories::default(),
        tracker: ReconcileTracker::default(),
        recordings: Arc::default(),
        routers,
        events: Events::new(client.clone(), process.name.clone()),
        metrics: Arc::new(Metrics::default()),
        failures: Mutex::default(),
        client: client.clone(),
        clock: clock.clone(),
        stores,
    });
    let dirty = watches.dirty().clone();
    if let Some(pod) = pod {
        let election = Election::join(client, ROUTERS, &pod, LEASE_DURATION, clock);
        let lead = report_leading(world, process.name.clone(), election.leads());
        tokio::select! {
            biased;
            () = lead => {}
            _ = operator::lead(context, dirty, 1, election, &stop) => {}
        }
    } else {
        controller::run(context, dirty, 1, stop).await;
    }
    drop(watches);
}
