//! A server process, and an HTTP client that hides nothing: no retry, no pool of its own making.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{io, thread};

use serde_json::{Value, json};

/// Longer than anything here takes on a busy machine.
pub const TIMEOUT: Duration = Duration::from_mins(1);

/// The path of an example model.
pub fn iris(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/models/iris")
        .join(version)
}

/// A model of `tests/models/explained`.
pub fn explained(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/models/explained")
        .join(name)
}

/// A path below the project's cache, where a script lays out what the repository does not hold.
/// None where it is missing, unless it is promised (SERIN_REQUIRE_MODELS=1): then its absence is a
/// failure, not a skip.
pub fn cached(path: &str, script: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || Path::new(&std::env::var_os("HOME").unwrap()).join(".cache");
    let path = cache.unwrap_or_else(home).join("serin").join(path);
    if path.exists() {
        return Some(path);
    }
    let missing = format!("{} is missing; scripts/{script} fetches it", path.display());
    assert!(
        std::env::var_os("SERIN_REQUIRE_MODELS").is_none(),
        "{missing}"
    );
    println!("skipped: {missing}");
    None
}

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A valid request to an Iris model.
pub fn one_flower() -> Value {
    json!({"instances": [{"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4,
        "petal_width": 0.2}]})
}

/// A command of the binary under test, with nothing of the caller's environment that could steer
/// it.
pub fn serin_serve(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_serin-serve"));
    command.env_clear().args(args).stdin(Stdio::null());
    command
}

/// A running `serin-serve serve`; killed when dropped.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    log: Receiver<String>,
}

impl Server {
    /// Starts a server on a free port and waits until it is ready.
    pub fn start(model: &Path, args: &[&str]) -> Self {
        Self::start_in(model, args, &[])
    }

    /// The same, with these variables in its environment.
    pub fn start_in(model: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let server = Self::launch_in(model, args, environment);
        let deadline = Instant::now() + TIMEOUT;
        while server.get("/readyz").status != 200 {
            assert!(
                Instant::now() < deadline,
                "not ready: {:?}",
                server.log.try_iter().collect::<Vec<_>>()
            );
            thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// Starts a server on a free port and waits until it listens.
    pub fn launch(model: &Path, args: &[&str]) -> Self {
        Self::launch_in(model, args, &[])
    }

    fn launch_in(model: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut child = serin_serve(&["serve", "--address", "127.0.0.1:0", "--model-dir"])
            .arg(model)
            .args(args)
            .envs(environment.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap())
            .lines()
            .map_while(Result::ok);
        let (sender, log) = channel();
        let mut address = None;
        while address.is_none() {
            let line = lines.next().expect("the server ended before it listened");
            if let Ok(Value::Object(entry)) = serde_json::from_str(&line)
                && entry["message"] == "listening"
            {
                address = entry["address"]
                    .as_str()
                    .map(|address| address.parse().unwrap());
            }
            sender.send(line).unwrap();
        }
        thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
        Self {
            child,
            address: address.unwrap(),
            log,
        }
    }

    pub fn get(&self, path: &str) -> Response {
        Client::new(self.address)
            .send("GET", path, &[], b"")
            .unwrap()
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        Client::new(self.address).post(path, body).unwrap()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        let status = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for the end, and gives the exit status and the log's lines.
    pub fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + TIMEOUT;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "the server did not end");
            thread::sleep(Duration::from_millis(5));
        };
        let log = self.log.iter().collect(); // to the end: the other side closes with the process
        (status, log)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// One client, which keeps its connection as long as the server does.
pub struct Client {
    address: SocketAddr,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            connection: None,
        }
    }

    pub fn post(&mut self, path: &str, body: &Value) -> io::Result<Response> {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    /// Sends a request with a `content-length` and reads the answer.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let headers: String = headers
            .iter()
            .flat_map(|(name, value)| [*name, ": ", *value, "\r\n"])
            .collect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n{headers}\r\n"
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// Sends these bytes, and reads one answer.
    pub fn raw(&mut self, request: &[u8]) -> io::Result<Response> {
        let mut connection = if let Some(connection) = self.connection.take() {
            connection
        } else {
            let stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            BufReader::new(stream)
        };
        connection.get_mut().write_all(request)?;
        let response = read_response(&mut connection)?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }
}

fn read_response(connection: &mut impl BufRead) -> io::Result<Response> {
    let mut read_line = || -> io::Result<String> {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    };
    let status = read_line()?.split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = Vec::new();
    loop {
        let line = read_line()?;
        let Some((name, value)) = line.split_once(": ") else {
            break;
        };
        headers.push((name.to_owned(), value.to_owned()));
    }
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    let length = response.header("content-length").unwrap().parse().unwrap();
    response.body.resize(length, 0);
    connection.read_exact(&mut response.body)?;
    Ok(response)
}

/// The program whose path a script of `scripts` prints once it has installed `what`; none where
/// that cannot be.
pub fn installed(script: &str, what: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let output = Command::new("python3").arg(folder.join(script)).output();
    let output = output.ok()?;
    if output.status.success() {
        let path = String::from_utf8(output.stdout).unwrap();
        return Some(path.trim().into());
    }
    let reason = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        std::env::var_os("SERIN_REQUIRE_MODELS").is_none(),
        "cannot install {what}: {reason}"
    );
    println!("SKIPPED: cannot install {what}: {reason}");
    None
}

/// A model of `tests/models`.
pub fn small(name: &str) -> PathBuf {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    models.join(name)
}
