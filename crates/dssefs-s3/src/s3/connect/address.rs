//! Decides which requests may go in the clear: by the host that a URL names for the HTTP client.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::escaping::shown;
use crate::object::is_loopback;

/// The addresses that give credentials to cloud machines and containers over plain http, as in the AWS SDKs: EC2's
/// instance metadata, ECS and EKS. Requests to them do not leave the machine's own link.
const METADATA: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023)),
];

/// An endpoint that the daemon would reach in the clear.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsecureEndpoint {
    /// The endpoint of the store or of KMS.
    #[error(
        "the endpoint {0} is plain http, and content would cross the network in the clear; use https, or \
         --allow-insecure-endpoint"
    )]
    Content(String),
    /// The endpoint of STS, SSO or another source of credentials. No option allows this.
    #[error(
        "the endpoint {0} is plain http, and credentials would cross the network in the clear; use https (see \
         AWS_ENDPOINT_URL, \
         AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL_SSO, AWS_EC2_METADATA_SERVICE_ENDPOINT, and the profile's endpoint_url)"
    )]
    Credentials(String),
}

/// What may go in the clear, in addition to requests that stay on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Nothing.
    Content,
    /// All content: an option allows it.
    AnyContent,
    /// Requests to the metadata addresses.
    Credentials,
}

/// The way of a request to its host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Straight to its host, whatever proxies there are.
    Direct,
    /// Over TLS, through the proxy for https where there is one.
    Tls,
    /// In the clear, through the proxy for http where there is one.
    Clear,
}

impl Rule {
    /// The way for a request to `url`.
    ///
    /// # Errors
    /// [`InsecureEndpoint`]: it would go in the clear and must not.
    pub(super) fn way(self, url: &str) -> Result<Way, InsecureEndpoint> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let host = host(rest);
        let stays = host.is_some_and(|host| is_loopback(host) || is_metadata(host));
        if scheme.eq_ignore_ascii_case("https") {
            return Ok(if stays { Way::Direct } else { Way::Tls });
        }
        let allowed = match self {
            Rule::Content => host.is_some_and(is_loopback),
            Rule::Credentials => stays,
            Rule::AnyContent => true,
        };
        match (scheme.eq_ignore_ascii_case("http") && allowed, self) {
            (true, _) => Ok(if stays { Way::Direct } else { Way::Clear }),
            (false, Rule::Credentials) => Err(InsecureEndpoint::Credentials(endpoint(url))),
            (false, _) => Err(InsecureEndpoint::Content(endpoint(url))),
        }
    }
}

/// Whether others cannot read what is sent to `url`: it is https, or this host itself.
pub(super) fn is_private(url: &str) -> bool {
    Rule::Content.way(url).is_ok()
}

/// `HOST[:PORT]` of a URL, without the user and password that may stand before it.
pub(super) fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    authority.rsplit('@').next().unwrap_or_default()
}

/// Whether a URL names a host, with or without a port. It may also have a user and a password.
pub(super) fn names_a_host(url: &str) -> bool {
    host(authority(url)).is_some()
}

/// The endpoint of a URL for messages.
fn endpoint(url: &str) -> String {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    shown(&format!("{scheme}://{}", authority(url)))
}

/// The host after `://`; an IPv6 address without its brackets. None if two parsers may see two hosts in the URL: it has
/// a user, a backslash, or escaped characters.
fn host(rest: &str) -> Option<&str> {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is_plain = |host: &str| host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let (host, after) = match authority.strip_prefix('[') {
        Some(v6) => v6.split_once(']').filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok())?,
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let is_host = authority.starts_with('[') || (!host.is_empty() && is_plain(host));
    let is_port = after.strip_prefix(':').map_or(after.is_empty(), |port| port.parse::<u16>().is_ok());
    (is_host && is_port).then_some(host)
}

fn is_metadata(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|address| METADATA.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA_URLS: [&str; 5] = [
        "http://169.254.169.254/latest/meta-data",
        "http://169.254.170.2/v2",
        "http://169.254.170.23:80/",
        "http://[fd00:ec2::254]/",
        "http://[fd00:ec2::23]/v1/credentials",
    ];

    #[test]
    fn plain_http_is_for_this_host_only() {
        for url in [
            "https://s3.eu-west-1.amazonaws.com",
            "HTTPS://minio.corp:9000/",
            "http://127.0.0.1:9000",
            "http://127.8.8.8",
            "HTTP://LOCALHOST:80/x",
            "http://localhost.:80/x",
            "http://data.localhost:9000/key?x=@evil",
            "http://[::1]:9000/",
        ] {
            assert!(is_private(url), "{url}");
        }
        for url in [
            "http://s3.amazonaws.com",
            "http://localhost.evil.com",
            "http://evillocalhost/",
            "http://127.0.0.1@evil.com/",
            "http://127.0.0.1:80@evil.com/",
            "http://evil.com\\@127.0.0.1/",
            "http://evil.com\\.localhost/",
            "http://evil.com/127.0.0.1",
            "http://evil.com#@127.0.0.1",
            "http://evil.com?.localhost",
            "http://evil%2ecom.localhost",
            "http://0x7f.1",
            "http://127.1",
            "http://2130706433",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://10.0.0.1",
            "http://[2001:db8::1]/",
            "http://[localhost]/",
            "http://127.0.0.1:99999/",
            "ftp://127.0.0.1/",
            "127.0.0.1:9000",
            "http://",
            "",
        ] {
            assert!(!is_private(url), "{url}");
        }
        assert!(METADATA_URLS.iter().all(|url| !is_private(url)), "content is nothing for metadata services");
    }

    #[test]
    fn credentials_come_in_the_clear_from_metadata_addresses_and_no_option_changes_that() {
        for url in METADATA_URLS {
            assert_eq!(Rule::Credentials.way(url), Ok(Way::Direct), "{url}");
        }
        assert_eq!(Rule::Credentials.way("http://127.0.0.1:8080/"), Ok(Way::Direct));
        assert_eq!(Rule::Credentials.way("https://sts.amazonaws.com/"), Ok(Way::Tls));
        for url in [
            "http://sts.corp/",
            "http://169.254.169.253/",
            "http://169.254.169.254@evil/",
            "http://169.254.169.254.evil/",
        ] {
            assert!(matches!(Rule::Credentials.way(url), Err(InsecureEndpoint::Credentials(_))), "{url}");
        }
    }

    #[test]
    fn what_stays_on_the_host_or_its_link_goes_past_every_proxy() {
        for url in ["https://localhost:9000/", "http://127.0.0.1/", "https://169.254.169.254/", "https://[::1]/"] {
            assert_eq!(Rule::AnyContent.way(url), Ok(Way::Direct), "{url}");
        }
        assert_eq!(Rule::AnyContent.way("http://store.corp/"), Ok(Way::Clear));
        assert_eq!(Rule::AnyContent.way("https://store.corp/"), Ok(Way::Tls));
        assert!(Rule::AnyContent.way("ftp://store.corp/").is_err());
    }

    #[test]
    fn a_refusal_shows_neither_passwords_nor_control_characters() {
        let shown = Rule::Content.way("http://user:secret@evil\u{1b}/x").unwrap_err().to_string();
        assert!(shown.contains("http://evil\\u{1b} ") && !shown.contains("secret"), "{shown}");
    }
}
