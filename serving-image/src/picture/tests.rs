//! Against what Pillow and OpenCV make of the same files (`scripts/record_pictures.py`).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::array::{Array, Elements};
use crate::artefact::{ImageStep, Limits, Resize};
use crate::preprocess::Image;
use serde_json::{Value, json};

pub(super) const READING: Reading = Reading {
    max_bytes: 1 << 20,
    max_pixels: 1 << 20,
    grey: false,
    upright: true,
};

pub(super) fn file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures");
    fs::read(folder.join(name)).unwrap()
}

fn picture(name: &str) -> Picture {
    Picture::decode(&file(name), READING).unwrap()
}

/// The largest difference of a level, and the mean one.
fn difference(one: &[u8], other: &[u8]) -> (u8, f64) {
    assert_eq!(one.len(), other.len());
    let differences = one.iter().zip(other).map(|(a, b)| a.abs_diff(*b));
    let sum: f64 = differences.clone().map(f64::from).sum();
    (differences.max().unwrap(), sum / one.len() as f64)
}

#[test]
fn pngs_of_each_kind_are_pillows() {
    let photo = picture("photo.png");
    assert_eq!((photo.width, photo.height, photo.channels), (39, 29, 3));
    assert_eq!(picture("alpha.png"), photo, "transparency is left aside");
    assert_eq!(picture("palette.png"), picture("palette-decoded.png"));
    let grey = Reading {
        grey: true,
        ..READING
    };
    let brightness = Picture::decode(&file("photo.png"), grey).unwrap();
    assert_eq!(brightness.channels, 1);
    for reading in [grey, READING] {
        // A picture that is grey is so in three channels, too.
        let read = Picture::decode(&file("photo-grey.png"), reading).unwrap();
        let levels = read.levels.chunks(read.channels);
        let first: Vec<u8> = levels.clone().map(|pixel| pixel[0]).collect();
        assert_eq!(first, brightness.levels);
        assert!(
            levels
                .into_iter()
                .all(|pixel| pixel.iter().all(|level| *level == pixel[0]))
        );
    }
}

#[test]
fn jpegs_are_libjpegs_but_for_what_decoders_round() {
    for name in ["444", "420", "progressive", "grey", "turned"] {
        let (found, expected) = (
            picture(&format!("{name}.jpg")),
            picture(&format!("{name}-decoded.png")),
        );
        assert_eq!(
            (found.width, found.height),
            (expected.width, expected.height)
        );
        let (largest, mean) = difference(&found.levels, &expected.levels);
        println!("{name}: levels differ by {mean:.3}, at most {largest}");
        assert!(largest <= 4 && mean < 0.5, "{name}: {largest}, {mean}");
    }
}

#[test]
fn a_picture_stands_as_its_exif_data_says_unless_that_is_ignored() {
    let turned = picture("turned.jpg");
    assert_eq!((turned.width, turned.height), (29, 39));
    let as_stored = Reading {
        upright: false,
        ..READING
    };
    let lying = Picture::decode(&file("turned.jpg"), as_stored).unwrap();
    assert_eq!((lying.width, lying.height), (39, 29));
    // Turned clockwise by a quarter: the first column from below is the first row.
    let row: Vec<&[u8]> = turned.levels[..29 * 3].chunks(3).collect();
    let column: Vec<&[u8]> = (0..29)
        .rev()
        .map(|y| &lying.levels[y * 39 * 3..][..3])
        .collect();
    assert_eq!(row, column);
}

