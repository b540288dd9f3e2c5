//! ListObjects, ListObjectsV2, ListObjectVersions and ListMultipartUploads.

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    ChecksumAlgorithm, CommonPrefix, DeleteMarkerEntry, EncodingType, Initiator, ListMultipartUploadsInput,
    ListMultipartUploadsOutput, ListObjectVersionsInput, ListObjectVersionsOutput, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, MultipartUpload, Object as ListedObject, ObjectStorageClass,
    ObjectVersion, ObjectVersionStorageClass, Owner,
};
use s3s::{S3Request, S3Response, S3Result};

use super::Endpoint;
use super::errors::invalid_argument;
use super::format::{etag, size, timestamp};
use super::parts::storage_class;
use super::versions::checksum_type;
use crate::storage::{Bucket, Found, Object, Query, Upload, Version, Walk};

/// "Returns some or all (up to 1,000) of the objects in a bucket" (ListObjectsV2, S3 API Reference).
const PAGE_KEYS_MAX: i32 = 1_000;

/// What `encoding-type=url` leaves as it is.
const UNESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'*').remove(b'/');

/// A page of keys, before it is spelled for one of the two versions of the operation.
struct Page {
    contents: Vec<ListedObject>,
    common_prefixes: Vec<CommonPrefix>,
    /// The last entry, if more follow.
    next: Option<String>,
}

