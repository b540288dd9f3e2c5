//! What is remembered of buckets, objects, uploads and parts, in memory and as JSON on the disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::body::Body;

/// Whether a bucket keeps old versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum Versioning {
    /// Never switched on: each key has one version, the null version.
    #[default]
    Off,
    /// Each write adds a version.
    Enabled,
    /// Each write replaces the null version; the others stay.
    Suspended,
}

/// Settings of a bucket.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Seconds since 1970 at which the bucket was made.
    pub(crate) created: i64,
    /// Whether old versions are kept.
    pub(crate) versioning: Versioning,
    /// Default encryption: algorithm as in the API; `AES256` if no client chose one.
    pub(crate) default_algorithm: Option<String>,
    /// Default KMS key as the client named it; unchecked, as in S3.
    pub(crate) default_key: Option<String>,
    /// Whether the default asks for a bucket key.
    pub(crate) default_bucket_key: bool,
}

/// One version of a key.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Version {
    /// The version id; `None` is the null version.
    pub(crate) id: Option<String>,
    /// Seconds since 1970.
    pub(crate) modified: i64,
    /// An object, or the marker of its deletion.
    pub(crate) content: Content,
}

impl Version {
    /// The object, unless this is a delete marker.
    pub(crate) fn object(&self) -> Option<&Object> {
        match &self.content {
            Content::Object(object) => Some(object),
            Content::DeleteMarker => None,
        }
    }

    /// The same version with another object.
    pub(super) fn with_object(&self, object: Object) -> Version {
        Version { id: self.id.clone(), modified: self.modified, content: Content::Object(Box::new(object)) }
    }

    /// The id as the API spells it.
    pub(crate) fn id_or_null(&self) -> &str {
        self.id.as_deref().unwrap_or("null")
    }
}

/// What a version is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Content {
    /// The marker that a delete leaves in a versioned bucket.
    DeleteMarker,
    /// Bytes and their description.
    Object(Box<Object>),
}

/// An object: its bytes and all that is said about them. Clones share the bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Object {
    /// The ETag without its quotes.
    pub(crate) etag: String,
    /// The bytes.
    #[serde(with = "shared")]
    pub(crate) body: Arc<Body>,
    /// The parts of a multipart object; empty for any other.
    pub(crate) parts: Vec<PartSummary>,
    /// The upload that made it; its leftovers are recognised by this.
    pub(crate) upload_id: Option<String>,
    /// Content headers, user metadata and storage class.
    pub(crate) headers: Headers,
    /// Tags in the order given.
    pub(crate) tags: Vec<(String, String)>,
    /// Annotations by name.
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, Annotation>,
    /// How it is encrypted.
    pub(crate) encryption: Encryption,
    /// The checksum that S3 would hold.
    pub(crate) checksum: Option<Checksum>,
}

/// A named text that is attached to a version. It is encrypted as the version is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Annotation {
    /// The text.
    pub(crate) payload: String,
    /// Seconds since 1970.
    pub(crate) modified: i64,
    /// The ETag of the text, without its quotes.
    pub(crate) etag: String,
    /// The checksum of the text.
    pub(crate) checksum: Checksum,
}

/// Headers that are kept and given back with an object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Headers {
    pub(crate) cache_control: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) content_type: Option<String>,
    /// An HTTP date, as sent.
    pub(crate) expires: Option<String>,
    pub(crate) website_redirect_location: Option<String>,
    /// `None` is STANDARD, which HEAD does not mention.
    pub(crate) storage_class: Option<String>,
    /// User metadata without the prefix `x-amz-meta-`.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// How an object is encrypted, as its answers say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Encryption {
    /// Algorithm as in the API.
    pub(crate) algorithm: String,
    /// ARN of the KMS key; `None` with `AES256`.
    pub(crate) key_arn: Option<String>,
    /// Whether a bucket key is in use.
    pub(crate) bucket_key: bool,
    /// The context header as sent, which only the answers of writes repeat.
    pub(crate) context_header: Option<String>,
    /// The pairs that KMS is called with, the default pair among them.
    pub(crate) context: BTreeMap<String, String>,
}

/// A checksum as the API spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    /// `CRC32`, `CRC32C`, `CRC64NVME`, `SHA1` or `SHA256`.
    pub(crate) algorithm: String,
    /// Base64, with `-N` if it is the checksum of N parts' checksums.
    pub(crate) value: String,
    /// `COMPOSITE` (of parts) or `FULL_OBJECT`.
    pub(crate) composite: bool,
}

/// What is kept of a part once its object is complete.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PartSummary {
    /// 1 to 10,000; gaps are allowed.
    pub(crate) number: u16,
    /// Bytes.
    pub(crate) size: u64,
    /// The part's own checksum in the upload's algorithm.
    pub(crate) checksum: Option<Checksum>,
}

/// A part of an upload in progress.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The ETag without its quotes.
    pub(crate) etag: String,
    /// Seconds since 1970.
    pub(crate) modified: i64,
    /// The bytes.
    #[serde(with = "shared")]
    pub(crate) body: Arc<Body>,
    /// The part's own checksum in the upload's algorithm.
    pub(crate) checksum: Option<Checksum>,
}

/// What CreateMultipartUpload fixed for the whole upload.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct UploadRecord {
    pub(crate) key: String,
    /// Seconds since 1970.
    pub(crate) initiated: i64,
    pub(crate) headers: Headers,
    pub(crate) tags: Vec<(String, String)>,
    pub(crate) encryption: Encryption,
    /// The checksum algorithm that the client named, if any.
    pub(crate) algorithm: Option<String>,
    /// Whether the object's checksum is made of the parts' checksums.
    pub(crate) composite: bool,
}

/// An upload in progress and its parts by number.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) record: Arc<UploadRecord>,
    pub(crate) parts: BTreeMap<u16, Arc<Part>>,
}

/// Serde of a shared body as if it were not shared; each record names its own files.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Body;

    pub(super) fn serialize<S: Serializer>(body: &Arc<Body>, serializer: S) -> Result<S::Ok, S::Error> {
        body.as_ref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<Body>, D::Error> {
        Body::deserialize(deserializer).map(Arc::new)
    }
}
