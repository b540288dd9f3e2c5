//! Journals as they are found in the store, and how two moves keep out of each other's way.
//!
//! Whoever begins a move, or takes one over to undo or finish it, writes its journal first and looks for others then. So of two that
//! overlap at least one sees the other, and gives way. Of moves that were left in the middle all but one give way: first come those of
//! which all copies stand, then the names of the journals decide, so that nobody waits in a circle.

use super::super::Namespace;
use super::super::error::Error;
use super::intent::{Intent, JOURNAL_PREFIX, Phase};
use super::journal::{Journal, Unreadable};
use crate::object::{ETag, Key, Prefix};
use crate::s3::{Kind, Listed};

/// How often a journal is read that its owner keeps writing meanwhile.
const READS_MAX: usize = 3;

/// One journal in the store.
pub(super) struct Seen {
    pub(super) key: Key,
    pub(super) etag: ETag,
    pub(super) intent: Intent,
    /// Whether its owner may be at work.
    pub(super) living: bool,
}

/// What was found under a journal's name.
pub(super) enum Look {
    /// Nothing any more.
    Gone,
    /// Another version with each look, so its owner is at work.
    Changing,
    /// Something that this program cannot act on, as the log says.
    Strange,
    Journal(Box<Seen>),
}

impl Seen {
    /// Whether this move is settled before the one whose journal is `key`, when both were left in the middle.
    fn comes_before(&self, key: &Key, intent: &Intent) -> bool {
        let rank = |phase: Phase, key: &Key| (phase == Phase::Copying, key.as_str().to_owned());
        rank(self.intent.phase, &self.key) < rank(intent.phase, key)
    }
}

impl Namespace {
    pub(super) async fn journals(&self) -> Result<Vec<Listed>, Error> {
        let prefix = Prefix::new(&format!("{}{JOURNAL_PREFIX}", self.settings.prefix.as_str()))?;
        self.objects_below(&prefix).await
    }

    /// Reads the journal at `key`, and finds out whether its owner may be at work: not when that is known to be gone, and not when the
    /// journal was not written for `rename_lease` by the store's own clock.
    pub(super) async fn look_at(&self, key: &Key) -> Result<Look, Error> {
        for _ in 0..READS_MAX {
            let (version, age) = match self.gateway.head_with_age(key).await {
                Ok((head, age)) => (head.meta.version, age),
                Err(error) if error.kind == Kind::NotFound => return Ok(Look::Gone),
                Err(error) => return Err(error.into()),
            };
            let intent = match Journal::read(&self.gateway, key, &version, &self.settings.prefix).await {
                Ok(intent) => intent,
                Err(Unreadable::Store(error)) if matches!(error.kind, Kind::NotFound | Kind::PreconditionFailed) => {
                    continue;
                }
                Err(Unreadable::Store(error)) => return Err(error.into()),
                Err(error) => {
                    tracing::error!(%error, journal = %key, "a journal of a directory's rename cannot be acted on, and is left as it is");
                    return Ok(Look::Strange);
                }
            };
            let expired = age.is_some_and(|age| age > self.settings.rename_lease);
            let living = !expired && !intent.owner.is_gone();
            return Ok(Look::Journal(Box::new(Seen { key: key.clone(), etag: version.etag, intent, living })));
        }
        Ok(Look::Changing)
    }

    /// For a move that has just begun: [`Error::BeingRenamed`] when any other overlaps it, also one that was left in the middle.
    pub(super) async fn give_way_to_all(&self, journal: &Journal) -> Result<(), Error> {
        let intent = journal.intent().clone();
        self.give_way(journal.key(), &intent, |_| true).await
    }

    /// For a move that is to be undone or finished: [`Error::BeingRenamed`] while one overlaps it that is under way, or is to be settled
    /// first.
    pub(super) async fn give_way_to_first(&self, key: &Key, intent: &Intent) -> Result<(), Error> {
        self.give_way(key, intent, |other| other.living || other.comes_before(key, intent)).await
    }

    /// One LIST; for each other journal a HEAD and a GET.
    async fn give_way(&self, key: &Key, intent: &Intent, first: impl Fn(&Seen) -> bool) -> Result<(), Error> {
        for listed in self.journals().await? {
            let Ok(other) = Key::new(&listed.key) else { continue };
            if other == *key {
                continue;
            }
            match self.look_at(&other).await? {
                Look::Gone | Look::Strange => {}
                Look::Journal(seen) if !seen.intent.overlaps(intent) || !first(&seen) => {}
                Look::Journal(_) | Look::Changing => return Err(Error::BeingRenamed),
            }
        }
        Ok(())
    }
}
