//! From a real registry (Debian's `docker-registry`), with and without a password; a service that
//! hands out tokens is played by our own server, which speaks that part of the protocol.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use serin_serve::artefact::Digest;
use tempfile::TempDir;

use crate::server::{Reply, Server, own_address};
use crate::support::{Artefact, Outcome, Place, needs};
use testkit::free_port;

const PROGRAM: &str = "/usr/bin/docker-registry";
/// `hunter2` as htpasswd writes it, by bcrypt with cost 5.
const HTPASSWD: &str = "ada:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";
/// "ada:hunter2"
const BASIC: &str = "Basic YWRhOmh1bnRlcjI=";

struct Registry {
    process: Child,
    address: SocketAddr,
    _data: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// Starts one, which asks for a password if `closed`; nothing where the package is not
    /// installed.
    fn start(closed: bool) -> Option<Self> {
        if !needs(Path::new(PROGRAM).exists(), "docker-registry (Debian)") {
            return None;
        }
        let data = tempfile::tempdir().unwrap();
        let address = SocketAddr::new(own_address(), free_port());
        let root = data.path().join("data");
        let mut config = json!({
            "version": 0.1,
            "log": {"accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": root}},
            "http": {"addr": address.to_string(), "secret": "test"},
        });
        if closed {
            let passwords = data.path().join("htpasswd");
            fs::write(&passwords, HTPASSWD).unwrap();
            config["auth"] = json!({"htpasswd": {"realm": "models", "path": passwords}});
        }
        let file = data.path().join("config.yml");
        fs::write(&file, config.to_string()).unwrap(); // JSON is YAML
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .arg(file)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Self {
            process: command.spawn().unwrap(),
            address,
            _data: data,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    /// One request: status, `location` and body.
    fn send(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {}\r\nauthorization: {BASIC}\r\ncontent-type: \
             {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut location = String::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("location") => {
                    value.clone_into(&mut location);
                }
                Some(_) => {}
                None => break,
            }
        }
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        (status, location, rest)
    }

    fn push_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let (status, location, _) =
            self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        assert_eq!(status, 202);
        let path = location.split_once("/v2/").unwrap().1;
        let path = format!("/v2/{path}&digest={digest}");
        let (status, _, said) = self.send("PUT", &path, "application/octet-stream", bytes);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&said));
        digest
    }

    /// Publishes layers of a media type, a title and content; gives the manifest's digest.
    fn push(&self, repository: &str, tag: &str, layers: &[(&str, &str, &[u8])]) -> Digest {
        let layer = |(kind, title, bytes): &(&str, &str, &[u8])| {
            let digest = self.push_blob(repository, bytes);
            json!({
                "mediaType": kind, "digest": digest.to_string(), "size": bytes.len(),
                "annotations": {"org.opencontainers.image.title": title},
            })
        };
        let config = self.push_blob(repository, b"{}");
        let layers: Vec<Value> = layers.iter().map(layer).collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json",
            "digest": config.to_string(), "size": 2},
        });
        let bytes = manifest.to_string().into_bytes();
        let (status, _, said) = self.send(
            "PUT",
            &format!("/v2/{repository}/manifests/{tag}"),
            kind,
            &bytes,
        );
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(&said));
        Digest::of(&bytes)
    }

    /// As `oras push REPOSITORY:TAG serin-model.json weights.bin …` does.
    fn push_files(&self, repository: &str, tag: &str, artefact: &Artefact) -> Digest {
        let files = artefact.files.iter();
        let layers: Vec<_> = files
            .map(|(path, bytes)| ("application/octet-stream", path.as_str(), bytes.as_slice()))
            .collect();
        self.push(repository, tag, &layers)
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_come_by_tag_and_by_digest() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    let artefact = Artefact::new(3_000_000);
    let manifest = registry.push_files("models/iris", "1.0.0", &artefact);
    for reference in [
        ":1.0.0".to_owned(),
        format!("@{manifest}"),
        format!(":1.0.0@{manifest}"),
    ] {
        let place = Place::new();
        let uri = format!("oci://{}/models/iris{reference}", registry.address);
        place.fetch(&uri, &artefact.digest).succeeds();
        assert!(artefact.is_at(&place.directory()), "{reference}");
        assert_eq!(place.names(), ["artefact"]);
    }
    let uri = |rest: &str| format!("oci://{}/{rest}", registry.address);
    let place = Place::new();
    place
        .fetch(&uri("models/iris:2"), &artefact.digest)
        .fails(4, "MANIFEST_UNKNOWN");
    place
        .fetch(&uri("models/none:1"), &artefact.digest)
        .fails(4, "404");
    let zeros = format!("sha256:{}", "0".repeat(64));
    place
        .fetch(&uri("models/iris:1.0.0"), &zeros)
        .fails(5, "digest mismatch");
    assert!(!place.directory().exists());
}

