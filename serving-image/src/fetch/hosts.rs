//! The platform's list of hosts: allowed names, their protocols, and allowed private addresses.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::address::{Reach, reach};
use super::error::FetchError;

/// The hosts that may be connected to.
///
/// | entry | allows |
/// |---|---|
/// | `ghcr.io`, `ghcr.io:8443` | this host, over TLS; with a port, on that port alone |
/// | `*.example.com` | every host below `example.com`, over TLS |
/// | `*` | every host, over TLS |
/// | `http://registry.models.svc:5000` | this host (or `*.SUFFIX`, or an address) without TLS too |
/// | `10.96.0.0/12`, `10.0.0.7` | private addresses, by themselves or behind an allowed name |
///
/// A private address is refused unless a range or address of the list holds it, whatever its name.
/// Loopback, link-local and metadata addresses are refused whatever the list says.
#[derive(Debug, Clone, Default)]
pub struct HostList(Vec<Entry>);

/// One entry of a [`HostList`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pattern: Pattern,
    port: Option<u16>,
    /// Without TLS.
    plain: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Any,
    Exact(String),
    /// With its leading dot.
    Below(String),
    Network(IpAddr, u8),
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || {
            format!(
                "{text:?}: expected HOST[:PORT], *.SUFFIX, *, a CIDR such as 10.0.0.0/8, or \
                 http://HOST[:PORT] for a host without TLS"
            )
        };
        let (rest, plain) = match text.strip_prefix("http://") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if let Some((network, bits)) = rest.split_once('/') {
            let network: IpAddr = network.parse().map_err(|_| expected())?;
            let bits: u8 = bits.parse().map_err(|_| expected())?;
            if bits > width(network) {
                return Err(expected());
            }
            let pattern = Pattern::Network(network, bits);
            return Ok(Self {
                pattern,
                port: None,
                plain,
            });
        }
        let (host, port) = match rest.rsplit_once(':') {
            // Not an IPv6 address without brackets, which is full of colons.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| expected())?))
            }
            _ => (rest, None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let pattern = if let Ok(address) = bare.parse::<IpAddr>() {
            Pattern::Network(address, width(address))
        } else if host == "*" {
            Pattern::Any
        } else if let Some(suffix) = host.strip_prefix('*') {
            let name = suffix.strip_prefix('.').filter(|name| is_host_name(name));
            Pattern::Below(format!(".{}", name.ok_or_else(expected)?).to_ascii_lowercase())
        } else if is_host_name(host) {
            Pattern::Exact(host.to_ascii_lowercase())
        } else {
            return Err(expected());
        };
        // One word must not open every host to eavesdroppers.
        if plain && pattern == Pattern::Any {
            return Err(expected());
        }
        Ok(Self {
            pattern,
            port,
            plain,
        })
    }
}

fn is_host_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.len() <= 253
        && name
            .split('.')
            .all(|label| !label.is_empty() && label.bytes().all(letter))
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let shared = match (network, address.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros()
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            (network.to_bits() ^ address.to_bits()).leading_zeros()
        }
        _ => return false,
    };
    shared >= u32::from(bits)
}

/// The host of an address, as names are compared: in lower case, without brackets and without a
/// trailing dot.
fn host_of(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.strip_suffix('.').unwrap_or(host)
}

impl Entry {
    fn names(&self, host: &str, port: Option<u16>) -> bool {
        if self.port.is_some() && self.port != port {
            return false;
        }
        match &self.pattern {
            Pattern::Any => true,
            Pattern::Exact(name) => name == host,
            Pattern::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Pattern::Network(network, bits) => host
                .parse()
                .is_ok_and(|address| contains(*network, *bits, address)),
        }
    }
}

impl FromIterator<Entry> for HostList {
    fn from_iter<T: IntoIterator<Item = Entry>>(entries: T) -> Self {
        Self(entries.into_iter().collect())
    }
}

