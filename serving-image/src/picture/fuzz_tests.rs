//! Damaged files: a picture or an error, never a panic, and no more memory than the file and the
//! bounds explain.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::tests::{READING, file};
use super::*;
use crate::fuzzing::{bounded, cases, damage};

/// Sound files of every kind.
const FILES: [&str; 10] = [
    "420.jpg",
    "444.jpg",
    "progressive.jpg",
    "grey.jpg",
    "turned.jpg",
    "photo.png",
    "photo-grey.png",
    "palette.png",
    "alpha.png",
    "animated.png",
];

/// Few enough pixels for the flat part of what is allowed.
const BOUNDED: Reading = Reading {
    max_pixels: 1 << 13,
    ..READING
};

fn read(bytes: &[u8], reading: Reading) -> Result<(), TestCaseError> {
    if let Ok(picture) = bounded(bytes.len(), || Picture::decode(bytes, reading)) {
        prop_assert!(picture.width * picture.height <= reading.max_pixels);
        prop_assert_eq!(
            picture.levels.len(),
            picture.width * picture.height * picture.channels
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(2000))]

    #[test]
    fn a_damaged_file_is_refused_or_read(which in 0..FILES.len(), damage in damage(), grey: bool,
        upright: bool) {
        let sound = file(FILES[which]);
        read(&damage.of(&sound, sound.len()), Reading { grey, upright, ..BOUNDED })?;
    }

    // Where sizes, tables and the EXIF data are.
    #[test]
    fn a_damaged_header_is_refused_or_read(which in 0..FILES.len(), damage in damage()) {
        read(&damage.of(&file(FILES[which]), 200), BOUNDED)?;
    }

    // A part of a file again, or gone: scans, chunks and markers in any order.
    #[test]
    fn parts_of_a_file_may_be_anywhere(which in 0..FILES.len(), from: Index, to: Index, at: Index,
        times in 1..20_usize) {
        let sound = file(FILES[which]);
        let (from, to) = (from.index(sound.len()), to.index(sound.len()));
        let part = &sound[from.min(to)..from.max(to)];
        let at = at.index(sound.len());
        read(&[&sound[..at], &part.repeat(times), &sound[at..]].concat(), BOUNDED)?;
        read(&[&sound[..from.min(to)], &sound[from.max(to)..]].concat(), BOUNDED)?;
    }

    #[test]
    fn any_text_is_refused(bytes in vec(any::<u8>(), 0..300), text in "[A-Za-z0-9+/=]{0,40}") {
        for (start, rest) in [(&b"\xff\xd8\xff"[..], &bytes), (b"\x89PNG\r\n\x1a\n", &bytes), (b"",
            &bytes)] {
            let bytes = [start, rest].concat();
            prop_assert!(bounded(bytes.len(), || Picture::decode(&bytes, BOUNDED)).is_err());
        }
        prop_assert!(bounded(text.len(), || Picture::from_base64(&text, BOUNDED)).is_err());
    }
}
