//! Admits programs on this host that know the keys to the endpoint's own addresses, and refuses web pages in a browser.
//!
//! A browser on this host sends requests here for any page that it shows. Such a request has an `Origin` or a
//! `Sec-Fetch-Site` of another site. If a page's own name resolves to this host (DNS rebinding), its `Host` is that
//! name.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, ORIGIN};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, StatusCode};

use super::super::kms::signature::Credentials;

/// A refusal: the status of its answer and a sentence that says what to do.
pub(super) type Refusal = (StatusCode, &'static str);

/// Whether the request `head` from `peer` may use the addresses of an endpoint that listens on `port`.
pub(super) fn check(head: &Parts, peer: SocketAddr, port: u16, credentials: &Credentials) -> Result<(), Refusal> {
    let refuse = |text| Err((StatusCode::FORBIDDEN, text));
    if !peer.ip().to_canonical().is_loopback() {
        return refuse("The endpoint is administrated from its own host only.");
    }
    if !names_this_endpoint(head, port) {
        return refuse(
            "Ask for this address by the loopback's own name, such as 127.0.0.1 or localhost, and the endpoint's port.",
        );
    }
    if !is_from_no_other_page(&head.headers, port) {
        return refuse("Pages of other sites do not administrate the endpoint.");
    }
    if !is_authorized(&head.headers, credentials) {
        let text = "Give the endpoint's access key and secret as user and password (Authorization: Basic).";
        return Err((StatusCode::UNAUTHORIZED, text));
    }
    Ok(())
}

fn names_this_endpoint(head: &Parts, port: u16) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let in_target = head.uri.authority().is_none_or(|authority| is_own(authority.as_str(), port));
    in_target && host.to_str().is_ok_and(|host| is_own(host, port))
}

fn is_from_no_other_page(headers: &HeaderMap, port: u16) -> bool {
    let own_origin = |origin: &str| {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|host| is_own(host, port))
    };
    let origins = headers.get_all(ORIGIN).iter().all(|origin| origin.to_str().is_ok_and(own_origin));
    let sites = headers.get_all("sec-fetch-site").iter().all(|site| site == "same-origin" || site == "none");
    origins && sites
}

/// Whether `host` (with a port, unless that is the scheme's own) is this endpoint by a name that cannot be anything but
/// the loopback: `localhost` (RFC 6761, 6.3) or an address, not a name that some DNS server resolves to one.
fn is_own(host: &str, port: u16) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_loopback = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    let port_fits = match authority.port_u16() {
        Some(given) => given == port,
        None => authority.port().is_none() && matches!(port, 80 | 443),
    };
    is_loopback && port_fits && !host.contains('@')
}

fn is_authorized(headers: &HeaderMap, credentials: &Credentials) -> bool {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(given), None) = (given.next(), given.next()) else { return false };
    let Some(encoded) = given.to_str().ok().and_then(|text| text.strip_prefix("Basic ")) else { return false };
    let Ok(given) = base64_simd::STANDARD.decode_to_vec(encoded.trim()) else { return false };
    same(&given, format!("{}:{}", credentials.access_key, credentials.secret_key).as_bytes())
}

/// In a time that does not depend on where the two differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: u16 = 9090;
    /// `dssefs:dssefs-secret`.
    const BASIC: &str = "Basic ZHNzZWZzOmRzc2Vmcy1zZWNyZXQ=";

    fn status_of(peer: &str, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut request = http::Request::get(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let credentials = Credentials { access_key: "dssefs".into(), secret_key: "dssefs-secret".into() };
        check(&head, peer.parse().unwrap(), PORT, &credentials).map_or_else(|(status, _)| status.as_u16(), |()| 200)
    }

    fn status(headers: &[(&str, &str)]) -> u16 {
        status_of("127.0.0.1:50000", "/_dssefs/counters", headers)
    }

    #[test]
    fn who_knows_the_keys_on_this_host_may() {
        for host in ["127.0.0.1:9090", "localhost:9090", "LOCALHOST:9090", "[::1]:9090", "127.3.2.1:9090"] {
            assert_eq!(status(&[("host", host), ("authorization", BASIC)]), 200, "{host}");
        }
        let own = [("host", "localhost:9090"), ("authorization", BASIC), ("origin", "http://localhost:9090")];
        assert_eq!(status(&own), 200);
        assert_eq!(status(&[own[0], own[1], ("sec-fetch-site", "none")]), 200);
    }

    #[test]
    fn other_hosts_may_not() {
        let from = |peer| status_of(peer, "/_dssefs/counters", &[("host", "127.0.0.1:9090"), ("authorization", BASIC)]);
        assert_eq!((from("192.0.2.1:80"), from("[::ffff:127.0.0.1]:80")), (403, 200));
    }

    #[test]
    fn who_does_not_know_the_keys_may_not() {
        let host = ("host", "127.0.0.1:9090");
        assert_eq!(status(&[host]), 401);
        for wrong in [
            "",
            "Basic",
            "Basic !",
            "Basic ZHNzZWZzOg==",
            "Basic ZHNzZWZzOmRzc2Vmcy1zZWNyZXR4",
            "Bearer ZHNzZWZzOmRzc2Vmcy1zZWNyZXQ=",
        ] {
            assert_eq!(status(&[host, ("authorization", wrong)]), 401, "{wrong}");
        }
    }

    #[test]
    fn a_name_resolving_to_the_loopback_is_refused() {
        for host in [
            "evil.example:9090",
            "localhost.evil.example:9090",
            "127.0.0.1.nip.io:9090",
            "sub.localhost:9090",
            "localhost",
            "localhost:80",
            "127.0.0.1:9091",
            "localhost:9090@evil.example",
            "dssefs@localhost:9090",
            "0.0.0.0:9090",
            "192.0.2.1:9090",
            "2130706433:9090",
            "localhost:",
            "",
        ] {
            assert_eq!(status(&[("host", host), ("authorization", BASIC)]), 403, "{host}");
        }
        assert_eq!(status(&[("authorization", BASIC)]), 403);
        let twice = [("host", "localhost:9090"), ("host", "evil.example:9090"), ("authorization", BASIC)];
        assert_eq!(status(&twice), 403);
        let absolute = "http://evil.example:9090/_dssefs/counters";
        let headers = [("host", "localhost:9090"), ("authorization", BASIC)];
        assert_eq!(status_of("127.0.0.1:1", absolute, &headers), 403);
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let (host, key) = (("host", "localhost:9090"), ("authorization", BASIC));
        for origin in
            ["http://evil.example", "http://localhost:3000", "null", "http://localhost:9090.evil.example", "file://"]
        {
            assert_eq!(status(&[host, key, ("origin", origin)]), 403, "{origin}");
        }
        for site in ["cross-site", "same-site", ""] {
            assert_eq!(status(&[host, key, ("sec-fetch-site", site)]), 403, "{site}");
        }
    }
}
