//! Which S3 operation a request is: one pure function over method, path, query and headers.
//!
//! The counters and the faults use these names, which are those of the S3 API reference.

use std::borrow::Cow;

use http::{HeaderMap, Method, Uri, header::HOST};
use percent_encoding::percent_decode_str;

/// The name of a request that matches no operation in the table.
pub const UNKNOWN: &str = "Unknown";

/// What a request is aimed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The name of the operation in the S3 API reference, such as `PutObject`, or [`UNKNOWN`].
    pub operation: &'static str,
    /// The bucket, from the host or from the path.
    pub bucket: Option<String>,
    /// The key; for a listing, its prefix.
    pub key: Option<String>,
}

/// The operation of a request, path style or virtual-host style.
#[must_use]
pub fn classify(method: &Method, uri: &Uri, headers: &HeaderMap) -> Target {
    let (bucket, key) = address(uri, headers);
    let level = match (&bucket, &key) {
        (None, _) => Level::Service,
        (Some(_), None) => Level::Bucket,
        (Some(_), Some(_)) => Level::Object,
    };
    let copies = headers.contains_key("x-amz-copy-source");
    let matches = |row: &&Row| {
        row.level == level && method.as_str() == row.method && (copies || !row.copies) && carries(uri, row.query)
    };
    let operation = ROWS.iter().find(matches).map_or(UNKNOWN, |row| row.name);
    Target { operation, key: key.or_else(|| query_value(uri, "prefix")), bucket }
}

/// Whether `name` is an operation that [`classify`] can answer.
#[must_use]
pub fn is_known(name: &str) -> bool {
    ROWS.iter().any(|row| row.name == name)
}

/// Whether requests for the operation have a key in their address, or a prefix in its place.
#[must_use]
pub fn has_key(name: &str) -> bool {
    let lists = name.starts_with("List") && name != "ListBuckets";
    lists || ROWS.iter().any(|row| row.name == name && row.level == Level::Object)
}

