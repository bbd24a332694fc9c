//! CSV: a header that names the columns, then a record a row.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use csv::{ByteRecord, Position, Reader, ReaderBuilder};

use super::{Columns, InputError, MAX_ROW_BYTES, Raw, Source, Wanted, locate};
use crate::batch::format::Format;

pub(super) struct Csv {
    reader: Reader<Budget>,
    columns: Columns,
    row: u64,
    size: u64,
}

impl Csv {
    pub(super) fn open(
        path: &Path,
        wanted: &Wanted<'_>,
        row: u64,
        offset: u64,
    ) -> Result<Self, InputError> {
        let file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut reader = ReaderBuilder::new()
            .delimiter(wanted.delimiter)
            .flexible(true) // a row with too few cells is rejected, and does not end the job
            .buffer_capacity(1 << 16)
            .from_reader(Budget {
                file,
                left: MAX_ROW_BYTES,
            });
        let header = reader.byte_headers().map_err(|error| malformed(0, error))?;
        if header.is_empty() {
            return Err(InputError::NoHeader);
        }
        let names: Vec<_> = header.iter().map(String::from_utf8_lossy).collect();
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let columns = locate(&names, wanted)?;
        if offset > 0 {
            let mut position = Position::new();
            position.set_byte(offset);
            reader
                .seek(position)
                .map_err(|error| malformed(row, error))?;
        }
        Ok(Self {
            reader,
            columns,
            row,
            size,
        })
    }
}

impl Source for Csv {
    fn next(&mut self, rows: usize) -> Result<Raw, InputError> {
        let mut records = Vec::with_capacity(rows);
        let mut record = ByteRecord::new();
        while records.len() < rows {
            self.reader.get_mut().left = MAX_ROW_BYTES;
            let read = self.reader.read_byte_record(&mut record);
            if !read.map_err(|error| malformed(self.row, error))? {
                break;
            }
            self.row += 1;
            // a copy is as long as its row; the read one stays as long as the longest
            records.push(record.clone());
        }
        Ok(Raw::Csv(records))
    }

    fn offset(&self) -> u64 {
        self.reader.position().byte()
    }

    fn end(&self) -> u64 {
        self.size
    }

    fn columns(&self) -> &Columns {
        &self.columns
    }
}

/// A file of which one row may take only so many bytes.
struct Budget {
    file: File,
    left: usize,
}

impl Read for Budget {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let room = buffer.len().min(self.left);
        let read = self.file.read(&mut buffer[..room])?;
        self.left -= read;
        Ok(read)
    }
}

impl Seek for Budget {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

fn malformed(row: u64, error: csv::Error) -> InputError {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            InputError::TooLong(row + 1)
        }
        csv::ErrorKind::Io(error) => InputError::Io(error),
        // Other kinds are about lengths and encodings, which flexible byte records do not have.
        _ => InputError::Malformed {
            format: Format::Csv,
            row,
            reason: "the parser refuses it".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn wanted<'a>(keep: &'a [String], inputs: &[(&'a str, bool)]) -> Wanted<'a> {
        Wanted {
            inputs: inputs.to_vec(),
            keep,
            delimiter: b',',
        }
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn rows(source: &mut Csv, rows: usize) -> Vec<Vec<String>> {
        let Raw::Csv(records) = source.next(rows).unwrap() else {
            panic!("not CSV");
        };
        let text = |cell: &[u8]| String::from_utf8(cell.to_vec()).unwrap();
        records
            .iter()
            .map(|record| record.iter().map(text).collect())
            .collect()
    }

    /// Quoted line ends, a byte order mark and a last line without an end, from every row on.
    #[test]
    fn reading_goes_on_where_it_ended() {
        let file = file("\u{feff}id,a\n1,\"x\ny\"\r\n2,\"q\"\"q\"\n\n3,z");
        let keep = ["id".to_owned()];
        let wanted = wanted(&keep, &[("a", true)]);
        let all = [["1", "x\ny"], ["2", "q\"q"], ["3", "z"]];
        for first in 0..=3 {
            let mut source = Csv::open(file.path(), &wanted, 0, 0).unwrap();
            assert_eq!(rows(&mut source, first), all[..first]);
            let offset = source.offset();
            let mut again = Csv::open(file.path(), &wanted, first as u64, offset).unwrap();
            assert_eq!(rows(&mut again, 9), all[first..], "after {first}");
            assert_eq!(again.offset(), again.end());
        }
    }

    #[test]
    fn columns_are_found_by_name_and_missing_ones_are_named() {
        let file = file("x,b,a,b\n");
        let open = |keep: &[&str], inputs: &[(&str, bool)]| {
            let keep: Vec<String> = keep.iter().map(|name| (*name).to_owned()).collect();
            Csv::open(file.path(), &wanted(&keep, inputs), 0, 0)
                .map(|source| source.columns)
                .map_err(|error| error.to_string())
        };
        let columns = open(&["x"], &[("a", true), ("c", false)]).unwrap();
        assert_eq!(
            (columns.inputs, columns.keep, columns.ignored),
            (
                vec![Some(2), None],
                vec![0],
                vec!["b".to_owned(), "b".to_owned()]
            )
        );
        assert_eq!(
            open(&[], &[("c", true)]).unwrap_err(),
            "the input has no column c; its columns are x, b, a, b"
        );
        assert!(
            open(&["b"], &[])
                .unwrap_err()
                .contains("more than one column b")
        );
    }

    #[test]
    fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
        let file = file(&format!(
            "a\n1\n\"{}",
            "x".repeat(MAX_ROW_BYTES + (1 << 17))
        ));
        let mut source = Csv::open(file.path(), &wanted(&[], &[("a", true)]), 0, 0).unwrap();
        assert_eq!(rows(&mut source, 1), [["1"]]);
        assert!(matches!(source.next(1), Err(InputError::TooLong(2))));
    }
}
