//! Aborts the uploads of processes that have crashed.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::Gateway;
use crate::s3::error::{Error, Kind};
use crate::s3::ledger::{Ledger, Leftover};

/// The most pages of uploads that are read, 1,000 uploads each: a store that always has one more page must not delay a
/// mount's start.
const PAGES_MAX: u32 = 1000;

impl Gateway {
    /// From now on notes uploads in a file of `directory`, so that the next process can abort those that this one
    /// leaves. `source` is what this process mounts. Call it once for each gateway.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn keep_ledger(&self, directory: &Path, source: &str) -> io::Result<()> {
        let ledger = Ledger::create(directory, source)?;
        // No caller creates a second ledger; it would be dropped here and remove its file.
        let _ = self.ledger.set(ledger);
        Ok(())
    }

    /// Takes the upload `id` off the list, so that the next process does not abort it: a record in the journal needs
    /// it.
    ///
    /// # Errors
    /// The file of [`Gateway::keep_ledger`] cannot be written; then the next process aborts the upload.
    pub fn let_outlive(&self, id: &str) -> io::Result<()> {
        self.ledger.get().map_or(Ok(()), |ledger| ledger.let_outlive(id))
    }

    /// Aborts the uploads that earlier processes of `source` left, according to `directory`, and returns how many there
    /// were. Makes no request if there are none. The next start retries what fails now.
    pub async fn abort_leftovers(&self, directory: &Path, source: &str, prefix: &str) -> usize {
        let leftovers = match Leftover::find(directory, source) {
            Ok(leftovers) => leftovers,
            Err(error) => {
                tracing::warn!(%error, "the daemon cannot look for the uploads of earlier mounts");
                return 0;
            }
        };
        let mut aborted = 0;
        for leftover in leftovers {
            match self.abort_all(&leftover.uploads, prefix).await {
                Ok(count) => {
                    aborted += count;
                    if let Err(error) = leftover.remove() {
                        tracing::warn!(%error, "the daemon cannot remove the list of an earlier mount's uploads");
                    }
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "the daemon could not abort uploads of an earlier mount; the next mount tries again"
                    );
                }
            }
        }
        aborted
    }

    /// How many uploads earlier processes of `source` left, according to `directory`. Makes no request, so some of them
    /// may have ended since.
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
            // A store that names the same page again would keep this loop running.
            if next.is_none() || next == page {
                break;
            }
            page = next;
        }
        Ok(aborted)
    }
}
