//! What the process takes of its machine.

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::TypedMetric as _;
use prometheus_client::metrics::gauge::ConstGauge;

/// Read when it is scraped.
#[derive(Debug)]
pub(super) struct ResidentMemory;

impl Collector for ResidentMemory {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), Error> {
        let Some(bytes) = resident_bytes() else {
            return Ok(()); // no series where there is no /proc
        };
        let gauge = ConstGauge::new(bytes);
        let kind = ConstGauge::<i64>::TYPE;
        let metric = encoder.encode_descriptor(
            "model_resident_memory_bytes",
            "Memory of this process that is in RAM, the model's included",
            None,
            kind,
        )?;
        gauge.encode(metric)
    }
}

/// `VmRSS` of `/proc/self/status`, which counts in KiB whatever the size of a page.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_some_megabytes() {
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
