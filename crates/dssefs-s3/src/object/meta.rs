//! The facts of an object other than its encryption.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use super::header_text::header_length;

/// An entity tag, with its quotes as S3 sends it.
///
/// For objects under KMS it is not a digest of the content and not stable between copies ("Checking object integrity",
/// S3 User Guide): it names a version, nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ETag(String);

impl ETag {
    /// Takes S3's text. Adds quotes if there are none, as in some listings and from other servers.
    #[must_use]
    pub fn new(text: &str) -> ETag {
        if text.starts_with('"') { ETag(text.to_owned()) } else { ETag(format!("\"{text}\"")) }
    }

    /// The text with its quotes, as conditional headers take it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of a version in a bucket with versioning.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VersionId(String);

impl VersionId {
    /// Takes S3's text.
    #[must_use]
    pub fn new(text: &str) -> VersionId {
        VersionId(text.to_owned())
    }

    /// The text as S3 takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One version of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// The entity tag.
    pub etag: ETag,
    /// The version's id, if the bucket has versioning.
    pub id: Option<VersionId>,
}

/// The name in user metadata under which each object of a mount has its [`CommitId`].
pub const COMMIT_NAME: &str = "dssefs-commit";

/// A random name of one attempt to make an object: whether an object came from that attempt is one comparison. A retry
/// of the same bytes has the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(String);

impl CommitId {
    /// The length of the text, in bytes: 128 bits as hexadecimal digits.
    pub const TEXT_BYTES: usize = 32;

    /// Takes the text in an object's metadata. None for any other than this program writes.
    #[must_use]
    pub fn new(text: &str) -> Option<CommitId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == CommitId::TEXT_BYTES && text.bytes().all(is_digit)).then(|| CommitId(text.to_owned()))
    }

    /// The text as metadata has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What user metadata may have in all: the bytes of its names and values ("Working with object metadata", S3 User
/// Guide).
pub const METADATA_BYTES_MAX: usize = 2048;

/// `x-amz-meta-*`: names in lower case without that prefix, and their values as
/// [`header_text`](super::header_text) gives them. Together at most [`METADATA_BYTES_MAX`].
pub type UserMetadata = BTreeMap<String, String>;

/// What `user` takes of [`METADATA_BYTES_MAX`].
#[must_use]
pub fn metadata_bytes(user: &UserMetadata) -> usize {
    user.iter().map(|(name, value)| name.len() + header_length(value)).sum()
}

/// The facts of an object in the answer to a HEAD or GET, without its encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole object's length in bytes.
    pub size: u64,
    /// Its version.
    pub version: Version,
    /// When S3 stored it, to the second.
    pub last_modified: SystemTime,
    /// `STANDARD` if S3 names none.
    pub storage_class: String,
    /// Content-Type, if there is one.
    pub content_type: Option<String>,
    /// The other content headers that a rewrite of the object must carry over: `cache-control`, `content-disposition`,
    /// `content-encoding`, `content-language`, `expires`, by lower-case name. Their values, and that of Content-Type,
    /// are as [`header_text`](super::header_text) gives them.
    pub content_headers: BTreeMap<String, String>,
    /// How many tags it has (`x-amz-tagging-count`), 0 if S3 gives none.
    pub tag_count: u32,
    /// The user metadata, without [`COMMIT_NAME`].
    pub user: UserMetadata,
    /// The attempt that made it, if a mount has.
    pub commit: Option<CommitId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_this_program_writes_is_a_commit_id() {
        let digits = "0123456789abcdef0123456789abcdef";
        assert_eq!(CommitId::new(digits).unwrap().as_str(), digits);
        for other in ["", &digits[1..], &format!("{digits}0"), &digits.to_uppercase(), &digits.replace('a', "g")] {
            assert_eq!(CommitId::new(other), None, "{other}");
        }
    }
}
