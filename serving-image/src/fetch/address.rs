//! The addresses that may be connected to: the last defence against tenants that name internal
//! addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Anyone's.
    Public,
    /// The platform's own network: only where its list of hosts names the range.
    Private,
    /// Never, with the reason in words.
    Never(&'static str),
}

const METADATA: Reach = Reach::Never("a cloud's metadata service");
const LOOPBACK: Reach = Reach::Never("loopback");
const LINK_LOCAL: Reach = Reach::Never("link-local, where metadata services live");
const NOT_A_HOST: Reach = Reach::Never("no address of one host");

/// Metadata and host services that lie outside of the link-local ranges: AWS over IPv6, Google over
/// IPv6, Alibaba, Oracle, Azure.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];

/// Who `address` belongs to.
pub fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    if METADATA_V4.contains(&address) {
        return METADATA;
    }
    match address.octets() {
        [127, ..] => LOOPBACK,
        [169, 254, ..] => LINK_LOCAL,
        // "This network", multicast, reserved, broadcast.
        [0 | 224..=255, ..] => NOT_A_HOST,
        // RFC 1918, 6598 (carriers), 6890 (protocols), 2544 (benchmarks), 5737 (documentation).
        [10, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [192, 0, 0 | 2, _]
        | [198, 18 | 19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => Reach::Private,
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if METADATA_V6.contains(&address) {
        return METADATA;
    }
    if address.is_loopback() {
        return LOOPBACK;
    }
    if let Some(inner) = embedded_v4(address) {
        return reach_v4(inner);
    }
    match address.segments() {
        [0xfe80..=0xfebf, ..] => LINK_LOCAL,
        // RFC 4193, the deprecated site-local range, documentation (RFC 3849, 9637), RFC 8215's
        // local translation, Teredo (whose server forwards to any IPv4 address).
        [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..]
        | [0x2001, 0xdb8 | 0, ..]
        | [0x3fff, 0..=0x0fff, ..]
        | [0x64, 0xff9b, 1, ..] => Reach::Private,
        // Global unicast is 2000::/3; the rest is multicast, the unspecified address, or
        // unassigned.
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => NOT_A_HOST,
    }
}

/// The IPv4 address that a packet to an IPv6 address may end at: mapped, compatible, NAT64 (RFC
/// 6052), 6to4 (RFC 3056).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            Some(join(high, low))
        }
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(join(high, low)),
        [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_address_has_its_reach() {
        let never = |word: &'static str| {
            move |found: Reach| {
                matches!(found,
            Reach::Never(why) if why.contains(word))
            }
        };
        for (word, addresses) in [
            (
                "loopback",
                "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 \
                 2002:7f00:1::",
            ),
            (
                "link-local",
                "169.254.169.254 169.254.170.2 169.254.0.1 fe80::1 febf::1 ::ffff:169.254.169.254 \
                 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1",
            ),
            (
                "metadata",
                "fd00:ec2::254 fd20:ce::254 100.100.100.200 192.0.0.192 168.63.129.16",
            ),
            (
                "no address",
                "0.0.0.0 0.1.2.3 :: 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 ff02::1 \
                 ::ffff:0.0.0.0 4000::1 ::2",
            ),
        ] {
            for address in addresses.split(' ') {
                let found = reach(address.parse().unwrap());
                assert!(never(word)(found), "{address}: {found:?}");
            }
        }
        for (expected, addresses) in [
            (
                Reach::Private,
                "10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 100.64.0.1 198.18.0.1 192.0.2.1 \
                 203.0.113.9 fd00::1 fc00::1 fec0::1 2001:db8::1 2001::1 ::ffff:10.0.0.1 \
                 64:ff9b::a00:1 64:ff9b:1::1",
            ),
            (
                Reach::Public,
                "1.1.1.1 172.32.0.1 172.15.0.1 100.128.0.1 192.0.1.1 223.255.255.255 \
                 2606:4700::1111 2a00::1 ::ffff:8.8.8.8 64:ff9b::808:808",
            ),
        ] {
            for address in addresses.split(' ') {
                assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