impl Endpoint {
    pub(super) async fn list(&self, request: S3Request<ListObjectsInput>) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let spell = Spelling::of(input.encoding_type.as_ref())?;
        let page_max = page_max(input.max_keys)?;
        let (prefix, marker) = (input.prefix.unwrap_or_default(), input.marker.unwrap_or_default());
        let query = Query { prefix: &prefix, delimiter: input.delimiter.as_deref(), after: &marker };
        let page = page(&bucket, query, page_max, spell, Some(&self.owner()));
        Ok(S3Response::new(ListObjectsOutput {
            // "This element is returned only if you have the delimiter request parameter specified."
            next_marker: page.next.as_deref().filter(|_| input.delimiter.is_some()).map(|next| spell.key(next)),
            is_truncated: Some(page.next.is_some()),
            contents: Some(page.contents),
            common_prefixes: Some(page.common_prefixes),
            delimiter: input.delimiter.map(|delimiter| spell.key(&delimiter)),
            encoding_type: input.encoding_type,
            marker: Some(spell.key(&marker)),
            max_keys: Some(page_max),
            name: Some(input.bucket),
            prefix: Some(spell.key(&prefix)),
            ..ListObjectsOutput::default()
        }))
    }

    pub(super) async fn list_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let spell = Spelling::of(input.encoding_type.as_ref())?;
        let page_max = page_max(input.max_keys)?;
        let prefix = input.prefix.unwrap_or_default();
        let after = match &input.continuation_token {
            Some(token) => read_token(token)?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let query = Query { prefix: &prefix, delimiter: input.delimiter.as_deref(), after: &after };
        let owner = input.fetch_owner.unwrap_or(false).then(|| self.owner());
        let page = page(&bucket, query, page_max, spell, owner.as_ref());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: i32::try_from(page.contents.len() + page.common_prefixes.len()).ok(),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_deref().map(write_token),
            contents: Some(page.contents),
            common_prefixes: Some(page.common_prefixes),
            continuation_token: input.continuation_token,
            delimiter: input.delimiter.map(|delimiter| spell.key(&delimiter)),
            encoding_type: input.encoding_type,
            max_keys: Some(page_max),
            name: Some(input.bucket),
            prefix: Some(spell.key(&prefix)),
            start_after: input.start_after.map(|after| spell.key(&after)),
            ..ListObjectsV2Output::default()
        }))
    }

    pub(super) async fn list_versions(
        &self,
        request: S3Request<ListObjectVersionsInput>,
    ) -> S3Result<S3Response<ListObjectVersionsOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let spell = Spelling::of(input.encoding_type.as_ref())?;
        let page_max = page_max(input.max_keys)?;
        let (prefix, marker) = (input.prefix.unwrap_or_default(), input.key_marker.unwrap_or_default());
        if input.version_id_marker.is_some() && marker.is_empty() {
            return Err(invalid_argument("A version-id marker cannot be specified without a key marker."));
        }
        let query = Query { prefix: &prefix, delimiter: input.delimiter.as_deref(), after: &marker };
        let mut page = VersionPage::new(page_max, spell, self.owner());
        page.fill(&bucket, query, input.version_id_marker.as_deref());
        let (next_key, next_id) = page.next.unzip();
        Ok(S3Response::new(ListObjectVersionsOutput {
            common_prefixes: Some(page.common_prefixes),
            delete_markers: Some(page.delete_markers),
            delimiter: input.delimiter.map(|delimiter| spell.key(&delimiter)),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_key.is_some()),
            key_marker: Some(spell.key(&marker)),
            max_keys: Some(page_max),
            name: Some(input.bucket),
            next_key_marker: next_key.map(|key| spell.key(&key)),
            next_version_id_marker: next_id.flatten(),
            prefix: Some(spell.key(&prefix)),
            version_id_marker: input.version_id_marker,
            versions: Some(page.versions),
            ..ListObjectVersionsOutput::default()
        }))
    }

    pub(super) async fn list_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket, input.expected_bucket_owner.as_deref())?;
        let spell = Spelling::of(input.encoding_type.as_ref())?;
        let page_max = page_max(input.max_uploads)?;
        let prefix = input.prefix.unwrap_or_default();
        let (marker, id_marker) = (input.key_marker.unwrap_or_default(), input.upload_id_marker.unwrap_or_default());
        let rest = uploads_behind(bucket.uploads()?, &marker, &id_marker);
        // An id marker means that the key of the marker is not done yet, so that the walk starts with it once more.
        let after = if id_marker.is_empty() { marker.as_str() } else { "" };
        let query = Query { prefix: &prefix, delimiter: input.delimiter.as_deref(), after };
        let page = self.upload_page(&rest, query, page_max, spell);
        let (next_key, next_id) = page.next.unzip();
        Ok(S3Response::new(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            common_prefixes: Some(page.common_prefixes),
            delimiter: input.delimiter.map(|delimiter| spell.key(&delimiter)),
            encoding_type: input.encoding_type,
            is_truncated: Some(next_key.is_some()),
            key_marker: Some(spell.key(&marker)),
            max_uploads: Some(page_max),
            next_key_marker: next_key.map(|key| spell.key(&key)),
            next_upload_id_marker: next_id,
            prefix: Some(spell.key(&prefix)),
            upload_id_marker: Some(id_marker),
            uploads: Some(page.uploads),
            ..ListMultipartUploadsOutput::default()
        }))
    }

    fn upload_page(&self, uploads: &UploadsByKey, query: Query<'_>, page_max: i32, spell: Spelling) -> UploadPage {
        let mut page = UploadPage::default();
        let mut last = None;
        for found in Walk::new(uploads, |_: &Vec<(String, Upload)>| true, query) {
            let entries: Vec<Option<&(String, Upload)>> = match found {
                Found::Prefix(_) => vec![None],
                Found::Key(_, uploads) => uploads.iter().map(Some).collect(),
            };
            let name = match found {
                Found::Prefix(name) | Found::Key(name, _) => name,
            };
            for entry in entries {
                if page.uploads.len() + page.common_prefixes.len() >= page_max.unsigned_abs() as usize {
                    page.next = last;
                    return page;
                }
                last = Some((name.to_owned(), entry.map(|(id, _)| id.clone()).unwrap_or_default()));
                match entry {
                    None => page.common_prefixes.push(CommonPrefix { prefix: Some(spell.key(name)) }),
                    Some((id, upload)) => page.uploads.push(self.listed_upload(id, upload, spell)),
                }
            }
        }
        page
    }

    fn listed_upload(&self, id: &str, upload: &Upload, spell: Spelling) -> MultipartUpload {
        let record = &upload.record;
        MultipartUpload {
            checksum_algorithm: record.algorithm.clone().map(ChecksumAlgorithm::from),
            checksum_type: record.algorithm.as_ref().map(|_| checksum_type(record.composite)),
            initiated: Some(timestamp(record.initiated)),
            initiator: Some(self.initiator()),
            key: Some(spell.key(&record.key)),
            owner: Some(self.owner()),
            storage_class: Some(storage_class(record)),
            upload_id: Some(id.to_owned()),
        }
    }

    pub(super) fn initiator(&self) -> Initiator {
        Initiator { display_name: None, id: self.owner().id }
    }
}

