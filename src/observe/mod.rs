//! Observing: the only stage that reads the world. It turns what the cluster and Prometheus say into owned values, on which
//! the pure stages then decide.

pub mod metrics;