impl HostList {
    /// Whether a host is spoken to without TLS: only where the list says so.
    pub fn is_plain(&self, host: &str, port: Option<u16>) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        self.0
            .iter()
            .any(|entry| entry.plain && entry.names(host, port))
    }

    /// Refuses an address whose protocol or host is not allowed. An address of numbers is checked
    /// as a resolved one is. The error names what has to be allowed.
    pub fn check_url(&self, url: &Url) -> Result<(), FetchError> {
        let host = host_of(url);
        let port = url.port_or_known_default();
        let named = self.0.iter().any(|entry| entry.names(host, port));
        let shown = Origin(url);
        match url.scheme() {
            "https" => {}
            "http" if self.is_plain(host, port) => {}
            "http" => {
                return Err(FetchError::Refused(format!(
                    "{shown} is without TLS. Use https, or let the platform list the host as \
                     http://{host} (--allow-host)"
                )));
            }
            other => {
                return Err(FetchError::Refused(format!(
                    "{other}:// cannot be fetched; expected https"
                )));
            }
        }
        if let Ok(address) = host.parse() {
            // The connector takes numbers as they are, past the resolver.
            self.check_addresses(host, vec![SocketAddr::new(address, 0)])?;
        }
        if !named {
            return Err(FetchError::Refused(format!(
                "the host of {shown} is not on the platform's list. Add {host} to it (--allow-host)"
            )));
        }
        Ok(())
    }

    /// Of the addresses that a name has, those that may be connected to; an error if there is none,
    /// or if one is of the kind that no honest name has.
    pub fn check_addresses(
        &self,
        host: &str,
        addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>, FetchError> {
        let mut private = None;
        let mut allowed = Vec::with_capacity(addresses.len());
        for address in addresses {
            match reach(address.ip()) {
                Reach::Public => allowed.push(address),
                Reach::Private if self.holds(address.ip()) => allowed.push(address),
                Reach::Private => private = Some(address.ip()),
                Reach::Never(why) => {
                    return Err(FetchError::Refused(format!(
                        "{host} is {}, which is {why}; no list can allow it. Name another host",
                        address.ip()
                    )));
                }
            }
        }
        match (allowed.is_empty(), private) {
            (false, _) => Ok(allowed),
            (true, Some(address)) => Err(FetchError::Refused(format!(
                "{host} is {address}, a private address that is not on the platform's list. Add \
                 {address} or its range to it (--allow-host)"
            ))),
            (true, None) => Err(FetchError::network(format!("{host} has no address"))),
        }
    }

    /// Whether a range or address of the list holds a private address.
    fn holds(&self, address: IpAddr) -> bool {
        self.0.iter().any(|entry| {
            matches!(entry.pattern, Pattern::Network(network, bits) if contains(network, bits,
                address))
        })
    }
}

/// Protocol, host and port of an address, for messages. Paths and queries may hold
/// secrets (signed addresses).
pub(super) struct Origin<'a>(pub &'a Url);

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.0.host_str().unwrap_or_default();
        write!(f, "{}://{host}", self.0.scheme())?;
        self.0.port().map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Resolves names, and hands out only addresses that were checked: the connection goes to the very
/// address that was looked at, so a name that changes its mind between look and use (DNS rebinding)
/// gains nothing.
pub(super) struct GuardedResolver<L> {
    pub hosts: HostList,
    pub lookup: L,
}

/// The system's own resolution.
pub(super) async fn system_lookup(host: String) -> std::io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.collect())
}

