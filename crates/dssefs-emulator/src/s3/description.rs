//! What a write says about its object in addition to the bytes: content headers, user metadata, storage class, tags.
//! And what a write may not say, because the endpoint would have to ignore it.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use s3s::dto::Metadata;
use s3s::{S3ErrorCode, S3Result};

use super::errors::{custom, invalid_argument, invalid_request, not_implemented, refuse};
use super::raw_values::text;
use crate::storage::Headers;

/// "The user-defined metadata is limited to 2 KB in size" (S3 User Guide, "Working with object metadata").
const METADATA_BYTES_MAX: usize = 2 * 1024;
/// "You can associate up to 10 tags with an object" (S3 User Guide, "Object tagging").
const TAGS_MAX: usize = 10;
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;

const STORAGE_CLASSES: [&str; 8] = [
    "STANDARD",
    "REDUCED_REDUNDANCY",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER",
    "DEEP_ARCHIVE",
    "GLACIER_IR",
];

/// Reads content headers, metadata and storage class of PutObject, CreateMultipartUpload or CopyObject.
pub(super) fn headers_of(headers: &HeaderMap, metadata: Option<Metadata>) -> S3Result<Headers> {
    let text = |name: &str| text(headers, name);
    let metadata = metadata.unwrap_or_default();
    if metadata.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > METADATA_BYTES_MAX {
        let sentence = "Your metadata headers exceed the maximum allowed metadata size";
        return Err(refuse(S3ErrorCode::MetadataTooLarge, sentence));
    }
    Ok(Headers {
        cache_control: text("cache-control"),
        content_disposition: text("content-disposition"),
        content_encoding: text("content-encoding").as_deref().and_then(without_aws_chunked),
        content_language: text("content-language"),
        content_type: text("content-type").or_else(|| Some("binary/octet-stream".to_owned())),
        expires: text("expires"),
        website_redirect_location: text("x-amz-website-redirect-location"),
        storage_class: text("x-amz-storage-class").map(storage_class).transpose()?.flatten(),
        metadata: metadata.into_iter().collect(),
    })
}

/// Reads the header `x-amz-tagging`: tags in the form of a query string.
pub(super) fn tags_of(headers: &HeaderMap) -> S3Result<Vec<(String, String)>> {
    let Some(value) = headers.get("x-amz-tagging") else { return Ok(Vec::new()) };
    let malformed = || {
        invalid_argument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query \
                                         parameters without tag name duplicates.",
        )
    };
    let text = value.to_str().map_err(|_| malformed())?;
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let tags: Option<Vec<_>> = pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((form_decode(key)?, form_decode(value)?))
        })
        .collect();
    checked_tags(tags.ok_or_else(malformed)?)
}

/// Judges a set of tags.
pub(super) fn checked_tags(tags: Vec<(String, String)>) -> S3Result<Vec<(String, String)>> {
    if tags.len() > TAGS_MAX {
        return Err(custom("BadRequest", "Object tags cannot be greater than 10"));
    }
    for (at, (key, value)) in tags.iter().enumerate() {
        if key.is_empty() || key.chars().count() > TAG_KEY_CHARS_MAX {
            return Err(refuse(S3ErrorCode::InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX {
            return Err(refuse(S3ErrorCode::InvalidTag, "The TagValue you have provided is invalid"));
        }
        if tags[..at].iter().any(|(earlier, _)| earlier == key) {
            return Err(refuse(S3ErrorCode::InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
    }
    Ok(tags)
}

/// Refuses what a request asks for and this endpoint would have to ignore.
pub(super) fn refuse_unsupported(headers: &HeaderMap) -> S3Result<()> {
    let has = |prefix: &str| headers.keys().any(|name| name.as_str().starts_with(prefix));
    if has("x-amz-server-side-encryption-customer-") {
        // New buckets block SSE-C by default (S3 User Guide, "Blocking or unblocking SSE-C").
        return Err(refuse(S3ErrorCode::AccessDenied, "Access Denied: this bucket blocks SSE-C."));
    }
    let acl = headers.get("x-amz-acl").map(http::HeaderValue::as_bytes);
    if has("x-amz-grant-") || !matches!(acl, None | Some(b"private" | b"bucket-owner-full-control")) {
        return Err(refuse(S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs"));
    }
    if has("x-amz-object-lock-") {
        return Err(invalid_request("Bucket is missing Object Lock Configuration"));
    }
    if has("x-amz-write-offset-bytes") {
        return Err(not_implemented("appending to objects, which S3 has in directory buckets only"));
    }
    Ok(())
}

/// Whether objects of that class must be restored before they can be read.
pub(super) fn is_archived(headers: &Headers) -> bool {
    matches!(headers.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE"))
}

fn storage_class(name: String) -> S3Result<Option<String>> {
    if !STORAGE_CLASSES.contains(&name.as_str()) {
        return Err(refuse(S3ErrorCode::InvalidStorageClass, "The storage class you specified is not valid"));
    }
    Ok((name != "STANDARD").then_some(name))
}

/// The transfer's own coding is none of the object's.
fn without_aws_chunked(codings: &str) -> Option<String> {
    let kept: Vec<&str> = codings.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn form_decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}
