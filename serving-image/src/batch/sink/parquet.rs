//! Parquet output: a part file for each row group, spliced into one file at the end.
//!
//! A Parquet file ends with the index of its row groups, so that a killed one cannot be read. So
//! each checkpoint is a whole small file, which appears under its name only when it is durable, and
//! the end copies their bytes together without decoding them. That takes the output's size on the
//! disk twice for a moment, and constant memory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::reader::FileReader as _;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use super::shape::{Holds, arrays, label, number};
use super::{Due, Header, Sink, partial, parts};
use crate::batch::score::{Answer, Scored};
use crate::batch::source::KeepType;
use crate::batch::state::sync_directory_of;

pub(super) struct Parquet {
    header: Header,
    output: PathBuf,
    directory: PathBuf,
    schema: TypePtr,
    properties: WriterPropertiesPtr,
    /// Durable parts.
    parts: u64,
    /// Answers of the part that is being filled, and the rows that they came from.
    answers: Vec<Answer>,
    rows: u64,
}

impl Parquet {
    pub(super) fn open(output: &Path, header: Header, length: u64) -> io::Result<Self> {
        let directory = parts(output);
        fs::create_dir_all(&directory)?;
        sync_directory_of(&directory)?;
        let pairs = [
            ("serin.model", &header.model),
            ("serin.model_version", &header.model_version),
            ("serin.digest", &header.digest),
        ];
        let pairs = pairs.map(|(key, value)| KeyValue::new(key.to_owned(), value.clone()));
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY) // what every reader knows
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .set_key_value_metadata(Some(pairs.to_vec()))
            .build();
        Ok(Self {
            schema: schema(&header).map_err(failed)?,
            properties: Arc::new(properties),
            header,
            output: output.to_owned(),
            directory,
            parts: length,
            answers: Vec::new(),
            rows: 0,
        })
    }

    fn part(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.parquet"))
    }

    fn write_part(&self, path: &Path) -> Result<(), ParquetError> {
        let file = File::create(path)?;
        let mut writer = SerializedFileWriter::new(
            &file,
            Arc::clone(&self.schema),
            Arc::clone(&self.properties),
        )?;
        let mut group = Columns(writer.next_row_group()?);
        self.write_columns(&mut group)?;
        group.close()?;
        writer.close()?;
        file.sync_all()?;
        Ok(())
    }

    fn write_columns<W: io::Write + Send>(
        &self,
        group: &mut Columns<'_, W>,
    ) -> Result<(), ParquetError> {
        let rows = self.answers.iter().map(|answer| answer.row.cast_signed());
        group.required::<Int64Type>(rows)?;
        for (place, keep) in self.header.keep_types.iter().enumerate() {
            let kept = self.answers.iter().map(|answer| &answer.kept[place]);
            match keep {
                KeepType::Integer => group.optional::<Int64Type>(kept.map(Value::as_i64))?,
                KeepType::Double => group.optional::<DoubleType>(kept.map(Value::as_f64))?,
                KeepType::Boolean => group.optional::<BoolType>(kept.map(Value::as_bool))?,
                KeepType::Text => group.optional::<ByteArrayType>(kept.map(text))?,
            }
        }
        let manifest = &self.header.manifest;
        let predictions = || self.answers.iter().map(|answer| &answer.prediction);
        for column in &self.header.columns {
            match column.holds {
                Holds::Label => {
                    group.required::<ByteArrayType>(
                        predictions().map(|p| label(manifest, p).into()),
                    )?;
                }
                Holds::Number(place) => {
                    group.required::<FloatType>(predictions().map(|p| number(p, place)))?;
                }
                Holds::Vector => group.lists(predictions().map(|p| p.output.as_slice()))?,
                Holds::Arrays => {
                    let arrays = predictions().map(|p| arrays(p).into_bytes().into());
                    group.required::<ByteArrayType>(arrays)?;
                }
                Holds::Tokens => {
                    let tokens = predictions().map(|p| (p.tokens as u64).cast_signed());
                    group.required::<Int64Type>(tokens)?;
                }
                Holds::Truncated => {
                    group.required::<BoolType>(predictions().map(|p| p.truncated))?;
                }
            }
        }
        for constant in [&self.header.model, &self.header.model_version] {
            let constant = ByteArray::from(constant.as_str());
            group.required::<ByteArrayType>(predictions().map(|_| constant.clone()))?;
        }
        Ok(())
    }

    /// Copies the row groups of all parts into one file.
    fn splice(&self, path: &Path) -> Result<(), ParquetError> {
        let file = File::create(path)?;
        let mut writer = SerializedFileWriter::new(
            &file,
            Arc::clone(&self.schema),
            Arc::clone(&self.properties),
        )?;
        for number in 0..self.parts {
            let part = File::open(self.part(number))?;
            let reader = SerializedFileReader::new(part.try_clone()?)?;
            for group in reader.metadata().row_groups() {
                let mut copy = writer.next_row_group()?;
                for column in group.columns() {
                    let close = ColumnCloseResult {
                        bytes_written: column.compressed_size() as u64,
                        rows_written: group.num_rows() as u64,
                        metadata: column.clone(),
                        bloom_filter: None,
                        column_index: None,
                        offset_index: None,
                    };
                    copy.append_column(&part, close)?;
                }
                copy.close()?;
            }
        }
        writer.close()?;
        file.sync_all()?;
        Ok(())
    }
}

