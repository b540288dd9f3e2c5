//! Why a key cannot be used.

use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::describe_key::DescribeKeyError;

/// Why a key cannot be used, or KMS could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KMS knows no such key or alias in this account and Region.
    #[error("KMS does not know the key {key}: {message}; check its name and the Region")]
    NotFound {
        /// The name that was asked for.
        key: String,
        /// KMS's own words.
        message: String,
    },
    /// Disabled.
    #[error("the KMS key {0} is disabled; enable it with kms:EnableKey, or choose another")]
    Disabled(String),
    /// Scheduled for deletion; then all data under it is lost.
    #[error("the KMS key {0} is scheduled for deletion; cancel that with kms:CancelKeyDeletion, or choose another")]
    PendingDeletion(String),
    /// Any other state than enabled.
    #[error("the KMS key {key} is {state} and not Enabled; wait, or repair it in KMS")]
    NotReady {
        /// The key's ARN.
        key: String,
        /// `KeyState` as KMS says it.
        state: String,
    },
    /// Asymmetric, HMAC or signing.
    #[error(
        "the KMS key {key} is {found}, and S3 needs a symmetric encryption key (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT)"
    )]
    WrongUse {
        /// The key's ARN.
        key: String,
        /// The usage or the spec of the key.
        found: String,
    },
    /// A policy forbids kms:DescribeKey.
    #[error("KMS refused to describe the key {key}: {message}; allow kms:DescribeKey, or give the key's ARN")]
    Denied {
        /// The name that was asked for.
        key: String,
        /// KMS's own words.
        message: String,
    },
    /// A policy forbids the use of the key.
    #[error("KMS refused the use of the key {key}: {message}; allow {action} on it")]
    UseDenied {
        /// The key's ARN.
        key: String,
        /// The action to allow.
        action: &'static str,
        /// KMS's own words.
        message: String,
    },
    /// KMS has not wrapped this data key under this key with this binding.
    #[error(
        "KMS has not wrapped this data key under {key} for this mount: it was changed, or belongs to another bucket, \
         prefix or session"
    )]
    NotWrappedHere {
        /// The key's ARN.
        key: String,
    },
    /// KMS's limit on requests, still after all retries.
    #[error(
        "KMS throttles requests for the key {key}: {message}; try again later, or ask for a higher KMS request quota"
    )]
    Throttled {
        /// The key's name or ARN.
        key: String,
        /// KMS's own words.
        message: String,
    },
    /// This host did not send the request: its endpoint may not be reached as it is named.
    #[error("KMS is not asked for the key {key}: {message}")]
    NotSent {
        /// The key's name or ARN.
        key: String,
        /// Which endpoint, why, and the way out.
        message: String,
    },
    /// KMS gave no usable answer.
    #[error("KMS could not be asked for the key {key}: {message}; check the endpoint, the network and the credentials")]
    Unavailable {
        /// The name that was asked for.
        key: String,
        /// The error and its causes as text. The SDK's error itself is not kept: for an answer that it cannot read, it
        /// contains the answer, which may have a data key.
        message: String,
    },
}

impl Error {
    pub(super) fn nonsense(key: &str, message: &str) -> Error {
        Error::Unavailable { key: key.to_owned(), message: message.to_owned() }
    }
}

/// KMS answers with this code, although its model does not have it ("Throttling AWS KMS requests", KMS developer
/// guide).
const THROTTLED: &str = "ThrottlingException";

/// Codes: "DescribeKey" and "Common errors", KMS API reference.
pub(super) fn describe(key: &str, error: &SdkError<DescribeKeyError, HttpResponse>) -> Error {
    let key = key.to_owned();
    let message = said(error);
    match error.code() {
        Some("NotFoundException" | "InvalidArnException" | "ValidationException") => Error::NotFound { key, message },
        Some("AccessDeniedException") => Error::Denied { key, message },
        Some(THROTTLED) => Error::Throttled { key, message },
        _ => no_answer(error, key, message),
    }
}

/// Codes: "GenerateDataKey", "Decrypt" and "Common errors", KMS API reference.
pub(super) fn use_of<E>(key: &str, action: &'static str, error: &SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let key = key.to_owned();
    let message = said(error);
    match error.code() {
        Some("NotFoundException") => Error::NotFound { key, message },
        Some("DisabledException") => Error::Disabled(key),
        Some("KMSInvalidStateException") => Error::NotReady { key, state: message },
        Some("AccessDeniedException") => Error::UseDenied { key, action, message },
        Some(THROTTLED) => Error::Throttled { key, message },
        _ => no_answer(error, key, message),
    }
}

/// The HTTP client marks what it refuses to send as a fault of its user, as [`SdkError`] documents.
fn no_answer<E>(error: &SdkError<E, HttpResponse>, key: String, message: String) -> Error {
    match error {
        SdkError::DispatchFailure(failure) if failure.is_user() => Error::NotSent { key, message },
        _ => Error::Unavailable { key, message },
    }
}

/// KMS's own message, or the chain of causes. Uses only `Display`: the SDK's `Debug` prints the body of the answer.
fn said<E>(error: &SdkError<E, HttpResponse>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let chain = || causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    // The sentence continues after it.
    error.message().map_or_else(chain, |message| message.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use aws_sdk_kms::error::ErrorMetadata;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn answered(code: &str) -> Error {
        let error = DescribeKeyError::generic(ErrorMetadata::builder().code(code).message("words.").build());
        let response = HttpResponse::new(400.try_into().unwrap(), SdkBody::empty());
        describe("alias/a", &SdkError::service_error(error, response))
    }

    #[test]
    fn answers_of_kms_are_told_apart() {
        assert!(matches!(answered("NotFoundException"), Error::NotFound { .. }));
        assert!(matches!(answered("InvalidArnException"), Error::NotFound { .. }));
        assert!(matches!(answered("AccessDeniedException"), Error::Denied { .. }));
        assert!(matches!(answered("ThrottlingException"), Error::Throttled { .. }));
        assert!(matches!(answered("KMSInternalException"), Error::Unavailable { .. }));
        let late = describe("alias/a", &SdkError::timeout_error("late"));
        assert!(matches!(late, Error::Unavailable { .. }));
        assert!(!answered("NotFoundException").to_string().contains(".;"));
        assert!(late.to_string().starts_with("KMS could not be asked for the key alias/a: "), "{late}");
    }
}
