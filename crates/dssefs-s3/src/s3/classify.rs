//! Translates status, code and message of an answer into a [`Kind`]: one pure table.
//!
//! S3 reports errors of KMS by a code (`KMS.*`), or only in the text of an ordinary code. Sources:
//! "Error responses" of the S3 API reference, "Required permissions" and "Using dual-layer server-side encryption" of
//! the S3 User Guide.

use super::error::Kind;
use crate::s3::metrics::Operation;

/// The meaning of an answer that contains an error. `status` is 200 for the operations that can fail after their first
/// byte.
pub(super) fn classify(operation: Operation, status: u16, code: Option<&str>, message: Option<&str>) -> Kind {
    let message = message.unwrap_or_default();
    match code {
        Some(code) => by_code(code, message, operation).unwrap_or_else(|| by_status(operation, status)),
        None => by_status(operation, status),
    }
}

fn by_code(code: &str, message: &str, operation: Operation) -> Option<Kind> {
    if let Some(exception) = code.strip_prefix("KMS.") {
        return Some(by_kms_exception(exception, message));
    }
    Some(match code {
        "AccessDenied" | "AccessDeniedException" | "AllAccessDisabled" | "AccountProblem" => {
            Kind::AccessDenied { kms: message.contains("kms:") }
        }
        "ExpiredToken"
        | "InvalidAccessKeyId"
        | "InvalidSecurity"
        | "InvalidToken"
        | "NotSignedUp"
        | "RequestExpired"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch"
        | "TokenRefreshRequired" => Kind::Credentials,
        "NoSuchKey" | "NoSuchVersion" => Kind::NotFound,
        "NotFound" => missing(operation),
        "NoSuchBucket" => Kind::NoSuchBucket,
        "NoSuchUpload" => Kind::NoSuchUpload,
        "PreconditionFailed" => Kind::PreconditionFailed,
        "ConditionalRequestConflict" | "OperationAborted" => Kind::Conflict,
        "InvalidObjectState" | "ObjectNotInActiveTierError" => Kind::Archived,
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "RequestLimitExceeded"
        | "BandwidthLimitExceeded" => Kind::Throttled { kms: message.contains("KMS") },
        "RequestTimeout" => Kind::Timeout,
        "InternalError" | "ServiceUnavailable" | "Busy" => Kind::Unavailable,
        "BadDigest"
        | "InvalidDigest"
        | "IncompleteBody"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch" => Kind::Integrity,
        "InvalidEncryptionAlgorithmError" | "InvalidEncryptionAlgorithm" | "NotImplemented" => Kind::Unsupported,
        "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException"
        | "PermanentRedirect"
        | "Redirect"
        | "TemporaryRedirect" => Kind::Configuration,
        "EntityTooLarge" | "KeyTooLongError" | "MetadataTooLarge" | "RequestHeaderSectionTooLarge" => Kind::TooLarge,
        "InvalidArgument" | "InvalidRequest" => return by_text(message),
        _ => return None,
    })
}

fn by_kms_exception(exception: &str, message: &str) -> Kind {
    match exception {
        "NotFoundException" => Kind::KeyNotFound,
        "DisabledException" => Kind::KeyDisabled,
        "InvalidKeyUsageException" | "UnsupportedOperation" | "UnsupportedOperationException" => Kind::KeyUnusable,
        "KMSInvalidStateException" | "InvalidStateException" => by_key_state(message),
        "ThrottlingException" => Kind::Throttled { kms: true },
        _ => Kind::KeyUnavailable,
    }
}

/// KMS gives the state of a key only in the text.
fn by_key_state(message: &str) -> Kind {
    let message = message.to_ascii_lowercase().replace(' ', "");
    if message.contains("pendingdeletion") || message.contains("pendingreplicadeletion") {
        Kind::KeyPendingDeletion
    } else if message.contains("pendingimport") || message.contains("expired") {
        Kind::KeyMaterialExpired
    } else {
        Kind::KeyUnavailable
    }
}

/// `InvalidArgument` and `InvalidRequest` mean many things; these are the ones with a remedy.
fn by_text(message: &str) -> Option<Kind> {
    let says = |text: &str| message.contains(text);
    if says("AWS Signature Version 4")
        || says("secure connection")
        || says("requires HTTP header x-amz-server-side-encryption")
    {
        Some(Kind::Configuration)
    } else if says("stored using a form of Server Side Encryption") {
        Some(Kind::KeyUnusable)
    } else if says("larger than the maximum allowable size") {
        Some(Kind::TooLarge)
    } else {
        None
    }
}

