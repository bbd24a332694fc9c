//! `serin-serve healthcheck`: a container's health check without curl in the image.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longest wait for each of connecting, writing and reading.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Why the server is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// It cannot be asked.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// Where it was looked for.
        address: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// It answered, but not with 200.
    #[error("{address} answered: {answer}")]
    Refused {
        /// Where it was asked.
        address: SocketAddr,
        /// Its status line.
        answer: String,
    },
}

/// Asks `path` of the server that listens on `address`; a wildcard address is asked by loopback. An
/// error where it does not answer in time or answers another code than 200.
pub fn check(address: SocketAddr, path: &str) -> Result<(), Unhealthy> {
    let address = SocketAddr::new(loopback_of(address.ip()), address.port());
    let answer = ask(address, path).map_err(|source| Unhealthy::Unreachable { address, source })?;
    let line = answer.lines().next().unwrap_or_default().to_owned();
    if line.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(Unhealthy::Refused {
            address,
            answer: line,
        })
    }
}

fn ask(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )?;
    let mut head = [0; 256];
    let read = stream.read(&mut head)?;
    Ok(String::from_utf8_lossy(&head[..read]).into_owned())
}

fn loopback_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}
