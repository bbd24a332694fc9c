//! The operator's process: the real watches and the real loop, on a fake wire.

use std::{sync::Arc, time::Duration};

use kube::Client;
use parking_lot::Mutex;
use serin::{
    api::{Fetch, validate::Limits},
    apply::Applier,
    clock::Clock,
    controller::{self, Context},
    events::Events,
    k8s::SliceApi,
    metrics::Metrics,
    observe::{Attention, Evidence},
    plan::Site,
    traffic::ports::Ports,
    watch::{self, Scope},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    nodes::ROUTERS,
    prometheus,
    traffic::SCRAPE_SECONDS,
    wire::{Process, Wire},
    world::World,
};

/// A running operator.
pub struct Operator {
    process: Arc<Process>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Operator {
    /// Starts a process.
    pub fn start(world: &Arc<World>, name: &str, serving_image: &str) -> Self {
        let process = Process::new(name.to_owned());
        let stop = CancellationToken::new();
        let serving = serve(
            world.clone(),
            process.clone(),
            serving_image.to_owned(),
            stop.clone(),
        );
        let killed = process.killed.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = killed.cancelled() => {}
                () = serving => {}
            }
            // Whatever of it is still under way on the wire is heard of no more.
            killed.cancel();
        });
        Self {
            process,
            stop,
            task,
        }
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

    /// Whether it ended by a panic, which nothing in it may do.
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

/// What `serin::operator` does once it leads, without what listens on sockets.
async fn serve(
    world: Arc<World>,
    process: Arc<Process>,
    serving_image: String,
    stop: CancellationToken,
) {
    let client = Client::new(Wire::new(world.clone(), process.clone()), "default");
    let scope = Scope {
        watch_namespace: None,
        own_namespace: ROUTERS.to_owned(),
        router_service: "serin-router".to_owned(),
        slice_api: SliceApi::V1,
    };
    let (stores, news) = watch::start(&client, &scope);
    if stores.synced().await.is_err() {
        return;
    }
    let clock = {
        let world = world.clone();
        Clock::reading(move || world.operators_time())
    };
    let context = Arc::new(Context {
        evidence: Evidence::new(
            prometheus::client(world, process.clone()),
            Duration::from_secs(SCRAPE_SECONDS),
            (ROUTERS.to_owned(), "serin-router".to_owned()),
        ),
        site: Site {
            fetch: Fetch {
                image: serving_image.clone(),
                hosts: Vec::new(),
                max_size: 1 << 30,
                cache: None,
                cache_limit: None,
            },
            serving_image,
            slice_api: SliceApi::V1,
        },
        limits: Limits {
            allowed_schemes: vec!["file".to_owned()],
        },
        applier: Applier::default(),
        attention: Attention::default(),
        recordings: Arc::default(),
        events: Events::new(client.clone(), process.name.clone()),
        metrics: Arc::new(Metrics::default()),
        ports: Ports::default(),
        failures: Mutex::default(),
        client,
        clock,
        stores,
    });
    controller::run(context, news.models, 1, stop).await;
    drop(news.watches);
}
