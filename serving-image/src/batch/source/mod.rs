//! Reads rows, a chunk at a time, from a position that can be stored and found again.

mod csv;
mod jsonl;
#[cfg(feature = "batch-parquet")]
mod parquet;

use std::io;
use std::path::Path;

use ::csv::ByteRecord;

use super::format::Format;

/// Longest row of a text file, in bytes: an unclosed quote must not read the rest of the file into
/// memory.
pub(super) const MAX_ROW_BYTES: usize = 16 << 20;

/// Why an input cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system refuses.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A column that is needed is not there, or is there twice.
    #[error("the input has {found} column {name}; its columns are {columns}",
        found = if *twice { "more than one" } else { "no" })]
    Column {
        /// The column.
        name: String,
        /// Whether it is there too often.
        twice: bool,
        /// Those that are there.
        columns: String,
    },
    /// There is no header.
    #[error("the input is empty: a CSV file starts with a header")]
    NoHeader,
    /// A row that never ends.
    #[error("row {0} is longer than {MAX_ROW_BYTES} bytes")]
    TooLong(u64),
    /// The file is not of its format.
    #[error("it cannot be read as {format:?} after row {row}: {reason}")]
    Malformed {
        /// The format.
        format: Format,
        /// Rows that could be read.
        row: u64,
        /// The parser's reason.
        reason: String,
    },
}

/// The columns that are read, by name.
#[derive(Debug, Clone)]
pub(super) struct Wanted<'a> {
    /// The model's fields; whether each must be there.
    pub inputs: Vec<(&'a str, bool)>,
    /// Columns that are carried over.
    pub keep: &'a [String],
    pub delimiter: u8,
}

/// Rows as they were read; what they mean is found out in parallel.
#[derive(Debug)]
pub(super) enum Raw {
    Csv(Vec<ByteRecord>),
    Jsonl(Vec<Vec<u8>>),
    #[cfg(feature = "batch-parquet")]
    Parquet(Vec<::parquet::record::Row>),
}

impl Raw {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Csv(records) => records.len(),
            Self::Jsonl(lines) => lines.len(),
            #[cfg(feature = "batch-parquet")]
            Self::Parquet(rows) => rows.len(),
        }
    }
}

/// Where the wanted columns are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Columns {
    /// How many there are in all (CSV).
    pub total: usize,
    /// Of each of the model's fields (CSV, Parquet).
    pub inputs: Vec<Option<usize>>,
    /// Of each that is carried over (CSV, Parquet).
    pub keep: Vec<usize>,
    /// The others, which are not read.
    pub ignored: Vec<String>,
    /// The types of those that are carried over; texts where the format knows no types.
    pub keep_types: Vec<KeepType>,
}

/// Type of a column that is carried over.
// only Parquet has types and row groups
#[cfg_attr(not(feature = "batch-parquet"), allow(dead_code))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeepType {
    Text,
    Integer,
    Double,
    Boolean,
}

/// An open input.
pub(super) trait Source {
    /// The next rows, fewer at the end, none after it.
    fn next(&mut self, rows: usize) -> Result<Raw, InputError>;

    /// Where the row after those starts.
    fn offset(&self) -> u64;

    /// What [`Source::offset`] will be at the end.
    fn end(&self) -> u64;

    /// Where the columns are.
    fn columns(&self) -> &Columns;
}

/// Opens `path` behind the first `row` rows, at `offset`.
pub(super) fn open(
    format: Format,
    path: &Path,
    wanted: &Wanted<'_>,
    row: u64,
    offset: u64,
) -> Result<Box<dyn Source>, InputError> {
    Ok(match format {
        Format::Csv => Box::new(csv::Csv::open(path, wanted, row, offset)?),
        Format::Jsonl => Box::new(jsonl::Jsonl::open(path, wanted, row, offset)?),
        #[cfg(feature = "batch-parquet")]
        Format::Parquet => Box::new(parquet::Parquet::open(path, wanted, row)?),
        #[cfg(not(feature = "batch-parquet"))]
        Format::Parquet => return Err(io::Error::from(io::ErrorKind::Unsupported).into()),
    })
}

/// Finds the wanted columns among those that are there.
fn locate(there: &[&str], wanted: &Wanted<'_>) -> Result<Columns, InputError> {
    let find = |name: &str, required: bool| {
        let mut places = there
            .iter()
            .enumerate()
            .filter(|(_, found)| **found == name);
        let (first, second) = (places.next(), places.next());
        if second.is_some() || (first.is_none() && required) {
            return Err(InputError::Column {
                name: name.to_owned(),
                twice: second.is_some(),
                columns: there.join(", "),
            });
        }
        Ok(first.map(|(place, _)| place))
    };
    let inputs = wanted
        .inputs
        .iter()
        .map(|(name, required)| find(name, *required))
        .collect::<Result<Vec<_>, _>>()?;
    let keep = wanted
        .keep
        .iter()
        .map(|name| Ok(find(name, true)?.unwrap_or_default()))
        .collect::<Result<Vec<_>, InputError>>()?;
    let ignored = there
        .iter()
        .enumerate()
        .filter(|(place, _)| !inputs.contains(&Some(*place)) && !keep.contains(place))
        .map(|(_, name)| (*name).to_owned())
        .collect();
    Ok(Columns {
        total: there.len(),
        keep_types: vec![KeepType::Text; keep.len()],
        inputs,
        keep,
        ignored,
    })
}
