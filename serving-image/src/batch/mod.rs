//! `serin-serve batch`: a file of instances in, a file of predictions out.
//!
//! ```text
//! start   args ─► model ─► state (begin, resume or done?) ─► source and sink at that place
//! rows    source ─► decode ─► Model::prepare ─► Model::forward ─► sink
//!         (pipeline: chunks in parallel, results in order)
//! end     last checkpoint ─► state: complete ─► output under its name
//! ```
//!
//! Every row takes the path of a request: the output has what `/predict` answers. The job may be
//! killed at any time. Started again, it resumes after its last checkpoint, and the output has the
//! same bytes.

mod args;
mod decode;
mod error;
mod format;
#[cfg(test)]
mod fuzz_tests;
mod pipeline;
mod progress;
mod score;
mod sink;
mod source;
mod state;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use tracing::{info, warn};

pub use args::BatchArgs;
pub use error::BatchError;
pub use format::Format;
pub use source::InputError;

use crate::artefact::{Artefact, Kind};
use crate::explain;
use crate::model::{LoadError, Model};
use decode::Decoder;
use pipeline::Division;
use progress::Meter;
use score::{Reject, Scored};
use sink::{AppendFile, Due, Header, Sink};
use source::Wanted;
use state::{InputIdentity, Job, Progress, State, beside};

/// Predicts every row of a file. An error where the flags contradict each other, a file cannot be
/// read or written, or more rows are rejected than the flags allow.
pub fn run(args: &BatchArgs) -> Result<(), BatchError> {
    let input_format = Format::of(args.input_format, &args.input, "--input-format");
    let input_format = input_format.map_err(BatchError::Usage)?;
    let output_format = Format::of(args.output_format, &args.output, "--output-format");
    let output_format = output_format.map_err(BatchError::Usage)?;
    let unreadable = |error: io::Error| BatchError::Input(error.into());
    let identity = InputIdentity::of(&args.input).map_err(unreadable)?;

    let started = Instant::now();
    let artefact = Artefact::open(&args.model_dir, args.digest).map_err(LoadError::from)?;
    if artefact.manifest.kind == Kind::Generation {
        return Err(BatchError::Usage(
            "a model that generates text predicts no rows: serve it, and ask /v1/completions"
                .into(),
        ));
    }
    let (model, _) = explain::load(artefact)?; // refuses what `serve` refuses
    info!(model = model.manifest.name, version = model.manifest.version, digest = %model.digest,
        ms = started.elapsed().as_millis(), "model loaded");
    let job = job(args, &model, identity, input_format, output_format);
    check_columns(args, &model)?;

    let paths = Paths::of(args);
    let _lock = paths.lock()?;
    let Some(progress) = paths.begin(&job, args.overwrite)? else {
        info!("the output is complete already: nothing to do");
        return Ok(());
    };
    if progress.rows > 0 {
        info!(
            rows = progress.rows,
            rejected = progress.rejected,
            "going on after the last checkpoint"
        );
    }

    let wanted = Wanted {
        inputs: model
            .manifest
            .inputs
            .iter()
            .map(|input| (input.name.as_str(), !input.nullable))
            .collect(),
        keep: &args.keep,
        delimiter: args.delimiter,
    };
    let mut source = source::open(
        input_format,
        &args.input,
        &wanted,
        progress.rows,
        progress.input_offset,
    )
    .map_err(BatchError::Input)?;
    let columns = source.columns().clone();
    if !columns.ignored.is_empty() {
        info!(
            columns = columns.ignored.join(", "),
            "columns that are neither the model's nor kept are ignored"
        );
    }
    let header = Header {
        manifest: model.manifest.clone(),
        columns: sink::columns(&model.manifest),
        keep: args.keep.clone(),
        keep_types: columns.keep_types.clone(),
        model: job.model.clone(),
        model_version: job.model_version.clone(),
        digest: job.digest.clone(),
        delimiter: args.delimiter,
        row_group_rows: job.row_group_rows,
    };
    let rejects = |path: &PathBuf| AppendFile::open(path, progress.rejects_length);
    let mut output = Output {
        sink: sink::open(output_format, &args.output, header, progress.output_length)
            .map_err(BatchError::Output)?,
        rejects: args
            .rejects
            .as_ref()
            .map(rejects)
            .transpose()
            .map_err(BatchError::Output)?,
        bound: args
            .max_rejects
            .unwrap_or(if args.rejects.is_some() { u64::MAX } else { 0 }),
        state_path: paths.state.clone(),
        checkpoint_every: args.checkpoint_every,
        checkpointed: Instant::now(),
        meter: Meter::start(progress.rows, progress.input_offset, source.end()),
        state: State { job, progress },
    };

    let decoder = Decoder::new(&model.manifest, &args.keep, &args.missing, columns);
    let division = Division {
        rows_before: output.state.progress.rows,
        chunk_rows: output.state.job.chunk_rows,
        workers: args
            .workers
            .or_else(|| available_parallelism().ok())
            .map_or(1, NonZero::get),
    };
    pipeline::run(&model, &mut *source, &decoder, division, |scored| {
        output.take(scored)
    })?;
    output.finish()?;
    Ok(())
}

