//! JSON lines: `row`, what is kept, the prediction as `/predict` words it, `model`,
//! `model_version`.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::{AppendFile, Due, Header, Sink, partial};
use crate::answer::Answer;
use crate::batch::score::Scored;

pub(super) struct Jsonl {
    file: AppendFile,
    header: Header,
    output: PathBuf,
}

impl Jsonl {
    pub(super) fn open(output: &Path, header: Header, length: u64) -> io::Result<Self> {
        Ok(Self {
            file: AppendFile::open(&partial(output), length)?,
            header,
            output: output.to_owned(),
        })
    }
}

impl Sink for Jsonl {
    fn write(&mut self, scored: Scored) -> io::Result<Due> {
        let header = &self.header;
        for answer in &scored.answers {
            let line = Line {
                row: answer.row,
                kept: Kept(&header.keep, &answer.kept),
                answer: Answer::new(&header.manifest, &answer.prediction),
                model: &header.model,
                model_version: &header.model_version,
            };
            serde_json::to_writer(&mut self.file, &line)?;
            self.file.write_all(b"\n")?;
        }
        Ok(Due::Sometime)
    }

    fn checkpoint(&mut self) -> io::Result<u64> {
        self.file.checkpoint()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.file.rename(&self.output)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    row: u64,
    #[serde(flatten)]
    kept: Kept<'a>,
    #[serde(flatten)]
    answer: Answer<'a>,
    model: &'a str,
    model_version: &'a str,
}

struct Kept<'a>(&'a [String], &'a [Value]);

impl Serialize for Kept<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().zip(self.1))
    }
}
