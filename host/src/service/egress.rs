//! Which addresses the service may send to. Everyone who may edit a connection may set its webhook: it must not reach into the
//! network around the service, such as the metadata of a cloud at 169.254.169.254.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::Url;

use crate::config::EgressRule;

/// How long a name server may take.
const LOOKUP_TIME: Duration = Duration::from_secs(10);

/// The resolved target of a request.
pub(super) struct Destination {
    /// The host of the address.
    pub host: String,
    /// Its checked addresses: the request connects to one of these, even if the name resolves to others later.
    pub addresses: Vec<SocketAddr>,
}

/// Why a request is not sent.
#[derive(Debug)]
pub(super) enum EgressError {
    /// The address is no http or https address with a host.
    NoHost,
    /// The name does not resolve now.
    Unresolved,
    /// An address that is not allowed.
    Refused(IpAddr),
}

impl fmt::Display for EgressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHost => f.write_str("its address is not an http or https address with a host"),
            Self::Unresolved => f.write_str("its host name cannot be resolved"),
            Self::Refused(address) => write!(
                f,
                "its host is at {address}, which is not a public address; `egress_allow` in [server] can allow it"
            ),
        }
    }
}

/// Resolves the host of an address, and keeps what may be reached.
///
/// # Errors
/// If it does not resolve, or only to addresses that are not allowed.
pub(super) async fn resolve(url: &Url, rules: &[EgressRule]) -> Result<Destination, EgressError> {
    let (Some(host), Some(port), true) =
        (url.host_str(), url.port_or_known_default(), matches!(url.scheme(), "http" | "https"))
    else {
        return Err(EgressError::NoHost);
    };
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let found: Vec<SocketAddr> = match literal {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => {
            let found = tokio::time::timeout(LOOKUP_TIME, tokio::net::lookup_host((host, port))).await;
            found.map_err(|_| EgressError::Unresolved)?.map_err(|_| EgressError::Unresolved)?.collect()
        }
    };
    let is_named = rules.iter().any(|rule| rule.names(host));
    let is_allowed = |address: IpAddr| {
        let address = address.to_canonical();
        is_named
            || is_public(address)
            || address.is_loopback()
            || rules.iter().any(|rule| rule.holds(address))
    };
    let Some(first) = found.first() else { return Err(EgressError::Unresolved) };
    let refused = EgressError::Refused(first.ip());
    let addresses: Vec<SocketAddr> = found.into_iter().filter(|found| is_allowed(found.ip())).collect();
    if addresses.is_empty() { Err(refused) } else { Ok(Destination { host: host.to_owned(), addresses }) }
}

/// Whether an address is one of the public internet.
/// <https://www.iana.org/assignments/iana-ipv4-special-registry>
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_unspecified()
        || a == 0
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        // Shared between providers and customers, protocol assignments, benchmarks, reserved.
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && b & 0xfe == 18)
        || a >= 240)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let [first, second, ..] = segments;
    let [.., high, low] = segments;
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    // Addresses that lead to one of IPv4: NAT64, 6to4.
    if (first, second) == (0x64, 0xff9b) {
        return embedded(high, low);
    }
    if first == 0x2002 {
        let [_, high, low, ..] = segments;
        return embedded(high, low);
    }
    // Global unicast, but for Teredo and documentation.
    first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0) && (first, second) != (0x2001, 0xdb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for public in
            ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::101:101", "2002:101:101::1"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        let others = [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.0.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "ff02::1",
            "64:ff9b::a9fe:a9fe",
            "2002:a00:1::1",
        ];
        for other in others {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    async fn check(url: &str, rules: &[&str]) -> bool {
        let rules: Vec<EgressRule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        match resolve(&url.parse().unwrap(), &rules).await {
            Ok(_) => true,
            Err(EgressError::Refused(_)) => false,
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[tokio::test]
    async fn addresses_in_disguise_are_refused() {
        assert!(check("http://127.0.0.1:8080/hook", &[]).await);
        assert!(check("http://localhost/hook", &[]).await);
        assert!(check("http://[::1]/hook", &[]).await);
        for url in [
            "http://169.254.169.254/latest/meta-data",
            "http://[::ffff:169.254.169.254]/",
            "http://2852039166/",
            "http://0xa9.0xfe.0xa9.0xfe/",
            "http://10.0.0.1/",
            "https://[fe80::1]/",
        ] {
            assert!(!check(url, &[]).await, "{url}");
        }
        assert!(check("http://10.0.0.1/", &["10.0.0.0/8"]).await);
        assert!(check("http://10.0.0.1/", &["10.0.0.1"]).await);
        assert!(!check("http://10.0.0.1/", &["10.0.1.0/24", "hooks.internal"]).await);
    }
}
