//! The requests to the gateway and its answers.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use crate::object::{
    COMMIT_NAME, CommitId, Crc64, ETag, Key, METADATA_BYTES_MAX, ObjectMeta, UserMetadata, Version, metadata_bytes,
};
use crate::policy::{Facts, Observation};
use crate::s3::payload::TARGET_BYTES_MAX;

/// The headers that an object can have in addition to Content-Type, in lower case, and that the store gives back as
/// they were: the content headers, and where a website sends its visitors. Only these may be in
/// [`NewObject::content_headers`].
pub const CONTENT_HEADERS: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-website-redirect-location",
];

/// The Content-Type of an object without one: what S3 itself takes. It is sent, because the SDK would send another one
/// with PutObject than with CreateMultipartUpload.
pub const UNKNOWN_TYPE: &str = "binary/octet-stream";

/// An object to write, without its content and its encryption (which is the mount's policy).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewObject {
    /// The key to write to.
    pub key: Key,
    /// `x-amz-meta-*`; in a copy they replace the source's.
    pub user: UserMetadata,
    /// Content-Type; None is [`UNKNOWN_TYPE`].
    pub content_type: Option<String>,
    /// See [`CONTENT_HEADERS`].
    pub content_headers: BTreeMap<String, String>,
    /// The storage class; None is `STANDARD`.
    pub storage_class: Option<String>,
    /// The text of `x-amz-tagging`. None: no tags, or, for a copy, the source's tags.
    pub tags: Option<String>,
    /// The attempt that is to make it; for None the gateway makes one up.
    pub commit: Option<CommitId>,
}

impl NewObject {
    /// An object at `key` without metadata.
    #[must_use]
    pub fn at(key: Key) -> NewObject {
        NewObject {
            key,
            user: UserMetadata::new(),
            content_type: None,
            content_headers: BTreeMap::new(),
            storage_class: None,
            tags: None,
            commit: None,
        }
    }

    /// What goes into `x-amz-meta-*`.
    pub(super) fn metadata(&self) -> HashMap<String, String> {
        let commit = self.commit.as_ref().map(|id| (COMMIT_NAME.to_owned(), id.as_str().to_owned()));
        let user = self.user.iter().filter(|(name, _)| *name != COMMIT_NAME);
        user.map(|(name, value)| (name.clone(), value.clone())).chain(commit).collect()
    }

    /// Whether S3 takes a commit id beside the rest of the metadata.
    pub(super) fn has_room_for_commit(&self) -> bool {
        metadata_bytes(&self.user) + COMMIT_NAME.len() + CommitId::TEXT_BYTES <= METADATA_BYTES_MAX
    }
}

/// What must be true of the key for a write to happen. The store decides it atomically with the write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// There is no object (`If-None-Match: *`).
    Absent,
    /// The object has this ETag (`If-Match`).
    Matches(ETag),
    /// Nothing: the user has asked for that.
    Any(LastWriterWins),
}

/// The user's word that a mount may replace and delete whatever it finds (`--last-writer-wins`). No write and no delete
/// goes without a condition unless the caller has this word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastWriterWins(());

impl LastWriterWins {
    /// The word of a mount with `--last-writer-wins`. No other code makes one, tests aside.
    #[must_use]
    pub const fn asked_for() -> LastWriterWins {
        LastWriterWins(())
    }
}

impl Condition {
    /// The condition itself, or none where the last writer wins.
    #[must_use]
    pub fn unless(self, last_writer_wins: Option<LastWriterWins>) -> Condition {
        last_writer_wins.map_or(self, Condition::Any)
    }

    /// For a store that knows no conditions, after the gateway has looked whether this one holds.
    pub(super) const LOOKED_UP: Condition = Condition::Any(LastWriterWins(()));

    pub(super) fn if_match(&self) -> Option<String> {
        match self {
            Condition::Matches(etag) => Some(etag.as_str().to_owned()),
            Condition::Any(_) | Condition::Absent => None,
        }
    }

    pub(super) fn if_none_match(&self) -> Option<String> {
        (*self == Condition::Absent).then(|| "*".to_owned())
    }
}

/// What has become of a version that was to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There is no object.
    Gone,
    /// Another writer has put an object of this ETag in its place, which stays.
    Replaced(ETag),
    /// There is another writer's object, which stays, and an answer was lost. The delete may have come before it.
    PerhapsGone,
}

