//! Facts from HEAD: attributes, and what open and the extended attributes need.

use std::sync::Arc;

use futures_util::FutureExt;

use super::entry::Entry;
use super::error::Error;
use super::node::{Attributes, Ino};
use super::{Namespace, is_not_found};
use dssefs_s3::object::{Key, Name};
use dssefs_s3::policy::Algorithm;
use dssefs_s3::s3::Head;

impl Namespace {
    /// What stat(2) shows: cached while fresh, else by one HEAD. An open file whose object is gone keeps its last
    /// attributes.
    ///
    /// # Errors
    /// [`Error::NotFound`], and the store's.
    pub async fn attributes(self: &Arc<Self>, ino: Ino) -> Result<Attributes, Error> {
        if let Some(attributes) = self.attributes_at_hand(ino)? {
            return Ok(attributes);
        }
        match self.fetch(ino).await {
            Ok(_) | Err(Error::NotFound | Error::Stale) => self.last_attributes(ino),
            Err(error) => Err(error),
        }
    }

    /// The facts for extended attributes: cached up to `ttl`, else by one HEAD that all who ask meanwhile share. Of a
    /// directory, those of its marker. Never a KMS call.
    ///
    /// # Errors
    /// [`Error::NotFound`] for files that are not in the store yet and directories without a marker; the store's.
    pub async fn head(self: &Arc<Self>, ino: Ino) -> Result<Arc<Head>, Error> {
        if let Some(head) = self.head_at_hand(ino)? {
            return Ok(head);
        }
        self.fetch(ino).await
    }

    /// Whether only a listing has shown `ino`, and this mount asks for no more by itself.
    #[must_use]
    pub fn is_only_listed(&self, ino: Ino) -> bool {
        !self.settings.is_full() && self.table().entry(ino).is_ok_and(|entry| entry.object.is_none())
    }

    /// The version to pin for an open file, confirmed at most `ttl` ago.
    ///
    /// # Errors
    /// [`Error::Stale`] when the name belongs to a newer version under another number: look it up again.
    /// [`Error::IsADirectory`], and as [`Namespace::head`].
    pub async fn open(self: &Arc<Self>, ino: Ino) -> Result<Arc<Head>, Error> {
        {
            let table = self.table();
            let entry = table.entry(ino)?;
            if entry.is_directory() {
                return Err(Error::IsADirectory);
            }
            if entry.is_lost() {
                return Err(Error::Stale);
            }
        }
        self.head(ino).await
    }

    /// Takes over the facts that a GET gave of the object of `ino`, so that it needs no HEAD. Those of another version
    /// are ignored.
    pub fn observed(self: &Arc<Self>, ino: Ino, head: &Arc<Head>) {
        let now = self.now();
        let mut table = self.table();
        let Ok(entry) = table.entry_mut(ino) else { return };
        let same = entry.etag() == Some(&head.meta.version.etag);
        if same && !entry.local && !entry.is_directory() {
            entry.attributes = self.settings.known(head, false);
            (entry.object, entry.listed, entry.seen) = (Some(Arc::clone(head)), None, Some(now));
        }
    }

    /// The store does not have the version of `ino` that is known here: the next call asks, even while the facts are
    /// fresh. Whatever answer said so, this is where it is noted; [`Namespace::lose`] has the case of changes.
    pub fn expire(&self, ino: Ino) {
        let mut table = self.table();
        let Ok(entry) = table.entry_mut(ino) else { return };
        match &mut entry.directory {
            Some(directory) => directory.marker_checked = None,
            None => entry.seen = None,
        }
    }

    /// The same of the file that has the key `key`.
    pub fn expire_key(&self, key: &Key) {
        let found = self.table().find(key);
        if let Some(ino) = found {
            self.expire(ino);
        }
    }

    /// [`Namespace::expire`], where `error` says that a request found another version, or none; whether it does. The
    /// same call may then succeed with what the store has now.
    pub(super) fn learn_from(&self, ino: Ino, error: &Error) -> bool {
        let learned = error.is_taken() || error.is_missing();
        if learned {
            self.expire(ino);
        }
        learned
    }

    /// What a program hears of `error` when it makes a name in `directory`. If the store has the name already, the
    /// mount does not know all names there, so the next lookup asks.
    pub(super) fn exists_if_taken(&self, directory: Ino, error: Error) -> Error {
        if !error.is_taken() {
            return error;
        }
        if let Ok(directory) = self.table().directory_mut(directory) {
            directory.listed = None;
        }
        Error::Exists
    }

    /// Another writer was first: the store has refused the changes of the file `ino` because its object is another one,
    /// or gone. The name is the other writer's at once. Open handles keep the file under its number, and it can be
    /// stored after all if the other object goes ([`Namespace::committed`]).
    pub fn lose(&self, ino: Ino) {
        let mut table = self.table();
        let named = table.entry(ino).is_ok_and(|entry| entry.place().is_some() && !entry.is_directory());
        if named {
            // It was found under the same lock.
            let _ = table.lose(ino);
        }
    }

    /// Whether another writer has taken the name of the file.
    #[must_use]
    pub fn is_lost(&self, ino: Ino) -> bool {
        self.table().entry(ino).is_ok_and(Entry::is_lost)
    }

