//! PutObjectAnnotation, GetObjectAnnotation, ListObjectAnnotations and DeleteObjectAnnotation.
//!
//! s3s does not know them, so they are a route of their own beside its operations; s3s has checked the signature by
//! then. Sources: the pages of the four operations in the S3 API Reference, and "Annotating your objects" in the S3
//! User Guide.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use s3s::dto::TimestampFormat;
use s3s::route::S3Route;
use s3s::{Body, S3ErrorCode, S3Request, S3Response, S3Result};

use super::Endpoint;
use super::checksum::{Algorithm, DigestWriter, Promise};
use super::encryption::decrypt;
use super::errors::{custom, custom_with, incomplete_body, invalid_argument, invalid_request, of_kms};
use super::errors::{precondition_failed, refuse};
use super::format::{http_date, now, timestamp};
use super::put::check_promise;
use super::versions::{find, object_of, reported_id};
use crate::operation::{self, Target, query_value};
use crate::storage::{Annotation, Bucket, Encryption, Object, Version};

/// The longest name, in bytes of UTF-8.
const NAME_BYTES_MAX: usize = 512;
/// The longest payload, in bytes: 1 MiB.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// The most annotations of one version.
const ANNOTATIONS_MAX: usize = 1000;
/// Beginnings of names that are AWS's own, in any case.
const RESERVED: [&str; 2] = ["aws", "s3"];

tokio::task_local! {
    /// Set while a fault plays a store that does not know annotations.
    static IGNORED: ();
}

/// Does `work` so that a request about annotations in it, on this task, is taken for one about the object.
pub(crate) async fn ignoring_annotations<F: Future>(work: F) -> F::Output {
    IGNORED.scope((), work).await
}

/// The route of the four operations.
pub(crate) struct Annotations(Endpoint);

/// Where a request looks.
struct Asked {
    bucket: Arc<Bucket>,
    key: String,
    version_id: Option<String>,
    if_match: Option<String>,
}

impl Annotations {
    pub(crate) fn new(endpoint: Endpoint) -> Annotations {
        Annotations(endpoint)
    }
}

#[async_trait::async_trait]
impl S3Route for Annotations {
    fn is_match(&self, method: &Method, uri: &Uri, headers: &HeaderMap, _: &mut Extensions) -> bool {
        let is_known = IGNORED.try_with(|()| ()).is_err();
        is_known && operation::classify(method, uri, headers).operation.contains("ObjectAnnotation")
    }

    async fn check_access(&self, request: &mut S3Request<Body>) -> S3Result<()> {
        match request.credentials {
            Some(_) => Ok(()),
            // The tests of this room speak without signatures, as they do to the other operations.
            None if cfg!(test) => Ok(()),
            None => Err(refuse(S3ErrorCode::AccessDenied, "Access Denied")),
        }
    }

    async fn call(&self, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        let target = operation::classify(&request.method, &request.uri, &request.headers);
        let asked = self.asked(&target, &request)?;
        match target.operation {
            "PutObjectAnnotation" => self.put(&asked, request).await,
            "GetObjectAnnotation" => self.get(&asked, &name_of(&request.uri)?),
            "DeleteObjectAnnotation" => delete(&asked, &name_of(&request.uri)?),
            _ => list(&asked, &request.uri),
        }
    }
}

impl Annotations {
    fn asked(&self, target: &Target, request: &S3Request<Body>) -> S3Result<Asked> {
        let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let bucket = self
            .0
            .bucket(target.bucket.as_deref().unwrap_or_default(), text("x-amz-expected-bucket-owner").as_deref())?;
        let key = target.key.clone().unwrap_or_default();
        let (version_id, if_match) = (query_value(&request.uri, "versionId"), text("x-amz-object-if-match"));
        Ok(Asked { bucket, key, version_id, if_match })
    }

