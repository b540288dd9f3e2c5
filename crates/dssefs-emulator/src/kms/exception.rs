//! The errors of KMS, and how S3 passes them on.
//!
//! The texts are those of AWS as recorded or documented; programs match on them.

use std::io;

/// An answer of KMS that is not a success, in the terms of its own API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {message}")]
pub struct Exception {
    /// HTTP status.
    pub status: u16,
    /// The `__type` of the answer, such as `NotFoundException`.
    pub kind: &'static str,
    /// The text.
    pub message: String,
}

/// An answer of S3 about an error of KMS.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// The code of S3's error, such as `KMS.DisabledException`.
    pub code: String,
    /// The text.
    pub message: String,
}

impl Exception {
    pub(super) fn new(kind: &'static str, message: impl Into<String>) -> Exception {
        Exception { status: 400, kind, message: message.into() }
    }

    pub(super) fn validation(message: impl Into<String>) -> Exception {
        Exception::new("ValidationException", message)
    }

    pub(super) fn no_key(arn: &str) -> Exception {
        Exception::new("NotFoundException", format!("Key '{arn}' does not exist"))
    }

    pub(super) fn no_alias(arn: &str) -> Exception {
        Exception::new("NotFoundException", format!("Alias {arn} is not found."))
    }

    pub(super) fn bad_key_id(name: &str) -> Exception {
        Exception::new("NotFoundException", format!("Invalid keyId '{name}'"))
    }

    pub(super) fn other_region(region: &str) -> Exception {
        Exception::new("NotFoundException", format!("Invalid arn {region}"))
    }

    pub(super) fn already_exists(alias_arn: &str) -> Exception {
        Exception::new("AlreadyExistsException", format!("An alias with the name {alias_arn} already exists"))
    }

    pub(super) fn disabled(arn: &str) -> Exception {
        Exception::new("DisabledException", format!("{arn} is disabled."))
    }

    pub(super) fn invalid_state(message: String) -> Exception {
        Exception::new("KMSInvalidStateException", message)
    }

    pub(super) fn invalid_usage(arn: &str, what: &str, value: &str, action: &str) -> Exception {
        Exception::new("InvalidKeyUsageException", format!("{arn} {what} is {value} which is not valid for {action}."))
    }

    /// Denied by a rule that a test set.
    pub(super) fn denied_explicitly(user: &str, action: &str, arn: &str) -> Exception {
        Exception::denied(user, action, arn, "with an explicit deny in a resource-based policy")
    }

    /// Denied because the key belongs to an AWS service.
    pub(super) fn denied_by_service(user: &str, action: &str, arn: &str) -> Exception {
        let why = format!("because no resource-based policy allows the kms:{action} action");
        Exception::denied(user, action, arn, &why)
    }

    /// Denied because the key belongs to an account that the endpoint does not know.
    pub(super) fn denied_elsewhere(user: &str, action: &str, arn: &str) -> Exception {
        let why = "because the resource does not exist in this Region, no resource-based policies allow access, or a \
                   resource-based policy explicitly denies access";
        Exception::denied(user, action, arn, why)
    }

    /// AWS gives no text with this one, so that it reveals nothing about the ciphertext.
    pub(super) fn invalid_ciphertext() -> Exception {
        Exception::new("InvalidCiphertextException", "")
    }

    /// The endpoint itself failed, for example because its disk is full.
    pub(super) fn internal(source: &io::Error) -> Exception {
        let message = format!("The keys cannot be kept: {source}");
        Exception { status: 500, kind: "KMSInternalException", message }
    }

    fn denied(user: &str, action: &str, arn: &str, why: &str) -> Exception {
        let text = format!("User: {user} is not authorized to perform: kms:{action} on resource: {arn} {why}");
        Exception::new("AccessDeniedException", text)
    }
}

impl Refusal {
    /// What S3 answers when the KMS request quota of the account is used up.
    pub(super) fn throttled() -> Refusal {
        let message = "Please reduce your request rate for operations involving AWS KMS.";
        Refusal { status: 503, code: "SlowDown".to_owned(), message: message.to_owned() }
    }
}

impl From<Exception> for Refusal {
    fn from(exception: Exception) -> Refusal {
        let (status, code) = match exception.kind {
            "AccessDeniedException" => (403, "AccessDenied".to_owned()),
            "KMSInternalException" => (500, "InternalError".to_owned()),
            kind => (400, format!("KMS.{kind}")),
        };
        Refusal { status, code, message: exception.message }
    }
}