fn job(
    args: &BatchArgs,
    model: &Model,
    input: InputIdentity,
    input_format: Format,
    output_format: Format,
) -> Job {
    let manifest = &model.manifest;
    // Texts are padded to the longest of their chunk, and attention's memory grows with its square.
    let default = if manifest.kind == Kind::Tabular {
        1024
    } else {
        32
    };
    let chunk_rows = args.chunk_rows.map_or(default, NonZero::get);
    Job {
        input,
        input_format,
        output_format,
        model: args
            .model_name
            .clone()
            .unwrap_or_else(|| manifest.name.clone()),
        model_version: args
            .model_version
            .clone()
            .unwrap_or_else(|| manifest.version.clone()),
        digest: model.digest.to_string(),
        serve_version: env!("CARGO_PKG_VERSION").to_owned(),
        keep: args.keep.clone(),
        missing: args.missing.clone(),
        delimiter: args.delimiter,
        chunk_rows: chunk_rows.min(manifest.limits.max_instances),
        row_group_rows: args.row_group_rows.get(),
        rejects: args.rejects.is_some(),
    }
}

/// No two columns of the output may have one name.
fn check_columns(args: &BatchArgs, model: &Model) -> Result<(), BatchError> {
    let mut names = ["row", "model", "model_version", "probabilities", "values"]
        .map(str::to_owned)
        .to_vec();
    names.extend(
        sink::columns(&model.manifest)
            .into_iter()
            .map(|column| column.name),
    );
    for name in &args.keep {
        if names.contains(name) {
            return Err(BatchError::Usage(format!(
                "--keep {name}: the output has a column of that name, or it is given twice"
            )));
        }
        names.push(name.clone());
    }
    Ok(())
}

/// The files of a job.
struct Paths {
    output: PathBuf,
    rejects: Option<PathBuf>,
    state: PathBuf,
    lock: PathBuf,
}

impl Paths {
    fn of(args: &BatchArgs) -> Self {
        Self {
            output: args.output.clone(),
            rejects: args.rejects.clone(),
            state: beside(&args.output, ".batch.json"),
            lock: beside(&args.output, ".lock"),
        }
    }

