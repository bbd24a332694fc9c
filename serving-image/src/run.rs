//! Runs the subcommands, from start to exit.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Instant;

use axum::http::header::InvalidHeaderValue;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tracing::{info, warn};

use crate::artefact::{Artefact, ArtefactError, Kind, write_manifest};
use crate::batch::{self, BatchError};
use crate::batching::{self, Batcher};
use crate::bench::{self, BenchError};
use crate::check::{self, NotServable};
use crate::cli::{Cli, Command, ServeArgs, TestArgs};
use crate::compute::ComputePool;
use crate::faults::Faults;
use crate::fetch::{self, FetchError};
use crate::healthcheck::{self, Unhealthy};
use crate::http::{App, Bounds, Executors, router};
use crate::lifecycle::{Engine, LoadEngineError};
use crate::log;
use crate::metrics::BatchMetrics;
use crate::model::{LoadError, use_library};
use crate::server::{self, Unfinished, Workers};
use crate::telemetry::Tracer;

/// Requests for explanations that may wait for the one thread that explains; more are answered 429.
const EXPLANATIONS: usize = 4;

/// Why the process ends with an exit code other than 0.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The model is not the one that was asked for, or cannot be served.
    #[error("refusing to serve: {0}")]
    Load(#[from] LoadEngineError),
    /// The artefact cannot be read or written.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// Threads or signal handlers cannot be set up.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The name or version cannot be sent in a header.
    #[error("the model's name and version must be visible ASCII: {0}")]
    Name(#[from] InvalidHeaderValue),
    /// The log directives are wrong.
    #[error("--log-level: {0}")]
    LogLevel(#[from] tracing_subscriber::filter::ParseError),
    /// Faults without the switch that allows them.
    #[error(
        "--test-error-share and --test-latency need --test-faults (SERIN_SERVE_TEST_FAULTS=true)"
    )]
    FaultsNotAllowed,
    /// The batch job ended early.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The artefact was not fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The directory cannot be served.
    #[error(transparent)]
    NotServable(#[from] NotServable),
    /// The load test failed, or missed an objective.
    #[error(transparent)]
    Bench(#[from] BenchError),
    /// The health check failed.
    #[error(transparent)]
    Unhealthy(#[from] Unhealthy),
    /// Requests were still running at the end of the drain timeout.
    #[error(transparent)]
    Unfinished(#[from] Unfinished),
}

impl RunError {
    /// The process's exit code: 1 but where a command has its own.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Batch(error) => error.exit_code(),
            Self::Fetch(error) => error.exit_code(),
            Self::Bench(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// Does what the command line says. The error of the subcommand; it has an exit code and a remedy.
pub fn run(cli: Cli) -> Result<(), RunError> {
    if let Some(library) = &cli.onnxruntime {
        use_library(library);
    }
    match cli.command {
        Command::Serve(args) => {
            log::init(&args.log)?;
            // This thread only accepts connections: requests run on other threads.
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build()?;
            let outcome = runtime.block_on(serve(*args));
            // A load that SIGTERM interrupts is not waited for.
            runtime.shutdown_background();
            outcome
        }
        Command::Batch(args) => {
            log::init(&args.log)?;
            end_at_sigterm()?;
            Ok(batch::run(&args)?)
        }
        Command::Fetch(args) => {
            log::init(&args.log)?;
            end_at_sigterm()?;
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            Ok(runtime.enable_all().build()?.block_on(fetch::run(&args))?)
        }
        Command::Bench(args) => Ok(bench::run(&args)?),
        Command::Healthcheck { address, path } => Ok(healthcheck::check(address, &path)?),
        Command::Check(args) => Ok(check::run(&args)?),
        Command::Manifest { directory } => {
            println!("{}", write_manifest(&directory)?);
            Ok(())
        }
    }
}

/// Ends the process at SIGTERM, at any point: these commands can always be resumed.
///
/// Without a handler process 1 of a container does not get the signal: a pod that is deleted would
/// go on for the whole of its grace, and hold the output against its successor.
fn end_at_sigterm() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let mut terminate = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(terminate.recv());
        std::process::exit(128 + SignalKind::terminate().as_raw_value());
    });
    Ok(())
}

/// Listens on an address. All addresses of IPv4 are all of both families, where the kernel has IPv6
/// and one socket takes both.
async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let takes_both = || {
        let only = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
        only.is_ok_and(|only| only.trim() == "0")
    };
    if address.ip() == Ipv4Addr::UNSPECIFIED && takes_both() {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, address.port())).await
    } else {
        TcpListener::bind(address).await
    }
}

