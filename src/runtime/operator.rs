//! The operator as a whole: everything that runs, and how it stops.

use std::{sync::Arc, time::Duration};

use kube::{Client, Config};
use parking_lot::Mutex;
use tokio::{
    signal::unix::SignalKind,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::validate::Limits,
    controller::{
        self, Context, TrialMemories, apply::Applier, clock::Clock, events::Events,
        metrics::Metrics,
    },
    k8s::{Dirty, ListenError, timely, words},
    observe::{
        DryRuns, EvidenceReader, History, ReconcileTracker, metrics::Client as PrometheusClient,
    },
    plan::PlatformDefaults,
    router::{self, Host, Registry},
    runtime::{
        http::{self, Health},
        leader::Election,
        schema::{self, Outdated},
        settings::Settings,
        watch,
    },
};

/// A connection to the API server on which nothing arrives for so long is dead. kube's default is
/// no timeout: a watch whose first answer is lost would hang for ever. A working watch ends sooner
/// by itself.
pub const READ_TIMEOUT: Duration = Duration::from_secs(75);

/// Pause between two requests to an API server that does not answer.
const ASKED_AGAIN: Duration = Duration::from_secs(2);

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The API server cannot be reached, or the way to it is not configured.
    #[error("cannot reach the API server: {0}")]
    Cluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Prometheus' address cannot be used.
    #[error("cannot use --prometheus-url: {0}")]
    Prometheus(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Another replica leads now. This process must not act any more; it restarts as a follower.
    #[error("lost the leader's lease")]
    LeaseLost,
    /// The caches of this process are old, so it must not serve routers any more. It restarts and
    /// waits for the API server.
    #[error("the API server has answered nothing for two thirds of the leader's lease")]
    ApiServerSilent,
    /// The async runtime cannot be started: no threads, or no event queue.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// A signal handler could not be installed.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs the operator on a runtime of its own until SIGTERM or SIGINT, or until it loses the lease
/// or the API server.
///
/// Not async, so that the operator is compiled once here and not again in each program that awaits
/// it.
///
/// # Errors
/// See [`OperatorError`]. The process must end.
pub fn run(settings: Settings) -> Result<(), OperatorError> {
    let runtime = tokio::runtime::Runtime::new().map_err(OperatorError::Runtime)?;
    runtime.block_on(run_until_signal(settings))
}

async fn run_until_signal(settings: Settings) -> Result<(), OperatorError> {
    let stop = CancellationToken::new();
    stop_on_signal(&stop)?;
    let mut config = Config::infer()
        .await
        .map_err(|error| OperatorError::Cluster(error.into()))?;
    config.read_timeout = Some(READ_TIMEOUT);
    let client = Client::try_from(config).map_err(|error| OperatorError::Cluster(error.into()))?;
    let routers = router::registered(&settings.router_setup());
    run_with(client, settings, routers, stop).await
}

/// Runs the operator against a cluster until `stop`, or until it loses the lease or the API server.
///
/// # Errors
/// See [`OperatorError`].
pub async fn run_with(
    client: Client,
    settings: Settings,
    routers: Registry,
    stop: CancellationToken,
) -> Result<(), OperatorError> {
    let prometheus = PrometheusClient::new(&settings.prometheus_url, settings.prometheus_headers())
        .map_err(|error| OperatorError::Prometheus(error.into()))?;
    let setup = settings.router_setup();
    let metrics = Arc::new(Metrics::default());
    let health = Health {
        metrics: metrics.clone(),
        stores: Arc::default(),
        recordings: Arc::default(),
        routers: routers.clone(),
        outdated: Outdated::default(),
    };
    let outdated = health.outdated.clone();
    let (complete, recordings) = (health.stores.clone(), health.recordings.clone());
    let http = serve_http(&settings, health, &stop);

    if !answers(&client, &stop).await {
        return Ok(());
    }
    // Before any status is written: an older schema would drop fields of it.
    if settings.upgrade_crd
        && let Err(why) = schema::upgrade(&client).await
    {
        *outdated.lock() = Some(why);
        let (client, stop) = (client.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = schema::keep(client, outdated) => {}
            }
        });
    }
    // The watches end with `watches`.
    let (stores, mut watches) =
        watch::start(&client, settings.watch_namespace.as_deref(), &routers);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        synced = watches.synced() => synced.map_err(|error| OperatorError::Cluster(error.into()))?,
    }
    tracing::info!(
        models = stores.models.store().len(),
        "the caches are complete"
    );

    // Every replica serves routers, and only once its caches are complete.
    let mut serving = Vec::new();
    for router in routers.all() {
        let host = Host {
            stores: stores.clone(),
            changes: watches.changes().subscribe(),
            dirty: watches.dirty().clone(),
            stop: stop.clone(),
        };
        serving.push(router.serve(host).await?);
    }
    // From here on `/readyz` answers.
    let _ = complete.set(stores.clone());

    let context = Arc::new(Context {
        evidence: EvidenceReader::new(prometheus, settings.scrape_interval, setup.bundled_pods()),
        defaults: PlatformDefaults {
            serving_image: settings.serving_image.clone(),
            fetch: settings.fetch(),
        },
        limits: Limits {
            allowed_schemes: settings.allowed_model_schemes.clone(),
            bundled_image: settings.serving_image.clone(),
        },
        applier: Applier::default(),
        history: History::default(),
        dry_runs: DryRuns::default(),
        events: Events::new(client.clone(), settings.pod_name.clone()),
        metrics: metrics.clone(),
        routers,
        recordings,
        failures: Mutex::default(),
        client: client.clone(),
        clock: Clock::system(),
        memories: TrialMemories::default(),
        tracker: ReconcileTracker::default(),
        stores,
    });
    let election = Election::join(
        client,
        &settings.namespace,
        &settings.pod_name,
        settings.lease_duration,
        Clock::system(),
    );
    tracing::info!(pod = settings.pod_name, "waiting for the lease");
    let dirty = watches.dirty().clone();
    let result = lead(context, dirty, settings.concurrency, election, &stop).await;
    finish(serving, http).await;
    tracing::info!("stopped");
    result
}

