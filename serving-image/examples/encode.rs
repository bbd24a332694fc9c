//! One side of `cargo xtask bench serve`: texts in, and how long the model took for them.
//!
//! Each line of standard input is a JSON array of texts; the answer is `{"seconds": …, "vector":
//! […]}`, the seconds from the texts to the vectors, and the first vector.

use std::error::Error;
use std::io::{BufRead as _, Write as _};
use std::time::Instant;

use serde_json::{Value, json};
use serin_serve::artefact::Artefact;
use serin_serve::model::Model;
use serin_serve::preprocess::Location;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(directory), Some(threads)) = (arguments.next(), arguments.next()) else {
        return Err("usage: encode MODEL_DIRECTORY THREADS".into());
    };
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.parse()?)
        .build_global()?;
    let model = Model::load(Artefact::open(directory.as_ref(), None)?)?;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let texts: Vec<Value> = serde_json::from_str(&line?)?;
        let started = Instant::now();
        let batch = model
            .prepare(&texts, Location::List(""))
            .map_err(|errors| format!("{errors:?}"))?;
        let predictions = model.forward(&batch)?;
        let seconds = started.elapsed().as_secs_f64();
        let vector = predictions.first().map(|prediction| &prediction.output);
        writeln!(out, "{}", json!({"seconds": seconds, "vector": vector}))?;
        out.flush()?;
    }
    Ok(())
}
