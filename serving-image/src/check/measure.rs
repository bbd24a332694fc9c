//! Measures the speed and memory of a model.

use std::hint::black_box;
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use crate::memory;
use crate::model::Model;
use crate::preprocess::Location;

/// Time for each size of batch.
const BUDGET: Duration = Duration::from_millis(500);

/// Repetitions at least, however long they take, and at most.
const REPETITIONS: std::ops::Range<usize> = 3..20_000;

/// Instances that are predicted together on all cores.
const TOGETHER: usize = 32;

/// Resident memory, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    /// What loading the model added.
    pub model: u64,
    /// The whole process with the model loaded.
    pub resident: u64,
    /// The most there ever was, with the largest batch.
    pub peak: u64,
}

/// How fast predictions are, from validation to the output, without HTTP.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Speed {
    /// Tokens of an instance on average (texts).
    pub mean_tokens: Option<f64>,
    pub batches: Vec<Batch>,
    /// Threads of the last figure.
    pub threads: usize,
    /// Instances a second with as many threads as there are CPUs, 32 instances together.
    pub instances_per_second: f64,
}

/// One size of batch, on one thread of ours.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Batch {
    pub instances: usize,
    pub repetitions: usize,
    pub p50_ms: f64,
    /// Given from 1,000 repetitions on.
    pub p99_ms: Option<f64>,
    pub instances_per_second: f64,
}

impl Memory {
    /// Memory before loading; `None` if the kernel does not report it.
    pub(super) fn before() -> Option<u64> {
        memory::resident()
    }

    /// What there is with the model, given what there was before it.
    pub(super) fn since(before: u64) -> Option<Self> {
        let resident = memory::resident()?;
        Some(Self {
            model: resident.saturating_sub(before),
            resident,
            peak: memory::peak()?,
        })
    }
}

/// Predicts batches of growing size, made of `instances` in turn, then on all CPUs.
pub(super) fn speed(model: &Model, instances: &[Value]) -> Result<Speed, String> {
    let largest = model.manifest.limits.max_instances;
    let mut sizes = vec![1, TOGETHER.min(largest), largest.min(1024)];
    sizes.dedup();
    let mut batches = Vec::new();
    for size in sizes {
        batches.push(batch(model, &chosen(instances, size))?);
    }
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let together = chosen(instances, TOGETHER.min(largest));
    Ok(Speed {
        mean_tokens: mean_tokens(model, &together)?,
        batches,
        threads,
        instances_per_second: on_all_cpus(model, &together, threads)?,
    })
}

fn chosen(instances: &[Value], size: usize) -> Vec<Value> {
    instances.iter().cycle().take(size).cloned().collect()
}

fn predict(model: &Model, instances: &[Value]) -> Result<usize, String> {
    let batch = model
        .prepare(instances, Location::List("/instances"))
        .map_err(|errors| format!("{} fields are refused", errors.total))?;
    let predictions = model.forward(&batch).map_err(|error| error.to_string())?;
    Ok(black_box(predictions)
        .iter()
        .map(|prediction| prediction.tokens)
        .sum())
}

fn mean_tokens(model: &Model, instances: &[Value]) -> Result<Option<f64>, String> {
    let tokens = predict(model, instances)?;
    Ok((tokens > 0).then(|| tokens as f64 / instances.len() as f64))
}

fn batch(model: &Model, instances: &[Value]) -> Result<Batch, String> {
    predict(model, instances)?; // the first of a size pays for its memory
    let started = Instant::now();
    let mut times = Vec::new();
    while times.len() < REPETITIONS.start
        || (started.elapsed() < BUDGET && times.len() < REPETITIONS.end)
    {
        let begun = Instant::now();
        predict(model, instances)?;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    let p50_ms = times[times.len() / 2];
    Ok(Batch {
        instances: instances.len(),
        repetitions: times.len(),
        p50_ms,
        p99_ms: (times.len() >= 1_000).then(|| times[times.len() * 99 / 100]),
        instances_per_second: instances.len() as f64 / p50_ms * 1e3,
    })
}

fn on_all_cpus(model: &Model, instances: &[Value], threads: usize) -> Result<f64, String> {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    thread::scope(|scope| {
        let work = || -> Result<(), String> {
            while !stop.load(Ordering::Relaxed) {
                predict(model, instances)?;
                done.fetch_add(instances.len() as u64, Ordering::Relaxed);
            }
            Ok(())
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        thread::sleep(BUDGET);
        stop.store(true, Ordering::Relaxed);
        workers.into_iter().try_for_each(|worker| {
            worker
                .join()
                .unwrap_or_else(|_| Err("it panicked".to_owned()))
        })
    })?;
    Ok(done.into_inner() as f64 / started.elapsed().as_secs_f64())
}