async fn serve(args: ServeArgs) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let artefact = Artefact::open(&args.model_dir, args.digest).map_err(load_error)?;
    let name = args
        .model_name
        .clone()
        .unwrap_or_else(|| artefact.manifest.name.clone());
    let version = args
        .model_version
        .clone()
        .unwrap_or_else(|| artefact.manifest.version.clone());
    if version != artefact.manifest.version {
        warn!(
            version,
            artefact = artefact.manifest.version,
            "served under another version than the artefact's own"
        );
    }
    // The threads inside a prediction, by which candle multiplies too: as many as there are
    // workers, not more.
    let _ = rayon::ThreadPoolBuilder::new()
        .num_threads(args.workers())
        .build_global(); // fails only where there is a pool already
    let compute = ComputePool::start(args.workers(), args.queue)?;
    let limits = batching::Limits {
        tokens: args.batch_tokens.get(),
        texts: args.batch_texts.get(),
        requests: args.queue,
    };
    let batcher = Batcher::start(limits, BatchMetrics::default())?;
    let bounds = Bounds {
        body: args.max_body_bytes(&artefact.manifest),
        body_time: args.body_timeout,
        deadline: match artefact.manifest.kind {
            Kind::Generation => args.generation.generation_timeout,
            _ => args.deadline,
        },
    };
    let settings = args.generation.settings(args.workers(), args.queue);
    let tracer = Tracer::from_environment(&name, &version);
    let app = App::new(
        &artefact,
        name,
        version,
        Executors {
            compute,
            batcher,
            explanations: ComputePool::start_apart(EXPLANATIONS)?,
        },
        faults(&args.test)?,
        bounds,
        &args.latency_edges,
    )?;
    let app = Arc::new(match tracer {
        Some(tracer) => app.traced(tracer),
        None => app,
    });

    // Liveness is answered while the model loads: a big one takes longer than a kubelet's patience.
    let address = args.address;
    let listen_error = |source| RunError::Listen { address, source };
    let listener = listen(address).await.map_err(listen_error)?;
    let bound = listener.local_addr().map_err(listen_error)?;
    info!(address = %bound, model = app.name, version = app.version, digest = %artefact.digest,
        "listening");

    let mut load = tokio::task::spawn_blocking({
        let metrics = app.metrics.generation();
        move || {
            let started = Instant::now();
            Engine::load(artefact, settings, &metrics).map(|engine| (engine, started.elapsed()))
        }
    });
    let (failed, load_failed) = tokio::sync::oneshot::channel();
    let stop = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            outcome = &mut load => match loaded(outcome) {
                Ok((engine, took)) => {
                    app.ready(engine, took);
                    info!(ms = took.as_millis(),
                        "ready: artefact verified, golden examples reproduced, warm");
                    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                }
                Err(error) => {
                    let _ = failed.send(error);
                    return;
                }
            },
        }
        app.drain();
        info!(
            delay = args.drain_delay.as_secs_f64(),
            "draining: not ready any more, still serving"
        );
        tokio::time::sleep(args.drain_delay).await;
        info!("accepting no more connections");
    };
    let workers = Workers::start(
        available_parallelism().map_or(1, NonZero::get),
        &router(Arc::clone(&app)),
    )?;
    let served = server::serve(listener, workers, stop, args.drain_timeout).await;
    if let Some(tracer) = app.tracer() {
        tracer.close().await;
    }
    if let Ok(error) = load_failed.await {
        return Err(error.into());
    }
    served?;
    info!("shutdown complete");
    Ok(())
}

fn load_error(error: ArtefactError) -> LoadEngineError {
    LoadError::from(error).into()
}

/// The outcome of the thread that loads, where a panic is an error like others.
fn loaded<T>(outcome: Result<Result<T, LoadEngineError>, JoinError>) -> Result<T, LoadEngineError> {
    outcome.unwrap_or_else(|panic| {
        let reason = candle_core::Error::Msg(format!("loading panicked: {panic}"));
        Err(LoadError::Weights(reason).into())
    })
}

fn faults(args: &TestArgs) -> Result<Option<Faults>, RunError> {
    if !args.test_faults {
        let asked = args.test_error_share.is_some() || args.test_latency.is_some();
        return if asked {
            Err(RunError::FaultsNotAllowed)
        } else {
            Ok(None)
        };
    }
    let error_share = args.test_error_share.unwrap_or_default();
    let latency = args.test_latency.unwrap_or_default();
    warn!(
        error_share,
        latency_ms = latency.as_millis(),
        "TEST FACILITY ON: predictions are broken on purpose; never run this in production"
    );
    Ok(Some(Faults::new(error_share, latency)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families_where_the_kernel_has_both() {
        let listener = listen((Ipv4Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap();
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port))
                .await
                .unwrap();
        }
    }
}
