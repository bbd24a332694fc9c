//! The operator as a whole: everything that runs, and how it stops.

use std::{sync::Arc, time::Duration};

use kube::{Client, Config};
use parking_lot::Mutex;
use tokio::{net::TcpListener, signal::unix::SignalKind, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    api::validate::Limits,
    controller::{self, Context, apply::Applier, clock::Clock, events::Events, metrics::Metrics},
    k8s::{Dirty, timely, words},
    observe::{Attention, DryRuns, Evidence, History, metrics::Client as PrometheusClient},
    plan::PlatformDefaults,
    router::envoy::{self, ControlPlane, Envoy, Prober, Routers, refusals::Refusals},
    runtime::{
        http::{self, Health},
        leader::Election,
        schema::{self, Outdated},
        settings::Settings,
        watch::{self, Scope},
    },
};

/// A connection to the API server on which nothing comes for so long is dead. The default is none at all: a watch whose
/// very first answer is lost would then hang for ever, and its cache with it. A watch that lives ends sooner by itself.
pub const READ_TIMEOUT: Duration = Duration::from_secs(75);

/// The Service whose name has the addresses of all operators.
const PEERS: &str = "serin-operator-metrics";

/// Pause before an API server that has not answered yet is asked again.
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
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another replica leads now; this process must not act any more, and starts anew as a follower.
    #[error("lost the leader's lease")]
    LeaseLost,
    /// What this process knows of the cluster is old, and it must not tell routers any more; it starts anew, and waits.
    #[error("the API server has answered nothing for two thirds of the leader's lease")]
    Deaf,
    /// No threads, or no event queue.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// A signal handler could not be installed.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] std::io::Error),
}

/// Runs the operator on a runtime of its own, until SIGTERM or SIGINT, or until it loses the lease or the API server.
///
/// Not async, so that the whole operator is compiled here, once, and not again in each program that awaits it.
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
    run_with(client, settings, Prober::by_tcp(), stop).await
}

/// Runs the operator against a cluster until `stop`, or until it loses the lease or the API server.
pub async fn run_with(
    client: Client,
    settings: Settings,
    prober: Prober,
    stop: CancellationToken,
) -> Result<(), OperatorError> {
    let prometheus = PrometheusClient::new(&settings.prometheus_url, settings.prometheus_headers())
        .map_err(|error| OperatorError::Prometheus(error.into()))?;
    let metrics = Arc::new(Metrics::default());
    let plane = ControlPlane::new();
    let health = Health {
        metrics: metrics.clone(),
        stores: Arc::default(),
        recordings: Arc::default(),
        routers: plane.routers(),
        outdated: Outdated::default(),
    };
    let outdated = health.outdated.clone();
    let (complete, recordings) = (health.stores.clone(), health.recordings.clone());
    let http = serve_http(&settings, health, &stop);

    if !answers(&client, &stop).await {
        return Ok(());
    }
    // Before any status is written.
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
    let scope = Scope {
        watch_namespace: settings.watch_namespace.clone(),
        own_namespace: settings.namespace.clone(),
        router_service: settings.router_service.clone(),
    };
    // The watches end with `news`.
    let (stores, news) = watch::start(&client, &scope);
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        synced = stores.synced() => synced.map_err(|error| OperatorError::Cluster(error.into()))?,
    }
    tracing::info!(
        models = stores.models.told().len(),
        "the caches are complete"
    );

    // Routers are served by every replica, and only with the whole picture: never with a part of it.
    let publisher = {
        let (stores, plane, metrics, stop) =
            (stores.clone(), plane.clone(), metrics.clone(), stop.clone());
        let changed = move |routers: &Routers| {
            metrics.routers(routers.connected().len(), routers.refusals());
        };
        tokio::spawn(async move { envoy::publish(&stores, news.any, &plane, changed, &stop).await })
    };
    let listener = listen(settings.xds_address).await?;
    let own_routers = plane.routers();
    let routers = tokio::spawn(plane.serve(listener, stop.clone()));
    let refusals = Refusals::default();
    let gatherer = {
        let (refusals, own, dirty, stop) = (
            refusals.clone(),
            own_routers,
            news.models.clone(),
            stop.clone(),
        );
        let peers = format!(
            "{PEERS}.{}.svc:{}",
            settings.namespace,
            settings.http_address.port()
        );
        tokio::spawn(async move { refusals.gather(&own, &peers, &dirty, &stop).await })
    };
    // Ready from here on: whoever asks sees the whole picture.
    let _ = complete.set(stores.clone());

    let context = Arc::new(Context {
        evidence: Evidence::new(
            prometheus,
            settings.scrape_interval,
            (settings.namespace.clone(), settings.router_service.clone()),
        ),
        defaults: PlatformDefaults {
            serving_image: settings.serving_image.clone(),
            fetch: settings.fetch(),
        },
        limits: Limits {
            allowed_schemes: settings.allowed_model_schemes.clone(),
        },
        applier: Applier::default(),
        history: History::default(),
        dry_runs: DryRuns::default(),
        events: Events::new(client.clone(), settings.pod_name.clone()),
        metrics: metrics.clone(),
        router: Arc::new(Envoy::new(prober, refusals)),
        recordings,
        failures: Mutex::default(),
        client: client.clone(),
        clock: Clock::system(),
        attention: Attention::default(),
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
    let result = lead(context, news.models, settings.concurrency, election, &stop).await;
    finish(publisher, gatherer, routers, http).await;
    tracing::info!("stopped");
    result
}

/// Waits until the API server answers; `false` where `stop` comes first. A process that ended instead would be started
/// again later and later, and be away for minutes after the API server is back.
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

/// Waits for the lease, reconciles while this replica has it, and gives it back. Ends, and cancels `stop`, with the first of
/// `stop`, the loss of the lease and the loss of the API server.
pub async fn lead(
    context: Arc<Context>,
    dirty: Dirty,
    concurrency: u16,
    mut election: Election,
    stop: &CancellationToken,
) -> Result<(), OperatorError> {
    let deaf = election.deaf();
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = deaf.cancelled() => {}
        () = election.won() => {}
    }
    let mut result = Ok(());
    if deaf.is_cancelled() {
        result = Err(OperatorError::Deaf);
    } else if !stop.is_cancelled() {
        tracing::info!("this replica leads");
        let metrics = context.metrics.clone();
        metrics.lead(true);
        let controller = controller::run(context, dirty, concurrency, stop.clone());
        tokio::select! {
            biased;
            // At once, in the middle of whatever runs: every write is guarded, and the next leader may already act.
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

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, OperatorError> {
    http::listen(address)
        .await
        .map_err(|source| OperatorError::Listen { address, source })
}

async fn finish<E>(
    publisher: JoinHandle<()>,
    gatherer: JoinHandle<()>,
    routers: JoinHandle<Result<(), E>>,
    http: JoinHandle<()>,
) {
    let all = async { tokio::join!(publisher, gatherer, routers, http) };
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

    /// An API server that is not there, then hangs, then answers.
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
