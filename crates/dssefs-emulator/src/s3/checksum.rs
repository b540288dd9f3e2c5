//! Checksums: what a client promises about a body, what S3 computes of it, and how the checksums of parts become that
//! of an object.
//!
//! Source: "Checking object integrity in Amazon S3" in the S3 User Guide. The values lie in base64 of the big-endian
//! bytes.

use crc_fast::CrcAlgorithm;
use http::HeaderMap;
use md5::Md5;
use s3s::{S3Error, S3ErrorCode, S3Result};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use super::errors::{custom, invalid_request, not_implemented, refuse};
use crate::storage::{Checksum, hex};

/// A checksum algorithm of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

const ALL: [Algorithm; 5] =
    [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme, Algorithm::Sha1, Algorithm::Sha256];

impl Algorithm {
    /// What S3 computes on its own when a client names no algorithm.
    pub(super) const DEFAULT: Algorithm = Algorithm::Crc64Nvme;

    /// The algorithm of that name.
    pub(super) fn named(name: &str) -> S3Result<Algorithm> {
        ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(name)).ok_or_else(|| {
            invalid_request(
                "Checksum algorithm provided is unsupported. Please try again with any of the valid types: [CRC32, \
                             CRC32C, CRC64NVME, SHA1, SHA256]",
            )
        })
    }

    /// Its name in the API.
    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "CRC32",
            Algorithm::Crc32c => "CRC32C",
            Algorithm::Crc64Nvme => "CRC64NVME",
            Algorithm::Sha1 => "SHA1",
            Algorithm::Sha256 => "SHA256",
        }
    }

    /// The header of its value.
    pub(super) fn header(self) -> &'static str {
        match self {
            Algorithm::Crc32 => "x-amz-checksum-crc32",
            Algorithm::Crc32c => "x-amz-checksum-crc32c",
            Algorithm::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Algorithm::Sha1 => "x-amz-checksum-sha1",
            Algorithm::Sha256 => "x-amz-checksum-sha256",
        }
    }

    /// Whether checksums of parts can be combined into that of the whole.
    pub(super) fn is_crc(self) -> bool {
        self.crc().is_some()
    }

    /// The checksum of bytes at hand.
    pub(super) fn of(self, bytes: &[u8]) -> Vec<u8> {
        let mut hasher = Hasher::new(self);
        hasher.update(bytes);
        hasher.finish()
    }

    fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Algorithm::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Algorithm::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Algorithm::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Algorithm::Sha1 | Algorithm::Sha256 => None,
        }
    }

    fn length_bytes(self) -> usize {
        match self {
            Algorithm::Crc32 | Algorithm::Crc32c => 4,
            Algorithm::Crc64Nvme => 8,
            Algorithm::Sha1 => 20,
            Algorithm::Sha256 => 32,
        }
    }

    /// A CRC as the big-endian bytes that the API encodes.
    fn crc_bytes(self, value: u64) -> Vec<u8> {
        value.to_be_bytes()[8 - self.length_bytes()..].to_vec()
    }

    /// The full-object checksum from raw value to record.
    pub(super) fn full(self, value: &[u8]) -> Checksum {
        Checksum { algorithm: self.name().to_owned(), value: encode(value), composite: false }
    }
}

/// What a client promises about a body, by headers and trailer.
#[derive(Debug, Default)]
pub(super) struct Promise {
    /// Algorithm to compute.
    pub(super) algorithm: Option<Algorithm>,
    /// The value, unless it comes in the trailer.
    value: Option<String>,
    /// Decoded Content-MD5.
    md5: Option<Vec<u8>>,
}

