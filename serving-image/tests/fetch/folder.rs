//! From a plain HTTP server, or from this machine: a folder or an archive, verified.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::server::{Reply, Server, own_address};
use crate::support::{Artefact, Outcome, Place};
use testkit::certify;
use testkit::free_port;

#[test]
fn a_folder_is_fetched_file_by_file() {
    let artefact = Artefact::new(300_000);
    let server = artefact.publish();
    let place = Place::new();
    let outcome = place.fetch(&server.url("/m"), &artefact.digest);
    outcome.succeeds();
    assert!(artefact.is_at(&place.directory()));
    assert_eq!(place.names(), ["artefact"], "something was left behind");
    assert!(
        outcome.log.contains("fetched and verified"),
        "{}",
        outcome.log
    );

    // A second time, nothing is asked for.
    let before = server.asks().len();
    place
        .fetch(&server.url("/m/serin-model.json"), &artefact.digest)
        .succeeds();
    assert_eq!(server.asks().len(), before);

    // What was damaged since is fetched anew, and what does not belong there is gone.
    fs::write(place.directory().join("weights.bin"), "damaged").unwrap();
    fs::write(place.directory().join("unlisted"), "x").unwrap();
    place.fetch(&server.url("/m"), &artefact.digest).succeeds();
    assert!(artefact.is_at(&place.directory()));
}

#[test]
fn an_archive_is_unpacked_with_and_without_a_folder() {
    let artefact = Artefact::new(100_000);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        std::io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    };
    let (flat, foldered) = (artefact.tar(""), artefact.tar("iris/"));
    let (packed, digest) = (gzip(&foldered), artefact.digest.clone());
    let server = Server::start(move |ask| match ask.path.as_str() {
        "/flat.tar" => Reply::file(ask, &flat),
        "/foldered.tar" => Reply::file(ask, &foldered),
        "/packed.tar.gz" | "/packed.tgz" => Reply::file(ask, &packed),
        _ => Reply::status(404),
    });
    for name in ["flat.tar", "foldered.tar", "packed.tar.gz", "packed.tgz"] {
        let place = Place::new();
        place
            .fetch(&server.url(&format!("/{name}")), &digest)
            .succeeds();
        assert!(artefact.is_at(&place.directory()), "{name}");
        assert_eq!(place.names(), ["artefact"], "{name}");
    }
    Place::new()
        .fetch(&server.url("/absent.tar"), &digest)
        .fails(4, "404");
}

#[test]
fn what_is_not_the_artefact_is_never_put_in_place() {
    let artefact = Artefact::new(50_000);
    let digest = artefact.digest.clone();
    let zeros = format!("sha256:{}", "0".repeat(64));
    let changed = |path: &str, bytes: Option<&[u8]>| {
        let mut artefact = artefact.clone();
        artefact.files.remove(path);
        if let Some(bytes) = bytes {
            artefact.files.insert(path.to_owned(), bytes.to_vec());
        }
        artefact
    };
    let mut flipped = artefact.file("weights.bin").to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    let longer = [artefact.file("weights.bin"), b"more"].concat();
    for (published, digest, code, words) in [
        (artefact.clone(), &zeros, 5, "digest mismatch"),
        (
            changed("serin-model.json", Some(b"{}")),
            &digest,
            5,
            "digest mismatch",
        ),
        (changed("serin-model.json", None), &digest, 4, "404"),
        (
            changed("weights.bin", None),
            &digest,
            4,
            "weights.bin answers 404",
        ),
        (
            changed("weights.bin", Some(&flipped)),
            &digest,
            5,
            "sha256 mismatch: weights.bin",
        ),
        (
            changed("weights.bin", Some(&longer)),
            &digest,
            5,
            "size mismatch",
        ),
        (
            changed("weights.bin", Some(b"short")),
            &digest,
            5,
            "size mismatch",
        ),
    ] {
        let place = Place::new();
        place
            .fetch(&published.publish().url("/m"), digest)
            .fails(code, words);
        assert!(!place.directory().exists(), "{words}");

        let place = Place::new();
        let (tar, digest) = (published.tar(""), digest.clone());
        let server = Server::start(move |ask| Reply::file(ask, &tar));
        let outcome = place.fetch(&server.url("/m.tar"), &digest);
        assert_eq!(outcome.code, Some(5), "{words}: {}", outcome.log);
        assert!(!place.directory().exists(), "{words}");
    }
}

