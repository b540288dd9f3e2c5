//! What can go wrong with names and attributes.

use std::sync::Arc;

use super::special::TARGET_BYTES_MAX;
use super::xattr;
use crate::object::NameError;
use crate::s3;

/// Why a call on the namespace failed. Cheap to clone, because several callers may wait for one request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such name, or the node is gone.
    #[error("there is no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken already")]
    Exists,
    /// A directory was needed.
    #[error("this is not a directory")]
    NotADirectory,
    /// Something else than a directory was needed.
    #[error("this is a directory")]
    IsADirectory,
    /// rmdir of a directory with something in it.
    #[error("the directory is not empty; remove what is in it first")]
    NotEmpty,
    /// The name does not fit into a key.
    #[error("the name cannot be kept: {0}")]
    Name(Arc<NameError>),
    /// Refused by a rule of this mount.
    #[error(
        "this mount does not keep attributes (--attributes listing, or the root of the bucket); nothing was changed"
    )]
    NotPermitted,
    /// S3 has no directories that could be renamed in one step.
    #[error(
        "a directory cannot be renamed in one step on S3, and nothing was changed; mv(1) copies and deletes instead"
    )]
    DirectoryRename,
    /// The object was replaced by somebody else since the node was looked up: look the name up again.
    #[error("the object was replaced by another writer since it was looked up; open it again")]
    Stale,
    /// readlink(2) of something else.
    #[error("this is not a symbolic link")]
    NotALink,
    /// A path that Linux would not take (`PATH_MAX`).
    #[error("the target of a symbolic link has {bytes} bytes, and Linux takes at most {TARGET_BYTES_MAX}")]
    TargetTooLong {
        /// Its length.
        bytes: u64,
    },
    /// An extended attribute cannot be changed so.
    #[error(transparent)]
    Xattr(#[from] xattr::Error),
    /// The store refused or could not be reached.
    #[error(transparent)]
    Store(#[from] s3::Error),
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Error {
        Error::Name(Arc::new(error))
    }
}