impl Sink for Parquet {
    fn write(&mut self, scored: Scored) -> io::Result<Due> {
        self.answers.extend(scored.answers);
        self.rows += scored.rows;
        Ok(if self.rows >= self.header.row_group_rows {
            Due::Now
        } else {
            Due::NotYet
        })
    }

    fn checkpoint(&mut self) -> io::Result<u64> {
        if !self.answers.is_empty() {
            let path = self.part(self.parts);
            let fresh = path.with_extension("new");
            self.write_part(&fresh).map_err(failed)?;
            fs::rename(&fresh, &path)?;
            sync_directory_of(&path)?;
            self.parts += 1;
            self.answers.clear();
        }
        self.rows = 0;
        Ok(self.parts)
    }

    fn finish(&mut self) -> io::Result<()> {
        let whole = partial(&self.output);
        self.splice(&whole).map_err(failed)?;
        fs::rename(&whole, &self.output)?;
        sync_directory_of(&self.output)?;
        fs::remove_dir_all(&self.directory)
    }
}

/// The columns of one row group, written one after the other.
struct Columns<'a, W: io::Write + Send>(SerializedRowGroupWriter<'a, W>);

impl<W: io::Write + Send> Columns<'_, W> {
    fn close(self) -> Result<(), ParquetError> {
        self.0.close().map(|_| ())
    }

    fn required<T: DataType>(
        &mut self,
        values: impl Iterator<Item = T::T>,
    ) -> Result<(), ParquetError> {
        self.write::<T>(&values.collect::<Vec<_>>(), None, None)
    }

    fn optional<T: DataType>(
        &mut self,
        values: impl Iterator<Item = Option<T::T>>,
    ) -> Result<(), ParquetError> {
        let (mut present, mut definitions) = (Vec::new(), Vec::new());
        for value in values {
            definitions.push(i16::from(value.is_some()));
            present.extend(value);
        }
        self.write::<T>(&present, Some(&definitions), None)
    }

    /// Lists of floats: level 1 is an element, level 0 an empty list; a list starts at repetition
    /// 0.
    fn lists<'v>(&mut self, lists: impl Iterator<Item = &'v [f32]>) -> Result<(), ParquetError> {
        let (mut values, mut definitions, mut repetitions) = (Vec::new(), Vec::new(), Vec::new());
        for list in lists {
            values.extend_from_slice(list);
            definitions.extend(list.iter().map(|_| 1));
            repetitions.extend((0..list.len()).map(|place| i16::from(place > 0)));
            if list.is_empty() {
                definitions.push(0);
                repetitions.push(0);
            }
        }
        self.write::<FloatType>(&values, Some(&definitions), Some(&repetitions))
    }

    fn write<T: DataType>(
        &mut self,
        values: &[T::T],
        definitions: Option<&[i16]>,
        repetitions: Option<&[i16]>,
    ) -> Result<(), ParquetError> {
        let next = self.0.next_column()?;
        let mut column =
            next.ok_or_else(|| ParquetError::General("more columns than the schema has".into()))?;
        column
            .typed::<T>()
            .write_batch(values, definitions, repetitions)?;
        column.close()
    }
}

fn text(value: &Value) -> Option<ByteArray> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.as_str().into()),
        other => Some(other.to_string().as_str().into()),
    }
}

fn schema(header: &Header) -> Result<TypePtr, ParquetError> {
    let leaf = |name: &str, physical, repetition| {
        let logical = (physical == Physical::BYTE_ARRAY).then_some(LogicalType::String);
        Type::primitive_type_builder(name, physical)
            .with_logical_type(logical)
            .with_repetition(repetition)
            .build()
            .map(Arc::new)
    };
    let required = |name: &str, physical| leaf(name, physical, Repetition::REQUIRED);
    let mut fields = vec![required("row", Physical::INT64)?];
    for (name, keep) in header.keep.iter().zip(&header.keep_types) {
        let physical = match keep {
            KeepType::Text => Physical::BYTE_ARRAY,
            KeepType::Integer => Physical::INT64,
            KeepType::Double => Physical::DOUBLE,
            KeepType::Boolean => Physical::BOOLEAN,
        };
        fields.push(leaf(name, physical, Repetition::OPTIONAL)?);
    }
    for column in &header.columns {
        let name = column.name.as_str();
        fields.push(match column.holds {
            Holds::Label | Holds::Arrays => required(name, Physical::BYTE_ARRAY)?,
            Holds::Number(_) => required(name, Physical::FLOAT)?,
            Holds::Tokens => required(name, Physical::INT64)?,
            Holds::Truncated => required(name, Physical::BOOLEAN)?,
            Holds::Vector => {
                let list = Type::group_type_builder("list")
                    .with_repetition(Repetition::REPEATED)
                    .with_fields(vec![required("element", Physical::FLOAT)?])
                    .build()?;
                let vector = Type::group_type_builder(name)
                    .with_repetition(Repetition::REQUIRED)
                    .with_logical_type(Some(LogicalType::List))
                    .with_fields(vec![Arc::new(list)])
                    .build()?;
                Arc::new(vector)
            }
        });
    }
    fields.push(required("model", Physical::BYTE_ARRAY)?);
    fields.push(required("model_version", Physical::BYTE_ARRAY)?);
    Type::group_type_builder("predictions")
        .with_fields(fields)
        .build()
        .map(Arc::new)
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => io::Error::other(error),
        other => io::Error::other(other),
    }
}
