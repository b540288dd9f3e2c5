//! A HEAD of an object, sent without the mount and without the SDK's model of the answer. The demo shows the headers as
//! they came over the wire.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningError, SigningSettings, sign};
use aws_sigv4::sign::v4::signing_params::{BuildError, Builder};

/// The asking account, the endpoint and the object.
pub(super) struct Request<'a> {
    pub(super) server: SocketAddr,
    pub(super) region: &'a str,
    pub(super) access_key: &'a str,
    pub(super) secret_key: &'a str,
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeadError {
    #[error("the request cannot be signed: {0}")]
    Parameters(#[from] BuildError),
    #[error("the request cannot be signed: {0}")]
    Signing(#[from] SigningError),
    #[error("the endpoint does not answer: {0}")]
    Network(#[from] io::Error),
}

const TIMEOUT: Duration = Duration::from_secs(10);
/// The headers of an answer take a fraction of this.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Sends the request; gives the status line and the headers as they came.
pub(super) fn send(request: &Request<'_>) -> Result<String, HeadError> {
    let path = format!("/{}/{}", request.bucket, request.key);
    let host = request.server.to_string();
    let mut lines = format!("HEAD {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n");
    for (name, value) in signature(request, &path, &host)? {
        lines.push_str(&format!("{name}: {value}\r\n"));
    }
    lines.push_str("\r\n");
    let mut stream = TcpStream::connect_timeout(&request.server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(lines.as_bytes())?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer.trim_end().replace('\r', ""))
}

/// The headers that SigV4 adds ("Authenticating Requests", S3 API reference).
fn signature(request: &Request<'_>, path: &str, host: &str) -> Result<Vec<(String, String)>, HeadError> {
    let identity = Credentials::new(request.access_key, request.secret_key, None, None, "demo").into();
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = aws_sigv4::http_request::PayloadChecksumKind::XAmzSha256;
    let parameters = Builder::default()
        .identity(&identity)
        .region(request.region)
        .name("s3")
        .time(SystemTime::now())
        .settings(settings)
        .build()?
        .into();
    let url = format!("http://{host}{path}");
    let signable = SignableRequest::new("HEAD", url, [("host", host)].into_iter(), SignableBody::Bytes(b""))?;
    let (instructions, _) = sign(signable, &parameters)?.into_parts();
    let (headers, _) = instructions.into_parts();
    Ok(headers.into_iter().map(|header| (header.name().to_owned(), header.value().to_owned())).collect())
}

/// The value of a header in an answer.
pub(super) fn value<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let pairs = answer.lines().filter_map(|line| line.split_once(": "));
    pairs.into_iter().find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_found_whatever_its_case() {
        let answer = "HTTP/1.1 200 OK\nETag: \"x\"\nX-Amz-Server-Side-Encryption: aws:kms:dsse";
        assert_eq!(value(answer, "x-amz-server-side-encryption"), Some("aws:kms:dsse"));
        assert_eq!(value(answer, "x-amz"), None);
    }
}
