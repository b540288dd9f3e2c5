//! The certificate of `--tls`: made once for the names of this host's loopback, kept in the data directory.
//!
//! It signs itself and is no authority, so trusting it trusts nothing else.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};
use tokio_rustls::TlsAcceptor;

/// The names that the certificate holds for. TLS libraries accept no wildcard directly under a top-level domain,
/// so there is `*.s3.localhost` in addition to `*.localhost`.
const NAMES: [&str; 5] = ["localhost", "*.localhost", "*.s3.localhost", "127.0.0.1", "::1"];

const VALIDITY: Duration = Duration::days(3_650);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The disk refused.
    #[error("The certificate at {} cannot be read or written.", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be generated.
    #[error("The certificate cannot be made.")]
    Make(#[from] rcgen::Error),
    /// The files exist, but are not PEM.
    #[error("{} holds no PEM; remove it, and a new certificate is made.", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// The files exist, but do not belong together.
    #[error(
        "The certificate and its key in {} cannot be used; remove both, and the endpoint makes new ones.",
        directory.display()
    )]
    Unusable {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with them.
        source: rustls::Error,
    },
}

/// A certificate ready to serve.
pub(crate) struct Certificate {
    pem: String,
    acceptor: TlsAcceptor,
}

impl Certificate {
    /// Loads `certificate.pem` and `certificate-key.pem` from `directory`, or makes them when one of them is missing.
    pub(crate) fn open(directory: &Path) -> Result<Certificate, CertificateError> {
        let (certificate, key) = (directory.join("certificate.pem"), directory.join("certificate-key.pem"));
        if !(certificate.exists() && key.exists()) {
            make(&certificate, &key)?;
        }
        let pem = read(&certificate)?;
        let acceptor = acceptor(directory, &certificate, &pem, &key)?;
        Ok(Certificate { pem, acceptor })
    }

    /// The certificate in PEM, and the TLS acceptor with it.
    pub(crate) fn into_parts(self) -> (String, TlsAcceptor) {
        (self.pem, self.acceptor)
    }
}

fn make(certificate: &Path, key: &Path) -> Result<(), CertificateError> {
    let mut parameters = CertificateParams::new(NAMES.map(str::to_owned))?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "dssefs serve");
    // A day early, for clients whose clock is behind.
    parameters.not_before = OffsetDateTime::now_utc() - Duration::DAY;
    parameters.not_after = OffsetDateTime::now_utc() + VALIDITY;
    let pair = KeyPair::generate()?;
    let signed = parameters.self_signed(&pair)?;
    write(key, &pair.serialize_pem())?;
    write(certificate, &signed.pem())
}

/// A whole file or none, readable by its owner only: a rename puts it in place.
fn write(path: &Path, text: &str) -> Result<(), CertificateError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let attempt = || -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    attempt().map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

fn read(path: &Path) -> Result<String, CertificateError> {
    fs::read_to_string(path).map_err(|source| CertificateError::File { path: path.to_owned(), source })
}

fn acceptor(directory: &Path, certificate: &Path, pem: &str, key: &Path) -> Result<TlsAcceptor, CertificateError> {
    let damaged = |path: &Path, source| CertificateError::Damaged { path: path.to_owned(), source };
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|source| damaged(certificate, source))?;
    let private = PrivateKeyDer::from_pem_slice(read(key)?.as_bytes()).map_err(|source| damaged(key, source))?;
    let configured = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private));
    let mut config =
        configured.map_err(|source| CertificateError::Unusable { directory: directory.to_owned(), source })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_keeps_the_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let first = Certificate::open(directory.path()).unwrap().pem;
        assert!(first.starts_with("-----BEGIN CERTIFICATE-----"));
        assert_eq!(Certificate::open(directory.path()).unwrap().pem, first);
    }

    #[test]
    fn a_damaged_certificate_is_refused_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        drop(Certificate::open(directory.path()).unwrap());
        fs::write(directory.path().join("certificate-key.pem"), "nonsense").unwrap();
        assert!(matches!(Certificate::open(directory.path()), Err(CertificateError::Damaged { .. })));
    }

    #[test]
    fn a_foreign_key_is_refused() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        drop((Certificate::open(a.path()).unwrap(), Certificate::open(b.path()).unwrap()));
        fs::copy(a.path().join("certificate-key.pem"), b.path().join("certificate-key.pem")).unwrap();
        assert!(matches!(Certificate::open(b.path()), Err(CertificateError::Unusable { .. })));
    }
}
