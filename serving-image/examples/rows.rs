//! How long each of several engines takes for the same rows: from JSON to the answers, and the
//! network alone.
//!
//! ```text
//! cargo run --release -p serin-serve --example rows -- FIXTURE MODEL_DIRECTORY…
//! ```
//!
//! FIXTURE is a JSON file with `instances` (`tests/fixtures`). The models take turns, so that what
//! else the machine does falls on all of them; each number is the median of 201 turns, in
//! microseconds a row, and the last column is the first model's network in relation to this one's.
//! ORT_DYLIB_PATH names ONNX Runtime's library, which models in ONNX need.

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use serde_json::Value;
use serin_serve::artefact::Artefact;
use serin_serve::model::Model;
use serin_serve::preprocess::Location;

const TURNS: usize = 201;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let fixture = arguments
        .next()
        .ok_or("usage: rows FIXTURE MODEL_DIRECTORY…")?;
    let fixture: Value = serde_json::from_slice(&std::fs::read(fixture)?)?;
    let instances = fixture["instances"].as_array().ok_or("no instances")?;
    let models = arguments
        .map(|directory| Ok(Model::load(Artefact::open(directory.as_ref(), None)?)?))
        .collect::<Result<Vec<_>, Box<dyn Error>>>()?;
    println!(
        "{:<24}{:>8}{:>14}{:>14}{:>22}",
        "model", "rows", "all, µs", "network, µs", "the first is, network"
    );
    for rows in [1, 16, 256] {
        let batch: Vec<Value> = instances.iter().cycle().take(rows).cloned().collect();
        let mut times = vec![(Vec::new(), Vec::new()); models.len()];
        // What is quick is repeated, so that the clock's own cost is small beside it.
        let repeats = (256 / rows).max(1);
        for _ in 0..TURNS {
            for (model, (all, network)) in models.iter().zip(&mut times) {
                let mut computed = 0.0;
                let started = Instant::now();
                for _ in 0..repeats {
                    let prepared = model
                        .prepare(&batch, Location::List(""))
                        .map_err(|errors| format!("{errors:?}"))?;
                    let begun = Instant::now();
                    black_box(model.forward(black_box(&prepared))?);
                    computed += begun.elapsed().as_secs_f64();
                }
                let count = (repeats * rows) as f64;
                all.push(started.elapsed().as_secs_f64() / count);
                network.push(computed / count);
            }
        }
        let medians = times
            .into_iter()
            .map(|(all, network)| (median(all) * 1e6, median(network) * 1e6));
        let medians: Vec<_> = medians.collect();
        for (model, (all, network)) in models.iter().zip(&medians) {
            let (name, ratio) = (&model.manifest.name, medians[0].1 / network);
            println!("{name:<24}{rows:>8}{all:>14.3}{network:>14.3}{ratio:>14.3} × this");
        }
    }
    Ok(())
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
