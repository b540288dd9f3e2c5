//! Why a read failed.

use dssefs_s3::s3;

/// Why bytes could not be given. Cheap to clone, because several reads may wait for one GET.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store refused or could not be reached. Its kind `PreconditionFailed` means that the object was replaced
    /// since it was opened.
    #[error(transparent)]
    Store(#[from] s3::Error),
    /// The store gave an object of another length under the same ETag, or fewer bytes than it promised.
    #[error("the store sent {found} bytes, but the version that was opened has {expected}; open the file again")]
    Length {
        /// What was known at open, in bytes.
        expected: u64,
        /// What the GET gave, in bytes.
        found: u64,
    },
}
