//! ONNX graphs of any framework, computed by ONNX Runtime.
//!
//! Its library is loaded at run time, so that the server is one binary whether it is there or not.
//! What the manifest says of a graph is checked against the graph itself when it is loaded: names,
//! types, widths and labels.

mod answer;
mod feed;
mod labels;
mod library;
mod nodes;

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session};
use ort::value::Outlet;

use crate::array::Outline;
use crate::artefact::{Files, Manifest};
use crate::prediction::Prediction;
use crate::preprocess::Batch;
use answer::Answer;
use feed::Feed;
pub use library::use_library;

/// Up to this size, every thread gets a session of its own, which computes on that thread alone:
/// many small requests beside each other. A larger graph has one session on all cores.
const SMALL_GRAPH: usize = 4 << 20;

/// Texts in one pass. More gains nothing on a CPU, and bounds the memory of a pass.
const MAX_TEXTS: usize = 32;

/// Why a graph cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The library is not there, or of the wrong version.
    #[error(
        "this model needs ONNX Runtime, whose library cannot be used: {reason} (looked for {}; \
         --onnxruntime or ORT_DYLIB_PATH says where it is, and the image serve-onnx has it \
         inside)", path.display()
    )]
    Library {
        /// Where it was looked for.
        path: PathBuf,
        /// What the loader says.
        reason: String,
    },
    /// The library does not take the graph. It names operator and node itself, or they are added.
    #[error("ONNX Runtime does not take the graph: {0}")]
    Graph(String),
    /// The graph's weights lie in a file that the artefact does not hold.
    #[error(
        "the graph keeps weights in {0:?}, which the manifest does not list: lay that file beside \
         the graph and list it, or save the graph with its weights inside"
    )]
    Weights(String),
    /// The graph and the manifest do not fit together.
    #[error("the graph does not fit the manifest: {0}")]
    Binding(String),
}

/// A graph, ready to run.
#[derive(Debug)]
pub(super) struct Onnx {
    workers: Vec<Mutex<Worker>>,
    next: AtomicUsize,
    feeds: Vec<Feed>,
    answer: Answer,
    /// Whether the graph was made for batches of exactly one, or mixes the instances of a batch.
    one_by_one: bool,
}

/// A session, which computes one batch at a time, and the outputs that it is asked for.
struct Worker {
    session: Session,
    options: RunOptions<HasSelectedOutputs>,
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("session", &self.session)
            .finish_non_exhaustive() // the options of ort cannot be shown
    }
}

impl Onnx {
    /// Loads the library, then the graph, and holds it against the manifest.
    pub(super) fn load(
        graph: &[u8],
        manifest: &Manifest,
        files: &mut Files,
    ) -> Result<Self, OnnxError> {
        let weights = weights(graph, manifest, files)?;
        let size = graph.len() + weights.iter().map(|file| file.bytes.len()).sum::<usize>();
        let environment = library::environment()?;
        let cores = available_parallelism().map_or(1, std::num::NonZero::get);
        let (sessions, threads) = if size <= SMALL_GRAPH {
            (cores, 1)
        } else {
            (1, cores)
        };
        let session = || -> Result<Session, String> {
            let text = |error: ort::Error<_>| error.to_string();
            let mut builder = Session::builder(&environment)
                .map_err(|error| error.to_string())?
                .with_intra_threads(threads)
                .map_err(text)?
                // Threads that wait for work by spinning would take the cores from everybody else.
                .with_intra_op_spinning(false)
                .map_err(text)?;
            for file in &weights {
                builder = builder
                    .with_external_initializer_file_in_memory(&file.name, Arc::clone(&file.bytes))
                    .map_err(text)?;
            }
            builder
                .commit_from_memory(graph)
                .map_err(|error| error.to_string())
        };
        let session = || session().map_err(|reason| OnnxError::Graph(with_nodes(graph, reason)));

        let first = session()?;
        let feeds = feed::feeds(manifest, first.inputs())?;
        let answer = Answer::new(manifest, first.outputs())?;
        labels::check(graph, manifest, first.outputs())?;
        // Quantised to the range of the whole batch, an instance's answer would depend on its
        // neighbours.
        let mixes = nodes::nodes(graph)
            .iter()
            .any(|node| node.operator == "DynamicQuantizeLinear");
        let one_by_one = feed::takes_one(first.inputs())? || mixes;
        let mut workers = Vec::with_capacity(sessions);
        let mut ready = Some(first);
        for _ in 0..sessions {
            let session = match ready.take() {
                Some(session) => session,
                None => session()?,
            };
            let mut selected = OutputSelector::no_default();
            for name in answer.outputs() {
                selected = selected.with(name);
            }
            let options = RunOptions::new()
                .map_err(|error| OnnxError::Graph(error.to_string()))?
                .with_outputs(selected);
            workers.push(Mutex::new(Worker { session, options }));
        }
        Ok(Self {
            workers,
            next: AtomicUsize::new(0),
            feeds,
            answer,
            one_by_one,
        })
    }

