//! Reads the certificates that are trusted in addition to the system's.

use std::io;
use std::path::Path;

use super::connection::ConnectError;

/// Checks the file, because the TLS library would panic at the first request if it had no certificates.
pub(super) fn read_certificates(path: &Path) -> Result<Vec<u8>, ConnectError> {
    let unusable = |source| ConnectError::CaBundle { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(unusable)?;
    if is_certificates(&text) {
        Ok(text.into_bytes())
    } else {
        Err(unusable(io::Error::new(io::ErrorKind::InvalidData, "it has no PEM certificate, or a broken one")))
    }
}

/// Whether `text` has at least one `CERTIFICATE` block and each is Base64 of something that begins as DER certificates
/// do, with a SEQUENCE (RFC 7468, X.690).
fn is_certificates(text: &str) -> bool {
    let blocks: Vec<&str> = text.split("-----BEGIN CERTIFICATE-----").skip(1).collect();
    let decodes = |block: &&str| {
        let Some((body, _)) = block.split_once("-----END CERTIFICATE-----") else { return false };
        let body: String = body.split_ascii_whitespace().collect();
        base64_simd::STANDARD.decode_to_vec(body).is_ok_and(|der| der.first() == Some(&0x30))
    };
    !blocks.is_empty() && blocks.iter().all(decodes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_certificates_is_checked_before_it_is_used() {
        let good = "comment\n-----BEGIN CERTIFICATE-----\nMAMC\nAQE=\n-----END CERTIFICATE-----\n";
        assert!(is_certificates(good));
        assert!(is_certificates(&good.repeat(2)));
        for text in
            ["", "MAMCAQE=", &good.replace("MAMC", "!!!!"), &good.replace("MAMC", "AAMC"), &good.replace("END", "")]
        {
            assert!(!is_certificates(text), "{text}");
        }
        let missing = read_certificates(Path::new("/nonexistent/ca.pem")).unwrap_err();
        assert!(missing.to_string().starts_with("the certificates in /nonexistent/ca.pem cannot be read"), "{missing}");
    }
}
