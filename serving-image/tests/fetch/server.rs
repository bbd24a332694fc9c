//! A small scripted HTTP server: whole answers, and all the ways to break off.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Ask {
    pub path: String,
    /// By lower-case names.
    pub headers: BTreeMap<String, String>,
}

/// How an answer is sent.
pub enum Body {
    /// As it should be.
    Whole(Vec<u8>),
    /// The connection ends after so many bytes.
    Cut(Vec<u8>, usize),
    /// After so many bytes, nothing comes, and the connection stays.
    Silent(Vec<u8>, usize),
    /// A byte every 20 ms.
    Trickle(Vec<u8>),
    /// Without a length, for ever.
    Endless,
}

pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: vec![],
            body: Body::Whole(vec![]),
        }
    }

    pub fn redirect(location: impl Into<String>) -> Self {
        Self::status(302).with("location", location)
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A file, or the part of it that is asked for.
    pub fn file(ask: &Ask, bytes: &[u8]) -> Self {
        let from = ask.headers.get("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse::<usize>()
                .ok()
        });
        match from {
            Some(from) if from < bytes.len() => Self {
                status: 206,
                headers: vec![],
                body: Body::Whole(bytes[from..].to_vec()),
            }
            .with(
                "content-range",
                format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()),
            ),
            Some(_) => Self::status(416),
            None => Self::sent(Body::Whole(bytes.to_vec())),
        }
    }

    pub fn sent(body: Body) -> Self {
        Self {
            status: 200,
            headers: vec![],
            body,
        }
    }
}

/// A server on an address of this machine that is not loopback, which no list of hosts can allow.
pub struct Server {
    pub address: SocketAddr,
    asks: Arc<Mutex<Vec<Ask>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Ask) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((own_address(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asks = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asks);
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                thread::spawn(move || serve(&stream, &*answer, &seen));
            }
        });
        Self { address, asks }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Every request until now.
    pub fn asks(&self) -> Vec<Ask> {
        self.asks.lock().unwrap().clone()
    }

    /// Requests until now whose path ends so.
    pub fn asks_for(&self, end: &str) -> Vec<Ask> {
        let mut asks = self.asks();
        asks.retain(|ask| ask.path.ends_with(end));
        asks
    }
}

/// This machine's address on the way out. A machine without any network cannot run these tests.
pub fn own_address() -> IpAddr {
    let probe = UdpSocket::bind("0.0.0.0:0").unwrap();
    probe
        .connect("198.51.100.1:9")
        .expect("this machine has no address but loopback");
    probe.local_addr().unwrap().ip()
}

fn serve(stream: &TcpStream, answer: &dyn Fn(&Ask) -> Reply, seen: &Mutex<Vec<Ask>>) {
    let mut reader = BufReader::new(stream);
    while let Some(ask) = read_ask(&mut reader) {
        seen.lock().unwrap().push(ask.clone());
        if send(stream, answer(&ask)).is_none() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_ask(reader: &mut BufReader<&TcpStream>) -> Option<Ask> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|it| it.parse().ok());
    std::io::copy(&mut reader.take(length.unwrap_or(0)), &mut std::io::sink()).ok()?;
    Some(Ask { path, headers })
}

/// Sends an answer; nothing if the connection is over.
fn send(mut stream: &TcpStream, reply: Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let length = match &reply.body {
        Body::Whole(bytes)
        | Body::Cut(bytes, _)
        | Body::Silent(bytes, _)
        | Body::Trickle(bytes) => Some(bytes.len()),
        Body::Endless => None,
    };
    let _ = match length {
        Some(length) => write!(head, "content-length: {length}\r\n\r\n"),
        None => write!(head, "connection: close\r\n\r\n"),
    };
    stream.write_all(head.as_bytes()).ok()?;
    match reply.body {
        Body::Whole(bytes) => stream.write_all(&bytes).ok(),
        Body::Cut(bytes, at) => {
            stream.write_all(&bytes[..at]).ok()?;
            None
        }
        Body::Silent(bytes, at) => {
            stream.write_all(&bytes[..at]).ok()?;
            // Until the client has had enough.
            let _ = stream.read(&mut [0]);
            None
        }
        Body::Trickle(bytes) => {
            for byte in bytes {
                stream.write_all(&[byte]).ok()?;
                thread::sleep(Duration::from_millis(20));
            }
            Some(())
        }
        Body::Endless => {
            while stream.write_all(&[b' '; 1 << 12]).is_ok() {}
            None
        }
    }
}