impl Promise {
    /// Reads the headers of a request with a body.
    pub(super) fn from_request(headers: &HeaderMap) -> S3Result<Promise> {
        refuse_unknown(headers)?;
        let md5 = headers.get("content-md5").map(|value| parse_md5(value.as_bytes())).transpose()?;
        let mut given = ALL.into_iter().filter_map(|algorithm| Some((algorithm, headers.get(algorithm.header())?)));
        let first = given.next();
        if given.next().is_some() {
            return Err(invalid_request(
                "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
            ));
        }
        if let Some((algorithm, value)) = first {
            let value = parse_value(algorithm, value.as_bytes())?;
            return Ok(Promise { algorithm: Some(algorithm), value: Some(value), md5 });
        }
        let algorithm = trailer_algorithm(headers);
        if algorithm.is_none() && headers.contains_key("x-amz-sdk-checksum-algorithm") && md5.is_none() {
            return Err(invalid_request(
                "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer \
                 headers were found.",
            ));
        }
        Ok(Promise { algorithm, value: None, md5 })
    }

    /// Whether an MD5 must be computed to judge the promise.
    pub(super) fn needs_md5(&self) -> bool {
        self.md5.is_some()
    }

    /// Judges what was computed against headers and trailer.
    pub(super) fn check(&self, digests: &Digests, trailer: Option<&HeaderMap>) -> S3Result<()> {
        if self.md5.is_some() && self.md5 != digests.md5 {
            return Err(refuse(
                S3ErrorCode::BadDigest,
                "The Content-MD5 you specified did not match what we received.",
            ));
        }
        let Some(algorithm) = self.algorithm else { return Ok(()) };
        let promised = match (&self.value, trailer.and_then(|trailer| trailer.get(algorithm.header()))) {
            (Some(value), _) => value.clone(),
            (None, Some(value)) => parse_value(algorithm, value.as_bytes())?,
            (None, None) => return Err(malformed_trailer()),
        };
        if promised == encode(&digests.value) { Ok(()) } else { Err(bad_digest(algorithm)) }
    }
}

/// 400 BadDigest for a checksum that is not the body's.
pub(super) fn bad_digest(algorithm: Algorithm) -> S3Error {
    let sentence = format!("The {} you specified did not match the calculated checksum.", algorithm.name());
    refuse(S3ErrorCode::BadDigest, sentence)
}

fn malformed_trailer() -> S3Error {
    let sentence =
        "The request contained trailing data that was not well-formed or did not conform to our published schema.";
    custom("MalformedTrailerError", sentence)
}

/// What was computed of a body.
#[derive(Debug)]
pub(super) struct Digests {
    /// The algorithm of `value`.
    pub(super) algorithm: Algorithm,
    /// The checksum.
    pub(super) value: Vec<u8>,
    /// The MD5, if it was asked for.
    pub(super) md5: Option<Vec<u8>>,
}

impl Digests {
    /// The checksum as S3 keeps it.
    pub(super) fn checksum(&self) -> Checksum {
        self.algorithm.full(&self.value)
    }

    /// The MD5 as an ETag, if there is one.
    pub(super) fn md5_etag(&self) -> Option<String> {
        self.md5.as_deref().map(hex)
    }
}

/// Computes one checksum, and the MD5 if need be, in one pass.
pub(super) struct DigestWriter {
    hasher: Hasher,
    md5: Option<Md5>,
}

impl DigestWriter {
    /// Starts with nothing.
    pub(super) fn new(algorithm: Algorithm, with_md5: bool) -> DigestWriter {
        DigestWriter { hasher: Hasher::new(algorithm), md5: with_md5.then(Md5::new) }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    /// The results.
    pub(super) fn finish(self) -> Digests {
        let algorithm = self.hasher.algorithm;
        Digests { algorithm, value: self.hasher.finish(), md5: self.md5.map(|md5| md5.finalize().to_vec()) }
    }
}

struct Hasher {
    algorithm: Algorithm,
    state: HasherState,
}

enum HasherState {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Hasher {
        let state = match algorithm {
            Algorithm::Crc32 => HasherState::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32IsoHdlc)),
            Algorithm::Crc32c => HasherState::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc32Iscsi)),
            Algorithm::Crc64Nvme => HasherState::Crc(crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme)),
            Algorithm::Sha1 => HasherState::Sha1(Sha1::new()),
            Algorithm::Sha256 => HasherState::Sha256(Sha256::new()),
        };
        Hasher { algorithm, state }
    }

    fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            HasherState::Crc(crc) => crc.update(bytes),
            HasherState::Sha1(sha) => sha.update(bytes),
            HasherState::Sha256(sha) => sha.update(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self.state {
            HasherState::Crc(crc) => self.algorithm.crc_bytes(crc.finalize()),
            HasherState::Sha1(sha) => sha.finalize().to_vec(),
            HasherState::Sha256(sha) => sha.finalize().to_vec(),
        }
    }
}

