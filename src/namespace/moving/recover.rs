//! Moves that were left in the middle: undone or finished by whoever finds them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::super::Namespace;
use super::super::directory::is_taken;
use super::super::error::Error;
use super::copies::{at_most_until_one_fails, delete_sources};
use super::intent::{Intent, JOURNAL_PREFIX, Phase};
use super::journal::{Journal, Unreadable};
use super::key_below;
use crate::object::{ETag, Key, Prefix, Version};
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

    /// True when nothing is left to look at again.
    async fn settle_renames(self: &Arc<Self>) -> bool {
        let journals = match self.journals().await {
            Ok(journals) => journals,
            Err(error) => {
                tracing::error!(%error, "it cannot be found out whether a rename of a directory was left in the middle; this is tried again");
                return false;
            }
        };
        let mut all = true;
        for journal in journals {
            match self.settle_rename(&journal).await {
                Ok(found) => all &= !matches!(found, Found::Living),
                Err(error) => {
                    tracing::error!(%error, journal = journal.key, "a rename of a directory that was left in the middle could not be settled yet; this is tried again");
                    all = false;
                }
            }
        }
        all
    }

    async fn journals(&self) -> Result<Vec<Listed>, Error> {
        let prefix = Prefix::new(&format!("{}{JOURNAL_PREFIX}", self.settings.prefix.as_str()))?;
        self.objects_below(&prefix).await
    }

    async fn settle_rename(self: &Arc<Self>, listed: &Listed) -> Result<Found, Error> {
        let Ok(key) = Key::new(&listed.key) else { return Ok(Found::Strange) };
        let (version, age) = match self.gateway.head_with_age(&key).await {
            Ok((head, age)) => (head.meta.version, age),
            Err(error) if error.kind == Kind::NotFound => return Ok(Found::Settled),
            Err(error) => return Err(error.into()),
        };
        let intent = match Journal::read(&self.gateway, &key, &version, &self.settings.prefix).await {
            Ok(intent) => intent,
            Err(Unreadable::Store(error)) if matches!(error.kind, Kind::NotFound | Kind::PreconditionFailed) => {
                return Ok(Found::Living);
            }
            Err(Unreadable::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, journal = %key, "a journal of a directory's rename cannot be acted on, and is left as it is");
                return Ok(Found::Strange);
            }
        };
        let expired = age.is_some_and(|age| age > self.settings.rename_lease);
        if !expired && !intent.owner.is_gone() {
            let (from, to, host) = (intent.from()?, intent.to()?, intent.owner.host());
            tracing::warn!(%from, %to, host, "another mount is renaming this directory; both names are in between until it is done");
            return Ok(Found::Living);
        }
        self.take_over(key, intent, version.etag).await
    }

    async fn take_over(self: &Arc<Self>, key: Key, intent: Intent, etag: ETag) -> Result<Found, Error> {
        let (from, to, phase) = (intent.from()?, intent.to()?, intent.phase);
        let journal = match Journal::take_over(&self.gateway, &self.settings, key, intent, etag).await {
            Err(error) if is_taken(&error) => return Ok(Found::Living),
            Err(Error::Store(error)) if error.kind == Kind::NotFound => return Ok(Found::Settled),
            journal => journal?,
        };
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

    /// Deletes the copies of a move of which no source was touched, the claim of the target last, and then its journal.
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

    /// Deletes the sources of a move whose copies all stand. A source whose target is gone is the only one there is, and stays.
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
