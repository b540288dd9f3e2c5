//! The version of the intent log's form, and why bytes are not in this form.

use std::time::Duration;

/// The version of the form that this program writes and reads.
pub(super) const VERSION: &str = "2";

/// Why bytes are no journal that can be acted on.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// No line of a journal at the beginning.
    #[error("it does not begin like the journal of a rename")]
    NoJournal,
    /// Made by an earlier dssefs, which signed nothing.
    #[error(
        "it is of version 1, which does not prove who wrote it; \
         compare both directories by hand, then delete this object"
    )]
    Unsigned,
    /// Made by a later dssefs.
    #[error("it is of version {0:?}, and this program knows version {VERSION}; mount with the program that wrote it")]
    Version(String),
    /// Not JSON, or other fields.
    #[error("it does not have the expected JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Another length than the line says.
    #[error("it has {0} bytes, but its first line gives another length")]
    Length(u64),
    /// It names a directory outside of the mount.
    #[error("it names {0:?}, which is no directory below that of the mount")]
    Elsewhere(String),
    /// A directory cannot be moved into itself.
    #[error("one of its two directories lies in the other")]
    Nested,
    /// The code is wrong.
    #[error("its code is wrong: no mount of this source wrote it in this form and under this name")]
    Mac,
    /// An old version was put back.
    #[error("it was stored {0:?} away from the time at which it was written: an older version of it was put back")]
    PutBack(Duration),
}
