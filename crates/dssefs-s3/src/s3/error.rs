//! Why a request failed, by meaning.

use std::error::Error as StdError;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::ambiguous_write::AmbiguousWrite;
use crate::object::{Bucket, Key, Version};
use crate::policy::Verdict;
use crate::s3::metrics::Operation;

/// What a failure means to the caller. The sources of the rules are the S3 API reference ("Error responses") and the
/// texts that S3 sends for KMS trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// KMS does not know the key, or knows it in another Region only.
    KeyNotFound,
    /// The key is disabled.
    KeyDisabled,
    /// The key is scheduled for deletion.
    KeyPendingDeletion,
    /// The key's imported material has expired or was never imported.
    KeyMaterialExpired,
    /// The key, its custom key store or KMS itself does not work.
    KeyUnavailable,
    /// The key cannot do this (asymmetric, HMAC), or the object is under a customer-provided key.
    KeyUnusable,
    /// A policy forbids it.
    AccessDenied {
        /// Whether it is a `kms:` action that is forbidden.
        kms: bool,
    },
    /// The caller's credentials are missing, expired or wrong, or the clock is.
    Credentials,
    /// There is no such object or version.
    NotFound,
    /// There is no such bucket.
    NoSuchBucket,
    /// The multipart upload was completed or aborted already.
    NoSuchUpload,
    /// The object changed, or exists where it should not.
    PreconditionFailed,
    /// Another write to the key was under way; the caller must start a new multipart upload.
    Conflict,
    /// The object must be restored from an archive first.
    Archived,
    /// Too many requests, still after all retries.
    Throttled {
        /// Whether it is KMS's limit and not S3's.
        kms: bool,
    },
    /// No answer in time. A write may have happened.
    Timeout,
    /// No connection, or it broke. A write may have happened.
    Unreachable,
    /// The store answered 5xx, still after all retries. A write may have happened.
    Unavailable,
    /// Content and checksum, or content and length, disagree.
    Integrity,
    /// The store did not prove DSSE-KMS under the expected key.
    Mismatch {
        /// The verdict on the answer.
        verdict: Verdict,
    },
    /// The store cannot do this at all.
    Unsupported,
    /// Endpoint, Region or signature do not fit the bucket.
    Configuration,
    /// A limit of the store on sizes.
    TooLarge,
    /// The bytes to send could not be read on this host; the source is the [`std::io::Error`].
    Local,
    /// Anything else.
    Protocol,
}

impl Kind {
    /// One sentence that says what to do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Kind::KeyNotFound => "Check the key's ARN and that the key is in the bucket's Region.",
            Kind::KeyDisabled => "Enable the KMS key again (kms:EnableKey).",
            Kind::KeyPendingDeletion => "Cancel the deletion of the KMS key before its date (kms:CancelKeyDeletion).",
            Kind::KeyMaterialExpired => "Import the key's material into KMS again.",
            Kind::KeyUnavailable => "Check the state of the key and of its key store in KMS, then try again.",
            Kind::KeyUnusable => "Use a symmetric encryption key; objects under customer-provided keys need their key.",
            Kind::AccessDenied { kms: true } => {
                "Allow kms:GenerateDataKey and kms:Decrypt on the key, in its key policy or the caller's IAM policy."
            }
            Kind::AccessDenied { kms: false } => "Allow the action in the caller's IAM policy and the bucket policy.",
            Kind::Credentials => "Renew the credentials, and check the clock of this host.",
            Kind::NotFound => "List the directory again: the object is gone.",
            Kind::NoSuchBucket => "Check the bucket's name.",
            Kind::NoSuchUpload => "Write the file again, and check the bucket's lifecycle rules for aborted uploads.",
            Kind::PreconditionFailed => "Read the object again: another writer has changed it.",
            Kind::Conflict => "Try again: another write to the same key was under way.",
            Kind::Archived => "Restore the object from its archive first (s3:RestoreObject).",
            Kind::Throttled { kms: true } => "Send fewer requests at once, or ask for a higher KMS request quota.",
            Kind::Throttled { kms: false } => "Send fewer requests at once.",
            Kind::Timeout | Kind::Unreachable => "Check the network and the endpoint.",
            Kind::Unavailable => "Try again later: the store has trouble of its own.",
            Kind::Integrity => "Try again; if it happens again, check the memory and the network of this host.",
            Kind::Mismatch { .. } => "Check that the endpoint is S3 itself and that no proxy rewrites its answers.",
            Kind::Unsupported => "Use a store that knows DSSE-KMS (aws:kms:dsse) and conditional writes.",
            Kind::Configuration => "Check the endpoint and the Region.",
            Kind::TooLarge => "Use a smaller file, shorter names or less metadata.",
            Kind::Local => "Check the local disk and this program's log.",
            Kind::Protocol => "Report this with the request id.",
        }
    }
}