/// Every way of resizing through the manifest's step, as levels: a rescale of 1, and nothing
/// subtracted.
#[test]
fn resizing_is_pillows_to_the_bit() {
    let ways: BTreeMap<String, Resize> = serde_json::from_slice(&file("ways.json")).unwrap();
    assert_eq!(ways.len(), 15);
    let text = BASE64_STANDARD.encode(file("photo.png"));
    for (name, resize) in ways {
        let step = json!({
            "input": "x", "resize": resize, "rescale": 1, "mean": [0, 0, 0], "std": [1, 1, 1],
            "layout": "channelsLast",
        });
        let step: ImageStep = serde_json::from_value(step).unwrap();
        let array = Image::new(&step, &Limits::default()).read(&text.as_str().into());
        let array = array.unwrap();
        assert_eq!(array.shape, [resize.height, resize.width, 3]);
        let found: Vec<u8> = array
            .elements
            .to_f32()
            .iter()
            .map(|level| *level as u8)
            .collect();
        let (largest, mean) = difference(&found, &picture(&format!("{name}.png")).levels);
        let allowed = u8::from(!resize.antialias); // OpenCV's weights have 11 bits
        assert!(
            largest <= allowed,
            "{name}: by {largest}, {mean} in the mean"
        );
    }
}

/// What an image step makes of a PNG, with these fields beside its size.
fn stepped(file_name: &str, resize: &Resize, fields: Value) -> Array {
    let mut step = json!({"input": "x", "resize": resize});
    let Value::Object(fields) = fields else {
        panic!("no object");
    };
    step.as_object_mut().unwrap().extend(fields);
    let step: ImageStep = serde_json::from_value(step).unwrap();
    let text = BASE64_STANDARD.encode(file(file_name));
    let read = Image::new(&step, &Limits::default()).read(&text.into());
    read.unwrap()
}

/// Every way again for graphs that take bytes: the same levels, in their own type, in each layout
/// and order of colours.
#[test]
fn levels_as_they_are_are_pillows_to_the_bit() {
    let ways: BTreeMap<String, Resize> = serde_json::from_slice(&file("ways.json")).unwrap();
    for (name, resize) in ways.iter().filter(|(_, resize)| resize.antialias) {
        let pillows = picture(&format!("{name}.png")).levels;
        let (height, width) = (resize.height, resize.width);
        let rows = stepped(
            "photo.png",
            resize,
            json!({"dtype": "uint8", "layout": "channelsLast"}),
        );
        assert_eq!(rows.shape, [height, width, 3], "{name}");
        assert_eq!(rows.elements, Elements::Uint8(pillows.clone()), "{name}");

        let plane = |channel: usize| pillows.iter().skip(channel).step_by(3).copied();
        let planes = stepped("photo.png", resize, json!({"dtype": "uint8"}));
        assert_eq!(planes.shape, [3, height, width], "{name}");
        let expected = (0..3).flat_map(plane).collect();
        assert_eq!(planes.elements, Elements::Uint8(expected), "{name}");

        // The fill is named in the order of the channels, so it is turned round, too.
        let mut turned = resize.clone();
        turned.fill.reverse();
        let bgr = stepped(
            "photo.png",
            &turned,
            json!({"dtype": "uint8", "channels": "bgr"}),
        );
        let expected = (0..3).rev().flat_map(plane).collect();
        assert_eq!(bgr.elements, Elements::Uint8(expected), "{name}");
    }
}