    /// Two processes on one output, as when a node is lost and comes back, would mix their rows.
    fn lock(&self) -> Result<Lock<'_>, BatchError> {
        let file = File::create(&self.lock).map_err(BatchError::Output)?;
        let locked = file.try_lock();
        let lock = Lock {
            _file: file,
            path: &self.lock,
        };
        match locked {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                std::mem::forget(lock); // it is the other's
                let output = self.output.display();
                // Not a mistake of the command line: a later attempt finds it free.
                Err(BatchError::Output(io::Error::new(
                    io::ErrorKind::ResourceBusy,
                    format!("another process is writing {output}"),
                )))
            }
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                warn!("this file system has no locks: start one process at a time");
                Ok(lock)
            }
            Err(TryLockError::Error(error)) => Err(BatchError::Output(error)),
        }
    }

    /// Where to begin; `None` if all is done. From then on there is a checkpoint, and what lies
    /// there is the job's.
    fn begin(&self, job: &Job, overwrite: bool) -> Result<Option<Progress>, BatchError> {
        if overwrite {
            self.discard().map_err(BatchError::Output)?;
        }
        let state = State::read(&self.state).map_err(|error| {
            BatchError::Usage(format!(
                "{} cannot be read ({error}); --overwrite begins anew",
                self.state.display()
            ))
        })?;
        let there = |path: &Path| path.try_exists().map_err(BatchError::Output);
        let Some(State {
            job: before,
            progress,
        }) = state
        else {
            for path in [Some(&self.output), self.rejects.as_ref()]
                .into_iter()
                .flatten()
            {
                if there(path)? {
                    return Err(BatchError::Usage(format!(
                        "{} exists and is not of a job that was begun; --overwrite replaces it",
                        path.display()
                    )));
                }
            }
            return self.anew(job).map(Some);
        };
        let differences = job.differences(&before);
        if !differences.is_empty() {
            return Err(BatchError::Usage(format!(
                "{} is of another job: {} differ; --overwrite begins anew",
                self.state.display(),
                differences.join(", ")
            )));
        }
        if progress.complete && there(&self.output)? {
            // killed between renaming and removing
            sink::discard(&self.output).map_err(BatchError::Output)?;
            return Ok(None);
        }
        if progress.complete && !sink::exists(&self.output) {
            // the output was removed: write it again
            return self.anew(job).map(Some);
        }
        Ok(Some(progress))
    }

    fn anew(&self, job: &Job) -> Result<Progress, BatchError> {
        let begin = || {
            sink::discard(&self.output)?;
            let state = State {
                job: job.clone(),
                progress: Progress::default(),
            };
            state.write(&self.state)?;
            Ok(state.progress)
        };
        begin().map_err(BatchError::Output)
    }

    fn discard(&self) -> io::Result<()> {
        sink::discard(&self.output)?;
        // The checkpoint first: without it, nothing else is taken for a part of a job.
        for path in [Some(&self.state), Some(&self.output), self.rejects.as_ref()]
            .into_iter()
            .flatten()
        {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Held while the output grows. A kill leaves the file, but not the lock on it.
struct Lock<'a> {
    _file: File,
    path: &'a Path,
}

impl Drop for Lock<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path); // a left-over empty file is harmless
    }
}

/// Everything that is written, and how far it is.
struct Output {
    sink: Box<dyn Sink>,
    rejects: Option<AppendFile>,
    bound: u64,
    state: State,
    state_path: PathBuf,
    checkpoint_every: Duration,
    checkpointed: Instant,
    meter: Meter,
}

impl Output {
    fn take(&mut self, scored: Scored) -> Result<(), BatchError> {
        let progress = &mut self.state.progress;
        progress.rows += scored.rows;
        progress.rejected += scored.rejected_rows;
        progress.input_offset = scored.next_offset;
        if let Some(file) = &mut self.rejects {
            write_rejects(file, &scored.rejects).map_err(BatchError::Output)?;
        }
        if progress.rejected > self.bound
            && let Some(last) = scored.rejects.last()
        {
            return Err(BatchError::Rejects {
                rejected: progress.rejected,
                bound: self.bound,
                row: last.row,
                field: last.field.clone(),
                expected: last.expected.clone(),
            });
        }
        self.meter
            .tick(progress.rows, progress.rejected, progress.input_offset);
        let due = match self.sink.write(scored).map_err(BatchError::Output)? {
            Due::Now => true,
            Due::NotYet => false,
            Due::Sometime => self.checkpointed.elapsed() >= self.checkpoint_every,
        };
        if due { self.checkpoint(false) } else { Ok(()) }
    }

    fn checkpoint(&mut self, complete: bool) -> Result<(), BatchError> {
        let mut durable = || {
            let progress = &mut self.state.progress;
            progress.output_length = self.sink.checkpoint()?;
            if let Some(file) = &mut self.rejects {
                progress.rejects_length = file.checkpoint()?;
            }
            progress.complete = complete;
            self.state.write(&self.state_path)
        };
        durable().map_err(BatchError::Output)?;
        self.checkpointed = Instant::now();
        Ok(())
    }

    fn finish(mut self) -> Result<(), BatchError> {
        self.checkpoint(true)?;
        self.sink.finish().map_err(BatchError::Output)?;
        let Progress { rows, rejected, .. } = self.state.progress;
        let (rows_now, rows_per_second) = self.meter.end(rows);
        info!(
            rows,
            rejected,
            rows_now,
            rows_per_second = rows_per_second.round(),
            peak_memory_mib = crate::memory::peak().map(|bytes| bytes >> 20),
            "done"
        );
        Ok(())
    }
}

/// One JSON object a line: `{"row":7,"field":"age","expected":"a number"}`.
fn write_rejects(file: &mut AppendFile, rejects: &[Reject]) -> io::Result<()> {
    for reject in rejects {
        serde_json::to_writer(&mut *file, reject)?;
        file.write_all(b"\n")?;
    }
    Ok(())
}
