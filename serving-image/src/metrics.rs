//! What Prometheus scrapes. The names and labels are a contract with the operator's gate.

use std::fmt::Write as _;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Edges in seconds, at the latencies that objectives commonly name: a threshold is only judged exactly on an edge.
const DURATION_EDGES: [f64; 20] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5,
    2.0, 2.5, 5.0, 10.0,
];

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RequestLabels {
    model: String,
    model_version: String,
    code: u16,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ModelLabels {
    model: String,
    model_version: String,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ClassLabels {
    model: String,
    model_version: String,
    class: String,
}

/// All series of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    model: ModelLabels,
    requests: Family<RequestLabels, Counter>,
    duration: Family<ModelLabels, Histogram>,
    predictions: Family<ClassLabels, Counter>,
    ready: Gauge,
    in_flight: Gauge,
}

impl Metrics {
    /// The series of the model that is served under this name and version.
    ///
    /// Those that a rollout's gate reads exist from the first scrape on, at zero, so that the first failure is an
    /// increase and not a birth.
    pub fn new(model: &str, model_version: &str, digest: &str, test_faults: bool) -> Self {
        let model = ModelLabels {
            model: model.to_owned(),
            model_version: model_version.to_owned(),
        };
        let mut registry = Registry::default();
        let requests = Family::<RequestLabels, Counter>::default();
        let duration = Family::<ModelLabels, Histogram>::new_with_constructor(|| {
            Histogram::new(DURATION_EDGES)
        });
        let predictions = Family::<ClassLabels, Counter>::default();
        let (ready, in_flight, faults) =
            (Gauge::default(), Gauge::default(), Gauge::<i64>::default());
        faults.set(i64::from(test_faults));
        registry.register(
            "model_requests",
            "Prediction requests, by status code",
            requests.clone(),
        );
        registry.register(
            "model_request_duration_seconds",
            "Time from a prediction request's head to its answer",
            duration.clone(),
        );
        registry.register(
            "model_predictions",
            "Predicted instances, by class",
            predictions.clone(),
        );
        registry.register("model_ready", "1 while /readyz answers 200", ready.clone());
        registry.register(
            "model_requests_in_flight",
            "Prediction requests being answered",
            in_flight.clone(),
        );
        registry.register(
            "model_test_faults_enabled",
            "1 where the test facility adds faults",
            faults,
        );
        registry.register(
            "model",
            "What is served",
            Info::new(vec![
                ("model", model.model.clone()),
                ("model_version", model.model_version.clone()),
                ("digest", digest.to_owned()),
                ("serve_version", env!("CARGO_PKG_VERSION").to_owned()),
            ]),
        );
        let metrics = Self {
            registry,
            model,
            requests,
            duration,
            predictions,
            ready,
            in_flight,
        };
        let _ = metrics.duration.get_or_create(&metrics.model);
        for code in [200, 500] {
            let _ = metrics
                .requests
                .get_or_create(&metrics.request_labels(code));
        }
        metrics
    }

    fn request_labels(&self, code: u16) -> RequestLabels {
        let ModelLabels {
            model,
            model_version,
        } = self.model.clone();
        RequestLabels {
            model,
            model_version,
            code,
        }
    }

    /// Counts a prediction request's answer.
    pub fn answered(&self, code: u16, seconds: f64) {
        self.requests
            .get_or_create(&self.request_labels(code))
            .inc();
        self.duration.get_or_create(&self.model).observe(seconds);
    }

    /// Counts predicted instances of a class; 0 makes the series exist.
    pub fn predicted(&self, class: &str, instances: u64) {
        let ModelLabels {
            model,
            model_version,
        } = self.model.clone();
        let labels = ClassLabels {
            model,
            model_version,
            class: class.to_owned(),
        };
        self.predictions.get_or_create(&labels).inc_by(instances);
    }

    /// Tells whether `/readyz` answers 200.
    pub fn set_ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }

    /// Counts a request as in flight until the guard is dropped, also if its client goes away.
    pub fn enter(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// The series in OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(8 * 1024);
        if let Err(error) = encode(&mut text, &self.registry) {
            let _ = write!(text, "# {error}"); // a String takes everything; a scraper refuses this line
        }
        text
    }
}

/// A prediction request that is being answered.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_have_the_names_that_the_gate_reads() {
        let metrics = Metrics::new("iris", "1.0.0", "sha256:00", false);
        metrics.answered(200, 0.2);
        metrics.predicted("setosa", 3);
        let text = metrics.encode();
        for line in [
            r#"model_requests_total{model="iris",model_version="1.0.0",code="200"} 1"#,
            r#"model_requests_total{model="iris",model_version="1.0.0",code="500"} 0"#,
            r#"model_request_duration_seconds_bucket{le="0.15",model="iris",model_version="1.0.0"} 0"#,
            r#"model_request_duration_seconds_bucket{le="0.2",model="iris",model_version="1.0.0"} 1"#,
            r#"model_request_duration_seconds_bucket{le="10.0",model="iris",model_version="1.0.0"} 1"#,
            r#"model_predictions_total{model="iris",model_version="1.0.0",class="setosa"} 3"#,
            r#"model_info{model="iris",model_version="1.0.0",digest="sha256:00""#,
            "model_test_faults_enabled 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
