//! What the fuzz tests of parsers share: damaged files and requests, and a bound on the memory
//! that reading them may take.
//!
//! Every parser of this package is tested in this way, in `fuzz_tests.rs` beside it or in its own
//! tests: an error, never a panic, and no more memory than the size of the input explains.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind, set_hook};
use std::sync::Once;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;
use serde_json::Value;

/// Memory that reading anything may take, in bytes: regular expressions, tables, buffers.
const FLAT: u64 = 4 << 20;

/// Memory that it may take for each byte of the input. `[0,0,0…]` is 32 bytes for each number in
/// `serde_json`'s values, and growing a list holds the old one beside the new.
const PER_BYTE: u64 = 64;

/// So many cases, the same ones at each run; or as many as `PROPTEST_CASES` says, new ones at each
/// run.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    if std::env::var_os("PROPTEST_CASES").is_some() {
        ProptestConfig::default()
    } else {
        ProptestConfig {
            rng_seed: RngSeed::Fixed(1),
            ..ProptestConfig::with_cases(cases)
        }
    }
}

/// Runs `read`, whose input has that many bytes, and fails where this thread held more memory than
/// that explains.
pub(crate) fn bounded<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    static WITHOUT_BACKTRACE: Once = Once::new();
    let mut outcome = None;
    // Finding the names for a backtrace takes 80 MB, where a library panics and that is caught.
    WITHOUT_BACKTRACE.call_once(|| set_hook(Box::new(|panic| eprintln!("{panic}"))));
    // The counter is lost for the rest of the thread where a panic passes through it.
    let counted = || outcome = Some(catch_unwind(AssertUnwindSafe(read)));
    let most = allocation_counter::measure(counted).bytes_max;
    let allowed = FLAT + PER_BYTE * bytes as u64;
    assert!(
        most <= allowed,
        "{most} bytes of memory for {bytes} bytes of input, more than {allowed}"
    );
    outcome
        .unwrap()
        .unwrap_or_else(|panic| resume_unwind(panic))
}

/// Any JSON, with the numbers and words that a parser trips over.
pub(crate) fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop_oneof![Just(0_u64), Just(1), Just(1 << 24), Just(u64::MAX)].prop_map(Value::from),
        "[a-zA-Z0-9./\\\\\u{0}\u{fffd}]{0,12}".prop_map(Value::from),
        prop_oneof![
            Just("number"),
            Just("tensor"),
            Just("onnx"),
            Just("raw"),
            Just("age")
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..5).prop_map(Value::from),
            vec(("[a-z]{0,8}", inner), 0..5).prop_map(|pairs| pairs.into_iter().collect()),
        ]
    })
}

/// The pointers of everything in a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                pointers(value, &format!("{at}/{index}"), found);
            }
        }
        Value::Object(map) => {
            for (name, value) in map {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

/// Replaces what is at a place of the value, which is not its root.
pub(crate) fn replace(value: &mut Value, place: Index, by: Value) {
    let mut all = Vec::new();
    pointers(value, "", &mut all);
    let pointer: &String = place.get(&all[1..]);
    if let Some(found) = value.pointer_mut(pointer) {
        *found = by;
    }
}

/// What happens to a file: some bytes become others, and its end may be missing.
#[derive(Debug, Clone)]
pub(crate) struct Damage {
    changes: Vec<(Index, Vec<u8>)>,
    end: Option<Index>,
}

/// One byte, or a length as formats write them: the largest, and some that look as if they could
/// be.
pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let bytes = prop_oneof![
        6 => any::<u8>().prop_map(|byte| vec![byte]),
        1 => Just(vec![0xff; 4]),
        1 => Just(vec![0xff; 8]),
        1 => Just(vec![0; 4]),
        1 => (8..63_u32).prop_map(|bits| (1_u64 << bits).to_le_bytes().to_vec()),
        1 => (8..31_u32).prop_map(|bits| (1_u32 << bits).to_le_bytes().to_vec()),
        1 => (1..9_usize).prop_map(|length| [vec![0xff; length], vec![0x0f]].concat()), // a varint
    ];
    let end = prop_oneof![4 => Just(None), 1 => any::<Index>().prop_map(Some)];
    (vec((any::<Index>(), bytes), 0..6), end).prop_map(|(changes, end)| Damage { changes, end })
}

impl Damage {
    /// The file, damaged within its first `within` bytes.
    pub(crate) fn of(&self, file: &[u8], within: usize) -> Vec<u8> {
        let mut file = file.to_vec();
        let within = within.min(file.len());
        for (place, bytes) in &self.changes {
            let place = place.index(within);
            let changed = file[place..].iter_mut().zip(bytes);
            changed.for_each(|(byte, by)| *byte = *by);
        }
        if let Some(end) = self.end {
            file.truncate(end.index(within));
        }
        file
    }
}

#[test]
#[should_panic(expected = "more than")]
fn memory_is_bounded() {
    bounded(10, || vec![1_u8; 5 << 20].len());
}
