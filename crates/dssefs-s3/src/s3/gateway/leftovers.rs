//! The uploads of processes that have crashed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::Gateway;
use crate::s3::error::{Error, Kind};
use crate::s3::ledger::{Ledger, Leftover};

/// Pages of uploads that are looked through, 1,000 uploads each: a store that always has one more must not hold up a
/// mount's start.
const PAGES_MAX: u32 = 1000;

impl Gateway {
    /// Notes uploads from now on in a file of `directory`, so that the next process can end those that this one leaves.
    /// `source` is what this process mounts. Once for each gateway.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn keep_ledger(&self, directory: &Path, source: &str) -> io::Result<()> {
        let ledger = Ledger::create(directory, source)?;
        // A second one, which nobody makes, would be dropped here and remove its file.
        let _ = self.ledger.set(ledger);
        Ok(())
    }

    /// Returns when the next process does not abort the upload `id` that this one may leave: a record that outlives it
    /// counts on it.
    ///
    /// # Errors
    /// The file of [`Gateway::keep_ledger`] cannot be written; the upload is aborted then.
    pub fn let_outlive(&self, id: &str) -> io::Result<()> {
        self.ledger.get().map_or(Ok(()), |ledger| ledger.let_outlive(id))
    }

    /// Aborts the uploads that earlier processes of `source` left under way according to `directory`; how many. Asks
    /// the store nothing when there are none. What cannot be done now is tried again by the next start.
    pub async fn abort_leftovers(&self, directory: &Path, source: &str, prefix: &str) -> usize {
        let leftovers = match Leftover::find(directory, source) {
            Ok(leftovers) => leftovers,
            Err(error) => {
                tracing::warn!(%error, "uploads of earlier mounts cannot be looked for");
                return 0;
            }
        };
        let mut aborted = 0;
        for leftover in leftovers {
            match self.abort_all(&leftover.uploads, prefix).await {
                Ok(count) => {
                    aborted += count;
                    if let Err(error) = leftover.remove() {
                        tracing::warn!(%error, "the list of an earlier mount's uploads cannot be removed");
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "uploads of an earlier mount could not be aborted; the next mount tries again");
                }
            }
        }
        aborted
    }

    /// How many uploads earlier processes of `source` left under way according to `directory`. The store is not asked:
    /// some may have ended since.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn count_leftovers(&self, directory: &Path, source: &str) -> io::Result<usize> {
        Ok(Leftover::find(directory, source)?.iter().map(|leftover| leftover.uploads.len()).sum())
    }

    async fn abort_all(&self, uploads: &BTreeSet<String>, prefix: &str) -> Result<usize, Error> {
        let (mut aborted, mut page) = (0, None);
        if uploads.is_empty() {
            return Ok(0);
        }
        for _ in 0..PAGES_MAX {
            let (found, next) = self.store.uploads(prefix, page.as_ref()).await?;
            for (key, id) in found.iter().filter(|(_, id)| uploads.contains(id)) {
                match self.store.abort(key, id).await {
                    Err(error) if error.kind != Kind::NoSuchUpload => return Err(error),
                    _ => aborted += 1,
                }
            }
            // A store that names the same page again would be asked for ever.
            if next.is_none() || next == page {
                break;
            }
            page = next;
        }
        Ok(aborted)
    }
}
