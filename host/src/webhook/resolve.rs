//! Which addresses a webhook may reach: names are looked up here, and what they mean is checked before anything is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::WebhookPolicy;

/// Looks names up and leaves out the addresses that may not be called.
#[derive(Debug)]
pub(super) struct Guarded {
    names: DefaultResolver,
    /// Addresses that the operator allowed one by one.
    named: Vec<IpAddr>,
    private: bool,
}

impl Guarded {
    pub(super) fn new(policy: &WebhookPolicy) -> Self {
        let named = policy.hosts.iter().filter_map(|host| literal(host)).collect();
        Self { names: DefaultResolver::default(), named, private: policy.private }
    }

    fn may_call(&self, ip: IpAddr) -> bool {
        self.private || self.named.contains(&ip) || is_public(ip)
    }
}

impl Resolver for Guarded {
    fn resolve(
        &self,
        uri: &http::Uri,
        config: &ureq::config::Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.names.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in found.iter().filter(|a| self.may_call(a.ip())) {
            allowed.push(*address);
        }
        if allowed.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(allowed) }
    }
}

/// The address that a host of the policy is, if it is none of letters: `10.0.0.5:9000`, `[::1]:7`, `::1`.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse().ok();
    bare(host).or_else(|| bare(host.rsplit_once(':')?.0))
}

/// Whether an address is one of the whole internet (IANA's registries of special addresses leave out the others).
fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => {
            let s = ip.segments();
            match embedded_v4(ip) {
                Some(v4) => is_public_v4(v4),
                // Global unicast, without documentation (2001:db8::/32, 3fff::/20) and protocol assignments (2001::/23).
                None => {
                    s[0] & 0xe000 == 0x2000
                        && !(s[0] == 0x2001 && (s[1] < 0x200 || s[1] == 0xdb8))
                        && !(s[0] == 0x3fff && s[1] < 0x1000)
                }
            }
        }
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    let o = ip.octets();
    let special = ip.is_private()
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_broadcast()
        || ip.is_documentation()
        || ip.is_multicast()
        || o[0] == 0
        || o[0] >= 240
        // Shared by carriers (100.64/10), protocol assignments (192.0.0/24), relays (192.88.99/24), benchmarks (198.18/15).
        || (o[0] == 100 && o[1] & 0xc0 == 64)
        || (o[0] == 192 && o[1] == 0 && o[2] == 0)
        || (o[0] == 192 && o[1] == 88 && o[2] == 99)
        || (o[0] == 198 && o[1] & 0xfe == 18);
    !special
}

/// The IPv4 address inside a mapped (`::ffff:a.b.c.d`), translated (`64:ff9b::`) or 6to4 (`2002::`) one.
fn embedded_v4(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let s = ip.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match s {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for (text, public) in [
            ("93.184.216.34", true),
            ("1.1.1.1", true),
            ("127.0.0.1", false),
            ("10.1.2.3", false),
            ("172.31.255.255", false),
            ("172.32.0.1", true),
            ("192.168.0.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("255.255.255.255", false),
            ("198.19.0.1", false),
            ("2606:4700::1111", true),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("fd00::1", false),
            ("ff02::1", false),
            ("2001:db8::1", false),
            ("::ffff:127.0.0.1", false),
            ("::ffff:1.1.1.1", true),
            ("64:ff9b::a00:1", false),
            ("2002:7f00:1::", false),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }

    #[test]
    fn an_address_may_be_allowed_by_itself() {
        let policy = |hosts: &[&str], private| WebhookPolicy {
            hosts: hosts.iter().map(|h| (*h).to_owned()).collect(),
            private,
            ..WebhookPolicy::default()
        };
        let guard = Guarded::new(&policy(&["10.0.0.5:9000", "[::1]:7", "example.org:80"], false));
        for (ip, allowed) in [("10.0.0.5", true), ("::1", true), ("10.0.0.6", false), ("1.1.1.1", true)] {
            assert_eq!(guard.may_call(ip.parse().unwrap()), allowed, "{ip}");
        }
        assert!(Guarded::new(&policy(&["example.org"], true)).may_call("10.0.0.6".parse().unwrap()));
    }
}
