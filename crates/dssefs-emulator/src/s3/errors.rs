//! Errors of S3, with the sentences that S3 says.

use std::borrow::Cow;

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

use crate::kms::Refusal;
use crate::storage;

/// An error of that code with S3's sentence.
pub(super) fn refuse(code: S3ErrorCode, message: impl Into<Cow<'static, str>>) -> S3Error {
    S3Error::with_message(code, message)
}

/// HTTP 400 with a code that s3s does not know.
pub(super) fn custom(code: &'static str, message: impl Into<Cow<'static, str>>) -> S3Error {
    let mut error = refuse(S3ErrorCode::Custom(code.into()), message);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

/// The same with another status.
pub(super) fn custom_with(status: StatusCode, code: &'static str, message: &'static str) -> S3Error {
    let mut error = custom(code, message);
    error.set_status_code(status);
    error
}

/// 400 InvalidArgument.
pub(super) fn invalid_argument(message: impl Into<Cow<'static, str>>) -> S3Error {
    refuse(S3ErrorCode::InvalidArgument, message)
}

/// 400 InvalidRequest.
pub(super) fn invalid_request(message: impl Into<Cow<'static, str>>) -> S3Error {
    refuse(S3ErrorCode::InvalidRequest, message)
}

/// 412 PreconditionFailed.
pub(super) fn precondition_failed() -> S3Error {
    refuse(S3ErrorCode::PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

/// 404 NoSuchKey.
pub(super) fn no_such_key() -> S3Error {
    refuse(S3ErrorCode::NoSuchKey, "The specified key does not exist.")
}

/// 501 NotImplemented, for what S3 can and this endpoint cannot.
pub(super) fn not_implemented(what: &'static str) -> S3Error {
    refuse(S3ErrorCode::NotImplemented, format!("This endpoint does not implement {what}."))
}

/// A disk that fails is the endpoint's own trouble: 500 InternalError.
pub(super) fn internal(source: std::io::Error) -> S3Error {
    S3Error::from(storage::Error::Io(source))
}

/// What KMS refuses, S3 answers in its own name.
pub(super) fn of_kms(refusal: Refusal) -> S3Error {
    let code = S3ErrorCode::from_bytes(refusal.code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = refuse(code, refusal.message);
    error.set_status_code(StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    error
}

/// A body that broke off or was tampered with. s3s keeps the type of these errors private, so that only their text can
/// be asked.
pub(super) fn of_body(error: &s3s::StdError) -> S3Error {
    let text = error.to_string();
    if text.contains("Sha256Mismatch") {
        let sentence = "The provided 'x-amz-content-sha256' header does not match what was computed.";
        return custom("XAmzContentSHA256Mismatch", sentence);
    }
    if text.contains("SignatureMismatch") {
        let sentence = "The request signature we calculated does not match the signature you provided. Check \
        your key and signing method.";
        return refuse(S3ErrorCode::SignatureDoesNotMatch, sentence);
    }
    if text.contains("FormatError") || text.contains("TooLarge") || text.contains("TooMany") {
        return invalid_request(format!("The aws-chunked body is malformed: {text}"));
    }
    incomplete_body()
}

/// 400 IncompleteBody.
pub(super) fn incomplete_body() -> S3Error {
    let sentence = "You did not provide the number of bytes specified by the Content-Length HTTP header";
    refuse(S3ErrorCode::IncompleteBody, sentence)
}

impl From<storage::Error> for S3Error {
    fn from(error: storage::Error) -> S3Error {
        match error {
            storage::Error::NoSuchBucket => refuse(S3ErrorCode::NoSuchBucket, "The specified bucket does not exist"),
            storage::Error::BucketExists => refuse(
                S3ErrorCode::BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it.",
            ),
            storage::Error::BucketNotEmpty => {
                refuse(S3ErrorCode::BucketNotEmpty, "The bucket you tried to delete is not empty")
            }
            storage::Error::NoSuchUpload => refuse(
                S3ErrorCode::NoSuchUpload,
                "The specified upload does not exist. The upload ID may be invalid, or the upload may have been \
                 aborted or completed.",
            ),
            storage::Error::NoSuchVersion => no_such_key(),
            storage::Error::Io(source) => {
                tracing::error!(%source, "the endpoint's storage failed");
                let mut error =
                    refuse(S3ErrorCode::InternalError, "We encountered an internal error. Please try again.");
                error.set_source(Box::new(source));
                error
            }
        }
    }
}