/// The bucket in a virtual-host style `Host` header: the part before `.s3.localhost` or `.localhost`, with or
/// without a port. `None` means path style.
#[must_use]
pub fn bucket_of_host(host: &str) -> Option<&str> {
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
    let below = name.strip_suffix(".localhost")?;
    match below.strip_suffix(".s3").unwrap_or(below) {
        "s3" | "" => None,
        bucket => Some(bucket),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Service,
    Bucket,
    Object,
}

/// One line of the table. The first line that fits a request names it, so the more specific lines come first.
struct Row {
    level: Level,
    method: &'static str,
    /// The query that must be there: `name`, `name=value`, or nothing.
    query: &'static str,
    /// Whether the request must have `x-amz-copy-source`.
    copies: bool,
    name: &'static str,
}

const fn row(level: Level, method: &'static str, query: &'static str, name: &'static str) -> Row {
    Row { level, method, query, copies: false, name }
}

const fn copy(query: &'static str, name: &'static str) -> Row {
    Row { level: Level::Object, method: "PUT", query, copies: true, name }
}

/// From the request syntax of each operation in the S3 API reference.
const ROWS: &[Row] = &[
    row(Level::Service, "GET", "", "ListBuckets"),
    row(Level::Object, "GET", "uploadId", "ListParts"),
    row(Level::Object, "GET", "annotationName", "GetObjectAnnotation"),
    row(Level::Object, "GET", "annotation", "ListObjectAnnotations"),
    row(Level::Object, "GET", "tagging", "GetObjectTagging"),
    row(Level::Object, "GET", "acl", "GetObjectAcl"),
    row(Level::Object, "GET", "attributes", "GetObjectAttributes"),
    row(Level::Object, "GET", "retention", "GetObjectRetention"),
    row(Level::Object, "GET", "legal-hold", "GetObjectLegalHold"),
    row(Level::Object, "GET", "torrent", "GetObjectTorrent"),
    row(Level::Object, "GET", "", "GetObject"),
    row(Level::Object, "HEAD", "", "HeadObject"),
    copy("uploadId", "UploadPartCopy"),
    row(Level::Object, "PUT", "uploadId", "UploadPart"),
    row(Level::Object, "PUT", "annotation", "PutObjectAnnotation"),
    row(Level::Object, "PUT", "tagging", "PutObjectTagging"),
    row(Level::Object, "PUT", "acl", "PutObjectAcl"),
    row(Level::Object, "PUT", "retention", "PutObjectRetention"),
    row(Level::Object, "PUT", "legal-hold", "PutObjectLegalHold"),
    row(Level::Object, "PUT", "encryption", "UpdateObjectEncryption"),
    copy("", "CopyObject"),
    row(Level::Object, "PUT", "", "PutObject"),
    row(Level::Object, "POST", "uploads", "CreateMultipartUpload"),
    row(Level::Object, "POST", "uploadId", "CompleteMultipartUpload"),
    row(Level::Object, "POST", "restore", "RestoreObject"),
    row(Level::Object, "POST", "select", "SelectObjectContent"),
    row(Level::Object, "DELETE", "uploadId", "AbortMultipartUpload"),
    row(Level::Object, "DELETE", "annotation", "DeleteObjectAnnotation"),
    row(Level::Object, "DELETE", "tagging", "DeleteObjectTagging"),
    row(Level::Object, "DELETE", "", "DeleteObject"),
    row(Level::Bucket, "GET", "uploads", "ListMultipartUploads"),
    row(Level::Bucket, "GET", "versions", "ListObjectVersions"),
    row(Level::Bucket, "GET", "list-type=2", "ListObjectsV2"),
    row(Level::Bucket, "GET", "location", "GetBucketLocation"),
    row(Level::Bucket, "GET", "encryption", "GetBucketEncryption"),
    row(Level::Bucket, "GET", "versioning", "GetBucketVersioning"),
    row(Level::Bucket, "GET", "acl", "GetBucketAcl"),
    row(Level::Bucket, "GET", "policyStatus", "GetBucketPolicyStatus"),
    row(Level::Bucket, "GET", "policy", "GetBucketPolicy"),
    row(Level::Bucket, "GET", "tagging", "GetBucketTagging"),
    row(Level::Bucket, "GET", "cors", "GetBucketCors"),
    row(Level::Bucket, "GET", "lifecycle", "GetBucketLifecycleConfiguration"),
    row(Level::Bucket, "GET", "object-lock", "GetObjectLockConfiguration"),
    row(Level::Bucket, "GET", "publicAccessBlock", "GetPublicAccessBlock"),
    row(Level::Bucket, "GET", "ownershipControls", "GetBucketOwnershipControls"),
    row(Level::Bucket, "GET", "logging", "GetBucketLogging"),
    row(Level::Bucket, "GET", "", "ListObjects"),
    row(Level::Bucket, "HEAD", "", "HeadBucket"),
    row(Level::Bucket, "PUT", "encryption", "PutBucketEncryption"),
    row(Level::Bucket, "PUT", "versioning", "PutBucketVersioning"),
    row(Level::Bucket, "PUT", "acl", "PutBucketAcl"),
    row(Level::Bucket, "PUT", "policy", "PutBucketPolicy"),
    row(Level::Bucket, "PUT", "tagging", "PutBucketTagging"),
    row(Level::Bucket, "PUT", "cors", "PutBucketCors"),
    row(Level::Bucket, "PUT", "lifecycle", "PutBucketLifecycleConfiguration"),
    row(Level::Bucket, "PUT", "object-lock", "PutObjectLockConfiguration"),
    row(Level::Bucket, "PUT", "publicAccessBlock", "PutPublicAccessBlock"),
    row(Level::Bucket, "PUT", "ownershipControls", "PutBucketOwnershipControls"),
    row(Level::Bucket, "PUT", "", "CreateBucket"),
    row(Level::Bucket, "POST", "delete", "DeleteObjects"),
    row(Level::Bucket, "POST", "", "PostObject"),
    row(Level::Bucket, "DELETE", "encryption", "DeleteBucketEncryption"),
    row(Level::Bucket, "DELETE", "policy", "DeleteBucketPolicy"),
    row(Level::Bucket, "DELETE", "tagging", "DeleteBucketTagging"),
    row(Level::Bucket, "DELETE", "cors", "DeleteBucketCors"),
    row(Level::Bucket, "DELETE", "lifecycle", "DeleteBucketLifecycle"),
    row(Level::Bucket, "DELETE", "publicAccessBlock", "DeletePublicAccessBlock"),
    row(Level::Bucket, "DELETE", "ownershipControls", "DeleteBucketOwnershipControls"),
    row(Level::Bucket, "DELETE", "", "DeleteBucket"),
];

/// Bucket and key of a request; an empty key is none.
fn address(uri: &Uri, headers: &HeaderMap) -> (Option<String>, Option<String>) {
    let path = percent_decode_str(uri.path()).decode_utf8_lossy();
    let path = path.strip_prefix('/').unwrap_or(&path);
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let (bucket, key) = match host.and_then(bucket_of_host) {
        Some(bucket) => (bucket, path),
        None => path.split_once('/').unwrap_or((path, "")),
    };
    let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
    (named(bucket), named(key))
}

/// Whether the query holds `wanted` (`name` or `name=value`); an empty `wanted` is held by every query.
fn carries(uri: &Uri, wanted: &str) -> bool {
    wanted.is_empty()
        || pairs(uri).any(|(name, value)| match wanted.split_once('=') {
            Some((wanted, wanted_value)) => name == wanted && value == wanted_value,
            None => name == wanted,
        })
}

/// The value of `wanted` in the query, unless it is empty.
pub(crate) fn query_value(uri: &Uri, wanted: &str) -> Option<String> {
    pairs(uri).find(|(name, _)| name == wanted).map(|(_, value)| value.into_owned()).filter(|value| !value.is_empty())
}

fn pairs(uri: &Uri) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    let decode = |text| percent_decode_str(text).decode_utf8_lossy();
    uri.query().unwrap_or_default().split('&').map(move |pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(request: &str) -> &'static str {
        target(request, &[]).operation
    }

    fn target(request: &str, headers: &[(&'static str, &str)]) -> Target {
        let (method, uri) = request.split_once(' ').unwrap();
        let headers = headers.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect();
        classify(&method.parse().unwrap(), &uri.parse().unwrap(), &headers)
    }

    #[test]
    fn method_and_query_tell_object_operations() {
        for (request, name) in [
            ("GET /b/k?x-id=GetObject", "GetObject"),
            ("HEAD /b/k", "HeadObject"),
            ("PUT /b/k?x-id=PutObject", "PutObject"),
            ("DELETE /b/k?versionId=1", "DeleteObject"),
            ("POST /b/k?uploads", "CreateMultipartUpload"),
            ("PUT /b/k?partNumber=1&uploadId=u", "UploadPart"),
            ("POST /b/k?uploadId=u", "CompleteMultipartUpload"),
            ("DELETE /b/k?uploadId=u", "AbortMultipartUpload"),
            ("GET /b/k?uploadId=u", "ListParts"),
            ("GET /b/k?attributes", "GetObjectAttributes"),
            ("PUT /b/k?tagging", "PutObjectTagging"),
            ("GET /b/k?annotation&x-id=ListObjectAnnotations", "ListObjectAnnotations"),
            ("GET /b/k?annotation&x-id=GetObjectAnnotation&annotationName=n", "GetObjectAnnotation"),
            ("PUT /b/k?annotation&annotationName=n", "PutObjectAnnotation"),
            ("DELETE /b/k?annotation&annotationName=n&versionId=1", "DeleteObjectAnnotation"),
            ("POST /b/k", UNKNOWN),
        ] {
            assert_eq!(operation(request), name, "{request}");
        }
    }

    #[test]
    fn method_and_query_tell_bucket_operations() {
        for (request, name) in [
            ("GET /", "ListBuckets"),
            ("GET /b?list-type=2&prefix=p", "ListObjectsV2"),
            ("GET /b?prefix=p", "ListObjects"),
            ("GET /b/?list-type=1", "ListObjects"),
            ("GET /b/?versions", "ListObjectVersions"),
            ("GET /b?uploads=", "ListMultipartUploads"),
            ("GET /b?encryption", "GetBucketEncryption"),
            ("PUT /b", "CreateBucket"),
            ("PUT /b/?encryption", "PutBucketEncryption"),
            ("POST /b?delete", "DeleteObjects"),
            ("HEAD /b", "HeadBucket"),
            ("DELETE /b", "DeleteBucket"),
        ] {
            assert_eq!(operation(request), name, "{request}");
        }
    }

    #[test]
    fn a_copy_source_turns_a_put_into_a_copy() {
        let copy = [("x-amz-copy-source", "b/s")];
        assert_eq!(target("PUT /b/k", &copy).operation, "CopyObject");
        assert_eq!(target("PUT /b/k?partNumber=1&uploadId=u", &copy).operation, "UploadPartCopy");
    }

    #[test]
    fn the_bucket_is_in_host_or_path() {
        let by_host = target("GET /a/b%20c", &[("host", "bucket.localhost:9000")]);
        assert_eq!((by_host.bucket.as_deref(), by_host.key.as_deref()), (Some("bucket"), Some("a/b c")));
        let by_path = target("GET /bucket/a/b%20c", &[("host", "localhost:9000")]);
        assert_eq!(by_host, by_path);
        assert_eq!(target("GET /", &[("host", "bucket.localhost")]).operation, "ListObjects");
    }

    #[test]
    fn a_listing_is_matched_by_its_prefix() {
        assert_eq!(target("GET /b?list-type=2&prefix=a%2Fb", &[]).key.as_deref(), Some("a/b"));
        assert_eq!(target("GET /b?list-type=2&prefix=", &[]).key, None);
    }

    #[test]
    fn only_names_under_localhost_carry_a_bucket() {
        assert_eq!(bucket_of_host("a.b.localhost:1"), Some("a.b"));
        assert_eq!(bucket_of_host("a.s3.localhost"), Some("a"));
        for host in ["localhost", "localhost:80", "s3.localhost", "127.0.0.1:80", "[::1]:80", "a.example"] {
            assert_eq!(bucket_of_host(host), None, "{host}");
        }
    }
}
