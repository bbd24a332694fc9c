//! The command line.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::args::{LogArgs, parse_duration, parse_share};
use crate::artefact::{Digest, InputType, Manifest};
use crate::batch::BatchArgs;
use crate::bench::BenchArgs;
use crate::check::CheckArgs;
use crate::fetch::FetchArgs;
use crate::generate::Settings;

/// Serves one model artefact over HTTP.
#[derive(Debug, Parser)]
#[command(name = "serin-serve", version)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
    /// Path of ONNX Runtime's library, for models in ONNX [default: libonnxruntime.so on the
    /// system's library path]
    #[arg(long, env = "ORT_DYLIB_PATH", global = true)]
    pub onnxruntime: Option<PathBuf>,
}

/// A subcommand.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve a model until SIGTERM
    Serve(Box<ServeArgs>),
    /// Predict every row of a file: CSV, JSON lines or Parquet
    Batch(Box<BatchArgs>),
    /// Fetch an artefact into a directory: verified, and complete or not at all
    #[command(
        after_help = "Exit codes: 2 wrong flags or credentials, 3 not allowed, 4 refused by the \
                      source, 5 not what was asked for, 6 unreachable, 7 cannot be written."
    )]
    Fetch(Box<FetchArgs>),
    /// Load a server with requests at a fixed rate, and report latencies from when each was due
    Bench(Box<BenchArgs>),
    /// Exit 0 if the server on this machine answers 200: for a container's HEALTHCHECK
    Healthcheck {
        /// Address of the server
        #[arg(long, env = "SERIN_SERVE_ADDRESS", default_value = DEFAULT_ADDRESS)]
        address: SocketAddr,
        /// Path of the request
        #[arg(long, default_value = "/readyz")]
        path: String,
    },
    /// Check a directory: report every error with its remedy, and measure size, memory and speed
    #[command(alias = "verify")]
    Check(CheckArgs),
    /// List a directory's files with size and sha256 in its serin-model.json, and print the
    /// artefact's digest
    Manifest {
        /// The artefact directory, with a serin-model.json; its `files` may be missing
        directory: PathBuf,
    },
}

const DEFAULT_ADDRESS: &str = "0.0.0.0:8080";

/// Largest request body without pictures, in bytes.
const MAX_BODY_BYTES: usize = 1 << 20;

/// Flags of `serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Artefact directory, which holds serin-model.json
    #[arg(long, env = "SERIN_SERVE_MODEL_DIR")]
    pub model_dir: PathBuf,
    /// Name of the model in answers, headers and metrics [default: the manifest's]
    #[arg(long, env = "SERIN_SERVE_MODEL_NAME")]
    pub model_name: Option<String>,
    /// Version of the model in answers, headers and metrics [default: the manifest's]
    #[arg(long, env = "SERIN_SERVE_MODEL_VERSION")]
    pub model_version: Option<String>,
    /// Digest that the artefact must have, as sha256:HEX; any other artefact is refused
    #[arg(long, env = "SERIN_SERVE_DIGEST")]
    pub digest: Option<Digest>,
    /// Address and port to listen on; 0.0.0.0 means all addresses, of IPv6 too
    #[arg(long, env = "SERIN_SERVE_ADDRESS", default_value = DEFAULT_ADDRESS)]
    pub address: SocketAddr,
    /// Threads that compute predictions [default: the CPUs this process may use]
    #[arg(long, env = "SERIN_SERVE_WORKERS")]
    pub workers: Option<NonZero<usize>>,
    /// Requests that may wait for a worker; further ones are answered 429
    #[arg(long, env = "SERIN_SERVE_QUEUE", default_value_t = 256)]
    pub queue: usize,
    /// Largest batch of texts from several requests, in tokens; a longer text is computed alone
    #[arg(long, env = "SERIN_SERVE_BATCH_TOKENS", default_value = "1024")]
    pub batch_tokens: NonZero<usize>,
    /// Largest batch of texts from several requests, in texts
    #[arg(long, env = "SERIN_SERVE_BATCH_TEXTS", default_value = "64")]
    pub batch_texts: NonZero<usize>,
    /// Longest time until a prediction is answered; after it, 504. The header x-request-timeout-ms
    /// may shorten it
    #[arg(long, env = "SERIN_SERVE_DEADLINE", default_value = "30s", value_parser = parse_duration)]
    pub deadline: Duration,
    /// Largest request body, in bytes [default: 1 MiB, plus one picture of the largest size for
    /// each input that is a picture]
    #[arg(long, env = "SERIN_SERVE_MAX_BODY_BYTES")]
    pub max_body_bytes: Option<usize>,
    /// Longest time until the body of a request has arrived; after it, 408
    #[arg(long, env = "SERIN_SERVE_BODY_TIMEOUT", default_value = "30s",
        value_parser = parse_duration)]
    pub body_timeout: Duration,
    /// Edges of the latency histogram in seconds, such as 0.05,0.1,0.25; a latency objective is
    /// measured at an edge [default: 20 edges from 0.001 to 10]
    #[arg(long, env = "SERIN_SERVE_LATENCY_EDGES", value_parser = parse_edges, default_value = "",
        hide_default_value = true)]
    pub latency_edges: LatencyEdges,
    /// After SIGTERM, keep serving for this time with /readyz at 503, so that routers stop sending
    #[arg(long, env = "SERIN_SERVE_DRAIN_DELAY", default_value = "5s",
        value_parser = parse_duration)]
    pub drain_delay: Duration,
    /// Longest time for requests in flight after the drain delay
    #[arg(long, env = "SERIN_SERVE_DRAIN_TIMEOUT", default_value = "20s",
        value_parser = parse_duration)]
    pub drain_timeout: Duration,
    /// Generating text.
    #[command(flatten)]
    pub generation: GenerationArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
    /// Injected faults.
    #[command(flatten)]
    pub test: TestArgs,
}