/// The checksum of an object from those of its parts, given with their lengths in bytes; `None` if a part has another
/// algorithm's checksum or none.
pub(super) fn of_parts(algorithm: Algorithm, composite: bool, parts: &[(Option<&Checksum>, u64)]) -> Option<Checksum> {
    let values: Option<Vec<Vec<u8>>> = parts.iter().map(|(checksum, _)| raw(algorithm, (*checksum)?)).collect();
    let values = values?;
    if composite {
        let value = format!("{}-{}", encode(&algorithm.of(&values.concat())), parts.len());
        return Some(Checksum { algorithm: algorithm.name().to_owned(), value, composite });
    }
    let crc = algorithm.crc()?;
    let combined = values
        .iter()
        .zip(parts)
        .fold(0, |sum, (value, (_, length))| crc_fast::checksum_combine(crc, sum, number(value), *length));
    Some(algorithm.full(&algorithm.crc_bytes(combined)))
}

/// The MD5 of MD5s that the ETag of an unencrypted multipart object is made of.
pub(super) fn md5_of_md5s<'a>(etags: impl Iterator<Item = &'a str>) -> String {
    let mut md5 = Md5::new();
    for etag in etags {
        md5.update(unhex(etag));
    }
    hex(&md5.finalize())
}

fn raw(algorithm: Algorithm, checksum: &Checksum) -> Option<Vec<u8>> {
    let value = base64_simd::STANDARD.decode_to_vec(&checksum.value).ok()?;
    (checksum.algorithm == algorithm.name() && value.len() == algorithm.length_bytes()).then_some(value)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks_exact(2);
    pairs.filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn encode(bytes: &[u8]) -> String {
    base64_simd::STANDARD.encode_to_string(bytes)
}

fn parse_value(algorithm: Algorithm, header: &[u8]) -> S3Result<String> {
    let decoded = base64_simd::STANDARD.decode_to_vec(header).ok();
    let value = decoded.filter(|value| value.len() == algorithm.length_bytes());
    let value = value.ok_or_else(|| invalid_request(format!("Value for {} header is invalid.", algorithm.header())))?;
    Ok(encode(&value))
}

fn parse_md5(header: &[u8]) -> S3Result<Vec<u8>> {
    let decoded = base64_simd::STANDARD.decode_to_vec(header).ok();
    decoded
        .filter(|md5| md5.len() == 16)
        .ok_or_else(|| refuse(S3ErrorCode::InvalidDigest, "The Content-MD5 you specified was invalid."))
}

/// A checksum that is not verified must not look verified.
fn refuse_unknown(headers: &HeaderMap) -> S3Result<()> {
    let known = |kind: &str| matches!(kind, "algorithm" | "mode" | "type") || Algorithm::named(kind).is_ok();
    let mut kinds = headers.keys().filter_map(|name| name.as_str().strip_prefix("x-amz-checksum-"));
    if kinds.all(known) {
        Ok(())
    } else {
        Err(not_implemented("this checksum algorithm; use CRC32, CRC32C, CRC64NVME, SHA1 or SHA256"))
    }
}

fn trailer_algorithm(headers: &HeaderMap) -> Option<Algorithm> {
    let trailer = headers.get("x-amz-trailer")?.to_str().ok()?;
    let names = |name: &str| trailer.split(',').any(|one| one.trim().eq_ignore_ascii_case(name));
    ALL.into_iter().find(|algorithm| names(algorithm.header()))
}
