//! Aborts the uploads of processes that have crashed, and deletes the objects that they held.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::Gateway;
use super::annotations::Finished;
use super::held::held_key;
use crate::object::Prefix;
use crate::s3::error::{Error, Kind};
use crate::s3::ledger::{HeldProof, Ledger, Leftover};

/// The most pages of uploads that are read, 1,000 uploads each: a store that always has one more page must not delay a
/// mount's start.
const PAGES_MAX: u32 = 1000;

/// What processes have left in the bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Multipart uploads.
    pub uploads: usize,
    /// Objects that were held for open files.
    pub held: usize,
}

impl Leftovers {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Leftovers::default()
    }
}

impl std::ops::AddAssign for Leftovers {
    fn add_assign(&mut self, other: Leftovers) {
        self.uploads += other.uploads;
        self.held += other.held;
    }
}

impl Gateway {
    /// From now on notes uploads and held objects in a file of `directory`, so that the next process can end
    /// those that this one leaves. `source` is what this process mounts. Call it once for each gateway.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn keep_ledger(&self, directory: &Path, source: &str) -> io::Result<()> {
        let ledger = Ledger::create(directory, source)?;
        // No caller creates a second ledger; it would be dropped here and remove its file.
        let _ = self.ledger.set(ledger);
        Ok(())
    }

    /// Notes that a record in the journal needs the upload `id`, so that the next process does not abort it before it
    /// has read the journal.
    ///
    /// # Errors
    /// The file of [`Gateway::keep_ledger`] cannot be written; then the next process aborts the upload.
    pub fn let_outlive(&self, id: &str) -> io::Result<()> {
        self.ledger.get().map_or(Ok(()), |ledger| ledger.let_outlive(id))
    }

    /// Notes that the upload `id` has ended: what it was for is stored. Makes no request.
    pub fn note_ended_upload(&self, id: &str) {
        if let Some(ledger) = self.ledger.get() {
            ledger.ended(id);
        }
    }

    /// Aborts the uploads and deletes the held objects that earlier processes of `source` left, according to
    /// `directory`, and returns how many there were. `root` is the directory of the bucket that `source` mounts. Makes
    /// no request if there are none. The next start retries what fails now.
    pub async fn abort_leftovers(&self, directory: &Path, source: &str, root: &Prefix) -> Leftovers {
        let mut ended = Leftovers::default();
        let found = match Leftover::find(directory, source) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the daemon cannot look for what earlier mounts left in the bucket");
                return ended;
            }
        };
        for leftover in found {
            match self.end_all(&leftover, root).await {
                Ok(count) => {
                    ended += count;
                    log_unremoved(leftover.ended());
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "the daemon could not abort uploads, or delete held objects, of an earlier mount; \
                         the next mount tries again"
                    );
                }
            }
        }
        ended
    }

    /// Aborts the uploads that journals of earlier processes of `source` needed and that none needs any more, and
    /// returns how many there were. The caller has read all of these journals, and has called
    /// [`Gateway::let_outlive`] for each upload that is still needed. Makes no request if there are none, or while
    /// another process has uploads in `directory`: its journal may need them.
    pub async fn abort_unneeded(&self, directory: &Path, source: &str, root: &Prefix) -> usize {
        let own = self.ledger.get();
        let found = match Leftover::has_neighbours(directory, own) {
            Ok(false) => Leftover::find(directory, source),
            Ok(true) => return 0,
            Err(error) => Err(error),
        };
        let found = found.unwrap_or_else(|error| {
            tracing::warn!(%error, "the daemon cannot look for uploads that earlier journals needed");
            Vec::new()
        });
        let mut aborted = 0;
        for leftover in found.into_iter().filter(|leftover| leftover.uploads.is_empty() && leftover.held.is_empty()) {
            let is_needed = |upload: &str| own.is_some_and(|own| own.lets_outlive(upload));
            let unneeded = leftover.outlive.iter().filter(|upload| !is_needed(upload)).cloned().collect();
            match self.abort_all(&unneeded, root.as_str()).await {
                Ok(count) => {
                    aborted += count;
                    log_unremoved(leftover.remove());
                }
                Err(error) => tracing::warn!(
                    %error,
                    "the daemon could not abort uploads that no journal needs any more; the next mount tries again"
                ),
            }
        }
        aborted
    }

    /// How much earlier processes of `source` left, according to `directory`. Makes no request, so some of it may have
    /// ended since.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn count_leftovers(&self, directory: &Path, source: &str) -> io::Result<Leftovers> {
        let mut counted = Leftovers::default();
        for leftover in Leftover::find(directory, source)? {
            counted += Leftovers { uploads: leftover.uploads.len(), held: leftover.held.len() };
        }
        Ok(counted)
    }

    async fn end_all(&self, leftover: &Leftover, root: &Prefix) -> Result<Leftovers, Error> {
        let uploads = self.abort_all(&leftover.uploads, root.as_str()).await?;
        let mut held = 0;
        for (name, proof) in &leftover.held {
            held += usize::from(self.sweep_held(root, name, proof.as_ref()).await?);
        }
        Ok(Leftovers { uploads, held })
    }

    /// Deletes what an earlier process has held under `name`, after its annotations have gone where they belong; false
    /// if it is gone. `proof` is of its annotations. What another program has changed stays, and is not believed.
    async fn sweep_held(&self, root: &Prefix, name: &str, proof: Option<&HeldProof>) -> Result<bool, Error> {
        let Ok(key) = held_key(root, name) else { return Ok(false) };
        let meta = match self.head(&key).await {
            Err(error) if error.kind == Kind::NotFound => return Ok(false),
            head => head?.meta,
        };
        if let Some(proof) = proof
            && let Finished::IsNotOurs = self.finish_annotations(&key, &meta.user, proof, root).await?
        {
            tracing::error!(
                %key,
                "another program has changed an object that holds annotations; the mount does not put them back, and \
                 leaves the object; compare its annotations with those of the object that its metadata names, then \
                 delete it"
            );
            return Ok(false);
        }
        self.delete_held(&key, &meta.version.etag).await?;
        Ok(true)
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

fn log_unremoved(outcome: io::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "the daemon cannot remove the list of what an earlier mount left");
    }
}
