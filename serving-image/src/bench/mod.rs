//! `serin-serve bench`: the load test before launch.
//!
//! ```text
//! prepare   args ─► target (address, what is it?) ─► bodies
//! each rate schedule ─► engine (open loop) ─► stats
//! end       objectives ─► report (text, JSON, HTML) ─► exit code
//! ```

mod args;
mod bodies;
mod engine;
mod memory;
mod objectives;
mod report;
mod sample;
mod schedule;
mod stats;
mod target;

use std::fs;
use std::io;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

pub use args::{Arrivals, BenchArgs, OutputFormat};

use crate::artefact::ArtefactError;
use crate::tls::TlsError;
use bodies::Bodies;
use memory::{Memory, Sampler};
use stats::Step;
use target::Target;

/// Why a load test fails, with the exit code of each reason.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The URL or a header is wrong (2).
    #[error("{0}: {1}")]
    Url(String, String),
    /// There is nothing to send (2).
    #[error("no request bodies: {0}")]
    Bodies(String),
    /// The artefact cannot be read (2).
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// Threads or files cannot be had (1).
    #[error("cannot measure: {0}")]
    Io(#[from] io::Error),
    /// A histogram cannot be made (1).
    #[error("cannot measure: {0}")]
    Histogram(#[from] hdrhistogram::CreationError),
    /// No connection can be made (4).
    #[error("{0} cannot be reached: {1}")]
    Unreachable(String, String),
    /// The authorities cannot be read, or there are none (2).
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An objective was missed (3).
    #[error("{0} objectives were missed")]
    Missed(usize),
}

impl BenchError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io(_) | Self::Histogram(_) => 1,
            Self::Url(..) | Self::Bodies(_) | Self::Artefact(_) | Self::Tls(_) => 2,
            Self::Missed(_) => 3,
            Self::Unreachable(..) => 4,
        }
    }
}

/// Everything that a report tells.
#[derive(Debug, Serialize)]
struct Findings {
    /// URL that was asked.
    url: String,
    /// Its address.
    address: String,
    /// Whether the server takes its CPU from the same machine as the generator.
    same_machine: bool,
    /// The server's answer to `/version`.
    server: Option<Value>,
    /// What was sent.
    requests: String,
    arrivals: &'static str,
    connections: usize,
    seconds: f64,
    seed: u64,
    steps: Vec<Step>,
    memory: Option<Memory>,
    objectives: Vec<objectives::Objective>,
}

/// Loads a server at each rate, and reports. An error where a flag or the artefact cannot be used,
/// there is nothing to send, or the server cannot be reached.
pub fn run(args: &BenchArgs) -> Result<(), BenchError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let findings = runtime.block_on(measure(args));
    runtime.shutdown_background();
    let findings = findings?;
    match args.output {
        OutputFormat::Text => print!("{}", report::text(&findings)),
        OutputFormat::Json => println!("{}", report::json(&findings)),
    }
    if let Some(path) = &args.report {
        fs::write(path, report::html(&findings))?;
    }
    let missed = findings
        .objectives
        .iter()
        .filter(|objective| !objective.held)
        .count();
    if missed > 0 {
        Err(BenchError::Missed(missed))
    } else {
        Ok(())
    }
}

async fn measure(args: &BenchArgs) -> Result<Findings, BenchError> {
    let target = Arc::new(Target::resolve(args).await?);
    let url = target.url();
    if let Err(why) = target.try_connection().await {
        return Err(BenchError::Unreachable(url, why.to_string()));
    }
    let server = target.get_json("/version").await;
    let bodies = Bodies::of(args, &target).await?;
    let rates = args.steps();
    let time = args.warm_up + args.duration;
    let run = time.saturating_mul(u32::try_from(rates.len()).unwrap_or(u32::MAX));
    let sampler = args.soak.then(|| Sampler::start(&target, run));
    let mut steps = Vec::new();
    for rate in rates {
        eprintln!("{url}: {rate} requests/s for {} s", time.as_secs_f64());
        steps.push(engine::run(&target, &bodies, rate, args).await?);
    }
    let memory = match sampler {
        Some(sampler) => Some(sampler.finish().await),
        None => None,
    };
    Ok(Findings {
        url,
        address: target.address.to_string(),
        same_machine: target.address.ip().is_loopback(),
        server,
        requests: bodies.source,
        arrivals: match args.arrivals {
            Arrivals::Poisson => "poisson",
            Arrivals::Constant => "constant",
        },
        connections: args.connections.get(),
        seconds: args.duration.as_secs_f64(),
        seed: args.seed,
        objectives: objectives::judge(args, &steps, memory.as_ref()),
        steps,
        memory,
    })
}

/// Instances that a server's contract allows, for measuring without a server.
pub(crate) fn sample_instances(contract: &Value) -> Vec<Value> {
    let request = &contract["paths"]["/predict"]["post"]["requestBody"]["content"];
    let schema = &request["application/json"]["schema"]["properties"]["instances"];
    let mut random = schedule::Random::new(1);
    match sample::sample(schema, contract, 32, &mut random) {
        Value::Array(instances) => instances,
        _ => Vec::new(),
    }
}
