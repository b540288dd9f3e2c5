//! The encryption that the store reported for an object, where the report came from, and the verdict on it.

use std::fmt;
use std::time::SystemTime;

use super::ALGORITHM;

/// The server-side encryption that the store reported.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `aws:kms:dsse`.
    Dsse,
    /// `aws:kms`.
    Kms,
    /// `AES256`, S3's own keys.
    Aes256,
    /// A key that the client holds.
    SseC,
    /// The store answered and named none.
    None,
    /// A value that this version does not know.
    Other(String),
    /// The store was not asked.
    Unknown,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Algorithm::Dsse => ALGORITHM,
            Algorithm::Kms => "aws:kms",
            Algorithm::Aes256 => "AES256",
            Algorithm::SseC => "sse-c",
            Algorithm::None => "none",
            Algorithm::Other(text) => text,
            Algorithm::Unknown => "unknown",
        })
    }
}

/// The encryption headers of one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// `x-amz-server-side-encryption`, or SSE-C by its own header.
    pub algorithm: Algorithm,
    /// `x-amz-server-side-encryption-aws-kms-key-id`, as it came.
    pub key_arn: Option<String>,
    /// `x-amz-server-side-encryption-bucket-key-enabled`; DSSE-KMS never uses one.
    pub bucket_key: bool,
    /// `x-amz-server-side-encryption-context`, as it came: only answers to PutObject, CopyObject and
    /// CreateMultipartUpload may have it.
    pub context: Option<String>,
}

impl Facts {
    /// Reads the four headers of an answer: algorithm, key, bucket key, and the algorithm of a customer-provided key.
    #[must_use]
    pub fn from_headers(sse: Option<&str>, key: Option<&str>, bucket_key: Option<bool>, sse_c: Option<&str>) -> Facts {
        let algorithm = match (sse, sse_c) {
            (_, Some(_)) => Algorithm::SseC,
            (None, None) => Algorithm::None,
            (Some(ALGORITHM), None) => Algorithm::Dsse,
            (Some("aws:kms"), None) => Algorithm::Kms,
            (Some("AES256"), None) => Algorithm::Aes256,
            (Some(other), None) => Algorithm::Other(other.to_owned()),
        };
        Facts { algorithm, key_arn: key.map(str::to_owned), bucket_key: bucket_key.unwrap_or(false), context: None }
    }

    /// The same with the encryption context of the answer; an empty header says nothing.
    #[must_use]
    pub fn with_context(self, header: Option<&str>) -> Facts {
        Facts { context: header.filter(|header| !header.is_empty()).map(str::to_owned), ..self }
    }

    /// The facts before any answer came.
    #[must_use]
    pub fn unknown() -> Facts {
        Facts { algorithm: Algorithm::Unknown, key_arn: None, bucket_key: false, context: None }
    }
}

/// Which kind of answer the facts were read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// HeadObject.
    Head,
    /// GetObject.
    Get,
    /// PutObject.
    Put,
    /// CopyObject.
    Copy,
    /// CompleteMultipartUpload.
    Complete,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Evidence::Head => "head",
            Evidence::Get => "get",
            Evidence::Put => "put",
            Evidence::Copy => "copy",
            Evidence::Complete => "complete",
        })
    }
}

/// Facts with their provenance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The facts.
    pub facts: Facts,
    /// The kind of answer that had them.
    pub evidence: Evidence,
    /// When it arrived, by this host's clock.
    pub verified_at: SystemTime,
    /// `x-amz-request-id`, by which AWS and CloudTrail know the request.
    pub request_id: Option<String>,
}

/// The verdict on an object's encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// DSSE-KMS under the expected key.
    Compliant,
    /// Some other encryption, or none.
    NotDsse,
    /// DSSE-KMS under another key than the mount's, or under one that the answer does not name.
    WrongKey,
    /// DSSE-KMS under the expected key, but with another encryption context than the policy's. Only answers to writes
    /// have the context.
    WrongContext,
    /// The file has changes that are not in the store yet.
    Pending,
    /// The store was not asked yet, or did not answer.
    Unknown,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Compliant => "compliant",
            Verdict::NotDsse => "not-dsse",
            Verdict::WrongKey => "wrong-key",
            Verdict::WrongContext => "wrong-context",
            Verdict::Pending => "pending",
            Verdict::Unknown => "unknown",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_of_the_header_is_its_own_algorithm() {
        let of = |sse: Option<&str>| Facts::from_headers(sse, None, None, None).algorithm;
        for (sse, algorithm) in [
            (Some("aws:kms:dsse"), Algorithm::Dsse),
            (Some("aws:kms"), Algorithm::Kms),
            (Some("AES256"), Algorithm::Aes256),
            (Some("aws:kms:dsse2"), Algorithm::Other("aws:kms:dsse2".to_owned())),
            (Some("aws:kms:"), Algorithm::Other("aws:kms:".to_owned())),
            (Some(""), Algorithm::Other(String::new())),
            (None, Algorithm::None),
        ] {
            assert_eq!(of(sse), algorithm, "{sse:?}");
            let with_own_key = Facts::from_headers(sse, None, None, Some("AES256"));
            assert_eq!(with_own_key.algorithm, Algorithm::SseC, "{sse:?}: the content is under the client's key");
        }
    }

    #[test]
    fn facts_keep_what_the_headers_say() {
        let facts = Facts::from_headers(Some(ALGORITHM), Some("key"), Some(true), None).with_context(Some("e30="));
        let (key_arn, context) = (Some("key".to_owned()), Some("e30=".to_owned()));
        assert_eq!(facts, Facts { algorithm: Algorithm::Dsse, key_arn, bucket_key: true, context });
        let silent = Facts::from_headers(None, None, None, None);
        assert_eq!(silent, Facts { algorithm: Algorithm::None, ..Facts::unknown() });
        for header in [None, Some("")] {
            assert_eq!(facts.clone().with_context(header).context, None, "{header:?} says nothing");
        }
        assert_eq!(Facts::unknown().algorithm, Algorithm::Unknown);
    }

    /// Attributes and reports of programs have these words.
    #[test]
    fn the_words_for_programs_stay_as_they_are() {
        let algorithms = [
            (Algorithm::Dsse, "aws:kms:dsse"),
            (Algorithm::Kms, "aws:kms"),
            (Algorithm::Aes256, "AES256"),
            (Algorithm::SseC, "sse-c"),
            (Algorithm::None, "none"),
            (Algorithm::Other("x".to_owned()), "x"),
            (Algorithm::Unknown, "unknown"),
        ];
        algorithms.iter().for_each(|(algorithm, word)| assert_eq!(algorithm.to_string(), *word));
        let evidence = [
            (Evidence::Head, "head"),
            (Evidence::Get, "get"),
            (Evidence::Put, "put"),
            (Evidence::Copy, "copy"),
            (Evidence::Complete, "complete"),
        ];
        evidence.iter().for_each(|(evidence, word)| assert_eq!(evidence.to_string(), *word));
        let verdicts = [
            (Verdict::Compliant, "compliant"),
            (Verdict::NotDsse, "not-dsse"),
            (Verdict::WrongKey, "wrong-key"),
            (Verdict::WrongContext, "wrong-context"),
            (Verdict::Pending, "pending"),
            (Verdict::Unknown, "unknown"),
        ];
        verdicts.iter().for_each(|(verdict, word)| assert_eq!(verdict.to_string(), *word));
    }
}
