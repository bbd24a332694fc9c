//! The memory of the process.

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
        let Some(bytes) = crate::memory::resident() else {
            return Ok(()); // no series where there is no /proc
        };
        let gauge = ConstGauge::new(bytes.cast_signed());
        let kind = ConstGauge::<i64>::TYPE;
        let metric = encoder.encode_descriptor(
            "model_resident_memory_bytes",
            "Bytes of this process in RAM, the model included",
            None,
            kind,
        )?;
        gauge.encode(metric)
    }
}