#[test]
fn a_cut_in_a_real_registrys_blob_is_gone_on_with() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    let artefact = Artefact::new(3_000_000);
    registry.push_files("iris", "1", &artefact);
    let place = Place::new();
    // What an earlier attempt left, as it leaves it.
    let hex = artefact.digest.trim_start_matches("sha256:");
    let staged = place.path(&format!(".artefact.fetching/staging/{hex}/files"));
    fs::create_dir_all(&staged).unwrap();
    fs::write(
        staged.join("weights.bin"),
        &artefact.file("weights.bin")[..2_500_000],
    )
    .unwrap();
    let outcome = place.fetch(
        &format!("oci://{}/iris:1", registry.address),
        &artefact.digest,
    );
    outcome.succeeds();
    assert!(artefact.is_at(&place.directory()));
    let line = outcome
        .log
        .lines()
        .find(|line| line.contains("fetched and verified"))
        .unwrap();
    let came = serde_json::from_str::<Value>(line).unwrap()["bytes"]
        .as_u64()
        .unwrap();
    assert!(
        came < 600_000,
        "{came} bytes came, although 2,500,000 were there"
    );
}

#[test]
fn a_folder_that_oras_packs_is_unpacked() {
    let Some(registry) = Registry::start(false) else {
        return;
    };
    let artefact = Artefact::new(200_000);
    let packed = gzip(&artefact.tar("iris/"));
    registry.push(
        "iris",
        "packed",
        &[(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "iris",
            &packed,
        )],
    );
    registry.push(
        "iris",
        "plain",
        &[(
            "application/vnd.oci.image.layer.v1.tar",
            "iris",
            &artefact.tar(""),
        )],
    );
    for tag in ["packed", "plain"] {
        let place = Place::new();
        place
            .fetch(
                &format!("oci://{}/iris:{tag}", registry.address),
                &artefact.digest,
            )
            .succeeds();
        assert!(artefact.is_at(&place.directory()), "{tag}");
    }
    registry.push(
        "iris",
        "zstd",
        &[("application/vnd.oci.image.layer.v1.tar+zstd", "iris", b"x")],
    );
    registry.push(
        "iris",
        "none",
        &[("application/octet-stream", "notes.txt", b"x")],
    );
    let place = Place::new();
    for (tag, words) in [
        ("zstd", "compressed by zstd"),
        ("none", "neither a file titled serin-model.json"),
    ] {
        place
            .fetch(
                &format!("oci://{}/iris:{tag}", registry.address),
                &artefact.digest,
            )
            .fails(5, words);
    }
}

/// A Secret as `kubectl create secret docker-registry` writes it.
fn secret(place: &Place, registry: &str, password: &str) -> std::path::PathBuf {
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("ada:{password}"));
    let directory = place.path("secret");
    fs::create_dir_all(&directory).unwrap();
    let config = json!({"auths": {registry: {"auth": auth}}});
    fs::write(directory.join(".dockerconfigjson"), config.to_string()).unwrap();
    directory
}

