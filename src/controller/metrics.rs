//! The operator's own metrics. No label names an object: the number of objects has no bound.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Label of what was decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ActionLabel {
    action: String,
}

/// Label of how a reconcile ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Labels of a refused write.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    kind: String,
    reason: String,
}

/// The operator's metrics.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<OutcomeLabel, Counter>,
    duration: Histogram,
    decisions: Family<ActionLabel, Counter>,
    looks: Family<OutcomeLabel, Counter>,
    writes: Counter,
    refused: Family<RefusedLabels, Counter>,
    leader: Gauge,
    routers: Gauge,
    refusals: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let edges = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        let mut metrics = Self {
            registry: Registry::with_prefix("serin"),
            reconciles: Family::default(),
            duration: Histogram::new(edges),
            decisions: Family::default(),
            looks: Family::default(),
            writes: Counter::default(),
            refused: Family::default(),
            leader: Gauge::default(),
            routers: Gauge::default(),
            refusals: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register(
            "reconciles",
            "Reconciles by outcome",
            metrics.reconciles.clone(),
        );
        registry.register(
            "reconcile_duration_seconds",
            "Time of one reconcile",
            metrics.duration.clone(),
        );
        registry.register(
            "decisions",
            "Decisions by action",
            metrics.decisions.clone(),
        );
        registry.register(
            "looks",
            "Looks at a gate's metrics by outcome",
            metrics.looks.clone(),
        );
        registry.register(
            "object_writes",
            "Objects applied or deleted",
            metrics.writes.clone(),
        );
        registry.register(
            "refused_writes",
            "Writes of objects that the API server refused, by kind and reason",
            metrics.refused.clone(),
        );
        registry.register(
            "leader",
            "Whether this replica acts",
            metrics.leader.clone(),
        );
        registry.register(
            "routers_connected",
            "Routers that get their configuration here",
            metrics.routers.clone(),
        );
        registry.register(
            "router_refusals",
            "Configurations that routers refused",
            metrics.refusals.clone(),
        );
        metrics
    }
}

impl Metrics {
    /// Counts a reconcile.
    pub fn reconciled(&self, ok: bool, seconds: f64) {
        let outcome = if ok { "ok" } else { "error" };
        self.reconciles
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
        self.duration.observe(seconds);
    }

    /// Counts a decision.
    pub fn decided(&self, action: &str) {
        self.decisions
            .get_or_create(&ActionLabel {
                action: action.to_owned(),
            })
            .inc();
    }

    /// Counts a reading of a gate's metrics.
    pub fn looked(&self, readable: bool) {
        let outcome = if readable { "read" } else { "blind" };
        self.looks.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts writes of objects.
    pub fn wrote(&self, count: usize) {
        self.writes.inc_by(count as u64);
    }

    /// Counts a write that was refused.
    pub fn refused(&self, kind: &str, reason: &str) {
        let labels = RefusedLabels {
            kind: kind.to_owned(),
            reason: reason.to_owned(),
        };
        self.refused.get_or_create(&labels).inc();
    }

    /// Sets whether this replica acts.
    pub fn lead(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Whether this replica acts.
    pub fn leads(&self) -> bool {
        self.leader.get() == 1
    }

    /// Sets how many routers are connected, and how many configurations they have rejected.
    pub fn routers(&self, connected: usize, refusals: u64) {
        self.routers
            .set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.refusals.set(refusals as f64);
    }

    /// The text that Prometheus scrapes.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
