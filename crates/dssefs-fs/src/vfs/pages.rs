//! Remembers which version of a file the kernel's page cache holds pages of.

use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use crate::namespace::Ino;
use dssefs_s3::object::Version;

/// How many files are remembered; the pages of others are dropped when they are opened again.
const FILES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).expect("it is not zero");

/// The version that each file had when the kernel last filled or kept its pages.
pub(crate) struct Pages(Mutex<LruCache<Ino, Version>>);

impl Pages {
    pub(crate) fn new() -> Pages {
        Pages(Mutex::new(LruCache::new(FILES_MAX)))
    }

    /// Notes that from now on the pages of `ino` are of `version`; true when they already were.
    pub(crate) fn are_now(&self, ino: Ino, version: &Version) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.put(ino, version.clone()).as_ref() == Some(version)
    }
}
