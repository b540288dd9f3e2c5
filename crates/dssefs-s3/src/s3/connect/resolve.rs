//! Resolves names of hosts. `localhost` and the names below it are this host, without a question to DNS (RFC 6761,
//! 6.3).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};

use crate::escaping::shown;
use crate::object::is_localhost;

/// The system's resolver for all other names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resolver;

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("the name {name} cannot be resolved ({reason}); check it, and this host's DNS")]
pub(super) struct Unresolved {
    name: String,
    reason: String,
}

impl ResolveDns for Resolver {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        if is_localhost(name) {
            return DnsFuture::ready(Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]));
        }
        DnsFuture::new(async move {
            let failed =
                |error: io::Error| ResolveDnsError::new(Unresolved { name: shown(name), reason: error.to_string() });
            let found = tokio::net::lookup_host((name, 0)).await.map_err(failed)?;
            let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            if addresses.is_empty() {
                return Err(failed(io::Error::other("it has no address")));
            }
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn localhost_is_this_host_and_no_dns_is_asked() {
        for name in ["localhost", "LOCALHOST.", "bucket.localhost", "a.b.localhost"] {
            let found = Resolver.resolve_dns(name).await.unwrap();
            assert!(!found.is_empty() && found.iter().all(IpAddr::is_loopback), "{name}: {found:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_named() {
        let error = Resolver.resolve_dns("dssefs-test.invalid").await.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("the name dssefs-test.invalid cannot be resolved"), "{cause}");
    }
}
