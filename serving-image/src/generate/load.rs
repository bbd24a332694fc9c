//! From an artefact to a generator: verified, built, checked and warm.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use rayon::ThreadPoolBuilder;
use serde_json::Value;

use super::scheduler::Scheduler;
use super::template::{ChatTemplate, TemplateError};
use super::tokenizer::{Vocabulary, VocabularyError};
use super::{Event, Generator, Request, Sampling, Settings, TokenLimits};
use crate::artefact::{Artefact, ArtefactError, Manifest};
use crate::metrics::GenerationMetrics;
use crate::model::llama::gguf::Header;
use crate::model::llama::{Llama, LoadGgufError};

/// Tokens that one request may generate where neither the manifest nor the request says less.
const MAX_ANSWER: usize = 4_096;

/// Positions that any model must have room for: less is a setting gone wrong.
const MIN_CONTEXT: usize = 16;

/// Why an artefact gives no generator.
#[derive(Debug, thiserror::Error)]
pub enum LoadGeneratorError {
    /// The artefact's files are not those that its manifest lists.
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    /// The weights file.
    #[error(transparent)]
    Weights(#[from] LoadGgufError),
    /// The vocabulary in it.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// Its embedding has another length.
    #[error("the vocabulary has {tokens} tokens, but the embedding {rows} rows")]
    VocabularySize {
        /// Tokens.
        tokens: usize,
        /// Rows.
        rows: usize,
    },
    /// The chat template in it.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The caches may not hold even a short text.
    #[error("{bytes} bytes of cache hold {positions} tokens; {MIN_CONTEXT} is the least")]
    Cache {
        /// The allowed bytes.
        bytes: usize,
        /// What that is in tokens.
        positions: usize,
    },
    /// Threads cannot be started.
    #[error("cannot start the threads that generate: {0}")]
    Threads(String),
    /// A golden example has no prompt.
    #[error("golden example {0} needs a prompt as its instance, and the text that follows")]
    GoldenInstance(usize),
    /// The model does not reproduce the text of a golden example.
    #[error("golden example {index}: the text begins otherwise, at character {position}")]
    GoldenText {
        /// Its place in the manifest.
        index: usize,
        /// The first character that differs.
        position: usize,
    },
}

impl Generator {
    /// Verifies the artefact's files, builds the model from its weights file, starts the thread
    /// that generates, and lets it reproduce the golden examples, which also warms it up. An error
    /// where a file differs from the manifest, the model cannot be built or an example is not
    /// reproduced.
    pub fn load(
        artefact: &Artefact,
        settings: Settings,
        metrics: GenerationMetrics,
    ) -> Result<Self, LoadGeneratorError> {
        let (model, header) = read(artefact)?;
        let generator = Self::start_with(artefact, model, &header, settings, metrics)?;
        generator.check_golden()?;
        Ok(generator)
    }

    fn start_with(
        artefact: &Artefact,
        model: Llama,
        header: &Header,
        settings: Settings,
        metrics: GenerationMetrics,
    ) -> Result<Self, LoadGeneratorError> {
        let vocabulary = Arc::new(Vocabulary::read(header)?);
        let (tokens, rows) = (vocabulary.len(), model.vocabulary());
        if tokens != rows {
            return Err(LoadGeneratorError::VocabularySize { tokens, rows });
        }
        let template = header
            .text("tokenizer.chat_template")
            .map_err(LoadGgufError::from)?
            .map(|source| ChatTemplate::new(source, vocabulary.begin_name(), vocabulary.end_name()))
            .transpose()?;
        let limits = limits(&artefact.manifest, &model, settings.cache_bytes)?;
        let start_error =
            |error: &dyn std::error::Error| LoadGeneratorError::Threads(error.to_string());
        let pool = ThreadPoolBuilder::new()
            .num_threads(settings.threads)
            .thread_name(|index| format!("generate-{index}"))
            .build()
            .map_err(|error| start_error(&error))?;
        let (queue, jobs) = sync_channel(settings.queue.max(1));
        let scheduler = Scheduler::new(
            model,
            Arc::clone(&vocabulary),
            pool,
            settings,
            metrics.clone(),
            jobs,
        );
        thread::Builder::new()
            .name("scheduler".into())
            .spawn(move || scheduler.run())
            .map_err(|error: io::Error| start_error(&error))?;
        Ok(Self {
            manifest: artefact.manifest.clone(),
            digest: artefact.digest,
            limits,
            vocabulary,
            template,
            queue,
            metrics,
        })
    }

    fn check_golden(&self) -> Result<(), LoadGeneratorError> {
        for (index, golden) in self.manifest.golden.iter().enumerate() {
            let unusable = LoadGeneratorError::GoldenInstance(index);
            let (Value::String(prompt), Some(expected)) = (&golden.instance, &golden.text) else {
                return Err(unusable);
            };
            let Ok(prompt) = self.encode(prompt) else {
                return Err(unusable);
            };
            // One token holds at least one byte: so many are enough.
            let max_tokens = expected.len().clamp(1, self.limits.answer);
            if prompt.is_empty() || prompt.len() + max_tokens > self.limits.context {
                return Err(unusable);
            }
            let found = self.write(prompt, max_tokens, expected.len());
            if !found.starts_with(expected.as_str()) {
                let same = found
                    .chars()
                    .zip(expected.chars())
                    .take_while(|(a, b)| a == b);
                let position = same.count();
                return Err(LoadGeneratorError::GoldenText { index, position });
            }
        }
        Ok(())
    }

    /// The beginning of the likeliest text: all of it, or at least `bytes` bytes.
    fn write(&self, prompt: Vec<u32>, max_tokens: usize, bytes: usize) -> String {
        let request = Request {
            prompt,
            max_tokens,
            sampling: Sampling::default(),
            stops: Vec::new(),
        };
        let mut text = String::new();
        // Not a client's text: its time is that of cold caches.
        let unseen = GenerationMetrics::default();
        let Ok(mut events) = self.start_counted(request, unseen) else {
            return text;
        };
        while let Some(Event::Text(more)) = events.blocking_recv() {
            text.push_str(&more);
            if text.len() >= bytes {
                break;
            }
        }
        text
    }
}

/// Reads the weights and verifies all files. A wrong hash is reported before what the wrong bytes
/// led to.
fn read(artefact: &Artefact) -> Result<(Llama, Header), LoadGeneratorError> {
    let weights = artefact.manifest.network.weights();
    for entry in &artefact.manifest.files {
        if entry.path != weights {
            artefact.stream(&entry.path)?.finish()?;
        }
    }
    let mut source = artefact.stream(weights)?;
    let length = source.length();
    let loaded = Llama::read(&mut source, length);
    source.finish()?;
    Ok(loaded?)
}

fn limits(
    manifest: &Manifest,
    model: &Llama,
    cache_bytes: usize,
) -> Result<TokenLimits, LoadGeneratorError> {
    let positions = cache_bytes / model.cache_bytes(1).max(1);
    if positions < MIN_CONTEXT {
        let bytes = cache_bytes;
        return Err(LoadGeneratorError::Cache { bytes, positions });
    }
    let context = model.config.context.min(positions);
    let answer = manifest.limits.max_tokens.unwrap_or(MAX_ANSWER);
    let prompt = manifest.limits.max_prompt_tokens.unwrap_or(context);
    Ok(TokenLimits {
        context,
        prompt: prompt.min(context - 1),
        answer: answer.min(context - 1),
    })
}
