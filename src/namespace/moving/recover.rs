//! Moves that were left in the middle: undone or finished by whoever finds them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Namespace;
use super::super::directory::is_taken;
use super::super::error::Error;
use super::copies::{at_most_until_one_fails, delete_sources};
use super::intent::{Intent, Phase};
use super::journal::Journal;
use super::key_below;
use super::others::Look;
use crate::object::{ETag, Key, Version};
use crate::s3::{Kind, Listed};

/// What became of one journal.
enum Found {
    /// Its move is done or undone, and it is gone.
    Settled,
    /// Somebody else works on it, or will be known not to in a while.
    Living,
    /// It is of no use to this program.
    Strange,
}

/// What became of all journals.
#[derive(Default)]
struct Tally {
    settled: usize,
    /// To be looked at again.
    waiting: usize,
}

impl Namespace {
    /// Looks for directory renames that a mount left in the middle, and undoes or finishes each whose mount is gone: at once where
    /// that is known (a process of this very system that has ended), else when its journal was not written for `rename_lease` by
    /// the store's own clock. To be called before the mount serves anything. What cannot be settled yet is looked at again in the
    /// background; each is told in the log. One LIST when there is nothing.
    pub async fn recover(self: &Arc<Self>) {
        if !self.settle_renames().await {
            self.look_again_later();
        }
    }

