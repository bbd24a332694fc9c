//! CSV output: `row`, what is kept, the answer, `model`, `model_version`.

use std::io;
use std::path::{Path, PathBuf};

use csv::{ByteRecord, Writer, WriterBuilder};
use serde_json::Value;

use super::{AppendFile, Due, Header, Sink, partial};
use crate::batch::score::Scored;

pub(super) struct Csv {
    writer: Writer<AppendFile>,
    header: Header,
    output: PathBuf,
}

impl Csv {
    pub(super) fn open(output: &Path, header: Header, length: u64) -> io::Result<Self> {
        let file = AppendFile::open(&partial(output), length)?;
        let mut writer = WriterBuilder::new()
            .delimiter(header.delimiter)
            .from_writer(file);
        if length == 0 {
            let mut names = vec!["row"];
            names.extend(header.keep.iter().map(String::as_str));
            names.extend(header.columns.iter().map(|column| column.name.as_str()));
            names.extend(["model", "model_version"]);
            writer.write_record(names)?;
        }
        Ok(Self {
            writer,
            header,
            output: output.to_owned(),
        })
    }
}

impl Sink for Csv {
    fn write(&mut self, scored: Scored) -> io::Result<Due> {
        let header = &self.header;
        let mut record = ByteRecord::new();
        for answer in &scored.answers {
            record.clear();
            record.push_field(answer.row.to_string().as_bytes());
            for value in &answer.kept {
                match value {
                    Value::Null => record.push_field(b""),
                    Value::String(text) => record.push_field(text.as_bytes()),
                    other => record.push_field(other.to_string().as_bytes()),
                }
            }
            for column in &header.columns {
                let cell = column.holds.cell(&header.manifest, &answer.prediction);
                record.push_field(cell.as_bytes());
            }
            record.push_field(header.model.as_bytes());
            record.push_field(header.model_version.as_bytes());
            self.writer.write_byte_record(&record)?;
        }
        Ok(Due::Sometime)
    }

    fn checkpoint(&mut self) -> io::Result<u64> {
        self.writer.flush()?;
        self.writer.get_ref().durable()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.writer.get_ref().rename(&self.output)
    }
}
