//! The operator's requests to the API server, counted from the server's own audit log.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use deploy::NAMESPACE;

/// Requests by verb and resource.
#[derive(Debug, Default)]
pub struct Requests(BTreeMap<String, usize>);

impl Requests {
    /// The operator's requests that ended within a span of time (RFC 3339 texts of one zone, so
    /// they compare as text).
    pub fn between(log: &Path, from: &str, to: &str) -> Result<Self> {
        let file =
            std::fs::File::open(log).with_context(|| format!("cannot read {}", log.display()))?;
        let user = format!("system:serviceaccount:{NAMESPACE}:serin-operator");
        let mut counts = BTreeMap::new();
        for line in BufReader::new(file).lines() {
            let line = line?;
            if !line.contains(&user) {
                continue;
            }
            let Ok(event) = serde_json::from_str::<Value>(&line) else {
                continue;
            }; // the last line may be half written
            let text = |pointer: &str| {
                event
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let time = text("/stageTimestamp");
            if text("/stage") != "ResponseComplete"
                || text("/user/username") != user
                || time < from
                || time >= to
            {
                continue;
            }
            let subresource = text("/objectRef/subresource");
            let slash = if subresource.is_empty() { "" } else { "/" };
            let key = format!(
                "{} {}{slash}{subresource}",
                text("/verb"),
                text("/objectRef/resource")
            );
            *counts.entry(key).or_default() += 1;
        }
        Ok(Self(counts))
    }

    /// Those that changed something, but for the renewals of the leader's lease.
    pub fn writes(&self) -> usize {
        let reads = ["get ", "list ", "watch "];
        let is_write = |key: &str| {
            !reads.iter().any(|read| key.starts_with(read)) && !key.ends_with(" leases")
        };
        self.0
            .iter()
            .filter(|(key, _)| is_write(key))
            .map(|(_, count)| count)
            .sum()
    }
}

impl fmt::Display for Requests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total: usize = self.0.values().sum();
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(key, count)| format!("{count} {key}"))
            .collect();
        write!(f, "{total} ({})", parts.join(", "))
    }
}