#[test]
fn a_registry_with_a_password_gets_it() {
    let Some(registry) = Registry::start(true) else {
        return;
    };
    let artefact = Artefact::new(10_000);
    registry.push_files("iris", "1", &artefact);
    let uri = format!("oci://{}/iris:1", registry.address);
    let place = Place::new();
    place
        .fetch(&uri, &artefact.digest)
        .fails(8, "Give credentials");
    let fetch = |password: &str| {
        let secret = secret(&place, &registry.address.to_string(), password);
        let mut command = place.command(&uri, &artefact.digest);
        Outcome::of(command.arg("--credentials").arg(secret).output().unwrap())
    };
    fetch("wrong").fails(8, "Check the credentials");
    let outcome = fetch("hunter2");
    outcome.succeeds();
    assert!(artefact.is_at(&place.directory()));
    assert!(!outcome.log.contains("hunter2"));
}

/// The token protocol, as Docker Hub and GitHub speak it: 401 with a challenge, a token for the
/// password, and blobs that lie elsewhere, where the token must not go.
#[test]
fn a_token_is_bought_and_stays_with_the_registry() {
    let artefact = Artefact::new(10_000);
    let storage = artefact.publish();
    let tokens = Server::start(|ask| {
        if ask.headers.get("authorization").map(String::as_str) != Some(BASIC) {
            return Reply::status(401);
        }
        let body = json!({"token": "t0k3n", "expires_in": 60}).to_string();
        Reply::file(ask, body.as_bytes())
    });
    let layers: Vec<Value> = artefact
        .files
        .iter()
        .map(|(path, bytes)| {
            json!({"mediaType": "application/octet-stream",
                "digest": Digest::of(bytes).to_string(), "size": bytes.len(),
                "annotations": {"org.opencontainers.image.title": path}})
        })
        .collect();
    let manifest = json!({"schemaVersion": 2, "layers": layers})
        .to_string()
        .into_bytes();
    let (realm, base, files) = (
        tokens.url("/token"),
        storage.url("/m/"),
        artefact.files.clone(),
    );
    let registry = Server::start(move |ask| {
        if ask.headers.get("authorization").map(String::as_str) != Some("Bearer t0k3n") {
            let challenge = format!(
                r#"Bearer realm="{realm}",service="registry",scope="repository:other:push""#
            );
            return Reply::status(401).with("www-authenticate", challenge);
        }
        if ask.path.contains("/manifests/") {
            return Reply::file(ask, &manifest);
        }
        let blob = files
            .iter()
            .find(|(_, bytes)| ask.path.ends_with(&Digest::of(bytes).to_string()));
        let name = blob
            .unwrap()
            .0
            .replace('%', "%25")
            .replace(' ', "%20")
            .replace('+', "%2B");
        Reply::redirect(format!("{base}{name}"))
    });
    let place = Place::new();
    let secret = secret(&place, &registry.address.to_string(), "hunter2");
    let uri = format!("oci://{}/team/iris:1", registry.address);
    let mut command = place.command(&uri, &artefact.digest);
    Outcome::of(command.arg("--credentials").arg(&secret).output().unwrap()).succeeds();
    assert!(artefact.is_at(&place.directory()));
    let asked = tokens.asks();
    assert_eq!(asked.len(), 1, "one token is enough");
    // Our own scope, whatever the registry says.
    assert_eq!(
        asked[0].path,
        "/token?service=registry&scope=repository%3Ateam%2Firis%3Apull"
    );
    assert!(
        storage
            .asks()
            .iter()
            .all(|ask| !ask.headers.contains_key("authorization"))
    );
}

/// The address of the token service comes from the registry: a way in, were it not checked.
#[test]
fn a_token_service_on_a_forbidden_address_is_not_asked() {
    for realm in [
        "http://127.0.0.1/token",
        "http://169.254.169.254/latest/api/token",
        "https://[fd00:ec2::254]/",
    ] {
        let server = Server::start(move |_| {
            Reply::status(401).with("www-authenticate", format!("Bearer realm=\"{realm}\""))
        });
        let place = Place::new();
        let uri = format!("oci://{}/iris:1", server.address);
        let outcome = place.fetch(&uri, &Artefact::new(1).digest);
        assert_eq!(outcome.code, Some(3), "{realm}: {}", outcome.log);
    }
}
