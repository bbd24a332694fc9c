//! Which requests are traced, by `OTEL_TRACES_SAMPLER`.

/// A sampler, as OpenTelemetry's specification has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether a caller's decision is ours, too.
    pub(super) follows_parent: bool,
    /// Share of the other traces.
    pub(super) ratio: f64,
}

impl Default for Sampler {
    /// `parentbased_always_on`.
    fn default() -> Self {
        Self {
            follows_parent: true,
            ratio: 1.0,
        }
    }
}

impl Sampler {
    /// The sampler of that name; `None` for an unknown name.
    pub(super) fn named(name: &str, ratio: f64) -> Option<Self> {
        let (follows_parent, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let ratio = match root {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => ratio,
            _ => return None,
        };
        Some(Self {
            follows_parent,
            ratio,
        })
    }

    /// Whether the trace is recorded; `parent` is what the caller decided, where there is one.
    pub(super) fn takes(self, trace: [u8; 16], parent: Option<bool>) -> bool {
        match parent {
            Some(sampled) if self.follows_parent => sampled,
            _ => self.is_among(trace),
        }
    }

    /// The same traces as OpenTelemetry's SDKs take: those whose last 8 bytes, without the lowest
    /// bit, are below the ratio.
    fn is_among(self, trace: [u8; 16]) -> bool {
        let number = u128::from_be_bytes(trace) as u64 >> 1;
        self.ratio >= 1.0 || number < (self.ratio * (1_u64 << 63) as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn trace(last: u64) -> [u8; 16] {
        let mut trace = [7; 16];
        trace[8..].copy_from_slice(&last.to_be_bytes());
        trace
    }

    #[test]
    fn a_caller_decides_only_where_it_is_followed() {
        let (on, off) = (Some(true), Some(false));
        let cases = [
            ("always_on", [true, true, true]),
            ("always_off", [false, false, false]),
            ("parentbased_always_on", [true, true, false]),
            ("parentbased_always_off", [false, true, false]),
        ];
        for (name, expected) in cases {
            let sampler = Sampler::named(name, 0.5).unwrap();
            let found = [None, on, off].map(|parent| sampler.takes(trace(1), parent));
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(Sampler::named("jaeger_remote", 1.0), None);
        assert_eq!(Sampler::named("parentbased_", 1.0), None);
    }

    #[test]
    fn a_ratio_takes_that_share_of_traces_the_same_everywhere() {
        let sampler = Sampler::named("traceidratio", 0.25).unwrap();
        assert!(sampler.takes(trace(u64::MAX / 4 - 2), None));
        assert!(!sampler.takes(trace(u64::MAX / 4 + 2), None));
        let taken = (0..4000_u64).filter(|number| {
            sampler.takes(trace(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)), None)
        });
        assert!((900..1100).contains(&taken.count()));
        for (ratio, expected) in [(0.0, false), (1.0, true)] {
            let sampler = Sampler::named("traceidratio", ratio).unwrap();
            let found = [0, u64::MAX].map(|last| sampler.takes(trace(last), Some(!expected)));
            assert_eq!(found, [expected; 2]);
        }
    }
}
