//! JSON lines: one value a line. Lines of white space are not rows.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::{Columns, InputError, KeepType, MAX_ROW_BYTES, Raw, Source, Wanted};

pub(super) struct Jsonl {
    reader: BufReader<File>,
    columns: Columns,
    row: u64,
    offset: u64,
    size: u64,
}

impl Jsonl {
    pub(super) fn open(
        path: &Path,
        wanted: &Wanted<'_>,
        row: u64,
        offset: u64,
    ) -> Result<Self, InputError> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        Ok(Self {
            reader: BufReader::with_capacity(1 << 16, file),
            // Fields are looked up by name in each row.
            columns: Columns {
                keep_types: vec![KeepType::Text; wanted.keep.len()],
                ..Columns::default()
            },
            row,
            offset,
            size,
        })
    }
}

impl Source for Jsonl {
    fn next(&mut self, rows: usize) -> Result<Raw, InputError> {
        let mut lines = Vec::with_capacity(rows);
        while lines.len() < rows {
            let mut line = Vec::new();
            let limit = MAX_ROW_BYTES as u64 + 1;
            let read = (&mut self.reader)
                .take(limit)
                .read_until(b'\n', &mut line)?;
            if read == 0 {
                break;
            }
            if read > MAX_ROW_BYTES {
                return Err(InputError::TooLong(self.row + 1));
            }
            if self.offset == 0 && line.starts_with("\u{feff}".as_bytes()) {
                line.drain(..3); // a byte order mark
            }
            self.offset += read as u64;
            if !line.iter().all(u8::is_ascii_whitespace) {
                self.row += 1;
                lines.push(line);
            }
        }
        Ok(Raw::Jsonl(lines))
    }

    fn offset(&self) -> u64 {
        self.offset
    }

    fn end(&self) -> u64 {
        self.size
    }

    fn columns(&self) -> &Columns {
        &self.columns
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reading_goes_on_where_it_ended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "\u{feff}{\"a\":1}\r\n\n  \n[2]\n3").unwrap();
        let wanted = Wanted {
            inputs: vec![],
            keep: &[],
            delimiter: b',',
        };
        let lines = |source: &mut Jsonl, rows| match source.next(rows).unwrap() {
            Raw::Jsonl(lines) => lines,
            _ => panic!("not JSON lines"),
        };
        let all: [&[u8]; 3] = [b"{\"a\":1}\r\n", b"[2]\n", b"3"];
        for first in 0..=3 {
            let mut source = Jsonl::open(file.path(), &wanted, 0, 0).unwrap();
            assert_eq!(lines(&mut source, first), all[..first]);
            let mut again =
                Jsonl::open(file.path(), &wanted, first as u64, source.offset()).unwrap();
            assert_eq!(lines(&mut again, 9), all[first..]);
            assert_eq!(again.offset(), again.end());
        }
    }

    #[test]
    fn a_line_that_never_ends_does_not_fill_the_memory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![b'1'; MAX_ROW_BYTES + 2]).unwrap();
        let wanted = Wanted {
            inputs: vec![],
            keep: &[],
            delimiter: b',',
        };
        let mut source = Jsonl::open(file.path(), &wanted, 0, 0).unwrap();
        assert!(matches!(source.next(1), Err(InputError::TooLong(1))));
    }
}
