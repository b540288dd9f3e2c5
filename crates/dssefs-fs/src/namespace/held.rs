//! Versions that open files still need when their names go: a copy within the store, under a key that no program sees.
//!
//! A bucket that keeps versions needs none of this, because a version that is pinned by its id stays readable.

use std::sync::Arc;

use dssefs_s3::object::{Prefix, Version};
use dssefs_s3::s3::{self, Condition, Source};
use dssefs_seal::crypto;

use super::Namespace;
use super::error::Error;

/// A copy of a version that the handles of one file need.
#[derive(Clone, Debug)]
pub struct Held {
    /// The version that was copied.
    pub of: Version,
    /// The copy.
    pub copy: Source,
}

impl Namespace {
    /// The directory of the bucket that is the root of the mount.
    #[must_use]
    pub fn prefix(&self) -> &Prefix {
        &self.settings.prefix
    }

    /// Copies `source` to a key of this mount alone. The caller releases it when the last handle is closed.
    ///
    /// # Errors
    /// The store refused the copy, or no longer has that version.
    pub async fn hold(self: &Arc<Self>, source: &Source) -> Result<Held, Error> {
        let name = crypto::unique_name().map_err(|_| Error::NoRandomness)?;
        let condition = self.settings.condition(Condition::Absent);
        let copy = self.gateway.hold(source, &self.settings.prefix, &name, &condition).await?;
        Ok(Held { of: source.version.clone(), copy })
    }

    /// Deletes what [`Namespace::hold`] made. What cannot be deleted now is deleted at the next start.
    pub async fn release(&self, held: &Held) {
        if let Err(error) = self.gateway.release(&held.copy).await {
            report(held, &error);
        }
    }
}

fn report(held: &Held, error: &s3::Error) {
    let remedy = error.remedy();
    tracing::warn!(
        key = %held.copy.key, %error, remedy,
        "the bytes of a removed file are no longer needed and could not be deleted; the next mount deletes them"
    );
}