type UploadsByKey = BTreeMap<String, Vec<(String, Upload)>>;

#[derive(Default)]
struct UploadPage {
    uploads: Vec<MultipartUpload>,
    common_prefixes: Vec<CommonPrefix>,
    next: Option<(String, String)>,
}

/// Uploads grouped by key, without those that an earlier page named.
fn uploads_behind(uploads: Vec<(String, Upload)>, marker: &str, id_marker: &str) -> UploadsByKey {
    let mut grouped = UploadsByKey::new();
    for (id, upload) in uploads {
        grouped.entry(upload.record.key.clone()).or_default().push((id, upload));
    }
    if id_marker.is_empty() {
        return grouped;
    }
    let mut behind = grouped.split_off(marker);
    if let Some(same_key) = behind.get_mut(marker) {
        let named = same_key.iter().position(|(id, _)| id == id_marker).map_or(0, |at| at + 1);
        same_key.drain(..named);
    }
    behind.retain(|_, uploads| !uploads.is_empty());
    behind
}

fn page(bucket: &Bucket, query: Query<'_>, page_max: i32, spell: Spelling, owner: Option<&Owner>) -> Page {
    let mut page = Page { contents: Vec::new(), common_prefixes: Vec::new(), next: None };
    if page_max == 0 {
        return page;
    }
    bucket.with_keys(|keys| {
        let is_there =
            |versions: &Vec<Arc<Version>>| versions.first().is_some_and(|version| version.object().is_some());
        let mut last = None;
        for found in Walk::new(keys, is_there, query) {
            if page.contents.len() + page.common_prefixes.len() >= page_max.unsigned_abs() as usize {
                page.next = last;
                return;
            }
            match found {
                Found::Prefix(prefix) => {
                    page.common_prefixes.push(CommonPrefix { prefix: Some(spell.key(prefix)) });
                    last = Some(prefix.to_owned());
                }
                Found::Key(key, versions) => {
                    page.contents.extend(versions.first().and_then(|version| listed(key, version, spell, owner)));
                    last = Some(key.to_owned());
                }
            }
        }
    });
    page
}

fn listed(key: &str, version: &Version, spell: Spelling, owner: Option<&Owner>) -> Option<ListedObject> {
    let object = version.object()?;
    Some(ListedObject {
        checksum_algorithm: checksum_algorithm(object),
        checksum_type: object.checksum.as_ref().map(|checksum| checksum_type(checksum.composite)),
        e_tag: etag(&object.etag),
        key: Some(spell.key(key)),
        last_modified: Some(timestamp(version.modified)),
        owner: owner.cloned(),
        restore_status: None,
        size: Some(size(object.body.length())),
        storage_class: Some(ObjectStorageClass::from(class(object))),
    })
}

fn checksum_algorithm(object: &Object) -> Option<Vec<ChecksumAlgorithm>> {
    object.checksum.as_ref().map(|checksum| vec![ChecksumAlgorithm::from(checksum.algorithm.clone())])
}

fn class(object: &Object) -> String {
    object.headers.storage_class.clone().unwrap_or_else(|| ObjectStorageClass::STANDARD.to_owned())
}

/// A page of versions, being filled.
struct VersionPage {
    entries_max: usize,
    spell: Spelling,
    owner: Owner,
    versions: Vec<ObjectVersion>,
    delete_markers: Vec<DeleteMarkerEntry>,
    common_prefixes: Vec<CommonPrefix>,
    /// Key and version id of the last entry, if more follow; a common prefix has no id.
    next: Option<(String, Option<String>)>,
}

impl VersionPage {
    fn new(page_max: i32, spell: Spelling, owner: Owner) -> VersionPage {
        let (versions, delete_markers, common_prefixes) = (Vec::new(), Vec::new(), Vec::new());
        let entries_max = page_max.unsigned_abs() as usize;
        VersionPage { entries_max, spell, owner, versions, delete_markers, common_prefixes, next: None }
    }

