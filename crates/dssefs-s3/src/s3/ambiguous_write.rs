//! A write whose answer was lost: what is needed to find out later whether the store carried it out.

use tokio::time::Instant;

use super::payload::Checksum;
use super::request::{NewObject, Source};

/// A write that the store may have carried out although its answer was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmbiguousWrite {
    /// The object that it was to make.
    pub object: NewObject,
    /// Its length in bytes.
    pub size: u64,
    /// Its content.
    pub content: Content,
    /// The multipart upload that was to become the object, if there is one.
    pub upload: Option<String>,
}

/// How the content of an [`AmbiguousWrite`] is recognised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// By its checksum.
    Of(Checksum),
    /// As the content of this version, which the store was asked to copy at this time.
    Copied(Source, Instant),
    /// Not at all: this host has never seen all of it.
    Unknown,
}