    async fn put(&self, asked: &Asked, request: S3Request<Body>) -> S3Result<S3Response<Body>> {
        // 1. Read the whole body: a client that is still sending may miss a refusal.
        let promise = Promise::from_request(&request.headers);
        let payload = payload(request.input).await;
        let (name, promise) = (name_of(&request.uri)?, promise?);
        // 2. Judge name, payload and checksum.
        check_name(&name)?;
        let payload = payload?;
        let mut digests = DigestWriter::new(promise.algorithm.unwrap_or(Algorithm::DEFAULT), true);
        digests.update(payload.as_bytes());
        let digests = digests.finish();
        check_promise(&promise, &digests, request.trailing_headers)?;
        let etag = digests.md5_etag().unwrap_or_default();
        let annotation = Annotation { payload, modified: now(), etag, checksum: digests.checksum() };
        // 3. Encrypt it as its object is.
        let version = asked.version()?;
        let encryption = &object_of(&version)?.encryption;
        if let Some(arn) = &encryption.key_arn {
            self.0.keys.generate_data_key(Some(arn), &encryption.context).map_err(of_kms)?;
        }
        // 4. Check the condition and attach it, under one lock.
        let version = asked.bucket.attach(&asked.key, asked.version_id.as_deref(), |object| {
            asked.check(object)?;
            let is_new = !object.annotations.contains_key(&name);
            if is_new && object.annotations.len() >= ANNOTATIONS_MAX {
                return Err(custom(
                    "AnnotationLimitExceeded",
                    "The request would exceed the maximum number of annotations allowed per object.",
                ));
            }
            object.annotations.insert(name.clone(), annotation.clone());
            Ok(())
        })?;
        let mut headers = described(&asked.bucket, &version, &annotation, encryption);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        let (key, name) = (escaped(&asked.key), escaped(&name));
        let text = format!(
            "<PutObjectAnnotationOutput><Key>{key}</Key><AnnotationName>{name}</AnnotationName>\
             </PutObjectAnnotationOutput>"
        );
        Ok(S3Response::with_headers(Body::from(text), headers))
    }

    fn get(&self, asked: &Asked, name: &str) -> S3Result<S3Response<Body>> {
        let version = asked.version()?;
        let object = object_of(&version)?;
        let annotation = object.annotations.get(name).ok_or_else(no_such_annotation)?;
        decrypt(self.0.keys.as_ref(), &object.encryption)?;
        let mut headers = described(&asked.bucket, &version, annotation, &object.encryption);
        headers.insert(CONTENT_LENGTH, HeaderValue::from(annotation.payload.len()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=utf-8"));
        Ok(S3Response::with_headers(Body::from(annotation.payload.clone()), headers))
    }
}

fn delete(asked: &Asked, name: &str) -> S3Result<S3Response<Body>> {
    asked.version()?;
    let version = asked.bucket.attach(&asked.key, asked.version_id.as_deref(), |object| {
        asked.check(object)?;
        object.annotations.remove(name).map(drop).ok_or_else(no_such_annotation)
    })?;
    let mut headers = HeaderMap::new();
    insert_version(&mut headers, &asked.bucket, &version);
    let answer = S3Response::with_headers(Body::empty(), headers);
    Ok(S3Response { status: Some(StatusCode::NO_CONTENT), ..answer })
}

/// A page in the order of names. Its continuation token is the last name of the page before.
fn list(asked: &Asked, uri: &Uri) -> S3Result<S3Response<Body>> {
    let version = asked.version()?;
    let prefix = query_value(uri, "annotation-prefix").unwrap_or_default();
    let after = query_value(uri, "continuation-token");
    let most = page_length(query_value(uri, "max-annotation-results").as_deref())?;
    let all = object_of(&version)?.annotations.iter();
    let mut rest =
        all.filter(|(name, _)| name.starts_with(&prefix) && after.as_ref().is_none_or(|after| *name > after));
    let page: Vec<_> = rest.by_ref().take(most).collect();
    let mut text = format!(
        "<ListObjectAnnotationsOutput><Bucket>{}</Bucket><Key>{}</Key><MaxAnnotationResults>{most}\
         </MaxAnnotationResults><AnnotationCount>{}</AnnotationCount><Annotations>",
        asked.bucket.name(),
        escaped(&asked.key),
        page.len()
    );
    for (name, annotation) in &page {
        write_entry(&mut text, name, annotation);
    }
    text.push_str("</Annotations>");
    if let (Some(_), Some((last, _))) = (rest.next(), page.last()) {
        let _ = write!(text, "<NextContinuationToken>{}</NextContinuationToken>", escaped(last));
    }
    text.push_str("</ListObjectAnnotationsOutput>");
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    insert_version(&mut headers, &asked.bucket, &version);
    Ok(S3Response::with_headers(Body::from(text), headers))
}

impl Asked {
    fn version(&self) -> S3Result<Arc<Version>> {
        find(&self.bucket, &self.key, self.version_id.as_deref())
    }

    /// The condition is on the object, not on the annotation.
    fn check(&self, object: &Object) -> S3Result<()> {
        let wanted = self.if_match.as_deref().map(|etag| etag.trim_matches('"'));
        if wanted.is_none_or(|etag| etag == object.etag) { Ok(()) } else { Err(precondition_failed()) }
    }
}

fn name_of(uri: &Uri) -> S3Result<String> {
    query_value(uri, "annotationName").ok_or_else(invalid_name)
}

/// The rules of "Annotation naming rules", S3 User Guide.
fn check_name(name: &str) -> S3Result<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(custom("AnnotationNameTooLong", "The annotation name exceeds the maximum length."));
    }
    let is_allowed = |c: char| c.is_alphabetic() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
    let lower = name.to_ascii_lowercase();
    let is_reserved = RESERVED.iter().any(|beginning| lower.starts_with(beginning));
    if is_reserved || !name.chars().all(is_allowed) { Err(invalid_name()) } else { Ok(()) }
}