impl<L, F> Resolve for GuardedResolver<L>
where
    L: Fn(String) -> F + Send + Sync,
    F: Future<Output = std::io::Result<Vec<SocketAddr>>> + Send + 'static,
{
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let hosts = self.hosts.clone();
        let found = (self.lookup)(host.clone());
        Box::pin(async move {
            let found = found.await.map_err(|error| {
                FetchError::network(format!("the name {host} cannot be resolved: {error}"))
            })?;
            let allowed = hosts.check_addresses(&host, found)?;
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn list(entries: &str) -> HostList {
        let entries = entries.split_whitespace().map(str::parse::<Entry>);
        entries.map(Result::unwrap).collect()
    }

    fn check(list: &HostList, url: &str) -> Result<(), FetchError> {
        list.check_url(&Url::parse(url).unwrap())
    }

    #[test]
    fn entries_are_what_the_table_says() {
        for wrong in [
            "",
            "http://*",
            "http://",
            "*x",
            "*.",
            "a b",
            "host:x",
            "10.0.0.0/33",
            "10.0.0/8",
            "::/129",
            "https://h",
            "h/path",
            "http://h/",
            "-*",
            "a..b",
        ] {
            assert!(wrong.parse::<Entry>().is_err(), "{wrong}");
        }
        let hosts = list(
            "ghcr.io *.hf.co r.example.com:8443 http://registry.models.svc:5000 10.96.0.0/12 \
             fd00:1::/64",
        );
        for (allowed, url) in [
            (true, "https://ghcr.io/v2/"),
            (true, "https://GHCR.io./v2/"),
            (true, "https://ghcr.io:8443/v2/"),
            (false, "http://ghcr.io/v2/"),
            (false, "https://ghcr.io.evil.example/"),
            (false, "https://evilghcr.io/"),
            (true, "https://cdn-lfs.hf.co/x"),
            (false, "https://hf.co/x"),
            (false, "https://evilhf.co/x"),
            (true, "https://r.example.com:8443/"),
            (false, "https://r.example.com/"),
            (true, "http://registry.models.svc:5000/v2/"),
            (true, "https://registry.models.svc:5000/v2/"),
            (false, "http://registry.models.svc/v2/"),
            (true, "https://10.96.0.7/"),
            (true, "https://[fd00:1::7]/"),
            (true, "https://[::ffff:10.96.0.7]/"),
            (false, "http://10.96.0.7/"),
            (false, "https://10.112.0.1/"),
            (false, "https://[fd00:2::7]/"),
            (false, "https://1.1.1.1/"),
            (false, "ftp://ghcr.io/x"),
        ] {
            assert_eq!(check(&hosts, url).is_ok(), allowed, "{url}");
        }
        assert!(check(&list("*"), "https://1.1.1.1/").is_ok());
        assert!(check(&list("http://10.0.0.0/8"), "http://10.1.2.3:5000/").is_ok());
        assert!(check(&HostList::default(), "https://ghcr.io/").is_err());
    }

    /// Whatever the list says, and however the address is written.
    #[test]
    fn some_addresses_are_refused_whatever_the_list_says() {
        let everything = list(
            "* 0.0.0.0/0 ::/0 http://0.0.0.0/0 http://127.0.0.1 127.0.0.1 169.254.169.254 \
             fd00:ec2::254 [::1]:80",
        );
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0177.0.0.1/",
            "https://127.255.255.254/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "http://0.0.0.0/",
            "http://0/",
            "https://[::]/",
            "http://169.254.169.254/latest/meta-data/",
            "http://2852039166/",
            "http://0xa9fea9fe/",
            "https://[::ffff:169.254.169.254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://169.254.170.2/",
            "https://[fd00:ec2::254]/",
            "https://[fd20:ce::254]/",
            "https://[fe80::1]/",
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://224.0.0.1/",
            "https://255.255.255.255/",
            "https://[ff02::1]/",
        ] {
            let refused = check(&everything, url).unwrap_err();
            assert_eq!(refused.exit_code(), 3, "{url}: {refused}");
            assert!(
                refused.to_string().contains("no list can allow it"),
                "{url}: {refused}"
            );
        }
    }

    #[test]
    fn what_a_name_resolves_to_is_judged_address_by_address() {
        let hosts = list("* 10.0.0.0/8");
        let check = |addresses: &str| {
            let addresses = addresses
                .split(' ')
                .map(|it| SocketAddr::new(it.parse().unwrap(), 0));
            hosts.check_addresses("h.example", addresses.collect())
        };
        assert_eq!(check("1.1.1.1 2606:4700::1111").unwrap().len(), 2);
        assert_eq!(check("10.1.2.3").unwrap().len(), 1);
        // Of two networks, the one that is listed is used.
        assert_eq!(
            check("fd00::1 10.1.2.3").unwrap(),
            [SocketAddr::new("10.1.2.3".parse().unwrap(), 0)]
        );
        for (addresses, word) in [
            (
                "192.168.1.1",
                "a private address that is not on the platform's list",
            ),
            (
                "fd00::1",
                "a private address that is not on the platform's list",
            ),
            ("127.0.0.1", "loopback"),
            ("1.1.1.1 127.0.0.1", "loopback"),
            ("10.1.2.3 169.254.169.254", "link-local"),
            ("::ffff:192.168.1.1", "a private address"),
        ] {
            let refused = check(addresses).unwrap_err();
            assert_eq!(refused.exit_code(), 3, "{addresses}");
            assert!(refused.to_string().contains(word), "{addresses}: {refused}");
        }
        assert_eq!(
            hosts
                .check_addresses("h.example", vec![])
                .unwrap_err()
                .exit_code(),
            6
        );
    }
}