/// Waits until the API server answers. `false` if `stop` comes first. The process does not end
/// instead: the kubelet restarts it with growing pauses, and it would be away for minutes after the
/// API server is back.
async fn answers(client: &Client, stop: &CancellationToken) -> bool {
    loop {
        let answer = tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            answer = timely(client.apiserver_version()) => answer,
        };
        let why = match answer {
            Ok(Ok(found)) => {
                tracing::info!(kubernetes = found.git_version, "the API server answers");
                return true;
            }
            Ok(Err(error)) => words(&error),
            Err(late) => late.to_string(),
        };
        tracing::warn!(why, "waiting for the API server");
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(ASKED_AGAIN) => {}
        }
    }
}

/// Waits for the lease, reconciles while this replica has it, and gives it back. Ends, and cancels
/// `stop`, with the first of `stop`, the loss of the lease and the loss of the API server.
///
/// # Errors
/// [`OperatorError::LeaseLost`] and [`OperatorError::ApiServerSilent`].
pub async fn lead(
    context: Arc<Context>,
    dirty: Dirty,
    concurrency: u16,
    mut election: Election,
    stop: &CancellationToken,
) -> Result<(), OperatorError> {
    let silent = election.api_server_silent();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = silent.cancelled() => {}
        () = election.won() => {}
    }
    let mut result = Ok(());
    if silent.is_cancelled() {
        result = Err(OperatorError::ApiServerSilent);
    } else if !stop.is_cancelled() {
        tracing::info!("this replica leads");
        let metrics = context.metrics.clone();
        metrics.lead(true);
        let controller = controller::run(context, dirty, concurrency, stop.clone());
        tokio::select! {
            biased;
            // At once, in the middle of a reconcile: every write is guarded, and the next leader
            // may already act.
            () = election.lost() => result = Err(OperatorError::LeaseLost),
            () = controller => {}
        }
        metrics.lead(false);
    }
    stop.cancel();
    election.leave().await;
    result
}

fn serve_http(settings: &Settings, health: Health, stop: &CancellationToken) -> JoinHandle<()> {
    let (address, stop) = (settings.http_address, stop.clone());
    tokio::spawn(async move {
        if let Err(error) = http::serve(address, health, stop.clone()).await {
            tracing::error!(%address, %error, "cannot serve /metrics, /livez and /readyz");
            stop.cancel();
        }
    })
}

/// Waits for what serves routers and HTTP, at most 5 s.
async fn finish(routers: Vec<JoinSet<()>>, http: JoinHandle<()>) {
    let all = async {
        for mut tasks in routers {
            while tasks.join_next().await.is_some() {}
        }
        http.await
    };
    if tokio::time::timeout(Duration::from_secs(5), all)
        .await
        .is_err()
    {
        tracing::warn!("some connections did not end within 5 s; ending without them");
    }
}

fn stop_on_signal(stop: &CancellationToken) -> Result<(), OperatorError> {
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signal = tokio::signal::unix::signal(kind).map_err(OperatorError::Signals)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signal.recv().await;
            tracing::info!("asked to stop");
            stop.cancel();
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        future::{Ready, ready},
        io,
        sync::atomic::{AtomicU32, Ordering},
        task::{Context as Task, Poll},
    };

    use ::http::{Request, Response};
    use futures::future::{BoxFuture, FutureExt};
    use http_body_util::Full;
    use k8s_openapi::apimachinery::pkg::version::Info;
    use kube::client::Body;
    use tokio::time::Instant;
    use tower::Service;

    use super::*;

    /// An API server that refuses a connection, then hangs, then answers.
    #[derive(Clone, Default)]
    struct Returning(Arc<AtomicU32>);

    impl Service<Request<Body>> for Returning {
        type Response = Response<Full<bytes::Bytes>>;
        type Error = io::Error;
        type Future = BoxFuture<'static, io::Result<Self::Response>>;

        fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let version = serde_json::to_string(&Info::default()).unwrap_or_default();
            let answered: Ready<io::Result<_>> = match self.0.fetch_add(1, Ordering::Relaxed) {
                0 => ready(Err(io::ErrorKind::ConnectionRefused.into())),
                1 => return std::future::pending().boxed(),
                _ => ready(Ok(Response::new(Full::from(version)))),
            };
            answered.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_is_waited_for() {
        let client = Client::new(Returning::default(), "default");
        let began = Instant::now();
        assert!(answers(&client, &CancellationToken::new()).await);
        assert_eq!(began.elapsed().as_secs(), 2 + 10 + 2);

        let stop = CancellationToken::new();
        stop.cancel();
        let away = Client::new(Returning::default(), "default");
        assert!(!answers(&away, &stop).await);
    }
}