/// Flags of models that generate text.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generating text")]
pub struct GenerationArgs {
    /// Texts that are generated at the same time; further ones wait in the queue
    #[arg(long, env = "SERIN_SERVE_GENERATION_SLOTS", default_value = "8")]
    pub generation_slots: NonZero<usize>,
    /// Memory for the caches of all texts together, in MiB; it also bounds the context of one text
    #[arg(long, env = "SERIN_SERVE_GENERATION_CACHE_MIB", default_value_t = 512)]
    pub generation_cache_mib: usize,
    /// Longest time from a request to the end of its text; after it, 504
    #[arg(long, env = "SERIN_SERVE_GENERATION_TIMEOUT", default_value = "5m",
        value_parser = parse_duration)]
    pub generation_timeout: Duration,
}

/// Flags of the test facility.
#[derive(Debug, Args)]
#[command(
    next_help_heading = "TEST FACILITY (never in production: it breaks predictions on purpose)"
)]
pub struct TestArgs {
    /// Allow the two flags below
    #[arg(long, env = "SERIN_SERVE_TEST_FAULTS")]
    pub test_faults: bool,
    /// Share of predictions that answer 500, from 0 to 1
    #[arg(long, env = "SERIN_SERVE_TEST_ERROR_SHARE", value_parser = parse_share)]
    pub test_error_share: Option<f64>,
    /// Time added to each prediction, such as 300ms
    #[arg(long, env = "SERIN_SERVE_TEST_LATENCY", value_parser = parse_duration)]
    pub test_latency: Option<Duration>,
}

impl GenerationArgs {
    /// The settings of the generator, with `threads` threads and a queue of `queue` requests.
    pub fn settings(&self, threads: usize, queue: usize) -> Settings {
        Settings {
            threads,
            slots: self.generation_slots.get(),
            queue,
            cache_bytes: self.generation_cache_mib.saturating_mul(1 << 20),
        }
    }
}

impl ServeArgs {
    /// Largest request body, in bytes: a picture of the largest size has room where the model takes
    /// pictures.
    pub fn max_body_bytes(&self, manifest: &Manifest) -> usize {
        let pictures = manifest
            .inputs
            .iter()
            .filter(|input| input.kind == InputType::Image)
            .count();
        let room = manifest.limits.image_text().saturating_mul(pictures);
        self.max_body_bytes
            .unwrap_or_else(|| MAX_BODY_BYTES.saturating_add(room))
    }

    /// Threads that compute.
    pub fn workers(&self) -> usize {
        self.workers
            .or_else(|| available_parallelism().ok())
            .map_or(1, NonZero::get)
    }
}

/// Rising edges of the latency histogram, in seconds.
pub type LatencyEdges = std::sync::Arc<[f64]>;

/// Most edges of the latency histogram: each is a series of every pod.
const MAX_EDGES: usize = 50;

/// Rising positive numbers; nothing for the default ones.
fn parse_edges(text: &str) -> Result<LatencyEdges, String> {
    if text.is_empty() {
        return Ok(crate::metrics::DURATION_EDGES.into());
    }
    let expected = || format!("expected 1 to {MAX_EDGES} rising positive numbers: 0.05,0.1,0.25");
    let edges: Vec<f64> = text
        .split(',')
        .map(|edge| edge.trim().parse().map_err(|_| expected()))
        .collect::<Result<_, _>>()?;
    let sound = edges.len() <= MAX_EDGES
        && edges.iter().all(|edge| edge.is_finite() && *edge > 0.0)
        && edges.windows(2).all(|pair| pair[0] < pair[1]);
    sound.then(|| edges.into()).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn edges_rise() {
        assert_eq!(*parse_edges("0.05, 0.1").unwrap(), [0.05, 0.1]);
        assert_eq!(parse_edges("").unwrap().len(), 20);
        for wrong in ["0", "-1", "1,1", "2,1", "NaN", "inf", "1,,2", "1;2", "x"] {
            assert!(parse_edges(wrong).is_err(), "{wrong}");
        }
    }
}
