//! Parquet: columns by name; only the wanted ones are read, page by page.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{ConvertedType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::{Columns, InputError, KeepType, Raw, Source, Wanted, locate};
use crate::batch::format::Format;

pub(super) struct Parquet {
    rows: RowIter<'static>,
    columns: Columns,
    row: u64,
    end: u64,
}

impl Parquet {
    pub(super) fn open(path: &Path, wanted: &Wanted<'_>, row: u64) -> Result<Self, InputError> {
        let refuse = |error| malformed(row, &error);
        let whole = SerializedFileReader::new(File::open(path)?).map_err(refuse)?;
        let metadata = whole.metadata();
        let schema = metadata.file_metadata().schema();
        let names: Vec<&str> = schema
            .get_fields()
            .iter()
            .map(|field| field.name())
            .collect();
        let mut columns = locate(&names, wanted)?;

        // Only the wanted columns are decoded. The order stays that of the file, so the places
        // shift together.
        let read: Vec<usize> = (0..names.len())
            .filter(|place| columns.inputs.contains(&Some(*place)) || columns.keep.contains(place))
            .collect();
        let fields: Vec<Arc<Type>> = read
            .iter()
            .map(|place| Arc::clone(&schema.get_fields()[*place]))
            .collect();
        if let Some(field) = fields.iter().find(|field| !is_readable(field)) {
            let reason = format!("column {} has a type that cannot be read", field.name());
            return Err(malformed(row, &ParquetError::NYI(reason)));
        }
        let shifted = |place: &usize| read.binary_search(place).unwrap_or_default();
        columns.keep_types = columns
            .keep
            .iter()
            .map(|place| keep_type(&schema.get_fields()[*place]))
            .collect();
        columns.inputs = columns
            .inputs
            .iter()
            .map(|place| place.as_ref().map(shifted))
            .collect();
        columns.keep = columns.keep.iter().map(shifted).collect();
        let projection = Type::group_type_builder(schema.name())
            .with_fields(fields)
            .build()
            .map_err(refuse)?;

        // Whole row groups are skipped by the file's index, the rest row by row.
        let (mut groups, mut before, mut end) = (0, 0_u64, 0_u64);
        for group in metadata.row_groups() {
            let rows = u64::try_from(group.num_rows()).unwrap_or_default();
            end += rows;
            if end <= row {
                (groups, before) = (groups + 1, end);
            }
        }
        let options = ReadOptionsBuilder::new()
            .with_predicate(Box::new(move |_, group| group >= groups))
            .build();
        let rest =
            SerializedFileReader::new_with_options(File::open(path)?, options).map_err(refuse)?;
        let mut source = Self {
            rows: RowIter::from_file_into(Box::new(rest))
                .project(Some(projection))
                .map_err(refuse)?,
            columns,
            row: before,
            end,
        };
        while source.row < row && source.read()?.is_some() {}
        Ok(source)
    }

    fn read(&mut self) -> Result<Option<parquet::record::Row>, InputError> {
        // The crate panics on types that it does not know, and on some corrupt pages.
        let next = catch_unwind(AssertUnwindSafe(|| self.rows.next()));
        match next {
            Ok(Some(Ok(row))) => {
                self.row += 1;
                Ok(Some(row))
            }
            Ok(None) if self.row < self.end => Err(malformed(
                self.row,
                &ParquetError::EOF("rows are missing".into()),
            )),
            Ok(None) => Ok(None),
            Ok(Some(Err(error))) => Err(malformed(self.row, &error)),
            Err(_) => {
                let reason = "a page is corrupt, or of a type that cannot be read";
                Err(malformed(self.row, &ParquetError::NYI(reason.into())))
            }
        }
    }
}

impl Source for Parquet {
    fn next(&mut self, rows: usize) -> Result<Raw, InputError> {
        let mut read = Vec::with_capacity(rows);
        while read.len() < rows
            && let Some(row) = self.read()?
        {
            read.push(row);
        }
        Ok(Raw::Parquet(read))
    }

    fn offset(&self) -> u64 {
        self.row
    }

    fn end(&self) -> u64 {
        self.end
    }

    fn columns(&self) -> &Columns {
        &self.columns
    }
}

/// Whether the crate can turn every leaf into a value; it panics, and prints the value, where it
/// cannot.
fn is_readable(field: &Type) -> bool {
    use ConvertedType as C;
    if !field.is_primitive() {
        return field.get_fields().iter().all(|child| is_readable(child));
    }
    let converted = field.get_basic_info().converted_type();
    match field.get_physical_type() {
        Physical::BOOLEAN | Physical::FLOAT | Physical::DOUBLE | Physical::INT96 => true,
        Physical::INT32 => matches!(
            converted,
            C::NONE
                | C::INT_8
                | C::INT_16
                | C::INT_32
                | C::UINT_8
                | C::UINT_16
                | C::UINT_32
                | C::DATE
                | C::TIME_MILLIS
                | C::DECIMAL
        ),
        Physical::INT64 => matches!(
            converted,
            C::NONE
                | C::INT_64
                | C::UINT_64
                | C::TIME_MICROS
                | C::TIMESTAMP_MILLIS
                | C::TIMESTAMP_MICROS
                | C::DECIMAL
        ),
        Physical::BYTE_ARRAY => matches!(
            converted,
            C::NONE | C::UTF8 | C::ENUM | C::JSON | C::BSON | C::DECIMAL
        ),
        Physical::FIXED_LEN_BYTE_ARRAY => matches!(converted, C::NONE | C::DECIMAL),
    }
}

fn keep_type(field: &Type) -> KeepType {
    if !field.is_primitive() {
        return KeepType::Text;
    }
    let plain = matches!(
        field.get_basic_info().converted_type(),
        ConvertedType::NONE
            | ConvertedType::INT_8
            | ConvertedType::INT_16
            | ConvertedType::INT_32
            | ConvertedType::INT_64
            | ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
    );
    match field.get_physical_type() {
        Physical::BOOLEAN => KeepType::Boolean,
        Physical::INT32 | Physical::INT64 if plain => KeepType::Integer,
        Physical::FLOAT | Physical::DOUBLE => KeepType::Double,
        _ => KeepType::Text, // dates, decimals and times as people write them
    }
}

/// The parser's reason, without what it read: some of its errors print the bytes.
fn malformed(row: u64, error: &ParquetError) -> InputError {
    let reason = match error {
        ParquetError::External(error) => error.to_string(),
        ParquetError::EOF(_) => "it ends too early".into(),
        ParquetError::NYI(what) => what.clone(),
        ParquetError::General(what) if !what.contains("Bytes:") => what.clone(),
        _ => "it is corrupt".into(),
    };
    InputError::Malformed {
        format: Format::Parquet,
        row,
        reason,
    }
}
