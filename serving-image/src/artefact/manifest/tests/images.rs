//! Models of pictures.

use super::*;

/// A model of pictures.
fn pictures() -> Value {
    let mut manifest = of_kind("tensor");
    manifest["inputs"] = json!([{"name": "x", "type": "image"}]);
    manifest["preprocessing"] = json!([{
        "step": "image", "input": "x", "rescale": 0.1, "mean": [0, 0, 0], "std": [1, 1, 1],
        "resize": {"width": 8, "height": 4, "mode": "crop", "filter": "bicubic"},
    }]);
    manifest["limits"] = json!({"maxImageBytes": 2048, "maxImagePixels": 64});
    manifest
}

/// A model of pictures whose graph takes bytes.
fn pictures_as_levels() -> Value {
    let mut manifest = pictures();
    manifest["preprocessing"] = json!([{
        "step": "image", "input": "x", "dtype": "uint8", "layout": "channelsLast",
        "resize": {"width": 8, "height": 4, "mode": "pad", "fill": [0, 127, 255]},
    }]);
    manifest
}

#[test]
fn levels_that_stay_as_they_are_have_no_scaling() {
    let manifest = parse(&pictures_as_levels()).unwrap();
    let step = manifest.image_step("x").unwrap();
    assert_eq!(step.dtype, ImageDtype::Uint8);
    // What is written back has nothing that was not there.
    let written = serde_json::to_value(step).unwrap();
    for field in ["rescale", "mean", "std"] {
        assert_eq!(written.get(field), None, "{field}");
    }
    let remedy = |field: &str| {
        format!(
            "preprocessing[0]: {field} is for float32: with dtype uint8 the levels stay as they \
             are; leave out {field}, or dtype"
        )
    };
    refused(
        &pictures_as_levels(),
        &[
            ("/preprocessing/0/rescale", json!(1), &remedy("rescale")),
            ("/preprocessing/0/mean", json!([0, 0, 0]), &remedy("mean")),
            ("/preprocessing/0/std", json!([1, 1, 1]), &remedy("std")),
            (
                "/preprocessing/0/dtype",
                json!("float32"),
                "preprocessing[0]: rescale is missing",
            ),
            (
                "/preprocessing/0/dtype",
                json!("int8"),
                "unknown variant `int8`, expected `float32` or `uint8`",
            ),
            (
                "/preprocessing/0/resize/fill",
                json!([0, 127.5, 255]),
                "preprocessing[0]: resize: a level of fill is a whole number where dtype is uint8",
            ),
        ],
    );
    refused(
        &pictures(),
        &[
            ("/preprocessing/0/dtype", json!("uint8"), &remedy("rescale")),
            (
                "/preprocessing/0/rescale",
                Value::Null,
                "preprocessing[0]: rescale is missing",
            ),
        ],
    );
    refused(
        &of_kind("tensor"),
        &[(
            "/preprocessing/0/dtype",
            json!("uint8"),
            "preprocessing[0]: dtype is for images: a tensor of uint8 goes into the graph as it \
             is, without a step",
        )],
    );
}

#[test]
fn contradictions_of_images_are_refused() {
    let manifest = parse(&pictures()).unwrap();
    assert_eq!(
        (
            manifest.limits.image_bytes(),
            manifest.limits.image_pixels()
        ),
        (2048, 64)
    );
    assert_eq!(manifest.limits.image_text(), 2732);
    let no_step = "input x: no image step says what becomes of the picture";
    let (edge, antialias) = (
        "shortestEdge is from the longer one of width and height",
        "without antialias the filter is bilinear",
    );
    refused(
        &pictures(),
        &[
            ("/preprocessing", json!([]), no_step),
            (
                "/inputs/0/nullable",
                json!(true),
                "an image cannot be nullable",
            ),
            (
                "/inputs/0/shape",
                json!([4]),
                "dtype and shape belong to a tensor",
            ),
            ("/inputs/0/min", json!(0), "min and max are for numbers"),
            ("/inputs/0/maxLength", json!(9), "maxLength is for strings"),
            (
                "/preprocessing/0/resize",
                Value::Null,
                "an image needs resize",
            ),
            (
                "/preprocessing/0/mean",
                json!([0]),
                "a mean and a std for each of 3 channel(s)",
            ),
            (
                "/preprocessing/0/channels",
                json!("grey"),
                "a mean and a std for each of 1 channel(s)",
            ),
            ("/preprocessing/0/std", json!([1, 0, 1]), "a std is 0"),
            (
                "/preprocessing/0/resize/width",
                json!(0),
                "width × height × channels is from 1",
            ),
            (
                "/preprocessing/0/resize/height",
                json!(1 << 24),
                "width × height × channels is from 1",
            ),
            ("/preprocessing/0/resize/shortestEdge", json!(7), edge),
            (
                "/preprocessing/0/resize/mode",
                json!("stretch"),
                "unknown variant `stretch`",
            ),
            (
                "/preprocessing/0/resize/fill",
                json!([0, 0, 0]),
                "fill is for pad and line",
            ),
            ("/preprocessing/0/resize/antialias", json!(false), antialias),
            (
                "/preprocessing/0/resize/colour",
                json!(1),
                "unknown field `colour`",
            ),
            ("/preprocessing/0/size", json!(1), "unknown field `size`"),
            ("/limits/maxImageBytes", json!(1023), "at least 1024"),
            ("/limits/maxImagePixels", json!(63), "at least 64"),
            (
                "/reference",
                json!({"inputs": {"x": {"shares": {}}}}),
                "nothing is counted of an image",
            ),
        ],
    );
    let mut padded = pictures();
    padded["preprocessing"][0]["resize"] =
        json!({"width": 8, "height": 4, "mode": "pad", "fill": [0, 9.5, 255]});
    let resize = "/preprocessing/0/resize";
    refused(
        &padded,
        &[
            (
                &format!("{resize}/fill"),
                json!([1]),
                "fill needs a level for each channel",
            ),
            (
                &format!("{resize}/fill"),
                json!([1, 2, 256]),
                "from 0 to 255",
            ),
            (
                &format!("{resize}/shortestEdge"),
                json!(9),
                "shortestEdge is for crop",
            ),
        ],
    );
    let of_images = "resize, channels and orientation are for images";
    refused(
        &of_kind("tensor"),
        &[
            ("/preprocessing/0/channels", json!("bgr"), of_images),
            (
                "/preprocessing/0/resize",
                json!({"width": 1, "height": 1, "mode": "exact"}),
                of_images,
            ),
            ("/limits", json!({"maxImagePixels": 100}), "are for images"),
        ],
    );
}
