//! Sockets of a pod, which may have IPv4, IPv6 or both.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpListener;

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The system's answer.
    pub source: std::io::Error,
}

/// Listens on an address. `[::]` is every address of both families, or of IPv4 alone where the
/// kernel has no IPv6 or no socket that takes both.
///
/// # Errors
/// The system's answer, e.g. that the address is in use.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let takes_both = || {
        let only = std::fs::read_to_string("/proc/sys/net/ipv6/bindv6only");
        only.is_ok_and(|only| only.trim() == "0")
    };
    let bound = if address.ip() == Ipv6Addr::UNSPECIFIED && !takes_both() {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
    } else {
        TcpListener::bind(address).await
    };
    bound.map_err(|source| ListenError { address, source })
}
