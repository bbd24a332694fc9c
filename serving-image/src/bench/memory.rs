//! The server's resident memory over the run, from its own `/metrics`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::target::Target;

/// Between two samples: at most 600 in a run, at least one a second.
const MAX_SAMPLES: u32 = 600;

/// Fewer samples tell no trend.
const MIN_SAMPLES: usize = 8;

/// Samples of a run: seconds from its start, and bytes.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Memory {
    pub samples: Vec<(f64, f64)>,
    pub growth: Option<Growth>,
}

/// How memory grew.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Growth {
    /// Median of the first quarter, in bytes.
    pub first_quarter: f64,
    /// Median of the last quarter.
    pub last_quarter: f64,
    /// The latter over the former, minus 1.
    pub share: f64,
    /// Slope of the line that fits the samples best, in bytes an hour.
    pub bytes_per_hour: f64,
}

/// Samples in the background until it is stopped.
pub(super) struct Sampler {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Vec<(f64, f64)>>,
}

impl Sampler {
    pub(super) fn start(target: &Arc<Target>, run: Duration) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let target = Arc::clone(target);
        let every = (run / MAX_SAMPLES).max(Duration::from_millis(250));
        let task = tokio::spawn(async move {
            let start = Instant::now();
            let mut samples = Vec::new();
            loop {
                if let Some(text) = target.get("/metrics").await
                    && let Some(bytes) = resident(&String::from_utf8_lossy(&text))
                {
                    samples.push((start.elapsed().as_secs_f64(), bytes));
                }
                tokio::select! {
                    _ = &mut stopped => return samples,
                    () = tokio::time::sleep(every) => {}
                }
            }
        });
        Self { stop, task }
    }

    pub(super) async fn finish(self) -> Memory {
        let _ = self.stop.send(());
        let samples = self.task.await.unwrap_or_default();
        Memory {
            growth: growth(&samples),
            samples,
        }
    }
}

/// The value of `process_resident_memory_bytes`, or of a series with a prefix of its own.
fn resident(metrics: &str) -> Option<f64> {
    let is_it = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        name.ends_with("resident_memory_bytes") && !line.starts_with('#')
    };
    let line = metrics.lines().find(is_it)?;
    line.rsplit(' ').next()?.parse().ok()
}

fn growth(samples: &[(f64, f64)]) -> Option<Growth> {
    if samples.len() < MIN_SAMPLES {
        return None;
    }
    let quarter = samples.len() / 4;
    let first_quarter = median(&samples[..quarter]);
    let last_quarter = median(&samples[samples.len() - quarter..]);
    let count = samples.len() as f64;
    let (sum_t, sum_b) = samples
        .iter()
        .fold((0.0, 0.0), |(t, b), sample| (t + sample.0, b + sample.1));
    let (mean_t, mean_b) = (sum_t / count, sum_b / count);
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (t, b) in samples {
        covariance += (t - mean_t) * (b - mean_b);
        variance += (t - mean_t).powi(2);
    }
    Some(Growth {
        first_quarter,
        last_quarter,
        share: last_quarter / first_quarter - 1.0,
        bytes_per_hour: covariance / variance * 3_600.0,
    })
}

fn median(samples: &[(f64, f64)]) -> f64 {
    let mut bytes: Vec<f64> = samples.iter().map(|sample| sample.1).collect();
    bytes.sort_by(f64::total_cmp);
    let middle = bytes.len() / 2;
    if bytes.len() % 2 == 1 {
        bytes[middle]
    } else {
        bytes[middle - 1].midpoint(bytes[middle])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_leak_has_a_slope_and_an_outlier_has_none() {
        let leak: Vec<(f64, f64)> = (0..40)
            .map(|second| (f64::from(second), 1e6 + 1e3 * f64::from(second)))
            .collect();
        let found = growth(&leak).unwrap();
        assert!((found.bytes_per_hour - 3.6e6).abs() < 1.0, "{found:?}");
        assert!((found.share - 0.029_865).abs() < 1e-4, "{found:?}");
        let mut flat: Vec<(f64, f64)> = (0..40).map(|second| (f64::from(second), 1e6)).collect();
        flat[38].1 = 9e6;
        assert!(growth(&flat).unwrap().share.abs() < 1e-9);
        assert_eq!(growth(&leak[..7]), None);
    }

    #[test]
    fn the_series_is_found_with_and_without_labels() {
        let text = "# TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes \
                    1.5e+07\n# EOF";
        assert_eq!(resident(text), Some(1.5e7));
        assert_eq!(
            resident("model_resident_memory_bytes{model=\"a b\"} 42"),
            Some(42.0)
        );
        assert_eq!(resident("model_ready 1"), None);
    }
}