/// Grey levels, and a photograph in JPEG that lies on its side: as the step for floats gives them.
#[test]
fn levels_as_they_are_are_those_that_are_scaled_otherwise() {
    let resize = serde_json::from_value(json!({"width": 24, "height": 20, "mode": "crop"}));
    let resize = resize.unwrap();
    for (name, channels, count) in [
        ("photo.png", "grey", 1),
        ("turned.jpg", "rgb", 3),
        ("turned.jpg", "bgr", 3),
    ] {
        for orientation in ["exif", "asStored"] {
            let how = json!({"channels": channels, "orientation": orientation});
            let with = |fields: Value| {
                let mut how = how.clone();
                how.as_object_mut()
                    .unwrap()
                    .extend(fields.as_object().unwrap().clone());
                stepped(name, &resize, how)
            };
            let floats = with(json!({"rescale": 1, "mean": vec![0; count], "std": vec![1; count]}));
            let bytes = with(json!({"dtype": "uint8"}));
            assert_eq!(bytes.shape, [count, 20, 24]);
            assert_eq!(bytes.shape, floats.shape);
            assert!(matches!(bytes.elements, Elements::Uint8(_)));
            assert_eq!(bytes.elements.to_f32(), floats.elements.to_f32(), "{name}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_told_in_words_of_what_is_expected() {
    let broken = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = file(name);
        change(&mut bytes);
        bytes
    };
    // Sizes as the headers tell them: of the first frame, and of a PNG's header, whose checksum
    // then is wrong.
    let jpeg_of = |size: [u8; 4]| {
        broken("444.jpg", &|bytes| {
            let frame = bytes
                .windows(2)
                .position(|pair| pair == [0xff, 0xc0])
                .unwrap();
            bytes[frame + 5..frame + 9].copy_from_slice(&size);
        })
    };
    let with_checksum = |bytes: &mut Vec<u8>| {
        let mut sum = flate2::Crc::new();
        sum.update(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&sum.sum().to_be_bytes());
    };
    let png_of = |size: [u8; 8]| {
        broken("photo.png", &|bytes| {
            bytes[16..24].copy_from_slice(&size);
            with_checksum(bytes);
        })
    };
    let truncated = |name: &str| broken(name, &|bytes| bytes.truncate(bytes.len() * 2 / 3));
    let limit = READING.max_pixels;
    for (what, bytes, expected) in [
        ("nothing", Vec::new(), Refused::Format),
        ("a text", b"GIF or so".to_vec(), Refused::Format),
        ("a GIF", file("other.gif"), Refused::Format),
        ("a PNG with frames", file("animated.png"), Refused::Animated),
        (
            "a JPEG that ends early",
            truncated("444.jpg"),
            Refused::Broken,
        ),
        (
            "a progressive one",
            truncated("progressive.jpg"),
            Refused::Broken,
        ),
        (
            "a PNG that ends early",
            truncated("photo.png"),
            Refused::Broken,
        ),
        (
            "4 Gi pixels of JPEG",
            jpeg_of([0xff; 4]),
            Refused::Pixels(limit),
        ),
        (
            "4 Gi · 2 Gi of PNG",
            png_of([0x7f, 255, 255, 255, 0x7f, 255, 255, 255]),
            Refused::Pixels(limit),
        ),
        (
            "a row of 2 Gi",
            png_of([0x7f, 255, 255, 255, 0, 0, 0, 1]),
            Refused::Pixels(limit),
        ),
        (
            "a column of 64 Ki",
            png_of([0, 0, 0, 1, 0, 1, 0, 0]),
            Refused::Pixels(limit),
        ),
        (
            "a file that is too long",
            vec![0; (1 << 20) + 1],
            Refused::Bytes(1 << 20),
        ),
    ] {
        assert_eq!(Picture::decode(&bytes, READING), Err(expected), "{what}");
    }
    for text in [
        "",
        "====",
        "/9j/4AAQ\nSkZJ",
        "photo.png",
        "data:image/png;base64,AAAA",
    ] {
        let refused = Picture::from_base64(text, READING).unwrap_err();
        assert!(
            matches!(refused, Refused::NotBase64 | Refused::Format),
            "{text:?}: {refused:?}"
        );
    }
    let long = "A".repeat(1_500_000);
    assert_eq!(
        Picture::from_base64(&long, READING),
        Err(Refused::Bytes(1 << 20))
    );
}

#[test]
fn a_thin_picture_takes_no_more_memory_than_a_square_one() {
    let side = MAX_SIDE as usize;
    for (width, height) in [(1, side), (side, 1)] {
        let thin = Picture {
            width,
            height,
            channels: 1,
            levels: vec![77; side],
        };
        let filter = crate::artefact::Filter::Lanczos;
        let resized =
            crate::fuzzing::bounded(0, || thin.resized((224, 224), 0..224, 0..224, filter, true));
        assert_eq!(resized.levels, vec![77; 224 * 224]);
    }
}