    /// Looks at the journals from time to time, until all are settled.
    pub(super) fn look_again_later(self: &Arc<Self>) {
        if self.looking.swap(true, Relaxed) {
            return;
        }
        let (namespace, pause) = (Arc::downgrade(self), self.settings.rename_lease / 2);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(namespace) = namespace.upgrade() else { return };
                if namespace.settle_renames().await {
                    return namespace.looking.store(false, Relaxed);
                }
            }
        });
    }

    /// True when nothing is left to look at again. A move that had to wait for another is looked at again once that is settled.
    async fn settle_renames(self: &Arc<Self>) -> bool {
        loop {
            let Tally { settled, waiting } = self.settle_each().await;
            if waiting == 0 || settled == 0 {
                return waiting == 0;
            }
        }
    }

    async fn settle_each(self: &Arc<Self>) -> Tally {
        let mut tally = Tally::default();
        let journals = match self.journals().await {
            Ok(journals) => journals,
            Err(error) => {
                tracing::error!(%error, "it cannot be found out whether a rename of a directory was left in the middle; this is tried again");
                return Tally { waiting: 1, ..tally };
            }
        };
        for journal in journals {
            match self.settle_rename(&journal).await {
                Ok(Found::Settled) => tally.settled += 1,
                Ok(Found::Living) => tally.waiting += 1,
                Ok(Found::Strange) => {}
                Err(Error::BeingRenamed) => {
                    tracing::warn!(
                        journal = journal.key,
                        "a rename of a directory that was left in the middle has to wait for another one"
                    );
                    tally.waiting += 1;
                }
                Err(error) => {
                    tracing::error!(%error, journal = journal.key, "a rename of a directory that was left in the middle could not be settled yet; this is tried again");
                    tally.waiting += 1;
                }
            }
        }
        tally
    }

    async fn settle_rename(self: &Arc<Self>, listed: &Listed) -> Result<Found, Error> {
        let Ok(key) = Key::new(&listed.key) else { return Ok(Found::Strange) };
        let seen = match self.look_at(&key).await? {
            Look::Gone => return Ok(Found::Settled),
            Look::Changing => return Ok(Found::Living),
            Look::Strange => return Ok(Found::Strange),
            Look::Journal(seen) => *seen,
        };
        if seen.living {
            let (from, to, host) = (seen.intent.from()?, seen.intent.to()?, seen.intent.owner.host());
            tracing::warn!(%from, %to, host, "another mount is renaming this directory; both names are in between until it is done");
            return Ok(Found::Living);
        }
        // Before it is taken over as well: that makes its journal young again, and others would wait for it.
        self.give_way_to_first(&seen.key, &seen.intent).await?;
        self.take_over(seen.key, seen.intent, seen.etag).await
    }

    async fn take_over(self: &Arc<Self>, key: Key, intent: Intent, etag: ETag) -> Result<Found, Error> {
        let (from, to, phase) = (intent.from()?, intent.to()?, intent.phase);
        let journal = match Journal::take_over(&self.gateway, &self.settings, key, intent, etag).await {
            Err(error) if is_taken(&error) => return Ok(Found::Living),
            Err(Error::Store(error)) if error.kind == Kind::NotFound => return Ok(Found::Settled),
            journal => journal?,
        };
        let intent = journal.intent().clone();
        self.give_way_to_first(journal.key(), &intent).await?;
        match phase {
            Phase::Copying => {
                tracing::warn!(%from, %to, "a rename of this directory was left in the middle: it is undone");
                self.undo(&journal).await?;
            }
            Phase::Deleting => {
                tracing::warn!(%from, %to, "a rename of this directory was left in the middle: it is finished");
                self.finish(&journal).await?;
            }
        }
        Ok(Found::Settled)
    }

    /// Deletes the copies of a move of which no source was touched, the claim of the target last, and then its journal. The caller has
    /// given way: what another move has copied to the same place would be taken for copies of this one.
    pub(super) async fn undo(self: &Arc<Self>, journal: &Arc<Journal>) -> Result<(), Error> {
        let (to, replaces) = {
            let intent = journal.intent();
            (intent.to()?, intent.replaces)
        };
        let mut found = self.objects_below(&to).await?;
        // The empty directory that was to be replaced stays.
        let marker =
            if found.first().is_some_and(|first| first.key == to.as_str()) { Some(found.remove(0)) } else { None };
        at_most_until_one_fails(found, |object| self.take_back(journal, object)).await?;
        if let Some(marker) = marker.filter(|_| !replaces) {
            self.take_back(journal, marker).await?;
        }
        journal.end().await
    }

    /// Deletes a copy, if it is one: the very version that the journal names, or, of what it had not noted yet, one that is proved
    /// to equal its source. Anything else was put there by somebody else, and stays.
    async fn take_back(&self, journal: &Journal, object: Listed) -> Result<(), Error> {
        let (from, to, noted) = {
            let intent = journal.intent();
            let (from, to) = (intent.from()?, intent.to()?);
            let noted = intent.objects.get(&object.key[to.as_str().len()..]).map(super::intent::Copied::copy);
            (from, to, noted)
        };
        let path = &object.key[to.as_str().len()..];
        let key = key_below(&to, path)?;
        if noted.is_none_or(|etag| etag != object.etag) {
            let copy = self.gateway.twins(&key_below(&from, path)?, &key).await?;
            if copy.is_none_or(|(_, copy)| copy.meta.version.etag != object.etag) {
                tracing::warn!(%key, "this object is not a copy that the undone rename made, and stays");
                return Ok(());
            }
        }
        Ok(self.gateway.expunge(&key, &Version { etag: object.etag, id: None }).await?)
    }

    /// Deletes the sources of a move whose copies all stand. A source whose target is gone is the only one there is, and stays. What
    /// stands there need not be the copy itself: since the names have moved, programs may have changed it.
    async fn finish(&self, journal: &Arc<Journal>) -> Result<(), Error> {
        let (from, to, objects) = {
            let intent = journal.intent();
            (intent.from()?, intent.to()?, intent.objects.clone())
        };
        let there: BTreeSet<String> = self.objects_below(&to).await?.into_iter().map(|object| object.key).collect();
        let mut sources = Vec::new();
        for (path, copied) in objects {
            if there.contains(&format!("{to}{path}")) {
                sources.push((path, copied.source()));
            } else {
                tracing::warn!(%from, %to, path, "the copy of this object is gone; it stays under the old name");
            }
        }
        delete_sources(&self.gateway, &from, sources).await?;
        journal.end().await
    }
}
