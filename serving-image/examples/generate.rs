//! One side of `cargo xtask bench serve`: prompts in, and how long the model took to read and to go
//! on with them.
//!
//! Each line of standard input is `{"prompt": …, "max_tokens": …}`; the answer has the tokens of
//! the prompt, the seconds until the first token of the text was there, the tokens of the text, the
//! seconds from the first to the last of them, and the likeliest text. It goes the way of a
//! request: tokeniser, queue, scheduler, sampler.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use serde_json::{Value, json};
use serin_serve::artefact::Artefact;
use serin_serve::generate::{Event, Generator, Request, Sampling, Settings};
use serin_serve::metrics::GenerationMetrics;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(threads)) = (arguments.next(), arguments.next()) else {
        return Err("usage: generate MODEL_DIRECTORY THREADS".into());
    };
    let settings = Settings {
        threads: threads.parse()?,
        ..Settings::default()
    };
    let artefact = Artefact::open(directory.as_ref(), None)?;
    let generator = Generator::load(&artefact, settings, GenerationMetrics::default())?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let asked: Value = serde_json::from_str(&line?)?;
        let prompt = asked["prompt"].as_str().ok_or("no prompt")?;
        let max_tokens = asked["max_tokens"].as_u64().ok_or("no max_tokens")?;
        writeln!(
            out,
            "{}",
            generate(&generator, prompt, max_tokens as usize)?
        )?;
        out.flush()?;
    }
    Ok(())
}

fn generate(
    generator: &Generator,
    prompt: &str,
    max_tokens: usize,
) -> Result<Value, Box<dyn Error>> {
    let prompt = generator
        .encode(prompt)
        .map_err(|error| error.to_string())?;
    let prompt_tokens = prompt.len();
    let started = Instant::now();
    let mut events = generator.start(Request {
        prompt,
        max_tokens,
        sampling: Sampling::default(),
        stops: Vec::new(),
    })?;
    let mut first = None;
    let mut text = String::new();
    loop {
        match events.blocking_recv() {
            Some(Event::Text(more)) => {
                first.get_or_insert_with(Instant::now);
                text.push_str(&more);
            }
            Some(Event::End { tokens, .. }) => {
                let first = first.ok_or("no text")?;
                return Ok(json!({
                    "prompt_tokens": prompt_tokens,
                    "prompt_seconds": (first - started).as_secs_f64(),
                    "tokens": tokens,
                    "text_seconds": first.elapsed().as_secs_f64(),
                    "text": text,
                }));
            }
            Some(Event::Failed) | None => return Err("the text failed".into()),
        }
    }
}
