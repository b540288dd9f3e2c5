//! The HTTP side of the endpoint: connections, TLS, the router, the injection of faults, the counting of bodies.
//!
//! What it does: one port for S3, KMS and the endpoint's own addresses, HTTP/1.1, plain or with a certificate of its
//! own. What it does not do: know what an object or a key is; that is the work of the S3 and KMS sides.

mod admin;
mod answer;
mod body;
mod certificate;
mod connection;
mod guard;
mod inject_faults;
mod login;
mod peer;
mod raw_headers;
mod router;
mod state;

#[cfg(test)]
mod end_to_end;

pub use certificate::CertificateError;

pub(super) use certificate::Certificate;
pub(super) use connection::serve;
pub(super) use router::Router;