    /// The types and shapes of the graph's own tensors (the task `raw`).
    pub(super) fn outlines(&self) -> &[Outline] {
        self.answer.outlines()
    }

    /// One prediction for each instance.
    pub(super) fn forward(&self, batch: &Batch) -> candle_core::Result<Vec<Prediction>> {
        let predictions = match batch {
            Batch::Tokens(texts) => {
                let lengths: Vec<usize> = texts.iter().map(|tokens| tokens.ids.len()).collect();
                self.by_length(batch, &lengths)
            }
            Batch::Arrays(instances) => {
                let shapes = |index: usize| instances[index].iter().map(|array| &array.shape);
                let alike = (1..instances.len()).all(|index| shapes(index).eq(shapes(0)));
                if alike && !self.one_by_one {
                    self.run(batch)
                } else {
                    self.each(batch)
                }
            }
            _ if self.one_by_one => self.each(batch),
            _ => self.run(batch),
        };
        predictions.map_err(candle_core::Error::Msg)
    }

    /// Texts of like length share a pass, so that little is computed for padding.
    fn by_length(&self, batch: &Batch, lengths: &[usize]) -> Result<Vec<Prediction>, String> {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|index| lengths[*index]);
        let texts = if self.one_by_one { 1 } else { MAX_TEXTS };
        let mut predictions = vec![Prediction::default(); lengths.len()];
        for pass in order.chunks(texts) {
            for (index, prediction) in pass.iter().zip(self.run(&batch.select(pass))?) {
                predictions[*index] = prediction;
            }
        }
        Ok(predictions)
    }

    fn each(&self, batch: &Batch) -> Result<Vec<Prediction>, String> {
        let mut predictions = Vec::with_capacity(batch.len());
        for index in 0..batch.len() {
            predictions.extend(self.run(&batch.select(&[index]))?);
        }
        Ok(predictions)
    }

    fn run(&self, batch: &Batch) -> Result<Vec<Prediction>, String> {
        let mut inputs = Vec::with_capacity(self.feeds.len());
        for feed in &self.feeds {
            let value = feed.value(batch).map_err(|error| error.to_string())?;
            inputs.push((feed.name(), value));
        }
        let mut worker = self.worker();
        let Worker { session, options } = &mut *worker;
        let outputs = session
            .run_with_options(inputs, options)
            .map_err(|error| error.to_string())?;
        self.answer.read(&outputs, batch)
    }

    /// A free session, or else the next one in turn.
    fn worker(&self) -> MutexGuard<'_, Worker> {
        let free = self
            .workers
            .iter()
            .find_map(|worker| worker.try_lock().ok());
        free.unwrap_or_else(|| {
            let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
            self.workers[turn]
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        })
    }
}

/// A file that holds tensors of the graph.
struct WeightsFile {
    /// As the graph names it.
    name: String,
    bytes: Arc<[u8]>,
}

/// The files beside the graph that hold its weights, as the graph names them. Only listed ones are
/// read: the library itself would look for the others in the working directory.
fn weights(
    graph: &[u8],
    manifest: &Manifest,
    files: &mut Files,
) -> Result<Vec<WeightsFile>, OnnxError> {
    let folder = manifest.network.weights().rsplit_once('/');
    let path = |name: &str| match folder {
        Some((folder, _)) => format!("{folder}/{name}"),
        None => name.to_owned(),
    };
    nodes::external_files(graph)
        .into_iter()
        .map(|name| {
            // A name with a star is how the library writes an address in its own memory.
            let listed = (!name.contains('*')).then(|| files.take(&path(&name)));
            match listed {
                Some(Ok(bytes)) => Ok(WeightsFile {
                    bytes: bytes.into(),
                    name,
                }),
                _ => Err(OnnxError::Weights(name)),
            }
        })
        .collect()
}

/// The library's reason, with the names of the nodes where it tells the operator alone.
fn with_nodes(graph: &[u8], reason: String) -> String {
    let named: Vec<String> = nodes::nodes(graph)
        .iter()
        .filter(|node| reason.contains(&format!("{}:{}(", node.domain, node.operator)))
        .map(|node| format!("{:?}", node.name))
        .take(10)
        .collect();
    if named.is_empty() {
        reason
    } else {
        format!(
            "{reason}, which is the operator of node {}",
            named.join(", ")
        )
    }
}

/// The graph's inputs or outputs in words, for an error.
fn describe(outlets: &[Outlet]) -> String {
    let one = |outlet: &Outlet| format!("{} ({})", outlet.name(), outlet.dtype());
    outlets.iter().map(one).collect::<Vec<_>>().join(", ")
}