    /// The facts that a change of metadata sends again. They are asked for once more where another program may have
    /// changed them in place under the same ETag: of objects whose ETag names their content alone. The store itself
    /// copies the tags.
    pub(super) async fn facts_to_carry(self: &Arc<Self>, ino: Ino) -> Result<Arc<Head>, Error> {
        if let Some(head) = self.head_at_hand(ino)? {
            let by_etag = matches!(head.encryption.facts.algorithm, Algorithm::Dsse | Algorithm::Kms);
            let is_enough = {
                let table = self.table();
                let entry = table.entry(ino)?;
                !may_be_asked(entry) || by_etag
            };
            if is_enough {
                return Ok(head);
            }
            self.expire(ino);
        }
        self.fetch(ino).await
    }

    /// One HEAD for all who wait for it.
    pub(super) async fn fetch(self: &Arc<Self>, ino: Ino) -> Result<Arc<Head>, Error> {
        self.heads.join(ino, || Arc::clone(self).ask_for_facts(ino).boxed()).await
    }

    /// Begins the HEADs of the entries ahead of a program that goes through the directory `parent` in its listing's
    /// order.
    pub(super) fn fetch_ahead(self: &Arc<Self>, parent: Ino, name: &Name) {
        let wanted = self.entries_ahead(parent, name).unwrap_or_default();
        for ino in wanted {
            let Ok(permit) = Arc::clone(&self.ahead).try_acquire_owned() else { return };
            let Some(flight) = self.heads.begin(&ino, || Arc::clone(self).ask_for_facts(ino).boxed()) else { continue };
            let namespace = Arc::clone(self);
            tokio::spawn(async move {
                // A caller that asks for this entry gets the same answer, or asks again; here nothing waits for it.
                let _ = flight.clone().await;
                namespace.heads.finish(&ino, &flight);
                drop(permit);
            });
        }
    }

    /// Whether the attributes of `ino` can be shown without asking.
    pub(super) fn attributes_at_hand(&self, ino: Ino) -> Result<Option<Attributes>, Error> {
        let (now, ttl) = (self.now(), self.settings.ttl);
        let table = self.table();
        let entry = table.entry(ino)?;
        let nobody_to_ask = table.key(ino).is_err() || !entry.has_name();
        let enough = match (self.settings.is_full(), entry.is_directory()) {
            (true, _) => table.has_facts(ino, now, ttl),
            (false, true) => true,
            (false, false) => entry.is_fresh(now, ttl),
        };
        Ok(((enough && !entry.is_kind_unproved()) || nobody_to_ask).then(|| entry.shown()))
    }

    async fn ask_for_facts(self: Arc<Self>, ino: Ino) -> Result<Arc<Head>, Error> {
        // The answer to an earlier question may have landed after our caller looked and before this question took its
        // place.
        if let Some(head) = self.head_at_hand(ino)? {
            return Ok(head);
        }
        loop {
            let key = self.table().key(ino)?;
            let question = self.question();
            let answer = self.gateway.head(&key).await;
            let mut table = self.table();
            // Moved meanwhile, or gone while another node got its number: what has the number now has another object.
            let is_elsewhere = table.key(ino).is_ok_and(|now| now != key);
            match answer {
                Ok(_) if is_elsewhere => {}
                Ok(head) => return table.facts_seen(ino, &Arc::new(head), question.when, &self.settings),
                Err(error) if is_not_found(&error) && is_elsewhere => {}
                Err(error) if is_not_found(&error) => {
                    table.facts_missing(ino, question.when, &self.settings)?;
                    return Err(Error::NotFound);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn last_attributes(&self, ino: Ino) -> Result<Attributes, Error> {
        let table = self.table();
        let entry = table.entry(ino)?;
        let shown = entry.is_directory() || entry.has_name() || entry.is_lost() || entry.open > 0;
        if shown { Ok(entry.shown()) } else { Err(Error::NotFound) }
    }

    fn head_at_hand(&self, ino: Ino) -> Result<Option<Arc<Head>>, Error> {
        let table = self.table();
        let entry = table.entry(ino)?;
        if may_be_asked(entry) && !table.has_facts(ino, self.now(), self.settings.ttl) {
            return Ok(None);
        }
        entry.object.clone().map(Some).ok_or(Error::NotFound)
    }

    fn entries_ahead(&self, parent: Ino, name: &Name) -> Result<Vec<Ino>, Error> {
        let (now, ttl) = (self.now(), self.settings.ttl);
        let mut table = self.table();
        let directory = table.directory_mut(parent)?;
        if directory.listed.is_none() {
            return Ok(Vec::new());
        }
        let ahead = directory.scan.ahead(&directory.children, name, self.settings.heads_in_flight_max);
        let unknown = |ino: &Ino| table.entry(*ino).is_ok_and(|entry| !entry.has_facts(now, ttl));
        Ok(ahead.into_iter().filter(unknown).collect())
    }
}

/// Whether the store could have something newer: not for local changes, and not for versions that lost their name.
fn may_be_asked(entry: &Entry) -> bool {
    !entry.local && entry.has_name()
}
