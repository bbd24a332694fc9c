//! Fields, rows and errors.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::array::Elements;
use crate::artefact::categories;
use serde_json::json;

fn of(manifest: &Value) -> Preprocessor {
    let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
    Preprocessor::new(&manifest, None).unwrap()
}

fn preprocessor() -> Preprocessor {
    let manifest = json!({
        "schemaVersion": 1, "name": "m", "version": "1", "kind": "tabular",
        "task": "classification",
        "inputs": [
            {"name": "age", "type": "integer", "min": 0.0, "max": 130.0, "unit": "years"},
            {"name": "income", "type": "number", "nullable": true},
            {"name": "member", "type": "boolean"}
        ],
        "preprocessing": [
            {"step": "impute", "values": {"income": 30.0}},
            {"step": "order", "features": ["income", "member", "age"]},
            {"step": "standardScale", "mean": [10.0, 0.5, 40.0], "scale": [5.0, 0.5, 20.0]}
        ],
        "network": {"architecture": "linear", "weights": "w"},
        "outputs": {"labels": ["no", "yes"]}, "limits": {"maxInstances": 3}
    });
    of(&manifest)
}

#[test]
fn fields_are_imputed_ordered_and_scaled() {
    let instances = [
        json!({"age": 60, "member": true}),
        json!({"income": 20.5, "age": 20.0, "member": false}),
    ];
    let batch = preprocessor()
        .prepare(&instances, Location::List("/instances"))
        .unwrap();
    assert_eq!(
        batch,
        Batch::Features(Rows {
            width: 3,
            values: vec![4.0, 1.0, 1.0, 2.1, -1.0, -1.0],
        })
    );
}

#[test]
fn every_wrong_field_is_named_and_no_value_is_repeated() {
    let instances = [
        json!({"age": 131, "member": "secret", "a/b": 1}),
        json!("secret"),
        json!({"age": 1.5, "income": "secret"}),
    ];
    let errors = preprocessor()
        .prepare(&instances, Location::List("/instances"))
        .unwrap_err();
    let fields: Vec<_> = errors
        .listed
        .iter()
        .map(|e| (e.field.as_str(), e.expected.as_str()))
        .collect();
    assert_eq!(
        fields,
        [
            ("/instances/0/age", "an integer from 0 to 130 years"),
            ("/instances/0/member", "true or false"),
            (
                "/instances/0/a~1b",
                "no such field; the fields are age, income, member"
            ),
            (
                "/instances/1",
                "an object with the fields age, income, member"
            ),
            ("/instances/2/age", "an integer from 0 to 130 years"),
            ("/instances/2/income", "a number, or null"),
            ("/instances/2/member", "true or false (required)"),
        ]
    );
    assert_eq!(errors.total, 7);
}

#[test]
fn the_number_of_instances_is_bounded() {
    for instances in [vec![], vec![json!({}); 4]] {
        let errors = preprocessor()
            .prepare(&instances, Location::List("/instances"))
            .unwrap_err();
        assert_eq!(
            errors,
            FieldErrors::one("/instances", "an array of 1 to 3 instances")
        );
    }
}

#[test]
fn the_example_is_valid() {
    let preprocessor = preprocessor();
    let example = preprocessor.example();
    assert!(
        preprocessor
            .prepare(&[example], Location::List("/instances"))
            .is_ok()
    );
}

