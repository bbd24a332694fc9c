//! The bodies of the requests: from a file, from the server's contract, or from a model's golden
//! examples.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use serde_json::{Value, json};

use super::BenchError;
use super::args::BenchArgs;
use super::sample::sample;
use super::schedule::Random;
use super::target::Target;
use crate::artefact::Artefact;

/// Bodies that are made; they are sent in turn.
const MADE: usize = 256;

/// The bodies of all requests, and where they came from, in words.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    pub bodies: Arc<[Bytes]>,
    pub source: String,
}

impl Bodies {
    pub(super) async fn of(args: &BenchArgs, target: &Target) -> Result<Self, BenchError> {
        let (bodies, source) = if let Some(path) = &args.requests {
            (read(path)?, path.display().to_string())
        } else if let Some(directory) = &args.model_dir {
            let artefact = Artefact::open(directory, None)?;
            let golden = artefact.manifest.golden.into_iter();
            let instances: Vec<Value> = golden.map(|golden| golden.instance).collect();
            let source = format!("the golden examples in {}", directory.display());
            (from_instances(&instances, args.instances.get()), source)
        } else {
            let document = target.get_json("/openapi.json").await;
            let document = document.ok_or_else(|| {
                BenchError::Bodies("the server has no /openapi.json to make them from".into())
            })?;
            (
                from_contract(&document, &target.path, args),
                "/openapi.json".to_owned(),
            )
        };
        if bodies.is_empty() {
            let hint = "give some with --requests or --model-dir";
            return Err(BenchError::Bodies(format!("none is in {source}; {hint}")));
        }
        Ok(Self {
            source: format!("{} made from {source}", bodies.len()),
            bodies: bodies.into(),
        })
    }
}

fn read(path: &Path) -> Result<Vec<Bytes>, BenchError> {
    let wrong = |why: String| BenchError::Bodies(format!("{}: {why}", path.display()));
    let file = File::open(path).map_err(|error| wrong(error.to_string()))?;
    let mut bodies = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(|error| wrong(error.to_string()))?;
        if !line.trim().is_empty() {
            serde_json::from_str::<Value>(&line)
                .map_err(|_| wrong(format!("line {} is not JSON", number + 1)))?;
            bodies.push(line.into());
        }
    }
    Ok(bodies)
}

/// Each starts at another instance, so that not all are alike.
fn from_instances(instances: &[Value], length: usize) -> Vec<Bytes> {
    let body = |start: usize| {
        let chosen: Vec<&Value> = instances.iter().cycle().skip(start).take(length).collect();
        json!({"instances": chosen}).to_string().into()
    };
    (0..instances.len()).map(body).collect()
}

fn from_contract(document: &Value, path: &str, args: &BenchArgs) -> Vec<Bytes> {
    let path = path.split('?').next().unwrap_or(path);
    let content = &document["paths"][path]["post"]["requestBody"]["content"];
    let schema = &content["application/json"]["schema"];
    if schema.is_null() {
        return Vec::new();
    }
    let mut random = Random::new(args.seed);
    let length = args.instances.get();
    (0..MADE)
        .map(|_| {
            sample(schema, document, length, &mut random)
                .to_string()
                .into()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_take_the_instances_in_turn() {
        let bodies = from_instances(&[json!(1), json!(2), json!(3)], 4);
        let expected = ["1,2,3,1", "2,3,1,2", "3,1,2,3"];
        assert_eq!(
            bodies,
            expected.map(|list| format!("{{\"instances\":[{list}]}}"))
        );
        assert!(from_instances(&[], 4).is_empty());
    }
}
