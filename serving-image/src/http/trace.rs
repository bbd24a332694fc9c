//! W3C Trace Context: the trace of a request is taken over or begun, told in the log line, and answered.
//!
//! The answer's `traceresponse` names the trace, and the part of it that was done here (its span). No span is exported:
//! the log line has the same numbers and times, and a collector of logs can make spans of them.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(super) const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// `00-` trace `-` span `-` flags.
const LENGTH: usize = 55;
const TRACE: std::ops::Range<usize> = 3..35;
const SPAN: std::ops::Range<usize> = 36..52;

/// Makes ids: keyed hashes of a counter, with keys of this process.
#[derive(Debug, Default)]
pub(super) struct Ids {
    keys: [RandomState; 3],
    requests: AtomicU64,
}

/// The trace of one request, in the form of its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trace([u8; LENGTH]);

impl Ids {
    /// The caller's trace if its header is right, else a new one; with a span of our own in either case.
    pub(super) fn trace(&self, headers: &HeaderMap) -> Trace {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let hash = |key: usize| self.keys[key].hash_one(number);
        let mut trace = taken_over(headers).unwrap_or_else(|| {
            let mut trace = Trace(*b"00-00000000000000000000000000000000-0000000000000000-00");
            write_hex(&mut trace.0[3..19], hash(0));
            write_hex(&mut trace.0[19..35], hash(1));
            trace
        });
        write_hex(&mut trace.0[SPAN], hash(2));
        trace
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
        HeaderValue::from_bytes(&self.0).ok()
    }

    fn text(&self, part: std::ops::Range<usize>) -> &str {
        std::str::from_utf8(&self.0[part]).unwrap_or_default() // ASCII, by construction
    }
}

/// The only `traceparent` of the request, if it is as section 3.2 has it.
fn taken_over(headers: &HeaderMap) -> Option<Trace> {
    let mut given = headers.get_all(TRACEPARENT).iter();
    let (Some(only), None) = (given.next(), given.next()) else {
        return None;
    };
    let bytes = only.as_bytes();
    let known: [u8; LENGTH] = bytes.get(..LENGTH)?.try_into().ok()?;
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
        && [0..2, TRACE, SPAN, 53..55]
            .into_iter()
            .all(|part| digits(&known[part]))
        && !zero(&known[TRACE])
        && !zero(&known[SPAN]);
    let mut trace = Trace(known);
    trace.0[..2].copy_from_slice(b"00"); // the version that we speak
    sound.then_some(trace)
}

/// 16 lower-case digits.
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
    fn two_requests_have_different_ids() {
        let ids = Ids::default();
        let [first, second] = [(), ()].map(|()| ids.trace(&HeaderMap::new()));
        assert_ne!(first.id(), second.id());
        assert_ne!(first.span(), second.span());
    }
}
