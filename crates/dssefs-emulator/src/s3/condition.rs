//! Conditional requests.
//!
//! Sources: RFC 9110, 13; "Conditional reads", "Conditional writes" and "Conditional deletes" in the S3 User Guide;
//! CopyObject in the S3 API Reference for the `x-amz-copy-source-if-*` headers.

use std::future::Future;

use http::{HeaderMap, HeaderValue, header};
use s3s::dto::{ETag, ETagCondition, Timestamp, TimestampFormat};
use s3s::{S3Error, S3ErrorCode, S3Result};
use time::OffsetDateTime;

use super::errors::{invalid_argument, no_such_key, not_implemented, precondition_failed, refuse};
use super::format::{etag_header, http_date};
use crate::storage::{Object, Version};

tokio::task_local! {
    /// Set while a fault plays a store that does not know conditions.
    static IGNORED: ();
}

/// Does `work` so that the conditions of the request in it, on this task, are not looked at.
pub(crate) async fn ignoring_conditions<F: Future>(work: F) -> F::Output {
    IGNORED.scope((), work).await
}

/// `If-Match` and `If-None-Match` of a write.
#[derive(Debug, Default)]
pub(super) struct WriteCondition {
    if_match: Option<ETagCondition>,
    if_none_match: Option<ETagCondition>,
}

impl WriteCondition {
    /// Reads the headers. S3 takes only `*` in If-None-Match of a write, and not both headers.
    pub(super) fn from_request(headers: &HeaderMap) -> S3Result<WriteCondition> {
        if IGNORED.try_with(|()| ()).is_ok() {
            return Ok(WriteCondition::default());
        }
        let if_match = etag_condition(headers, "if-match")?;
        let if_none_match = etag_condition(headers, "if-none-match")?;
        if if_match.is_some() && if_none_match.is_some() {
            return Err(not_implemented("If-Match together with If-None-Match on a write, as S3 does not"));
        }
        if if_none_match.as_ref().is_some_and(|condition| !condition.is_any()) {
            return Err(not_implemented("an ETag in If-None-Match of a write, as S3 does not"));
        }
        Ok(WriteCondition { if_match, if_none_match })
    }

    /// Judges the newest version of the key. A delete marker is no object.
    pub(super) fn check(&self, newest: Option<&Version>) -> S3Result<()> {
        let object = newest.and_then(Version::object);
        if self.if_none_match.is_some() && object.is_some() {
            return Err(precondition_failed());
        }
        match (&self.if_match, object) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(no_such_key()),
            (Some(condition), Some(object)) if matches(condition, object) => Ok(()),
            (Some(_), Some(_)) => Err(precondition_failed()),
        }
    }
}

/// Judges `If-Match` of a delete: 404 if there is nothing at all, 412 if it is another object or a delete marker.
pub(super) fn check_delete(if_match: Option<&ETagCondition>, newest: Option<&Version>) -> S3Result<()> {
    let Some(condition) = if_match.filter(|_| IGNORED.try_with(|()| ()).is_err()) else { return Ok(()) };
    let version = newest.ok_or_else(no_such_key)?;
    let holds = version.object().is_some_and(|object| matches(condition, object));
    if holds { Ok(()) } else { Err(precondition_failed()) }
}

/// The conditions of GetObject and HeadObject.
pub(super) fn check_read(headers: &HeaderMap, version: &Version, object: &Object) -> S3Result<()> {
    if IGNORED.try_with(|()| ()).is_ok() {
        return Ok(());
    }
    match Outcome::of(headers, "", version, object)? {
        Outcome::Proceed => Ok(()),
        Outcome::Failed => Err(precondition_failed()),
        Outcome::NotModified => Err(not_modified(version, object)),
    }
}

/// The conditions on the source of a copy; each fails with 412.
pub(super) fn check_copy_source(headers: &HeaderMap, version: &Version, object: &Object) -> S3Result<()> {
    match Outcome::of(headers, "x-amz-copy-source-", version, object)? {
        Outcome::Proceed => Ok(()),
        Outcome::Failed | Outcome::NotModified => Err(precondition_failed()),
    }
}

enum Outcome {
    Proceed,
    Failed,
    NotModified,
}

impl Outcome {
    /// RFC 9110, 13.2.2: the dates count only where no ETag of the same kind is given.
    fn of(headers: &HeaderMap, prefix: &str, version: &Version, object: &Object) -> S3Result<Outcome> {
        let tag = |name: &str| etag_condition(headers, &format!("{prefix}{name}"));
        let date = |name: &str| date_condition(headers, &format!("{prefix}{name}"));
        let failed = match (tag("if-match")?, date("if-unmodified-since")?) {
            (Some(condition), _) => !matches(&condition, object),
            (None, Some(date)) => version.modified > date,
            (None, None) => false,
        };
        let not_modified = match (tag("if-none-match")?, date("if-modified-since")?) {
            (Some(condition), _) => matches(&condition, object),
            (None, Some(date)) => version.modified <= date,
            (None, None) => false,
        };
        Ok(if failed {
            Outcome::Failed
        } else if not_modified {
            Outcome::NotModified
        } else {
            Outcome::Proceed
        })
    }
}

fn matches(condition: &ETagCondition, object: &Object) -> bool {
    condition.as_etag().map(ETag::value).is_none_or(|etag| etag == object.etag)
}

fn not_modified(version: &Version, object: &Object) -> S3Error {
    let mut error = refuse(S3ErrorCode::NotModified, "Not Modified");
    let mut headers = HeaderMap::new();
    headers.insert(header::ETAG, etag_header(object));
    if let Ok(value) = HeaderValue::from_str(&http_date(version.modified)) {
        headers.insert(header::LAST_MODIFIED, value);
    }
    error.set_headers(headers);
    error
}

fn etag_condition(headers: &HeaderMap, name: &str) -> S3Result<Option<ETagCondition>> {
    let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let condition = ETagCondition::parse_http_header(value.as_bytes());
    condition.map(Some).map_err(|_| invalid_argument(format!("The header {name} is neither an ETag nor *.")))
}

fn date_condition(headers: &HeaderMap, name: &str) -> S3Result<Option<i64>> {
    let Some(value) = headers.get(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| Timestamp::parse(TimestampFormat::HttpDate, text).ok());
    let date = parsed.ok_or_else(|| invalid_argument(format!("The header {name} is not an HTTP date.")))?;
    Ok(Some(OffsetDateTime::from(date).unix_timestamp()))
}