    fn fill(&mut self, bucket: &Bucket, query: Query<'_>, id_marker: Option<&str>) {
        if self.entries_max == 0 {
            return;
        }
        bucket.with_keys(|keys| {
            let mut last = None;
            let begun = id_marker.and_then(|id| Some((query.after, rest_behind(keys.get(query.after)?, id))));
            for (at, version) in
                begun.into_iter().flat_map(|(key, rest)| rest.iter().map(move |version| (key, version)))
            {
                if !self.push(at, version, false, &mut last) {
                    return;
                }
            }
            for found in Walk::new(keys, |_: &Vec<Arc<Version>>| true, query) {
                let fits = match found {
                    Found::Prefix(prefix) => self.push_prefix(prefix, &mut last),
                    Found::Key(key, versions) => {
                        versions.iter().enumerate().all(|(at, version)| self.push(key, version, at == 0, &mut last))
                    }
                };
                if !fits {
                    return;
                }
            }
        });
    }

    /// Adds an entry, or says that the page is full.
    fn push(
        &mut self,
        key: &str,
        version: &Version,
        is_latest: bool,
        last: &mut Option<(String, Option<String>)>,
    ) -> bool {
        if self.is_full(last) {
            return false;
        }
        *last = Some((key.to_owned(), Some(version.id_or_null().to_owned())));
        match version.object() {
            Some(object) => self.versions.push(ObjectVersion {
                checksum_algorithm: checksum_algorithm(object),
                checksum_type: object.checksum.as_ref().map(|checksum| checksum_type(checksum.composite)),
                e_tag: etag(&object.etag),
                is_latest: Some(is_latest),
                key: Some(self.spell.key(key)),
                last_modified: Some(timestamp(version.modified)),
                owner: Some(self.owner.clone()),
                restore_status: None,
                size: Some(size(object.body.length())),
                storage_class: Some(ObjectVersionStorageClass::from(class(object))),
                version_id: Some(version.id_or_null().to_owned()),
            }),
            None => self.delete_markers.push(DeleteMarkerEntry {
                is_latest: Some(is_latest),
                key: Some(self.spell.key(key)),
                last_modified: Some(timestamp(version.modified)),
                owner: Some(self.owner.clone()),
                version_id: Some(version.id_or_null().to_owned()),
            }),
        }
        true
    }

    fn push_prefix(&mut self, prefix: &str, last: &mut Option<(String, Option<String>)>) -> bool {
        if self.is_full(last) {
            return false;
        }
        *last = Some((prefix.to_owned(), None));
        self.common_prefixes.push(CommonPrefix { prefix: Some(self.spell.key(prefix)) });
        true
    }

    fn is_full(&mut self, last: &mut Option<(String, Option<String>)>) -> bool {
        let full = self.versions.len() + self.delete_markers.len() + self.common_prefixes.len() >= self.entries_max;
        if full {
            self.next = last.take();
        }
        full
    }
}

/// Versions older than the one of that id.
fn rest_behind<'v>(versions: &'v [Arc<Version>], id: &str) -> &'v [Arc<Version>] {
    let at = versions.iter().position(|version| version.id_or_null() == id);
    at.map_or(&[], |at| &versions[at + 1..])
}

fn page_max(asked: Option<i32>) -> S3Result<i32> {
    match asked {
        Some(asked) if asked < 0 => {
            Err(invalid_argument("Argument maxKeys must be an integer between 0 and 2147483647"))
        }
        asked => Ok(asked.unwrap_or(PAGE_KEYS_MAX).min(PAGE_KEYS_MAX)),
    }
}

/// How keys are written into the answer: XML 1.0 has no way to write most control characters, so that clients may ask
/// for escapes.
#[derive(Debug, Clone, Copy)]
enum Spelling {
    Plain,
    Url,
}

impl Spelling {
    fn of(encoding: Option<&EncodingType>) -> S3Result<Spelling> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Spelling::Plain),
            Some(EncodingType::URL) => Ok(Spelling::Url),
            Some(_) => Err(invalid_argument("Invalid Encoding Method specified in Request")),
        }
    }

    fn key(self, key: &str) -> String {
        match self {
            Spelling::Plain => key.to_owned(),
            Spelling::Url => utf8_percent_encode(key, UNESCAPED).to_string(),
        }
    }
}

/// A continuation token is the last entry of the page before, made opaque.
fn write_token(last: &str) -> String {
    base64_simd::URL_SAFE_NO_PAD.encode_to_string(last)
}

fn read_token(token: &str) -> S3Result<String> {
    let last = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(token).ok().and_then(|last| String::from_utf8(last).ok());
    last.filter(|last| !last.is_empty()).ok_or_else(|| invalid_argument("The continuation token provided is incorrect"))
}
