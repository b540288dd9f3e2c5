//! Decides whether a host in a URL is this host.

use std::net::IpAddr;

/// Whether `host`, a name or an address without brackets, is this host itself: `localhost` and the names below it (RFC
/// 6761, 6.3), in any case and with a closing dot or without, and the addresses that RFC 1122 and RFC 4291 keep for it.
/// An address counts only in its standard spelling: some parsers of URLs take `127.1`, `0x7f.1` and `2130706433` for
/// names, and ask DNS for them.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    is_localhost(host) || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether `name` is `localhost` or a name below it.
#[must_use]
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.strip_suffix(".localhost").is_some_and(|below| !below.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn localhost_has_many_names_and_few_addresses() {
        for host in [
            "localhost",
            "LocalHost",
            "localhost.",
            "data.localhost",
            "a.b.LOCALHOST.",
            "127.0.0.1",
            "127.8.8.8",
            "::1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ".",
            ".localhost",
            "localhost..",
            "evillocalhost",
            "localhost.evil",
            "127.1",
            "0x7f.1",
            "2130706433",
            "0177.0.0.1",
            "127.0.0.1.evil",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "10.0.0.1",
            "0.0.0.0",
            "::",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
