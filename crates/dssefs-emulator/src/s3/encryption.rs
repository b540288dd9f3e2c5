//! The rules of server-side encryption: which headers a write may carry, what the bucket's default adds, when KMS is
//! called, and what the answers say.
//!
//! Sources: "Specifying dual-layer server-side encryption with AWS KMS keys (DSSE-KMS)" and "Using SSE-KMS" in the S3
//! User Guide; PutObject, CopyObject and CreateMultipartUpload in the S3 API Reference.

use std::collections::BTreeMap;

use http::HeaderMap;
use s3s::dto::ServerSideEncryption;
use s3s::{S3ErrorCode, S3Result};

use super::errors::{invalid_argument, of_kms, refuse};
use super::keys::KeyService;
use crate::storage::{Encryption, Settings};

/// Single-layer encryption with keys of S3: what an object has if the request asks for no more.
pub(super) const AES256: &str = "AES256";
/// Single-layer encryption with a KMS key.
pub(super) const KMS: &str = "aws:kms";
/// Dual-layer encryption with a KMS key. This room spells it on its own, so that a wrong constant elsewhere meets no
/// mirror.
pub(super) const DSSE: &str = "aws:kms:dsse";

const ALGORITHM_HEADER: &str = "x-amz-server-side-encryption";
const KEY_HEADER: &str = "x-amz-server-side-encryption-aws-kms-key-id";
const CONTEXT_HEADER: &str = "x-amz-server-side-encryption-context";
const BUCKET_KEY_HEADER: &str = "x-amz-server-side-encryption-bucket-key-enabled";

/// The pair that S3 adds to every context of an object that has no bucket key.
const DEFAULT_PAIR: &str = "aws:s3:arn";

/// Headers of a request that ask for encryption; none may appear on a read, on a part or on a listing.
pub(super) const WRITE_HEADERS: [&str; 4] = [ALGORITHM_HEADER, KEY_HEADER, CONTEXT_HEADER, BUCKET_KEY_HEADER];

/// The encryption that a write shall have, before KMS was asked.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted {
    algorithm: &'static str,
    key: Option<String>,
    bucket_key: bool,
    context_header: Option<String>,
    context: BTreeMap<String, String>,
}

impl Wanted {
    /// Reads the headers of PutObject, CreateMultipartUpload or CopyObject. Without an algorithm the bucket's default
    /// counts; with one, nothing of the default does, not even its key.
    pub(super) fn from_request(headers: &HeaderMap, settings: &Settings) -> S3Result<Wanted> {
        let key = text(headers, KEY_HEADER)?;
        let context_header = text(headers, CONTEXT_HEADER)?;
        let Some(asked) = text(headers, ALGORITHM_HEADER)? else {
            forbid_without_kms(key.as_deref(), context_header.as_deref())?;
            return Wanted::from_default(settings);
        };
        let algorithm = known_algorithm(&asked)?;
        if algorithm == AES256 {
            forbid_without_kms(key.as_deref(), context_header.as_deref())?;
        }
        if key.as_deref() == Some("") {
            return Err(key_without_algorithm());
        }
        let context = context_header.as_deref().map(parse_context).transpose()?.unwrap_or_default();
        let bucket_key = algorithm == KMS && text(headers, BUCKET_KEY_HEADER)?.as_deref() == Some("true");
        Ok(Wanted { algorithm, key, bucket_key, context_header, context })
    }

    fn from_default(settings: &Settings) -> S3Result<Wanted> {
        let algorithm = known_algorithm(settings.default_algorithm.as_deref().unwrap_or(AES256))?;
        let bucket_key = algorithm == KMS && settings.default_bucket_key;
        let key = settings.default_key.clone();
        Ok(Wanted { algorithm, key, bucket_key, context_header: None, context: BTreeMap::new() })
    }

    /// Asks KMS for a data key, as S3 does for each PutObject, CreateMultipartUpload and CopyObject with a KMS
    /// algorithm.
    pub(super) fn generate(self, keys: &dyn KeyService, bucket: &str, object_key: &str) -> S3Result<Encryption> {
        let Wanted { algorithm, key, bucket_key, context_header, mut context } = self;
        if algorithm == AES256 {
            return Ok(Encryption {
                algorithm: AES256.to_owned(),
                key_arn: None,
                bucket_key,
                context_header: None,
                context,
            });
        }
        let own =
            if bucket_key { format!("arn:aws:s3:::{bucket}") } else { format!("arn:aws:s3:::{bucket}/{object_key}") };
        context.entry(DEFAULT_PAIR.to_owned()).or_insert(own);
        let data_key = keys.generate_data_key(key.as_deref(), &context).map_err(of_kms)?;
        let algorithm = algorithm.to_owned();
        Ok(Encryption { algorithm, key_arn: Some(data_key.key_arn), bucket_key, context_header, context })
    }
}

/// Asks KMS to decrypt the data key, as S3 does for each read of bytes or checksums and for each part; nothing without
/// KMS.
pub(super) fn decrypt(keys: &dyn KeyService, encryption: &Encryption) -> S3Result<()> {
    match &encryption.key_arn {
        Some(arn) => keys.decrypt(arn, &encryption.context).map_err(of_kms),
        None => Ok(()),
    }
}

impl Encryption {
    /// The algorithm for an answer.
    pub(super) fn sse(&self) -> Option<ServerSideEncryption> {
        Some(ServerSideEncryption::from(self.algorithm.clone()))
    }

    /// The bucket-key field of an answer; absent unless one is in use.
    pub(super) fn bucket_key_field(&self) -> Option<bool> {
        self.bucket_key.then_some(true)
    }

    /// Whether a KMS key protects the object.
    pub(super) fn uses_kms(&self) -> bool {
        self.key_arn.is_some()
    }
}

/// Checks an algorithm; also of PutBucketEncryption.
pub(super) fn known_algorithm(name: &str) -> S3Result<&'static str> {
    [AES256, KMS, DSSE].into_iter().find(|known| *known == name).ok_or_else(|| {
        let sentence = "The Encryption request you specified is not valid. Supported value: AES256.";
        refuse(S3ErrorCode::InvalidEncryptionAlgorithmError, sentence)
    })
}

/// Whether the request names an encryption itself.
pub(super) fn names_encryption(headers: &HeaderMap) -> bool {
    headers.contains_key(ALGORITHM_HEADER)
}

fn forbid_without_kms(key: Option<&str>, context: Option<&str>) -> S3Result<()> {
    if key.is_some() || context.is_some() { Err(key_without_algorithm()) } else { Ok(()) }
}

fn key_without_algorithm() -> s3s::S3Error {
    invalid_argument(
        "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
    )
}

/// Base64 of a JSON object whose values are strings.
fn parse_context(header: &str) -> S3Result<BTreeMap<String, String>> {
    let json = base64_simd::STANDARD.decode_to_vec(header).ok();
    json.and_then(|json| serde_json::from_slice(&json).ok()).ok_or_else(|| {
        invalid_argument(
            "The header 'x-amz-server-side-encryption-context' shall be Base64-encoded UTF-8 string holding JSON \
                          which represents a string-string map",
        )
    })
}

fn text(headers: &HeaderMap, name: &'static str) -> S3Result<Option<String>> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let value = value.to_str().map_err(|_| invalid_argument(format!("The header {name} must be ASCII text.")))?;
    Ok(Some(value.to_owned()))
}
