//! An artefact to publish, and a `fetch` process to bring it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::json;
use serin_serve::artefact::Digest;
use tempfile::TempDir;

use crate::server::{Ask, Reply, Server, own_address};

/// A published artefact: its files by path, the manifest among them.
#[derive(Clone)]
pub struct Artefact {
    pub files: BTreeMap<String, Vec<u8>>,
    pub digest: String,
}

impl Artefact {
    /// Three files: a small one, one in a folder with a name that addresses must encode, and `size`
    /// bytes of weights.
    pub fn new(size: usize) -> Self {
        let weights: Vec<u8> = (0..size as u32)
            .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        Self::of(&[
            ("weights.bin", weights),
            ("README.md", b"a model".to_vec()),
            ("deep/a file+100%.txt", b"named with care".to_vec()),
        ])
    }

    pub fn of(files: &[(&str, Vec<u8>)]) -> Self {
        let listed: Vec<_> = files
            .iter()
            .map(|(path, bytes)| {
                json!({"path": path, "size": bytes.len(),
                "sha256": Digest::of(bytes).hex()})
            })
            .collect();
        let manifest = json!({"schemaVersion": 1, "name": "m", "files": listed}).to_string();
        let digest = Digest::of(manifest.as_bytes()).to_string();
        let files = files
            .iter()
            .map(|(path, bytes)| ((*path).to_owned(), bytes.clone()));
        let manifest = ("serin-model.json".to_owned(), manifest.into_bytes());
        Self {
            files: files.chain([manifest]).collect(),
            digest,
        }
    }

    pub fn file(&self, path: &str) -> &[u8] {
        &self.files[path]
    }

    /// The answer to a request for one of its files below `/m/`.
    pub fn answer(&self, ask: &Ask) -> Reply {
        let path = ask.path.strip_prefix("/m/").unwrap_or_default();
        let path = path
            .replace("%20", " ")
            .replace("%2B", "+")
            .replace("%25", "%");
        match self.files.get(&path) {
            Some(bytes) => Reply::file(ask, bytes),
            None => Reply::status(404),
        }
    }

    /// A server that has it below `/m/`.
    pub fn publish(&self) -> Server {
        let artefact = self.clone();
        Server::start(move |ask| artefact.answer(ask))
    }

    /// An archive of its files, in `folder`.
    pub fn tar(&self, folder: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("{folder}{path}"), bytes.as_slice())
                .unwrap();
        }
        tar.into_inner().unwrap()
    }

    /// Whether `directory` holds exactly this.
    pub fn is_at(&self, directory: &Path) -> bool {
        let mut there = BTreeMap::new();
        collect(directory, directory, &mut there);
        there == self.files
    }
}

fn collect(root: &Path, directory: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, into);
        } else {
            let name = path
                .strip_prefix(root)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned();
            into.insert(name, fs::read(&path).unwrap());
        }
    }
}

/// A place to fetch to, with nothing in it at first.
pub struct Place {
    pub root: TempDir,
    flags: Vec<String>,
}

impl Place {
    pub fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            flags: Vec::new(),
        }
    }

    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// The directory that artefacts are fetched to.
    pub fn directory(&self) -> PathBuf {
        self.root.path().join("artefact")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A `fetch` without `--digest` where that is empty, which may speak to this machine without
    /// TLS, and has little patience.
    pub fn command(&self, uri: &str, digest: &str) -> Command {
        self.command_to(uri, digest, &self.directory())
    }

    pub fn command_to(&self, uri: &str, digest: &str, directory: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_serin-serve"));
        let hosts = format!("*,http://{0},{0}", own_address());
        command
            .env_clear()
            .stdin(Stdio::null())
            .arg("fetch")
            .arg(uri)
            .arg(directory)
            .args(
                (!digest.is_empty())
                    .then_some(["--digest", digest])
                    .into_iter()
                    .flatten(),
            )
            // By the environment, so that a test's own flags come before them.
            .env("SERIN_FETCH_ALLOW_HOSTS", &hosts)
            .env("SERIN_FETCH_RETRIES", "2")
            .env("SERIN_FETCH_STALL_TIMEOUT", "1s")
            .env("SERIN_FETCH_CONNECT_TIMEOUT", "2s")
            .args(&self.flags);
        command
    }

    pub fn fetch(&self, uri: &str, digest: &str) -> Outcome {
        Outcome::of(self.command(uri, digest).output().unwrap())
    }

    /// Names in the root, hidden ones included.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    /// The whole log.
    pub log: String,
}

impl Outcome {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            log: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// The last line: the error, where there was one.
    pub fn last(&self) -> &str {
        self.log.lines().last().unwrap_or_default()
    }

    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!(self.code, Some(0), "{}", self.log);
    }

    /// Ended with this code, and said this.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{}", self.log);
        assert!(
            self.last().contains(words),
            "expected {words:?} in: {}",
            self.last()
        );
    }
}

/// Whether a test can run; says so where it cannot, which is an error where `SERIN_REQUIRE_SOURCES`
/// is set.
pub fn needs(there: bool, what: &str) -> bool {
    let required = std::env::var_os("SERIN_REQUIRE_SOURCES").is_some();
    assert!(there || !required, "missing: {what}");
    if !there {
        println!("skipped: needs {what}");
    }
    there
}
