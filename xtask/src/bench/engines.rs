//! `cargo xtask bench serve`: the serving image's engines beside those of others.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use cluster::{Layout, process, repository};

/// What is measured, how long, and on how many cores.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only these engines
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "rows,encoder,generation"
    )]
    only: Vec<Engine>,
    /// Times that each peer takes its turn; ten times as many for a single text
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// Threads of each peer [default: the CPUs this process may use]
    #[arg(long)]
    threads: Option<u32>,
    /// Beside sentence-transformers, too: `PyTorch` of `PyPI`, a download of 3 GB that takes 6
    #[arg(long)]
    torch: bool,
}

/// An engine, and its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Engine {
    /// A perceptron on rows of a table, beside ONNX Runtime
    Rows,
    /// `MiniLM`, beside ONNX Runtime
    Encoder,
    /// `SmolLM2` in GGUF, beside llama.cpp
    Generation,
}

/// Builds as the image is built, fetches the weights, and measures.
pub fn run(args: &Args) -> Result<()> {
    let examples = ["rows", "encode", "generate"].map(|example| ["--example", example]);
    let bench = Bench {
        serving: repository::root().join("serving-image"),
        programs: build(&examples.concat())?.join("examples"),
        args,
    };
    for engine in &args.only {
        match engine {
            Engine::Rows => bench.rows()?,
            Engine::Encoder => bench.encoder()?,
            Engine::Generation => bench.generation()?,
        }
    }
    Ok(())
}

/// Builds parts of the serving image with the image's flags, and says where they are.
pub fn build(parts: &[&str]) -> Result<PathBuf> {
    let repository = repository::root();
    // A folder of its own: other flags would have the whole workspace built anew.
    let target = repository.join("target/bench");
    let package = ["build", "--release", "--locked", "--package", "serin-serve"];
    let mut build = repository::cargo(&repository, &package);
    build
        .args(parts)
        .arg("--target-dir")
        .arg(&target)
        .env("RUSTFLAGS", "-C target-cpu=x86-64-v3");
    process::run_visibly(&mut build)?;
    Ok(target.join("release"))
}

struct Bench<'a> {
    serving: PathBuf,
    programs: PathBuf,
    args: &'a Args,
}

impl Bench<'_> {
    fn rows(&self) -> Result<()> {
        println!(
            "\nRows of a table: a perceptron with scikit-learn's weights, here and as a graph"
        );
        self.script("fetch_onnxruntime.py")?;
        let library = Layout::from_env()?.cached("onnxruntime/1.31.1/libonnxruntime.so.1.31.1");
        let tests = self.serving.join("tests");
        let models = tests.join("models");
        let mut measure = Command::new(self.programs.join("rows"));
        measure
            .env("ORT_DYLIB_PATH", library)
            .arg(tests.join("fixtures/cancer-mlp.json"))
            .arg(models.join("cancer-mlp"))
            .arg(models.join("cancer-mlp-graph"));
        process::run_visibly(&mut measure)
    }

    fn encoder(&self) -> Result<()> {
        println!("\nTexts: MiniLM, from text to vector");
        self.script("fetch_minilm.py")?;
        let mut measure = self.beside("bench_encoders.py", "encode");
        if self.args.torch {
            measure.arg("--torch");
        }
        process::run_visibly(&mut measure)
    }

    fn generation(&self) -> Result<()> {
        println!("\nGenerated text: SmolLM2-135M-Instruct in 4 bits (Q4_1), one at a time");
        self.script("fetch_smollm2.py")?;
        process::run_visibly(&mut self.beside("bench_generation.py", "generate"))
    }

    fn script(&self, name: &str) -> Result<()> {
        process::run_visibly(Command::new("python3").arg(self.serving.join("scripts").join(name)))
    }

    /// A script that measures one of the programs beside its peers.
    fn beside(&self, script: &str, program: &str) -> Command {
        let mut measure = Command::new("python3");
        measure
            .arg(self.serving.join("scripts").join(script))
            .arg("--serin")
            .arg(self.programs.join(program))
            .args(["--rounds", &self.args.rounds.to_string()]);
        if let Some(threads) = self.args.threads {
            measure.args(["--threads", &threads.to_string()]);
        }
        measure
    }
}
