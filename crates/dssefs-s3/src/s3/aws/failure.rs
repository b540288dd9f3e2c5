//! Translates the SDK's errors into ours.

use std::error::Error as StdError;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ConnectorError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;

use super::xml::element;
use crate::object::{Bucket, Key};
use crate::s3::bounds::{Exceeded, TooSlow};
use crate::s3::classify::classify;
use crate::s3::connect::InsecureEndpoint;
use crate::s3::error::{Failure, Kind};
use crate::s3::error_chain::{caused_by, causes, error_chain};
use crate::s3::metrics::Operation;

/// Gives a failed request its meaning.
pub(super) fn describe<E>(
    error: SdkError<E, HttpResponse>,
    operation: Operation,
    bucket: &Bucket,
    key: Option<&Key>,
) -> Failure
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.code().map(str::to_owned);
    let kind = match (&error, status) {
        (SdkError::ServiceError(_), Some(status)) => classify(operation, status, code.as_deref(), error.message()),
        _ => without_answer(&error),
    };
    Failure {
        status,
        request_id: error.request_id().map(str::to_owned),
        message: Some(explanation(&error, kind)),
        code,
        source: Some(Box::new(error)),
        ..Failure::new(kind, operation, bucket, key)
    }
}

/// The meaning of a failure that no answer explains.
fn without_answer<E>(error: &SdkError<E, HttpResponse>) -> Kind
where
    E: StdError + Send + Sync + 'static,
{
    match error {
        SdkError::TimeoutError(_) => Kind::Timeout,
        _ if caused_by::<Exceeded>(error).is_some() => Kind::Protocol,
        _ if caused_by::<InsecureEndpoint>(error).is_some() => Kind::Configuration,
        _ if is_about_credentials(error) => Kind::Credentials,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => Kind::Timeout,
        SdkError::DispatchFailure(failure) if failure.is_io() => Kind::Unreachable,
        SdkError::DispatchFailure(failure) => failure.as_connector_error().map_or(Kind::Protocol, by_connector),
        // An answer that stopped in the middle cannot be parsed.
        SdkError::ResponseError(_) => Kind::Unreachable,
        _ => Kind::Protocol,
    }
}

fn by_connector(error: &ConnectorError) -> Kind {
    if error.is_user() { Kind::Local } else { Kind::Unreachable }
}

/// The store's message, or the chain of causes if it sent none. For a bucket in another Region: the Region to use.
fn explanation<E>(error: &SdkError<E, HttpResponse>, kind: Kind) -> String
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let region = error.raw_response().filter(|_| kind == Kind::Configuration).and_then(region_of);
    if let Some(region) = region {
        return format!("the bucket is in {region}; give --region {region}");
    }
    match (error.message(), error) {
        (Some(said), _) => said.to_owned(),
        (None, SdkError::ServiceError(answer)) if !answer.raw().status().is_success() => {
            "the store gave no reason".to_owned()
        }
        (None, _) => error_chain(error),
    }
}

/// The Region of the bucket, which S3 sends in a header or else in the body ("Error responses", S3 API reference). An
/// answer to HEAD has no body.
fn region_of(answer: &HttpResponse) -> Option<String> {
    let header = answer.headers().get("x-amz-bucket-region");
    let body = || std::str::from_utf8(answer.body().bytes()?).ok().and_then(|text| element(text, "Region"));
    let region = header.or_else(body)?;
    let is_name = region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    (is_name && (1..=32).contains(&region.len())).then(|| region.to_owned())
}

/// Decides by the texts, because the SDK does not export the types of these errors.
fn is_about_credentials(error: &(dyn StdError + 'static)) -> bool {
    causes(error).skip(1).any(|cause| {
        let text = cause.to_string();
        text.contains("credential") || text.contains("identity")
    })
}

/// The meaning of a body that broke while it was read. Decides by the texts, because the SDK's types for a wrong
/// checksum and a stalled stream are private.
pub(in crate::s3) fn of_broken_body(error: &(dyn StdError + 'static)) -> Kind {
    let says = |text: &str| causes(error).any(|cause| cause.to_string().contains(text));
    if says("checksum mismatch") {
        Kind::Integrity
    } else if caused_by::<TooSlow>(error).is_some()
        || says("minimum throughput")
        || says("timed out")
        || says("timeout")
    {
        Kind::Timeout
    } else {
        Kind::Unreachable
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::error::ErrorMetadata;
    use aws_sdk_s3::operation::head_object::HeadObjectError;
    use aws_smithy_types::body::SdkBody;

    use super::*;

    type Failed = SdkError<HeadObjectError, HttpResponse>;

    fn kind(error: Failed) -> Kind {
        describe(error, Operation::HeadObject, &Bucket::new("data").unwrap(), None).kind
    }

    #[test]
    fn failures_without_an_answer_are_told_apart() {
        assert_eq!(kind(Failed::timeout_error("late")), Kind::Timeout);
        assert_eq!(kind(Failed::dispatch_failure(ConnectorError::timeout("late".into()))), Kind::Timeout);
        assert_eq!(kind(Failed::dispatch_failure(ConnectorError::io("refused".into()))), Kind::Unreachable);
        assert_eq!(kind(Failed::dispatch_failure(ConnectorError::user("body".into()))), Kind::Local);
        assert_eq!(kind(Failed::dispatch_failure(ConnectorError::other("tls".into(), None))), Kind::Unreachable);
        assert_eq!(kind(Failed::construction_failure("no bucket")), Kind::Protocol);
        let missing = "an error occurred while loading credentials";
        assert_eq!(kind(Failed::dispatch_failure(ConnectorError::other(missing.into(), None))), Kind::Credentials);
    }

    #[test]
    fn a_bucket_of_another_region_names_it() {
        let answered = |status: u16, code: &str, header: Option<&'static str>, body: &str| {
            let mut answer = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
            if let Some(region) = header {
                answer.headers_mut().insert("x-amz-bucket-region", region);
            }
            let meta = ErrorMetadata::builder().code(code).message("The authorization header is malformed.").build();
            let error = Failed::service_error(HeadObjectError::generic(meta), answer);
            describe(error, Operation::ListObjectsV2, &Bucket::new("data").unwrap(), None).message.unwrap()
        };
        let region = "the bucket is in eu-west-1; give --region eu-west-1";
        let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        assert_eq!(answered(301, "PermanentRedirect", Some("eu-west-1"), ""), region);
        assert_eq!(answered(400, "AuthorizationHeaderMalformed", Some("eu-west-1"), ""), region);
        assert_eq!(answered(400, "AuthorizationHeaderMalformed", None, body), region);
        assert_eq!(answered(301, "", Some("eu-west-1"), ""), region);
        let other = answered(403, "AccessDenied", Some("eu-west-1"), "");
        assert_eq!(other, "The authorization header is malformed.", "every answer may have the header");
        let forged = answered(301, "PermanentRedirect", None, "<Region>eu; rm</Region>");
        assert!(!forged.contains("eu;"), "{forged}");
    }

    #[test]
    fn a_broken_body_is_told_apart_by_its_text() {
        let broken = |text: &str| of_broken_body(&std::io::Error::other(text.to_owned()));
        assert_eq!(broken("body checksum mismatch. expected x but it was y"), Kind::Integrity);
        assert_eq!(broken("minimum throughput was specified at 1 B/s, but 0 B/s was observed"), Kind::Timeout);
        assert_eq!(broken("connection reset"), Kind::Unreachable);
    }
}
