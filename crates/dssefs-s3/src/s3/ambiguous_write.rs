//! What a write was to make, for whoever has to find out later whether it did.

use tokio::time::Instant;

use super::payload::Checksum;
use super::request::{NewObject, Source};

/// A write that may have been carried out although its answer was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmbiguousWrite {
    /// What the object was to be.
    pub object: NewObject,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub content: Content,
    /// The multipart upload that was to become the object.
    pub upload: Option<String>,
}

/// By what the content of an [`AmbiguousWrite`] is known again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// By its checksum.
    Of(Checksum),
    /// As that of this version, of which a copy was asked for at this time.
    Copied(Source, Instant),
    /// By nothing: not all of it was ever seen here.
    Unknown,
}
