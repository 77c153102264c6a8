//! Which addresses may be asked: a name on the internet must not lead into this network, and nothing leads to a cloud's
//! metadata service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is to this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    /// The internet.
    Public,
    /// This machine or its network.
    Private,
    /// Link-local addresses, metadata services of clouds, addresses of no single machine.
    Forbidden,
}

/// Metadata services that do not have a link-local address: Amazon's and Google's over IPv6, Alibaba's, Oracle's.
const METADATA: [IpAddr; 4] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
];
/// Ends of names that are given within one network.
const LOCAL_ENDS: [&str; 7] = [".localhost", ".local", ".internal", ".intranet", ".lan", ".home.arpa", ".svc.cluster.local"];

/// What an address is.
pub(super) fn reach(address: IpAddr) -> Reach {
    if METADATA.contains(&address) {
        return Reach::Forbidden;
    }
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let [first, second, ..] = address.octets();
    if address.is_link_local() || address.is_multicast() || first == 0 || first >= 240 {
        return Reach::Forbidden;
    }
    // 100.64/10 is shared address space: carriers, overlay networks.
    let shared = first == 100 && (64..128).contains(&second);
    let benchmark = first == 198 && (second == 18 || second == 19);
    if address.is_private() || address.is_loopback() || shared || benchmark { Reach::Private } else { Reach::Public }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let parts = address.segments();
    if let Some(inner) = inner_v4(address) {
        return reach(IpAddr::V4(inner));
    }
    if address.is_unspecified() || address.is_multicast() || parts[0] & 0xffc0 == 0xfe80 {
        return Reach::Forbidden;
    }
    let unique_local = parts[0] & 0xfe00 == 0xfc00;
    let site_local = parts[0] & 0xffc0 == 0xfec0;
    if address.is_loopback() || unique_local || site_local { Reach::Private } else { Reach::Public }
}

/// The IPv4 address that an IPv6 address stands for: mapped, compatible, 6to4, NAT64.
fn inner_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match parts {
        [0x2002, high, low, ..] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(v4(high, low)),
        _ => None,
    }
}

/// Whether a host that a user wrote means a machine of this network: an address, a bare name, or a local name.
pub(super) fn is_local_name(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    literal(&host).is_some() || !host.contains('.') || LOCAL_ENDS.iter().any(|end| host.ends_with(end))
}

/// The address that a host is, where it is one; IPv6 with or without brackets.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart_in_every_disguise() {
        for (address, wanted) in [
            ("8.8.8.8", Reach::Public),
            ("2606:4700::1", Reach::Public),
            ("127.0.0.1", Reach::Private),
            ("10.1.2.3", Reach::Private),
            ("172.31.0.1", Reach::Private),
            ("172.32.0.1", Reach::Public),
            ("192.168.1.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("::1", Reach::Private),
            ("fd12::1", Reach::Private),
            ("::ffff:10.0.0.1", Reach::Private),
            ("64:ff9b::7f00:1", Reach::Private),
            ("2002:7f00:1::", Reach::Private),
            ("169.254.169.254", Reach::Forbidden),
            ("::ffff:169.254.169.254", Reach::Forbidden),
            ("64:ff9b::a9fe:a9fe", Reach::Forbidden),
            ("fd00:ec2::254", Reach::Forbidden),
            ("100.100.100.200", Reach::Forbidden),
            ("0.0.0.0", Reach::Forbidden),
            ("::", Reach::Forbidden),
            ("fe80::1", Reach::Forbidden),
            ("224.0.0.1", Reach::Forbidden),
            ("255.255.255.255", Reach::Forbidden),
        ] {
            assert_eq!(reach(address.parse().unwrap()), wanted, "{address}");
        }
    }

    #[test]
    fn names_within_a_network_are_known_by_their_form() {
        for host in ["localhost", "minio", "10.0.0.1", "[::1]", "nas.local", "s3.corp.internal", "models.home.arpa", "a.localhost."] {
            assert!(is_local_name(host), "{host}");
        }
        for host in ["example.com", "localhost.example.com", "internal.example"] {
            assert!(!is_local_name(host), "{host}");
        }
    }
}