/// The meaning in words, for errors that have neither a code nor a status of the store.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::KeyNotFound => "KMS does not know the key",
            Kind::KeyDisabled => "the KMS key is disabled",
            Kind::KeyPendingDeletion => "the KMS key is scheduled for deletion",
            Kind::KeyMaterialExpired => "the KMS key has no key material",
            Kind::KeyUnavailable => "the KMS key is out of order",
            Kind::KeyUnusable => "the key cannot do this",
            Kind::AccessDenied { kms: true } => "access to the KMS key is denied",
            Kind::AccessDenied { kms: false } => "access is denied",
            Kind::Credentials => "the credentials or the clock of this host are wrong",
            Kind::NotFound => "there is no such object",
            Kind::NoSuchBucket => "there is no such bucket",
            Kind::NoSuchUpload => "there is no such multipart upload",
            Kind::PreconditionFailed => "the object has changed",
            Kind::Conflict => "another write to the object was under way",
            Kind::Archived => "the object is in an archive",
            Kind::Throttled { kms: true } => "KMS throttles requests",
            Kind::Throttled { kms: false } => "the store throttles requests",
            Kind::Timeout => "no answer came in time",
            Kind::Unreachable => "the store cannot be reached",
            Kind::Unavailable => "the store has trouble of its own",
            Kind::Integrity => "the content does not match its checksum or length",
            Kind::Mismatch { .. } => "the store did not prove the encryption",
            Kind::Unsupported => "the store cannot do this",
            Kind::Configuration => "the endpoint, the Region or the signature does not fit the bucket",
            Kind::TooLarge => "a size is beyond the store's limit",
            Kind::Local => "this host cannot read the bytes to send",
            Kind::Protocol => "the answer cannot be used",
        })
    }
}

/// What a write that failed has left in the store.
#[derive(Clone, Debug, Default)]
pub enum FailedWrite {
    /// Nothing.
    #[default]
    Nothing,
    /// Perhaps the object: the write may have been carried out, or may still be. Ask
    /// [`Gateway::find`](super::Gateway::find) later.
    Unknown(Arc<AmbiguousWrite>),
    /// No object: the write replaced the old one, and the gateway deleted the new one because its encryption is wrong.
    Deleted,
    /// This version, whose encryption is wrong.
    LeftBehind(Version),
    /// Nothing that is the object now: an answer was lost, and another writer's object stands there.
    Overtaken,
    /// It was a delete, and an answer was lost: the store may still carry it out.
    PerhapsDeleted,
}

/// A request that failed. Cheap to clone, because several callers may wait for one answer.
#[derive(Clone, Debug)]
pub struct Error {
    failure: Arc<Failure>,
    failed_write: FailedWrite,
}

/// All that is known of a failed request.
#[derive(Debug)]
pub struct Failure {
    /// What it means.
    pub kind: Kind,
    /// What was asked.
    pub operation: Operation,
    /// The bucket.
    pub bucket: Bucket,
    /// The object; None for requests about the bucket.
    pub key: Option<Key>,
    /// The store's error code, such as `KMS.DisabledException`.
    pub code: Option<String>,
    /// The store's or our own explanation.
    pub message: Option<String>,
    /// `x-amz-request-id`.
    pub request_id: Option<String>,
    /// The HTTP status.
    pub status: Option<u16>,
    /// The cause, if there is one.
    pub source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    /// A failure with no details.
    #[must_use]
    pub fn new(kind: Kind, operation: Operation, bucket: &Bucket, key: Option<&Key>) -> Failure {
        Failure {
            kind,
            operation,
            bucket: bucket.clone(),
            key: key.cloned(),
            code: None,
            message: None,
            request_id: None,
            status: None,
            source: None,
        }
    }

    /// The same with an explanation.
    #[must_use]
    pub fn because(self, message: impl Into<String>) -> Failure {
        Failure { message: Some(message.into()), ..self }
    }

    /// The same with its cause.
    #[must_use]
    pub fn from_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Failure {
        Failure { source: Some(source.into()), ..self }
    }
}