/// One version of an object to copy from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its key, in the gateway's bucket.
    pub key: Key,
    /// Its version; the copy fails with [`Kind::PreconditionFailed`](super::Kind::PreconditionFailed) if there is
    /// another one now.
    pub version: Version,
    /// Its length in bytes.
    pub size: u64,
}

/// An object that the store has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The version that it became.
    pub version: Version,
    /// The encryption facts in the store's answer.
    pub encryption: Observation,
}

/// A part of a multipart upload that the store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u32,
    /// The entity tag that completing the upload must name.
    pub etag: ETag,
    /// Its length in bytes.
    pub size: u64,
    /// Its CRC-64/NVME: our own for a part that was sent; for a copied one the store's, if it gives one.
    pub crc64: Option<Crc64>,
}

/// The facts of an object in the answer to a HEAD or GET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// All facts but the encryption.
    pub meta: ObjectMeta,
    /// The encryption, not judged: the caller may allow the reading of an object that it could not write.
    pub encryption: Observation,
}

/// A request for one page of a listing.
#[derive(Clone, Copy, Debug)]
pub struct ListRequest<'a> {
    /// What the keys begin with; may be empty.
    pub prefix: &'a str,
    /// Whether keys with a further `/` are rolled up into prefixes.
    pub delimiter: bool,
    /// Only keys after this text, in the order of UTF-8 bytes.
    pub start_after: Option<&'a str>,
    /// [`ListPage::next`] of the page before.
    pub continuation: Option<&'a str>,
    /// 1 to 1,000; S3 gives at most 1,000.
    pub entries_max: u16,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPage {
    /// The objects, in the order of UTF-8 bytes.
    pub objects: Vec<Listed>,
    /// The rolled-up prefixes, in the same order, each with its closing `/`.
    pub prefixes: Vec<String>,
    /// The token for the next page; None at the end.
    pub next: Option<String>,
}

/// One object in a listing. A listing has no facts about the encryption, and names no modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key as S3 has it, which need not be a path.
    pub key: String,
    /// Length in bytes.
    pub size: u64,
    /// The entity tag.
    pub etag: ETag,
    /// When S3 stored it.
    pub last_modified: SystemTime,
    /// `STANDARD` if S3 names none.
    pub storage_class: String,
    /// Whether its checksum is a CRC-32C; false if the store does not name algorithms in listings.
    pub has_crc32c: bool,
    /// Whether its checksum is a SHA-1; false if the store does not name algorithms in listings.
    pub has_sha1: bool,
}

impl Listed {
    /// Whether it is proved to be the content of a file: it is too long for the target of a link, or has the checksum
    /// that this program gives to short files, and no program to links and special files.
    #[must_use]
    pub fn is_proved_file(&self) -> bool {
        self.has_crc32c || self.size > TARGET_BYTES_MAX
    }

    /// Whether it has the checksum that this program gives to links and special files alone.
    #[must_use]
    pub fn is_marked_special(&self) -> bool {
        self.has_sha1 && self.size <= TARGET_BYTES_MAX
    }
}

/// The bucket's configuration. A part is unknown if the caller may not read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketFacts {
    /// The default encryption (GetBucketEncryption).
    pub default_encryption: Facts,
    /// The state of versioning (GetBucketVersioning).
    pub versioning: Versioning,
}

/// Whether the bucket keeps old versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versioning {
    /// Every write makes a version.
    Enabled,
    /// It was enabled once; writes replace the `null` version.
    Suspended,
    /// Never enabled.
    Off,
    /// The caller may not ask, or the question failed.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_id_gives_way_when_the_metadata_is_full() {
        let fits = |bytes: usize| {
            let user = UserMetadata::from([("n".to_owned(), "v".repeat(bytes - 1))]);
            NewObject { user, ..NewObject::at(Key::new("k").unwrap()) }.has_room_for_commit()
        };
        let most = METADATA_BYTES_MAX - COMMIT_NAME.len() - CommitId::TEXT_BYTES;
        assert!(fits(most) && !fits(most + 1));
    }

    #[test]
    fn a_condition_becomes_exactly_one_header() {
        let matches = Condition::Matches(ETag::new("\"a\""));
        assert_eq!((matches.if_match().as_deref(), matches.if_none_match()), (Some("\"a\""), None));
        assert_eq!((Condition::Absent.if_match(), Condition::Absent.if_none_match().as_deref()), (None, Some("*")));
        let any = Condition::Absent.unless(Some(LastWriterWins::asked_for()));
        assert_eq!((any.if_match(), any.if_none_match()), (None, None));
        assert_eq!(matches.clone().unless(None), matches);
    }
}