fn invalid_name() -> s3s::S3Error {
    custom("InvalidAnnotationName", "The annotation name you provided is invalid.")
}

fn no_such_annotation() -> s3s::S3Error {
    custom_with(StatusCode::NOT_FOUND, "NoSuchAnnotation", "The specified annotation does not exist on this object.")
}

async fn payload(body: Body) -> S3Result<String> {
    let sentence = "An annotation payload must have 1 byte to 1 MiB.";
    let read = Limited::new(body, PAYLOAD_BYTES_MAX).collect().await;
    let bytes = read.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
        Some(_) => invalid_request(sentence),
        None => incomplete_body(),
    })?;
    let bytes = bytes.to_bytes();
    if bytes.is_empty() {
        return Err(invalid_request(sentence));
    }
    String::from_utf8(bytes.into()).map_err(|_| {
        let sentence = "The annotation payload is not valid UTF-8.";
        custom_with(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", sentence)
    })
}

fn page_length(asked: Option<&str>) -> S3Result<usize> {
    let number = asked.map_or(Ok(ANNOTATIONS_MAX), str::parse::<usize>);
    number
        .ok()
        .filter(|number| (1..=ANNOTATIONS_MAX).contains(number))
        .ok_or_else(|| invalid_argument("max-annotation-results must be 1 to 1000."))
}

fn write_entry(text: &mut String, name: &str, annotation: &Annotation) {
    let mut modified = Vec::new();
    // Writing to memory cannot fail.
    let _ = timestamp(annotation.modified).format(TimestampFormat::DateTime, &mut modified);
    let _ = write!(
        text,
        "<AnnotationEntry><AnnotationName>{}</AnnotationName><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag>\
         <ChecksumAlgorithm>{}</ChecksumAlgorithm><Size>{}</Size></AnnotationEntry>",
        escaped(name),
        String::from_utf8_lossy(&modified),
        annotation.etag,
        annotation.checksum.algorithm,
        annotation.payload.len()
    );
}

fn described(bucket: &Bucket, version: &Version, annotation: &Annotation, encryption: &Encryption) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut insert = |name: HeaderName, value: &str| {
        // ETags, checksums, dates and names of algorithms are visible ASCII.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    insert(ETAG, &format!("\"{}\"", annotation.etag));
    insert(LAST_MODIFIED, &http_date(annotation.modified));
    insert(HeaderName::from_static("x-amz-server-side-encryption"), &encryption.algorithm);
    insert(HeaderName::from_static("x-amz-checksum-type"), "FULL_OBJECT");
    if let Ok(algorithm) = Algorithm::named(&annotation.checksum.algorithm) {
        insert(HeaderName::from_static(algorithm.header()), &annotation.checksum.value);
    }
    insert_version(&mut headers, bucket, version);
    headers
}

fn insert_version(headers: &mut HeaderMap, bucket: &Bucket, version: &Version) {
    let id = reported_id(bucket, version).and_then(|id| HeaderValue::from_str(&id).ok());
    if let Some(id) = id {
        headers.insert("x-amz-object-version-id", id);
    }
}

/// Text as the content of an XML element.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            c if c.is_control() => {
                let _ = write!(safe, "&#{};", c as u32);
            }
            c => safe.push(c),
        }
    }
    safe
}