fn by_status(operation: Operation, status: u16) -> Kind {
    match status {
        301 | 307 | 308 => Kind::Configuration,
        401 => Kind::Credentials,
        403 => Kind::AccessDenied { kms: false },
        404 => missing(operation),
        // S3 answers this to a request for a delete marker by its version id.
        405 if matches!(operation, Operation::GetObject | Operation::HeadObject) => Kind::NotFound,
        405 | 501 => Kind::Unsupported,
        408 => Kind::Timeout,
        409 => Kind::Conflict,
        412 => Kind::PreconditionFailed,
        413 => Kind::TooLarge,
        429 => Kind::Throttled { kms: false },
        500..=599 => Kind::Unavailable,
        _ => Kind::Protocol,
    }
}

fn missing(operation: Operation) -> Kind {
    match operation {
        Operation::GetBucketEncryption
        | Operation::GetBucketVersioning
        | Operation::ListObjectsV2
        | Operation::ListMultipartUploads => Kind::NoSuchBucket,
        Operation::UploadPart | Operation::CompleteMultipartUpload | Operation::AbortMultipartUpload => {
            Kind::NoSuchUpload
        }
        _ => Kind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(status: u16, code: &str, message: &str) -> Kind {
        classify(Operation::PutObject, status, Some(code), Some(message))
    }

    #[test]
    fn kms_trouble_is_told_apart_by_code_and_state() {
        let arn = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";
        for (code, message, kind) in [
            ("KMS.NotFoundException", "Invalid keyId 'fake-key-id'".to_owned(), Kind::KeyNotFound),
            ("KMS.NotFoundException", format!("Key '{arn}' does not exist"), Kind::KeyNotFound),
            ("KMS.NotFoundException", "Invalid arn us-west-2".to_owned(), Kind::KeyNotFound),
            ("KMS.DisabledException", format!("{arn} is disabled."), Kind::KeyDisabled),
            ("KMS.KMSInvalidStateException", format!("{arn} is pending deletion."), Kind::KeyPendingDeletion),
            ("KMS.KMSInvalidStateException", format!("{arn} is pending import."), Kind::KeyMaterialExpired),
            ("KMS.KMSInvalidStateException", format!("{arn} is in state PendingImport"), Kind::KeyMaterialExpired),
            ("KMS.KMSInvalidStateException", format!("{arn} is unavailable."), Kind::KeyUnavailable),
            ("KMS.InvalidKeyUsageException", format!("{arn} key usage is SIGN_VERIFY"), Kind::KeyUnusable),
            ("KMS.UnsupportedOperation", String::new(), Kind::KeyUnusable),
            ("KMS.InternalException", String::new(), Kind::KeyUnavailable),
        ] {
            assert_eq!(put(400, code, &message), kind, "{code}: {message}");
        }
    }

    #[test]
    fn a_denial_says_whether_it_is_about_the_key() {
        let kms = "User: arn:aws:iam::1:user/a is not authorized to perform: kms:GenerateDataKey on resource: arn \
                   because no identity-based policy allows the kms:GenerateDataKey action";
        assert_eq!(put(403, "AccessDenied", kms), Kind::AccessDenied { kms: true });
        assert_eq!(put(403, "AccessDenied", "Access Denied"), Kind::AccessDenied { kms: false });
        assert_eq!(classify(Operation::HeadObject, 403, None, None), Kind::AccessDenied { kms: false });
    }

    #[test]
    fn throttling_says_whose_limit_it_is() {
        let kms = "Please reduce your request rate for operations involving AWS KMS.";
        assert_eq!(put(503, "SlowDown", kms), Kind::Throttled { kms: true });
        assert_eq!(put(503, "SlowDown", "Please reduce your request rate."), Kind::Throttled { kms: false });
        assert_eq!(classify(Operation::HeadObject, 503, None, None), Kind::Unavailable);
    }

    #[test]
    fn texts_of_invalid_argument_and_invalid_request_are_read() {
        for (code, message, kind) in [
            (
                "InvalidArgument",
                "Requests specifying Server Side Encryption with AWS KMS managed keys require AWS Signature Version 4.",
                Kind::Configuration,
            ),
            (
                "InvalidArgument",
                "Requests specifying Server Side Encryption with AWS KMS managed keys must be made over a secure \
                 connection.",
                Kind::Configuration,
            ),
            (
                "InvalidArgument",
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : \
                 aws:kms",
                Kind::Configuration,
            ),
            (
                "InvalidRequest",
                "The object was stored using a form of Server Side Encryption. The correct parameters must be provided \
                 to retrieve the object.",
                Kind::KeyUnusable,
            ),
            (
                "InvalidRequest",
                "The specified copy source is larger than the maximum allowable size for a copy source: 5368709120",
                Kind::TooLarge,
            ),
            ("InvalidRequest", "This copy request is illegal", Kind::Protocol),
            ("InvalidArgument", "Invalid part number", Kind::Protocol),
        ] {
            assert_eq!(put(400, code, message), kind, "{message}");
        }
    }

    #[test]
    fn every_other_code_of_the_table_has_its_meaning() {
        for (status, code, kind) in [
            (400, "ExpiredToken", Kind::Credentials),
            (403, "RequestTimeTooSkewed", Kind::Credentials),
            (403, "InvalidAccessKeyId", Kind::Credentials),
            (403, "SignatureDoesNotMatch", Kind::Credentials),
            (404, "NoSuchKey", Kind::NotFound),
            (404, "NoSuchVersion", Kind::NotFound),
            (404, "NoSuchBucket", Kind::NoSuchBucket),
            (404, "NoSuchUpload", Kind::NoSuchUpload),
            (412, "PreconditionFailed", Kind::PreconditionFailed),
            (409, "ConditionalRequestConflict", Kind::Conflict),
            (403, "InvalidObjectState", Kind::Archived),
            (403, "ObjectNotInActiveTierError", Kind::Archived),
            (400, "RequestTimeout", Kind::Timeout),
            (500, "InternalError", Kind::Unavailable),
            (503, "ServiceUnavailable", Kind::Unavailable),
            (400, "BadDigest", Kind::Integrity),
            (400, "XAmzContentSHA256Mismatch", Kind::Integrity),
            (400, "InvalidEncryptionAlgorithmError", Kind::Unsupported),
            (501, "NotImplemented", Kind::Unsupported),
            (301, "PermanentRedirect", Kind::Configuration),
            (400, "AuthorizationHeaderMalformed", Kind::Configuration),
            (400, "EntityTooLarge", Kind::TooLarge),
            (400, "MetadataTooLarge", Kind::TooLarge),
            (400, "EntityTooSmall", Kind::Protocol),
            (400, "InvalidPart", Kind::Protocol),
            (400, "InvalidPartOrder", Kind::Protocol),
            (400, "EncryptionTypeMismatch", Kind::Protocol),
        ] {
            assert_eq!(put(status, code, ""), kind, "{code}");
        }
    }

    #[test]
    fn an_error_inside_a_200_is_told_by_its_code() {
        assert_eq!(classify(Operation::CopyObject, 200, Some("InternalError"), None), Kind::Unavailable);
        assert_eq!(classify(Operation::CompleteMultipartUpload, 200, Some("Weird"), None), Kind::Protocol);
    }

    #[test]
    fn a_bodiless_answer_is_told_by_its_status_and_what_was_asked() {
        for (operation, status, kind) in [
            (Operation::HeadObject, 404, Kind::NotFound),
            (Operation::ListObjectsV2, 404, Kind::NoSuchBucket),
            (Operation::UploadPart, 404, Kind::NoSuchUpload),
            (Operation::HeadObject, 405, Kind::NotFound),
            (Operation::PutObject, 405, Kind::Unsupported),
            (Operation::HeadObject, 412, Kind::PreconditionFailed),
            (Operation::ListObjectsV2, 301, Kind::Configuration),
            (Operation::HeadObject, 400, Kind::Protocol),
            (Operation::HeadObject, 502, Kind::Unavailable),
            (Operation::GetObject, 416, Kind::Protocol),
        ] {
            assert_eq!(classify(operation, status, None, None), kind, "{operation} {status}");
        }
    }

    #[test]
    fn an_unknown_code_falls_back_on_the_status() {
        assert_eq!(put(503, "SomethingNew", ""), Kind::Unavailable);
        assert_eq!(put(403, "SomethingNew", ""), Kind::AccessDenied { kms: false });
    }

    #[test]
    fn each_code_of_the_table_is_more_than_its_status() {
        // By the status alone, which is one that S3 does not give, each of them is Protocol.
        for (kind, codes) in [
            (
                Kind::AccessDenied { kms: false },
                &["AccessDenied", "AccessDeniedException", "AllAccessDisabled", "AccountProblem"][..],
            ),
            (
                Kind::Credentials,
                &["InvalidSecurity", "InvalidToken", "NotSignedUp", "RequestExpired", "TokenRefreshRequired"],
            ),
            (Kind::Conflict, &["ConditionalRequestConflict", "OperationAborted"]),
            (
                Kind::Throttled { kms: false },
                &[
                    "SlowDown",
                    "Throttling",
                    "ThrottlingException",
                    "TooManyRequests",
                    "RequestLimitExceeded",
                    "BandwidthLimitExceeded",
                ],
            ),
            (Kind::Unavailable, &["InternalError", "ServiceUnavailable", "Busy"]),
            (Kind::Integrity, &["InvalidDigest", "IncompleteBody", "XAmzContentChecksumMismatch"]),
            (Kind::Unsupported, &["InvalidEncryptionAlgorithm", "NotImplemented"]),
            (Kind::Configuration, &["IllegalLocationConstraintException", "Redirect", "TemporaryRedirect"]),
            (Kind::TooLarge, &["KeyTooLongError", "RequestHeaderSectionTooLarge"]),
            (Kind::Throttled { kms: true }, &["KMS.ThrottlingException"]),
            (Kind::KeyUnusable, &["KMS.UnsupportedOperationException"]),
            (Kind::KeyUnavailable, &["KMS.InvalidStateException"]),
        ] {
            for code in codes {
                assert_eq!(put(299, code, ""), kind, "{code}");
            }
        }
    }

    #[test]
    fn the_state_of_a_key_is_read_from_the_text() {
        for (text, kind) in [
            ("arn is pending replica deletion.", Kind::KeyPendingDeletion),
            ("arn is in state PendingReplicaDeletion", Kind::KeyPendingDeletion),
            ("the key material of arn has expired", Kind::KeyMaterialExpired),
            ("arn is in state Creating", Kind::KeyUnavailable),
        ] {
            assert_eq!(put(400, "KMS.KMSInvalidStateException", text), kind, "{text}");
        }
    }

    #[test]
    fn each_status_without_a_code_has_its_meaning() {
        let put = |status| classify(Operation::PutObject, status, None, None);
        for (kind, statuses) in [
            (Kind::Configuration, &[301, 307, 308][..]),
            (Kind::Credentials, &[401]),
            (Kind::AccessDenied { kms: false }, &[403]),
            (Kind::NotFound, &[404]),
            (Kind::Unsupported, &[405, 501]),
            (Kind::Timeout, &[408]),
            (Kind::Conflict, &[409]),
            (Kind::PreconditionFailed, &[412]),
            (Kind::TooLarge, &[413]),
            (Kind::Throttled { kms: false }, &[429]),
            (Kind::Unavailable, &[500, 502, 599]),
            (Kind::Protocol, &[200, 299, 302, 400, 411, 499, 600]),
        ] {
            for status in statuses {
                assert_eq!(put(*status), kind, "{status}");
            }
        }
        assert_eq!(classify(Operation::GetObject, 405, None, None), Kind::NotFound);
    }

    #[test]
    fn what_is_missing_depends_on_what_was_asked() {
        for (kind, operations) in [
            (
                Kind::NoSuchBucket,
                &[
                    Operation::GetBucketEncryption,
                    Operation::GetBucketVersioning,
                    Operation::ListObjectsV2,
                    Operation::ListMultipartUploads,
                ][..],
            ),
            (
                Kind::NoSuchUpload,
                &[Operation::UploadPart, Operation::CompleteMultipartUpload, Operation::AbortMultipartUpload],
            ),
            // The source may be missing, and not the upload.
            (Kind::NotFound, &[Operation::UploadPartCopy, Operation::CopyObject, Operation::DeleteObject]),
        ] {
            for operation in operations {
                assert_eq!(classify(*operation, 404, None, None), kind, "{operation}");
                assert_eq!(classify(*operation, 404, Some("NotFound"), None), kind, "{operation}");
            }
        }
    }
}
