//! The rule for endpoints: https, or http that does not leave this host.

use std::net::Ipv6Addr;

use dssefs_s3::object::is_loopback;

/// Why a URL cannot be an endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No scheme that can be spoken.
    #[error("{0:?} is not an endpoint; write https://HOST[:PORT]")]
    Scheme(String),
    /// No host, or more than scheme, host, port and path.
    #[error("{0:?} does not name a host; write https://HOST[:PORT], without user, query or fragment")]
    Host(String),
    /// Content would travel in the clear.
    #[error(
        "{0:?} would carry content in the clear; use https, \
         or --allow-insecure-endpoint when the network between is trusted"
    )]
    Insecure(String),
}

/// Checks the URL of an endpoint. Plain http is taken for loopback addresses, or when `insecure_allowed`.
///
/// # Errors
/// [`EndpointError`] says which rule is broken.
pub(super) fn check(url: &str, insecure_allowed: bool) -> Result<(), EndpointError> {
    let (secure, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        _ => return Err(EndpointError::Scheme(without_credentials(url))),
    };
    let host = host(rest).ok_or_else(|| EndpointError::Host(without_credentials(url)))?;
    if secure || insecure_allowed || is_loopback(host) { Ok(()) } else { Err(EndpointError::Insecure(url.to_owned())) }
}

/// The URL for messages and logs: what stands before the last `@` of its authority may be a password.
#[must_use]
pub fn without_credentials(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.rsplit_once('@') {
        Some((_, after)) => format!("{scheme}{separator}...@{after}"),
        None => url.to_owned(),
    }
}

/// The host of `HOST[:PORT][/PATH]`, an IPv6 address without its brackets.
fn host(rest: &str) -> Option<&str> {
    let authority = rest.split('/').next().unwrap_or_default();
    if rest.contains(['@', '?', '#']) || rest.contains(char::is_whitespace) {
        return None;
    }
    let (host, after, is_host) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(host, after)| (host, after, host.parse::<Ipv6Addr>().is_ok()))?,
        None => {
            let (host, after) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (host, after, !host.is_empty() && host.bytes().all(is_of_a_name))
        }
    };
    let port = after.strip_prefix(':').map_or(after.is_empty(), |port| port.parse::<u16>().is_ok());
    (port && is_host).then_some(host)
}

/// The characters of names of hosts, and the underscore that some have. With others, such as a backslash, two readers
/// of a URL may see two hosts in it.
fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_on_this_host_are_taken() {
        for url in [
            "https://s3.eu-west-1.amazonaws.com",
            "https://store.example:8443/base",
            "http://127.0.0.1:9000",
            "http://localhost",
            "http://bucket.localhost:1/",
            "http://LOCALHOST.:1",
            "http://[::1]:9000",
        ] {
            assert_eq!(check(url, false), Ok(()), "{url}");
        }
    }

    #[test]
    fn http_that_leaves_the_host_needs_a_word() {
        for url in [
            "http://10.0.0.1:9000",
            "http://localhost.example",
            "http://evillocalhost",
            "http://[2001:db8::1]",
            "http://[::ffff:127.0.0.1]",
            "http://127.0.0.1.example",
            "http://0x7f.1",
            "http://127.1",
            "http://2130706433",
        ] {
            assert_eq!(check(url, false), Err(EndpointError::Insecure(url.to_owned())), "{url}");
            assert_eq!(check(url, true), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for url in ["", "localhost:9000", "ftp://x", "HTTP//x"] {
            assert_eq!(check(url, true), Err(EndpointError::Scheme(without_credentials(url))), "{url}");
        }
        for url in ["http://elsewhere.example\\.localhost", "http://[localhost]", "https://a%2eb"] {
            assert_eq!(check(url, true), Err(EndpointError::Host(url.to_owned())), "{url}");
        }
        assert_eq!(check("https://u:secret@h", true), Err(EndpointError::Host("https://...@h".to_owned())));
        for url in [
            "https://",
            "https://:1",
            "https://h:x",
            "https://h:",
            "https://h:65536",
            "https://h?x",
            "http://[::1",
            "https://a b",
        ] {
            assert_eq!(check(url, true), Err(EndpointError::Host(url.to_owned())), "{url}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_in_no_message() {
        for url in ["https://user:secret@host/x", "user:secret@host", "ftp://a:secret@b:secret@host/", "http://secret@"]
        {
            assert!(!without_credentials(url).contains("secret"), "{url}");
            assert!(!check(url, true).unwrap_err().to_string().contains("secret"), "{url}");
        }
        assert_eq!(without_credentials("https://host:1/x"), "https://host:1/x");
    }
}
