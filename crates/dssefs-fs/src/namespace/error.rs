//! What can go wrong with names and attributes.

use std::sync::Arc;

use super::xattr;
use dssefs_s3::object::NameError;
use dssefs_s3::s3::{self, TARGET_BYTES_MAX};

/// Why a call on the namespace failed. Cheap to clone, because several callers may wait for one request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such name, or the node is gone.
    #[error("there is no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name exists already; choose another, or remove it first")]
    Exists,
    /// A directory was needed.
    #[error("this is not a directory")]
    NotADirectory,
    /// Anything but a directory was needed.
    #[error("this is a directory")]
    IsADirectory,
    /// rmdir of a directory with something in it.
    #[error("the directory is not empty; remove what is in it first")]
    NotEmpty,
    /// rmdir of a directory, or a rename over it, whose marker has content that would go with it.
    #[error(
        "the directory is empty, but the object {marker:?} that stands for it has {bytes} bytes of content, which \
         another program has stored and the mount does not show; copy them elsewhere and delete that object with a \
         tool for S3"
    )]
    MarkerHasContent {
        /// Its key.
        marker: String,
        /// The length of its content.
        bytes: u64,
    },
    /// The name does not fit into a key.
    #[error("the name cannot be stored: {0}")]
    Name(Arc<NameError>),
    /// Refused by a rule of this mount.
    #[error(
        "this mount does not keep attributes (--attributes listing, or the root of the bucket); nothing was changed"
    )]
    NotPermitted,
    /// A directory cannot be moved below itself.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// The journal of such a rename would be too long.
    #[error(
        "a directory with more than {objects_max} objects below it cannot be renamed at once; \
         use mv(1), which copies and deletes"
    )]
    TooLargeToRename {
        /// The most that are renamed.
        objects_max: usize,
    },
    /// Mounts keep the journals of renames under this name.
    #[error(
        "the name .dssefs is reserved in every directory, because a mount of that directory keeps its journals there; \
         choose another name"
    )]
    Reserved,
    /// Another rename concerns one of both directories, or one above or below.
    #[error(
        "another rename of this directory, or of one above or below it, is under way or was interrupted; \
         try again when that rename is done"
    )]
    BeingRenamed,
    /// Other hosts changed what was being moved.
    #[error(
        "the directory has its new name, but other hosts changed {objects} objects meanwhile, \
         and these are still under the old name ({example} is one); move them by hand"
    )]
    LeftBehind {
        /// How many.
        objects: usize,
        /// The key of one.
        example: String,
    },
    /// An answer was lost, and another host's object stands at the target. Not [`Error::Stale`]: the kernel would begin
    /// the rename again, and replace that object.
    #[error(
        "another host has stored an object under the new name while the file was renamed; that object stays, and the \
         file keeps its old name; compare both"
    )]
    TargetTaken,
    /// The journal was not kept fresh, and another mount may have taken it over.
    #[error(
        "the store did not take the journal of the rename in time, so this mount undoes the rename, or another mount \
         finishes it; nothing is lost; look at both names again in a minute"
    )]
    Overtaken,
    /// The system gives no random numbers.
    #[error("the kernel gave no random name for the journal of the rename; check that /proc is mounted")]
    NoRandomness,
    /// There is no key to sign the journal with.
    #[error("the journal of the rename cannot be signed: {0}; try again, or free some memory")]
    NoJournalKey(Arc<str>),
    /// Another writer has replaced the object since the node was looked up: look the name up again.
    #[error("another writer has replaced the object since it was looked up; open it again")]
    Stale,
    /// readlink(2) of something else.
    #[error("this is not a symbolic link")]
    NotALink,
    /// A path that is too long for Linux (`PATH_MAX`).
    #[error("the target of a symbolic link has {bytes} bytes, and Linux takes at most {TARGET_BYTES_MAX}")]
    TargetTooLong {
        /// Its length.
        bytes: u64,
    },
    /// The names of a directory would take more memory than there is for names.
    #[error(
        "the directory {directory:?} cannot be listed: {names} of its names, and those of other open directories, \
         need more than the {bytes_max} bytes for names; raise --memory, or mount a directory below it"
    )]
    NoRoomForNames {
        /// Its prefix in the bucket.
        directory: String,
        /// How many of its names were known by then.
        names: usize,
        /// What there is for all names together, in bytes.
        bytes_max: u64,
    },
    /// The store sends page after page without a new name.
    #[error(
        "the store does not end its listing of {directory:?}: {pages} pages in a row had no new name; \
         check the store, or the proxy before it"
    )]
    EndlessListing {
        /// Its prefix in the bucket.
        directory: String,
        /// How many pages, each asked for with the token of the one before.
        pages: u32,
    },
    /// An extended attribute cannot be changed so.
    #[error(transparent)]
    Xattr(#[from] xattr::Error),
    /// The store refused or could not be reached.
    #[error(transparent)]
    Store(#[from] s3::Error),
}

impl Error {
    /// Whether the store refused a write because its condition did not hold.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Error::Store(error) if error.kind == s3::Kind::PreconditionFailed)
    }

    /// Whether an answer was lost, and another writer's object stands where the change was to be made.
    pub(super) fn is_overtaken(&self) -> bool {
        matches!(self, Error::Store(error) if matches!(error.failed_write(), s3::FailedWrite::Overtaken))
    }

    /// Whether the store refused a change because of a version, and has certainly not carried it out.
    pub(super) fn is_refused(&self) -> bool {
        let is_of_a_version = |kind| matches!(kind, s3::Kind::PreconditionFailed | s3::Kind::NotFound);
        self.left_nothing() && matches!(self, Error::Store(error) if is_of_a_version(error.kind))
    }

    /// Whether the store has certainly not carried out what failed.
    pub(super) fn left_nothing(&self) -> bool {
        matches!(self, Error::Store(error) if matches!(error.failed_write(), s3::FailedWrite::Nothing))
    }

    /// Whether the store did not have what a request named.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Error::Store(error) if error.kind == s3::Kind::NotFound)
    }

    pub(super) fn no_room(directory: &str, names: usize, bytes_max: u64) -> Error {
        Error::NoRoomForNames { directory: directory.to_owned(), names, bytes_max }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        Error::Name(Arc::new(error))
    }
}
