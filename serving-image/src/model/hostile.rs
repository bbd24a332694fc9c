//! Files and requests that nobody meant well: an error, never a panic, and no more memory than what is there.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

use super::dense::Dense;
use crate::artefact::{Manifest, Network};
use crate::preprocess::{Location, Preprocessor};

/// Sound manifests of tables and tensors, of every step.
const MANIFESTS: [&str; 4] = [
    include_str!("../../../examples/models/iris/2.0.0/serin-model.json"),
    include_str!("../../tests/models/passengers-logistic/serin-model.json"),
    include_str!("../../tests/models/passengers-forest/serin-model.json"),
    include_str!("../../models/text-direction/serin-model.json"),
];

const WEIGHTS: &[u8] = include_bytes!("../../../examples/models/iris/2.0.0/model.safetensors");

fn manifest(which: usize) -> Value {
    let mut manifest: Value = serde_json::from_str(MANIFESTS[which]).unwrap();
    manifest["golden"] = json!([]);
    manifest
}

/// Any JSON, with the numbers and words that a parser trips over.
fn json() -> impl Strategy<Value = Value> {
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
                pointers(value, &format!("{at}/{name}"), found);
            }
        }
        _ => {}
    }
}

/// Replaces what is at a place of the value, which is not its root.
fn replace(value: &mut Value, place: Index, by: Value) {
    let mut all = Vec::new();
    pointers(value, "", &mut all);
    let pointer: &String = place.get(&all[1..]);
    if let Some(found) = value.pointer_mut(pointer) {
        *found = by;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn bytes_that_are_no_manifest_are_refused(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(Manifest::parse(&bytes).is_err());
    }

    #[test]
    fn a_manifest_with_a_change_is_refused_or_prepares(
        which in 0..MANIFESTS.len(), place: Index, by in json(), twice: Index, again in json(), instance in json(),
    ) {
        let mut changed = manifest(which);
        replace(&mut changed, place, by);
        replace(&mut changed, twice, again);
        if let Ok(manifest) = Manifest::parse(changed.to_string().as_bytes())
            && let Ok(preprocessor) = Preprocessor::new(&manifest, None)
        {
            let instances = [preprocessor.example(), instance];
            for one in &instances {
                let _ = preprocessor.prepare(std::slice::from_ref(one), Location::List("/instances"));
            }
        }
    }

    #[test]
    fn an_instance_with_a_change_is_refused_or_prepared(
        which in 0..MANIFESTS.len(), place: Index, by in json(),
    ) {
        let manifest = Manifest::parse(manifest(which).to_string().as_bytes()).unwrap();
        let preprocessor = Preprocessor::new(&manifest, None).unwrap();
        let mut instance = preprocessor.example();
        replace(&mut instance, place, by);
        match preprocessor.prepare(&[instance], Location::List("/instances")) {
            Ok(batch) => prop_assert_eq!(batch.len(), 1),
            Err(errors) => prop_assert!(errors.total > 0),
        }
    }

    #[test]
    fn weights_with_changes_are_refused_or_loaded(
        changes in vec((any::<Index>(), any::<u8>()), 1..8), length in any::<Index>(), cut in any::<bool>(),
    ) {
        let mut bytes = WEIGHTS.to_vec();
        for (place, byte) in changes {
            // Mostly the header: the numbers behind it may be anything.
            let place = place.index(bytes.len().min(400));
            bytes[place] = byte;
        }
        if cut {
            bytes.truncate(length.index(bytes.len()));
        }
        let manifest = Manifest::parse(manifest(0).to_string().as_bytes()).unwrap();
        let Network::Mlp { activation, .. } = manifest.network else { unreachable!() };
        if let Ok(tensors) = candle_core::safetensors::load_buffer(&bytes, &candle_core::Device::Cpu) {
            let _ = Dense::load(&tensors, Some(activation), &manifest);
        }
    }
}
