//! A write whose answer was lost: what is needed to find out later whether the store carried it out.

use super::request::NewObject;

/// A write that the store may have carried out although its answer was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmbiguousWrite {
    /// The object that it was to make. By its commit id the object is recognised; without one it never is.
    pub object: NewObject,
    /// Its length in bytes.
    pub size: u64,
    /// The multipart upload that was to become the object, if there is one.
    pub upload: Option<String>,
}