impl Error {
    /// What to do, in one sentence; empty where the message says it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        let says = |text: &str| self.message.as_ref().is_some_and(|message| message.contains(text));
        match self.kind {
            Kind::AccessDenied { kms: false } if self.operation.is_of_annotations() => {
                "Allow s3:ListObjectAnnotations, s3:GetObjectAnnotation and s3:PutObjectAnnotation, or mount with \
                 --annotations ignore, under which objects lose their annotations when they are replaced."
            }
            Kind::TooLarge if self.operation.is_of_annotations() => {
                "Take the annotations off the object first, or mount with --annotations ignore."
            }
            Kind::AccessDenied { kms: false } if self.operation == Operation::CopyObject => {
                "Allow the action in the caller's IAM policy and the bucket policy. An object with annotations also \
                 needs s3:GetObjectAnnotation and s3:PutObjectAnnotation, and one with tags s3:GetObjectTagging and \
                 s3:PutObjectTagging."
            }
            Kind::Configuration if says("give --region") || says("--allow-insecure-endpoint") => "",
            Kind::Configuration if says("Signature Version 4") || says("secure connection") => {
                "Use https and Signature Version 4, which KMS asks for."
            }
            kind => kind.remedy(),
        }
    }

    /// The error and what to do, with one full stop between them.
    #[must_use]
    pub fn advice(&self) -> String {
        let said = self.to_string();
        match self.remedy() {
            "" => said,
            remedy => format!("{}. {remedy}", said.trim_end_matches('.')),
        }
    }

    /// What the write has left in the store.
    #[must_use]
    pub fn failed_write(&self) -> &FailedWrite {
        &self.failed_write
    }

    pub(super) fn leaving(self, failed_write: FailedWrite) -> Error {
        Error { failed_write, ..self }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        Error { failure: Arc::new(failure), failed_write: FailedWrite::Nothing }
    }
}

impl Deref for Error {
    type Target = Failure;

    fn deref(&self) -> &Failure {
        &self.failure
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.failure.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// One line: operation, object, code, explanation, request id.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { operation, bucket, code, status, .. } = &*self.failure;
        let key = self.key.as_ref().map_or("", Key::as_str);
        write!(f, "{operation} of s3://{bucket}/{} failed", Printable(key))?;
        match (code, status) {
            (Some(code), _) => write!(f, ": {}", Printable(code))?,
            (None, Some(status)) => write!(f, ": HTTP {status}")?,
            (None, None) => write!(f, ": {}", self.kind)?,
        }
        if let Some(message) = &self.message {
            write!(f, ": {}", Printable(message))?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " (request {})", Printable(id))?;
        }
        Ok(())
    }
}

/// A text from outside, with its control characters escaped: a key with a line break cannot forge a log line.
struct Printable<'a>(&'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(
            |c| {
                if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") }
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(kind: Kind) -> Failure {
        let bucket = Bucket::new("data").unwrap();
        Failure::new(kind, Operation::PutObject, &bucket, Some(&Key::new("a/b").unwrap()))
    }

    #[test]
    fn an_error_is_one_line_with_everything_to_find_the_request_by() {
        let error = Error::from(Failure {
            code: Some("KMS.DisabledException".into()),
            request_id: Some("4ARX".into()),
            status: Some(400),
            ..failure(Kind::KeyDisabled).because("arn:x is disabled.")
        });
        assert_eq!(
            error.to_string(),
            "PutObject of s3://data/a/b failed: KMS.DisabledException: arn:x is disabled. (request 4ARX)"
        );
        assert_eq!(
            Error::from(failure(Kind::Timeout)).to_string(),
            "PutObject of s3://data/a/b failed: no answer came in time"
        );
    }

    #[test]
    fn a_key_cannot_forge_a_second_line_in_the_log() {
        let mut forged = failure(Kind::NotFound);
        forged.key = Some(Key::new("a\nERROR b\u{1b}[2J").unwrap());
        let line = Error::from(forged).to_string();
        assert!(!line.contains(['\n', '\u{1b}']), "{line}");
        assert!(line.contains("a\\nERROR b\\u{1b}[2J"), "{line}");
    }

    #[test]
    fn advice_fits_the_message_and_has_one_full_stop() {
        let advice = |kind, message: &str| Error::from(failure(kind).because(message)).advice();
        let moved = advice(Kind::Configuration, "the bucket is in eu-west-1; give --region eu-west-1");
        assert!(moved.ends_with("give --region eu-west-1"), "{moved}");
        let unsigned = advice(Kind::Configuration, "keys require AWS Signature Version 4.");
        assert!(unsigned.ends_with("Version 4. Use https and Signature Version 4, which KMS asks for."), "{unsigned}");
        let other = advice(Kind::Configuration, "elsewhere.");
        assert!(other.ends_with("elsewhere. Check the endpoint and the Region."), "{other}");
    }

    #[test]
    fn the_source_is_kept() {
        let error = Error::from(failure(Kind::Local).from_source(std::io::Error::other("bad block")));
        let source = error.source().and_then(|s| s.downcast_ref::<std::io::Error>()).unwrap();
        assert_eq!(source.to_string(), "bad block");
    }
}
