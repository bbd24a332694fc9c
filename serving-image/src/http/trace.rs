//! W3C Trace Context: continues or begins the trace of a request, logs it and sends it back.
//!
//! The answer's `traceresponse` names the trace, and the part of it that was done here (its span).
//! Where spans are exported (`telemetry`) it has the same numbers, and its flag says whether it is.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::{Origin, SAMPLED};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// `00-` trace `-` span `-` flags.
const LENGTH: usize = 55;
const TRACE: std::ops::Range<usize> = 3..35;
const SPAN: std::ops::Range<usize> = 36..52;
const FLAGS: std::ops::Range<usize> = 53..55;

/// Makes ids: keyed hashes of a counter, with keys of this process.
#[derive(Debug, Default)]
pub(super) struct Ids {
    keys: [RandomState; 3],
    requests: AtomicU64,
}

/// The trace of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace {
    /// In the form of its header, with a span of our own.
    header: [u8; LENGTH],
    /// The caller's header, if it is valid.
    caller: Option<[u8; LENGTH]>,
}

impl Ids {
    /// The caller's trace if its header is right, else a new one; with a span of our own in either
    /// case.
    pub(super) fn trace(&self, headers: &HeaderMap) -> Trace {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let hash = |key: usize| self.keys[key].hash_one(number);
        let caller = taken_over(headers);
        let mut header = caller.unwrap_or_else(|| {
            let mut header = *b"00-00000000000000000000000000000000-0000000000000000-00";
            write_hex(&mut header[3..19], hash(0));
            write_hex(&mut header[19..35], hash(1));
            header
        });
        write_hex(&mut header[SPAN], hash(2));
        Trace { header, caller }
    }
}

impl Trace {
    /// The trace's id, 32 hexadecimal digits.
    pub(super) fn id(&self) -> &str {
        self.text(TRACE)
    }

    /// The id of our part in it, 16 hexadecimal digits.
    pub(super) fn span(&self) -> &str {
        self.text(SPAN)
    }

    pub(super) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(&self.header).ok()
    }

    /// The same as numbers.
    pub(super) fn origin(&self) -> Origin {
        let [flags] = bytes(&self.header[FLAGS]);
        Origin {
            trace: bytes(&self.header[TRACE]),
            span: bytes(&self.header[SPAN]),
            parent: self.caller.map(|caller| bytes(&caller[SPAN])),
            flags,
        }
    }

    /// Tells whether its spans are recorded. The other flags stay as they came.
    pub(super) fn set_recorded(&mut self, recorded: bool) {
        let [flags] = bytes::<1>(&self.header[FLAGS]);
        let flags = if recorded {
            flags | SAMPLED
        } else {
            flags & !SAMPLED
        };
        write_hex(&mut self.header[FLAGS], flags.into());
    }

    fn text(&self, part: std::ops::Range<usize>) -> &str {
        std::str::from_utf8(&self.header[part]).unwrap_or_default() // ASCII, by construction
    }
}

/// The only `traceparent` of the request, if it is as section 3.2 has it.
fn taken_over(headers: &HeaderMap) -> Option<[u8; LENGTH]> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (Some(only), None) = (given.next(), given.next()) else {
        return None;
    };
    let bytes = only.as_bytes();
    let mut known: [u8; LENGTH] = bytes.get(..LENGTH)?.try_into().ok()?;
    let (version, rest) = (&known[..2], &bytes[LENGTH..]);
    // A later version may go on, after a dash; this one may not.
    let ends = rest.is_empty() || (version != b"00" && rest[0] == b'-');
    let digits = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let sound = ends
        && version != b"ff"
        && [2, 35, 52].iter().all(|dash| known[*dash] == b'-')
        && [0..2, TRACE, SPAN, FLAGS]
            .into_iter()
            .all(|part| digits(&known[part]))
        && !zero(&known[TRACE])
        && !zero(&known[SPAN]);
    known[..2].copy_from_slice(b"00"); // the version that we speak
    sound.then_some(known)
}

/// The bytes of lower-case digits.
fn bytes<const N: usize>(digits: &[u8]) -> [u8; N] {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => digit - b'0',
        _ => digit.wrapping_sub(b'a' - 10),
    };
    std::array::from_fn(|index| nibble(digits[2 * index]) << 4 | nibble(digits[2 * index + 1]))
}

/// As many lower-case digits as there is room for.
fn write_hex(digits: &mut [u8], number: u64) {
    for (index, digit) in digits.iter_mut().rev().enumerate() {
        let nibble = (number >> (4 * index)) & 0xf;
        *digit = b"0123456789abcdef"[nibble as usize];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn trace(given: &[&str]) -> Trace {
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(TRACEPARENT, value.parse().unwrap());
        }
        Ids::default().trace(&headers)
    }

    #[test]
    fn a_trace_is_taken_over_with_a_span_of_our_own() {
        let later = format!("cc{}-what-comes", &GIVEN[2..]);
        for given in [GIVEN, &later] {
            let trace = trace(&[given]);
            assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_ne!(trace.span(), "00f067aa0ba902b7");
            let header = trace.header().unwrap();
            let answered = header.to_str().unwrap();
            assert!(answered.starts_with("00-4bf92f") && answered.ends_with("-01"));
        }
    }

    #[test]
    fn what_is_no_trace_begins_a_new_one() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let wrong = [
            String::new(),
            GIVEN.replace("00-4b", "ff-4b"),
            GIVEN.replace(id, &"0".repeat(32)),
            GIVEN.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GIVEN.to_uppercase(),
            format!("{GIVEN}-more"),
            GIVEN.replace('-', "_"),
            GIVEN[..54].to_owned(),
        ];
        for given in &wrong {
            let trace = trace(&[given]);
            assert_ne!(trace.id(), id, "{given}");
            assert_eq!(trace.id().len(), 32);
            assert!(trace.id().bytes().any(|digit| digit != b'0'));
        }
        assert_ne!(trace(&[GIVEN, GIVEN]).id(), id, "two of them");
    }

    #[test]
    fn a_trace_is_told_in_numbers_too() {
        let mut taken = trace(&[GIVEN]);
        let origin = taken.origin();
        let expected = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128;
        assert_eq!(u128::from_be_bytes(origin.trace), expected);
        assert_eq!(origin.parent, Some(0x00f0_67aa_0ba9_02b7_u64.to_be_bytes()));
        let span = format!("{:016x}", u64::from_be_bytes(origin.span));
        assert_eq!((span.as_str(), origin.flags), (taken.span(), 1));
        taken.set_recorded(false);
        assert_eq!(taken.origin().flags, 0);

        let mut begun = trace(&[]);
        assert_eq!((begun.origin().parent, begun.origin().flags), (None, 0));
        begun.set_recorded(true);
        let header = begun.header().unwrap();
        assert!(header.to_str().unwrap().ends_with("-01"));
    }

    #[test]
    fn two_requests_have_different_ids() {
        let ids = Ids::default();
        let [first, second] = [(), ()].map(|()| ids.trace(&HeaderMap::new()));
        assert_ne!(first.id(), second.id());
        assert_ne!(first.span(), second.span());
    }
}
