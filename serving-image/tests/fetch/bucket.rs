//! From an S3 server (PyPI's moto), which checks signatures, and from what looks like the Hugging
//! Face Hub.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::{Reply, Server, own_address};
use crate::support::{Artefact, Outcome, Place, needs};
use testkit::free_port;

/// Where `scripts/install_moto.py` puts Python with moto.
fn python() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let moto = cache.or(home)?.join("serin/moto");
    let there = moto.join("complete").exists();
    needs(there, "moto (serving-image/scripts/install_moto.py)").then_some(moto.join("bin/python"))
}

struct Bucket {
    server: Child,
    endpoint: String,
    /// An access key and its secret, which may read.
    keys: (String, String),
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Bucket {
    /// A server with the artefact below `team/iris 1/` of the bucket `models`, and as `iris.tar`; a
    /// user who may read it; and from then on no other user.
    fn start(artefact: &Artefact, python: &PathBuf, place: &Place) -> Self {
        let site = place.path("publish");
        let publish = artefact
            .files
            .iter()
            .map(|(path, bytes)| (format!("team/iris 1/{path}"), bytes.clone()));
        for (path, bytes) in publish.chain([("iris.tar".to_owned(), artefact.tar(""))]) {
            let path = site.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let address = SocketAddr::new(own_address(), free_port());
        let endpoint = format!("http://{address}");
        let mut command = Command::new(python);
        command
            .args(["-m", "moto.server", "-H", &address.ip().to_string()])
            .args(["-p", &address.port().to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "1000")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = command.spawn().unwrap();
        let script = include_str!("bucket.py");
        let deadline = Instant::now() + Duration::from_mins(1);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "moto does not listen");
            std::thread::sleep(Duration::from_millis(100));
        }
        let mut bucket = Self {
            server,
            endpoint,
            keys: Default::default(),
        };
        let mut fill = Command::new(python);
        let made = fill
            .args(["-c", script, &bucket.endpoint])
            .arg(&site)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let said = String::from_utf8(made.stdout).unwrap();
        let (key, secret) = said.trim().split_once(' ').unwrap();
        bucket.keys = (key.to_owned(), secret.to_owned());
        bucket
    }

    fn fetch(&self, place: &Place, uri: &str, digest: &str, keys: Option<(&str, &str)>) -> Outcome {
        let mut command = place.command(uri, digest);
        command.args(["--s3-endpoint", &self.endpoint]);
        if let Some((key, secret)) = keys {
            command
                .env("AWS_ACCESS_KEY_ID", key)
                .env("AWS_SECRET_ACCESS_KEY", secret);
        }
        Outcome::of(command.output().unwrap())
    }
}

#[test]
fn a_bucket_is_read_by_signed_requests() {
    let Some(python) = python() else { return };
    let (artefact, place) = (Artefact::new(200_000), Place::new());
    let bucket = Bucket::start(&artefact, &python, &place);
    let keys = (bucket.keys.0.as_str(), bucket.keys.1.as_str());
    for uri in ["s3://models/team/iris 1", "s3://models/iris.tar"] {
        let place = Place::new();
        let outcome = bucket.fetch(&place, uri, &artefact.digest, Some(keys));
        outcome.succeeds();
        assert!(artefact.is_at(&place.directory()), "{uri}");
        assert!(!outcome.log.contains(keys.1));
    }
    let place = Place::new();
    let wrong = (keys.0, "wrong/secret");
    let uri = "s3://models/team/iris 1";
    bucket
        .fetch(&place, uri, &artefact.digest, Some(wrong))
        .fails(8, "SignatureDoesNotMatch");
    bucket
        .fetch(&place, uri, &artefact.digest, None)
        .fails(8, "Give credentials");
    bucket
        .fetch(&place, "s3://models/none", &artefact.digest, Some(keys))
        .fails(4, "NoSuchKey");
    assert!(!place.directory().exists());
}

/// No hub can be had here: our own server has its paths, its token, and its redirect to where large
/// files lie.
#[test]
fn a_hub_is_read_at_a_revision() {
    let artefact = Artefact::new(50_000);
    let storage = artefact.publish();
    let base = storage.url("/m/");
    let hub = Server::start(move |ask| {
        if ask.headers.get("authorization").map(String::as_str) != Some("Bearer hf_t0k3n") {
            return Reply::status(401);
        }
        match ask.path.strip_prefix("/team/iris/resolve/v1.0/serin/") {
            Some(path) => Reply::redirect(format!("{base}{path}")),
            None => Reply::status(404),
        }
    });
    let fetch = |uri: &str, place: &Place| {
        let mut command = place.command(uri, &artefact.digest);
        command
            .env("HF_ENDPOINT", hub.url(""))
            .env("HF_TOKEN", "hf_t0k3n");
        Outcome::of(command.output().unwrap())
    };
    let place = Place::new();
    fetch("hf://team/iris@v1.0/serin", &place).succeeds();
    assert!(artefact.is_at(&place.directory()));
    assert!(
        storage
            .asks()
            .iter()
            .all(|ask| !ask.headers.contains_key("authorization"))
    );
    fetch("hf://team/iris@main/serin", &Place::new()).fails(4, "404");
}
