//! Values as the API spells them.

use http::HeaderValue;
use s3s::S3Result;
use s3s::dto::{ETag, Timestamp, TimestampFormat};
use time::OffsetDateTime;

use super::errors::internal;
use crate::storage::Object;

/// Now, in seconds since 1970: S3 keeps no finer times.
pub(super) fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

/// Seconds since 1970 as a field of an answer.
pub(super) fn timestamp(seconds: i64) -> Timestamp {
    Timestamp::from(OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

/// Seconds since 1970 as an HTTP date.
pub(super) fn http_date(seconds: i64) -> String {
    let mut text = Vec::new();
    // Writing to memory cannot fail; the year is in the range of the format by the construction above.
    let _ = timestamp(seconds).format(TimestampFormat::HttpDate, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The ETag of an object as a field of an answer.
pub(super) fn etag(value: &str) -> Option<ETag> {
    Some(ETag::Strong(value.to_owned()))
}

/// The ETag of an object as a header.
pub(super) fn etag_header(object: &Object) -> HeaderValue {
    // An ETag is hexadecimal digits and a dash.
    HeaderValue::from_str(&format!("\"{}\"", object.etag)).unwrap_or(HeaderValue::from_static("\"\""))
}

/// A size as the signed number of the API.
pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// An ETag that does not depend on the content, as objects under KMS have.
pub(super) fn opaque_etag() -> S3Result<String> {
    crate::storage::random_hex::<16>().map_err(internal)
}
