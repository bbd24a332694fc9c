//! Random and damaged input files give rows, rejects or an error.
#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;

use super::decode::Decoder;
use super::format::Format;
use super::source::{self, Wanted};
use crate::artefact::Manifest;
use crate::fuzzing::{Damage, bounded, cases, damage};
use crate::preprocess::{Location, Preprocessor};

const MANIFEST: &[u8] = include_bytes!("../../../examples/models/iris/2.0.0/serin-model.json");

const CSV: &[u8] = b"id,sepal_length,sepal_width,petal_length,petal_width\n\
    f0,5.1,3.5,1.4,0.2\n\
    \"f\"\"1\",4.9,3,1.4,.2\n";

const JSONL: &[u8] = b"{\"id\":\"f0\",\"sepal_length\":5.1,\"sepal_width\":3.5,\
    \"petal_length\":1.4,\"petal_width\":0.2}\n\n{\"id\":1}\n";

/// Reads a file to its end, or to the error that ends it, and prepares what it holds. Gives the
/// number of rows.
fn read(format: Format, file: &[u8]) -> usize {
    let manifest = Manifest::parse(MANIFEST).unwrap();
    let preprocessor = Preprocessor::new(&manifest, None).unwrap();
    let mut named = tempfile::NamedTempFile::new().unwrap();
    named.write_all(file).unwrap();
    let keep = ["id".to_owned()];
    let wanted = Wanted {
        inputs: manifest
            .inputs
            .iter()
            .map(|input| (input.name.as_str(), false))
            .collect(),
        keep: if format == Format::Parquet {
            &[]
        } else {
            &keep
        },
        delimiter: b',',
    };
    bounded(file.len(), || {
        let Ok(mut source) = source::open(format, named.path(), &wanted, 0, 0) else {
            return 0;
        };
        let columns = source.columns().clone();
        let decoder = Decoder::new(&manifest, wanted.keep, &["NA".to_owned()], columns);
        let mut rows = 0;
        while let Ok(raw) = source.next(16) {
            if raw.len() == 0 {
                break;
            }
            rows += raw.len();
            for record in decoder.decode(raw) {
                if let Ok(instance) = record.instance {
                    let _ = preprocessor.prepare(&[instance], Location::List("/instances"));
                }
            }
        }
        rows
    })
}

fn damaged(format: Format, sound: &[u8], damage: &Damage) {
    read(format, &damage.of(sound, sound.len()));
}

#[test]
fn the_files_that_are_damaged_are_sound_ones() {
    assert_eq!(read(Format::Csv, CSV), 2);
    assert_eq!(read(Format::Jsonl, JSONL), 2);
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn csv_with_changes_is_read_or_refused(damage in damage()) {
        damaged(Format::Csv, CSV, &damage);
    }

    #[test]
    fn json_lines_with_changes_are_read_or_refused(damage in damage()) {
        damaged(Format::Jsonl, JSONL, &damage);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300),
        cells in "[0-9a-z,\"\r\n .+-]{0,200}") {
        for format in [Format::Csv, Format::Jsonl] {
            read(format, &bytes);
            read(format, cells.as_bytes());
        }
    }
}

#[cfg(feature = "batch-parquet")]
mod parquet {
    use super::*;

    const SNAPPY: &[u8] = include_bytes!("../../tests/fixtures/iris-snappy.parquet");
    const ZSTD: &[u8] = include_bytes!("../../tests/fixtures/iris-zstd.parquet");

    #[test]
    fn the_files_that_are_damaged_are_sound_ones() {
        for file in [SNAPPY, ZSTD] {
            assert!(read(Format::Parquet, file) > 0);
        }
    }

    proptest! {
        #![proptest_config(cases(300))]

        #[test]
        fn parquet_with_changes_is_read_or_refused(damage in damage(), zstd: bool) {
            damaged(Format::Parquet, if zstd { ZSTD } else { SNAPPY }, &damage);
        }

        // The schema, the columns' places and sizes are at the end.
        #[test]
        fn a_parquet_footer_with_changes_is_read_or_refused(damage in damage(), zstd: bool) {
            let sound = if zstd { ZSTD } else { SNAPPY };
            let (data, footer) = sound.split_at(sound.len() - FOOTER.min(sound.len()));
            read(Format::Parquet, &[data, &damage.of(footer, footer.len())].concat());
        }
    }

    /// More than the metadata of those files has.
    const FOOTER: usize = 2_000;
}