#[test]
fn what_is_larger_than_allowed_is_not_fetched() {
    let artefact = Artefact::new(50_000);
    let server = artefact.publish();
    let place = Place::new().with(&["--max-size", "10Ki"]);
    place
        .fetch(&server.url("/m"), &artefact.digest)
        .fails(3, "--max-size");
    assert!(server.asks_for("weights.bin").is_empty());
    let (tar, digest) = (artefact.tar(""), artefact.digest.clone());
    let server = Server::start(move |ask| Reply::file(ask, &tar));
    place
        .fetch(&server.url("/m.tar"), &digest)
        .fails(3, "--max-size");
    assert!(!place.directory().exists());
}

#[test]
fn a_directory_of_this_machine_only_where_that_is_allowed() {
    let artefact = Artefact::new(1000);
    let source = tempfile::tempdir().unwrap();
    for (path, bytes) in &artefact.files {
        let path = source.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let uri = format!("file://{}", source.path().display());
    Place::new()
        .fetch(&uri, &artefact.digest)
        .fails(3, "--allow-file");
    let place = Place::new().with(&["--allow-file"]);
    place.fetch(&uri, &artefact.digest).succeeds();
    assert!(artefact.is_at(&place.directory()));
}

#[test]
fn what_is_there_and_is_no_artefact_stays() {
    let artefact = Artefact::new(1000);
    let server = artefact.publish();
    let place = Place::new();
    fs::create_dir(place.directory()).unwrap();
    // An empty directory is as good as none.
    place.fetch(&server.url("/m"), &artefact.digest).succeeds();
    let place = Place::new();
    fs::create_dir(place.directory()).unwrap();
    fs::write(place.directory().join("thesis.tex"), "years of work").unwrap();
    place
        .fetch(&server.url("/m"), &artefact.digest)
        .fails(7, "is no artefact");
    assert!(place.directory().join("thesis.tex").exists());
}

/// Python's own server with a certificate of an authority that only the flag names.
struct Secure(Child);

impl Secure {
    fn start(place: &Place, artefact: &Artefact, port: u16) -> Self {
        let site = place.path("site/m");
        for (path, bytes) in &artefact.files {
            let path = site.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        let script = format!(
            "import http.server, os, ssl\nos.chdir('site')\n\
             server = http.server.ThreadingHTTPServer(('{}', {port}), \
             http.server.SimpleHTTPRequestHandler)\n\
             tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\ntls.load_cert_chain('../leaf.pem', \
             '../leaf.key')\n\
             server.socket = tls.wrap_socket(server.socket, \
             server_side=True)\nserver.serve_forever()",
            own_address()
        );
        let mut command = Command::new("python3");
        command.args(["-c", &script]).current_dir(place.root.path());
        Self(command.stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn tls_is_verified_and_further_authorities_can_be_named() {
    let (artefact, place) = (Artefact::new(100_000), Place::new());
    let address = own_address();
    certify(place.root.path(), address);
    let port = free_port();
    let _server = Secure::start(&place, &artefact, port);
    let uri = format!("https://{address}:{port}/m");
    let authority = place.path("ca.pem");
    let trusting = || {
        let mut command = place.command(&uri, &artefact.digest);
        Outcome::of(command.arg("--ca-file").arg(&authority).output().unwrap())
    };
    let mut outcome = trusting();
    for _ in 0..50 {
        if outcome.code == Some(0) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        outcome = trusting();
    }
    outcome.succeeds();
    assert!(artefact.is_at(&place.directory()));

    let other = Place::new().with(&["--retries", "0"]);
    other.fetch(&uri, &artefact.digest).fails(6, "certificate");
    assert!(!other.directory().exists());
    // The Secret can bring the authority, too.
    let secret = other.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::copy(&authority, secret.join("ca.crt")).unwrap();
    let mut command = other.command(&uri, &artefact.digest);
    Outcome::of(command.arg("--credentials").arg(&secret).output().unwrap()).succeeds();
}