/// Every encoder and scaler, by hand from scikit-learn's formulas; `tests/serve` compares with
/// scikit-learn itself.
#[test]
fn categories_are_encoded_and_only_named_fields_are_scaled() {
    let mut manifest = categories();
    let steps = &mut manifest["preprocessing"];
    steps[0]["values"]["age"] = json!(50);
    steps[5] = json!({
        "step": "minMaxScale", "features": ["age"], "min": [20], "max": [70], "range": [0, 10],
        "clip": true,
    });
    steps[6] = json!({
        "step": "robustScale", "features": ["size", "age"], "center": [1, 2], "scale": [2, 4],
    });
    let preprocessor = of(&manifest);
    let batch = preprocessor.prepare(
        &[
            json!({"size": "L", "class": 2}),
            json!({"age": 95, "size": "S", "colour": "green", "class": 1}),
        ],
        Location::List("/instances"),
    );
    let values = vec![0.0, 1.0, 1.0, 0.5, 1.0, 0.0, 0.0, 2.0, -0.5, 0.0];
    assert_eq!(batch, Ok(Batch::Features(Rows { width: 5, values })));
    let errors = preprocessor
        .prepare(
            &[json!({"age": null, "size": "XL", "colour": "a\0b", "class": 3})],
            Location::Single("/x"),
        )
        .unwrap_err();
    let found: Vec<_> = errors
        .listed
        .iter()
        .map(|e| (e.field.as_str(), e.expected.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("/x/size", r#"one of "S", "M", "L""#),
            (
                "/x/colour",
                "a text that is not empty, of at most 20 characters, or null"
            ),
            ("/x/class", "one of 1, 2"),
        ]
    );
}

fn tensors() -> Preprocessor {
    of(&json!({
        "schemaVersion": 1, "name": "m", "version": "1", "kind": "tensor", "task": "raw",
        "inputs": [
            {"name": "image", "type": "tensor", "dtype": "uint8", "shape": [1, 2, 2]},
            {"name": "ids", "type": "tensor", "dtype": "int64", "shape": [null, 2], "min": 0}
        ],
        "preprocessing": [{"step": "image", "input": "image", "rescale": 0.5, "mean": [1, 0],
        "std": [1, 2]}],
        "network": {"architecture": "onnx", "graph": "g", "outputs": [{"name": "y"}]}, "outputs": {}
    }))
}

#[test]
fn arrays_have_their_type_and_shape_and_images_become_planes() {
    let instance = json!({"image": [[[2, 4], [6, 8]]], "ids": [[1, 2], [3, 4], [5, 6]]});
    let batch = tensors()
        .prepare(&[instance], Location::List("/instances"))
        .unwrap();
    let expected = vec![
        Array {
            shape: vec![2, 1, 2],
            elements: Elements::Float32(vec![0.0, 2.0, 1.0, 2.0]),
        },
        Array {
            shape: vec![3, 2],
            elements: Elements::Int64(vec![1, 2, 3, 4, 5, 6]),
        },
    ];
    assert_eq!(batch, Batch::Arrays(vec![expected]));
}

#[test]
fn an_array_of_another_type_or_shape_is_refused() {
    let preprocessor = tensors();
    let image = json!([[[2, 4], [6, 8]]]);
    for (image, ids) in [
        (json!([[[2, 4]]]), json!([[1, 2]])),
        (json!([[[2, 4], [6, 256]]]), json!([[1, 2]])),
        (json!([[[2, 4], [6, 0.5]]]), json!([[1, 2]])),
        (json!([[[2, 4], [6, true]]]), json!([[1, 2]])),
        (json!([2, 4, 6, 8]), json!([[1, 2]])),
        (json!("AAAA"), json!([[1, 2]])),
        (image.clone(), json!([[1, 2], [3]])),
        (image.clone(), json!([[1, -2]])),
        (image.clone(), json!([[1, 1e300]])),
        (image, json!([[[1, 2]]])),
    ] {
        let instance = json!({"image": image, "ids": ids});
        let errors = preprocessor
            .prepare(
                std::slice::from_ref(&instance),
                Location::List("/instances"),
            )
            .unwrap_err();
        assert_eq!(errors.total, 1, "{instance}");
        let expected = &errors.listed[0].expected;
        assert!(
            expected == "nested arrays of uint8, 1 × 2 × 2"
                || expected == "nested arrays of int64, any × 2, each of at least 0",
            "{expected}"
        );
    }
}

#[test]
fn the_example_of_a_tensor_model_is_valid() {
    let preprocessor = tensors();
    let example = preprocessor.example();
    assert!(
        preprocessor
            .prepare(&[example], Location::List("/x"))
            .is_ok()
    );
}

/// Two pixels, (10, 20, 30) and (40, 50, 60), as a PNG, in the middle of three columns.
#[test]
fn a_picture_is_laid_out_as_the_manifest_says() {
    let pixels = ::image::RgbImage::from_raw(2, 1, vec![10, 20, 30, 40, 50, 60]).unwrap();
    let mut png = std::io::Cursor::new(Vec::new());
    pixels
        .write_to(&mut png, ::image::ImageFormat::Png)
        .unwrap();
    let text = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, png.into_inner());
    let prepared = |step: Value| {
        let mut manifest = json!({
            "schemaVersion": 1, "name": "m", "version": "1", "kind": "tensor", "task": "raw",
            "inputs": [{"name": "x", "type": "image"}], "outputs": {},
            "network": {"architecture": "onnx", "graph": "g"},
            "preprocessing": [{
                "step": "image", "input": "x", "rescale": 0.1, "mean": [1, 2, 3], "std": [1, 2, 4],
                "resize": {"width": 2, "height": 2, "mode": "pad", "fill": [0, 100, 200]},
            }],
        });
        let target = manifest["preprocessing"][0].as_object_mut().unwrap();
        target.extend(step.as_object().unwrap().clone());
        let batch = of(&manifest).prepare(&[json!({"x": text})], Location::List("/instances"));
        let Batch::Arrays(mut arrays) = batch.unwrap() else {
            panic!("no arrays");
        };
        let array = arrays.pop().unwrap().pop().unwrap();
        (array.shape, array.elements)
    };
    // One row below: half of the row that is left is 0.5, and the even neighbour of that is 0.
    let fill = [-1.0, 4.0, 4.25];
    let rgb = [[0.0, 0.0, 0.0], [3.0, 1.5, 0.75]];
    let bgr = [[2.0, 0.0, -0.5], [5.0, 1.5, 0.25]];
    let planes = |pixels: [[f32; 3]; 2]| {
        let plane = |channel: usize| {
            [
                pixels[0][channel],
                pixels[1][channel],
                fill[channel],
                fill[channel],
            ]
        };
        Elements::Float32([0, 1, 2].map(plane).concat())
    };
    assert_eq!(prepared(json!({})), (vec![3, 2, 2], planes(rgb)));
    assert_eq!(
        prepared(json!({"channels": "bgr"})),
        (vec![3, 2, 2], planes(bgr))
    );
    let rows = [rgb[0], rgb[1], fill, fill].concat();
    assert_eq!(
        prepared(json!({"layout": "channelsLast"})),
        (vec![2, 2, 3], Elements::Float32(rows))
    );
    let grey = json!({
        "channels": "grey", "mean": [0], "std": [1], "rescale": 1, "resize": {"width": 2,
        "height": 1, "mode": "exact"},
    });
    // 0.299 · 10 + 0.587 · 20 + 0.114 · 30 = 18.15, and so on.
    assert_eq!(
        prepared(grey),
        (vec![1, 1, 2], Elements::Float32(vec![18.0, 48.0]))
    );
}
