//! Held objects: copies of versions that programs still have open although their names are gone.
//!
//! A held object has a random name below [`held_prefix`], where no program of a mount can see it. It is under DSSE-KMS
//! and judged like any other. It has the source's content and tags (policies that go by tags protect it too), and none
//! of its metadata. The ledger has its name before the store has the object, so that the next process of this host
//! deletes what a crashed one has left. A held object may also keep annotations: see `annotations`.

use std::sync::Arc;

use super::Gateway;
use crate::object::{ETag, Key, KeyError, Prefix, RESERVED_NAME};
use crate::s3::error::{Error, FailedWrite, Kind};
use crate::s3::metrics::Operation;
use crate::s3::request::{Condition, NewObject, Removal, Source};

/// What the keys of held objects of a mount begin with.
#[must_use]
pub fn held_prefix(root: &Prefix) -> String {
    format!("{}{RESERVED_NAME}/held/", root.as_str())
}

pub(super) fn held_key(root: &Prefix, name: &str) -> Result<Key, KeyError> {
    Key::new(held_prefix(root) + name)
}

/// The name that the ledger has of a held object.
fn name_of(key: &Key) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

impl Gateway {
    /// Copies a version to a held object of a mount of `root`. `name` is 16 random bytes in hexadecimal. The copy is
    /// read like any other object, and stays until [`Gateway::release`].
    ///
    /// # Errors
    /// As [`Gateway::copy`]. What may have been made nevertheless stays in the ledger.
    pub async fn hold(
        self: &Arc<Self>,
        source: &Source,
        root: &Prefix,
        name: &str,
        condition: &Condition,
    ) -> Result<Source, Error> {
        let key = held_key(root, name).map_err(|error| {
            self.failure(Kind::Local, Operation::CopyObject, &source.key)
                .because(format!("the mount's prefix is too long to hold a copy below it: {error}"))
        })?;
        if let Some(ledger) = self.ledger.get() {
            ledger.holds(name);
        }
        match self.copy(source, &NewObject::at(key.clone()), condition).await {
            Ok(stored) => Ok(Source { key, version: stored.into_inner().version, size: source.size }),
            Err(error) => {
                self.note_failed_hold(name, &error);
                Err(error)
            }
        }
    }

    /// Takes a held object off the ledger that was certainly not made.
    pub(super) fn note_failed_hold(&self, name: &str, error: &Error) {
        let is_gone = matches!(error.failed_write(), FailedWrite::Nothing | FailedWrite::Deleted);
        if let Some(ledger) = self.ledger.get().filter(|_| is_gone) {
            ledger.released(name);
        }
    }

    /// Deletes a held object that no program needs any more.
    ///
    /// # Errors
    /// As S3 answers. The object stays in the ledger then.
    pub async fn release(&self, held: &Source) -> Result<(), Error> {
        self.delete_held(&held.key, &held.version.etag).await?;
        if let Some(ledger) = self.ledger.get() {
            ledger.released(name_of(&held.key));
        }
        Ok(())
    }

    pub(super) async fn delete_held(&self, key: &Key, etag: &ETag) -> Result<(), Error> {
        if matches!(self.delete_version(key, etag).await?, Removal::Replaced(_)) {
            tracing::warn!(%key, "another program has put an object under the key of a held object; it stays there");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_objects_stand_below_the_reserved_name_of_the_root() {
        let root = Prefix::new("team/data").unwrap();
        let key = held_key(&root, "00ff").unwrap();
        assert_eq!(key.as_str(), "team/data/.dssefs/held/00ff");
        assert_eq!(name_of(&key), "00ff");
        assert_eq!(held_prefix(&Prefix::root()), ".dssefs/held/");
    }
}
