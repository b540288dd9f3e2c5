//! Moves that were left in the middle: undone or finished by whoever finds them.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::error::Error;
use super::super::subtree_locks::ExclusiveSubtreeGuard;
use super::DirectoryRenames;
use super::arbitration::{Journals, Look, Seen};
use super::authenticator::NoKey;
use super::copies::{Copies, at_most_until_one_fails, delete_sources};
use super::found::Unreadable;
use super::intent::{Copied, Heading, Intent, JOURNAL_PREFIX, Phase};
use super::intent_log::Journal;
use super::key_below;
use super::owner::Owner;
use dssefs_s3::object::{ETag, Key, Prefix, Version};
use dssefs_s3::s3::{Kind, Listed};

/// Journals that one look tells of by themselves.
const TOLD_MAX: usize = 20;
/// How long a mount waits before it tries again to undo a rename of its own, at first and at most.
const UNDO_PAUSE_MIN: Duration = Duration::from_millis(500);
const UNDO_PAUSE_MAX: Duration = Duration::from_secs(5);
/// Targets that are compared with their sources at the same time.
const PROOFS_MAX: usize = 4;
/// How far times of the store may be apart that are the same.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(60);

/// What there is below a prefix: ETags by path.
type Sources = BTreeMap<String, ETag>;

/// What became of one journal.
enum Found {
    /// Its move is done or undone, and it is gone.
    Settled,
    /// It is of no use to this program.
    Strange,
    /// Somebody else works on it, or will be known not to in a while.
    Living,
}

/// What became of all journals.
#[derive(Default)]
struct Tally {
    settled: usize,
    /// To be looked at again.
    waiting: usize,
    /// Of which the log tells that they cannot be acted on.
    told: usize,
    /// Of which it only tells how many they are.
    untold: usize,
}

impl DirectoryRenames {
    /// As [`Namespace::recover`](super::super::Namespace::recover).
    pub(in super::super) async fn recover(self: &Arc<Self>) {
        if !self.settle_renames().await {
            self.look_again_later();
        }
    }

    /// Looks at the journals from time to time, until all are settled.
    pub(super) fn look_again_later(self: &Arc<Self>) {
        if self.looking.swap(true, Relaxed) {
            return;
        }
        let (renames, pause) = (Arc::downgrade(self), self.settings.rename_lease / 2);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                let Some(renames) = renames.upgrade() else { return };
                if renames.settle_renames().await {
                    return renames.looking.store(false, Relaxed);
                }
            }
        });
    }

    /// Undoes a move of this mount whose copies could not be taken back at once. `exclusive` is released when that is done, or
    /// after `rename_lease`: then the directory is in use again, and the move is looked at from time to time.
    pub(super) fn undo_soon(self: &Arc<Self>, copies: Arc<Copies>, exclusive: ExclusiveSubtreeGuard) {
        let (renames, key) = (Arc::clone(self), copies.journal_key().clone());
        // With it goes the journal, which would write itself anew.
        drop(copies);
        tokio::spawn(async move {
            let _exclusive = exclusive;
            let (end, mut pause) = (Instant::now() + renames.settings.rename_lease, UNDO_PAUSE_MIN);
            while let Err(error) = renames.undo_own(&key).await {
                if Instant::now() + pause >= end {
                    tracing::error!(%error, journal = %key, "a rename that failed could not be undone in time; both names stay in between until the store takes it");
                    return renames.look_again_later();
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(UNDO_PAUSE_MAX);
            }
        });
    }

    /// Undoes a move of this mount, whatever the last version of its journal says: no source has been touched yet.
    async fn undo_own(self: &Arc<Self>, key: &Key) -> Result<(), Error> {
        let seen = match self.look_at(key, &self.settings.prefix).await? {
            Look::Gone => return Ok(()),
            Look::Journal(seen) if seen.heading().owner == Owner::this() => seen,
            // Another mount has taken it over, and undoes or finishes it.
            Look::Journal(_) => return Ok(()),
            Look::Changing | Look::Strange(_) | Look::Unproved { .. } => return Err(Error::Overtaken),
        };
        let (key, version, mut intent) = match seen.proved.intent(&self.gateway).await {
            Ok(found) => found,
            Err(Unreadable::Store(error)) => return Err(error.into()),
            Err(_) => return Err(Error::Overtaken),
        };
        self.give_way_to_first(&key, &intent.heading).await?;
        intent.heading.phase = Phase::Copying;
        let (from, to) = (intent.from()?, intent.to()?);
        let held = (version.etag, self.gateway.time());
        let journal = Journal::take_over(&self.gateway, &self.settings, key, intent, held).await?;
        tracing::warn!(%from, %to, "the rename of this directory failed: it is undone now");
        self.undo(&journal).await
    }

    /// True when nothing is left to look at again. A move that had to wait for another is looked at again once that is
    /// settled.
    async fn settle_renames(self: &Arc<Self>) -> bool {
        loop {
            let Tally { settled, waiting, .. } = self.settle_each().await;
            if waiting == 0 || settled == 0 {
                return waiting == 0;
            }
        }
    }

    async fn settle_each(self: &Arc<Self>) -> Tally {
        let mut tally = Tally::default();
        let looks = async {
            let Journals { objects, more } = self.journals().await?;
            Ok::<_, Error>((self.look_at_each(objects).await?, more))
        };
        let (looks, more) = match looks.await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(%error, "it cannot be found out whether a rename of a directory was left in the middle; this is tried again");
                return Tally { waiting: 1, ..tally };
            }
        };
        if more {
            let (prefix, below) = (&self.settings.prefix, JOURNAL_PREFIX);
            tracing::warn!(
                "there are more objects below {prefix}{below} than a mount looks at; a rename that was left in the middle may be among them: delete what no mount needs"
            );
        }
        for (key, look) in looks {
            self.settle(&mut tally, &key, look).await;
        }
        if tally.untold > 0 {
            tracing::warn!(
                journals = tally.untold,
                "more objects beside the journals cannot be acted on, and are left as they are"
            );
        }
        tally
    }

    async fn settle(self: &Arc<Self>, tally: &mut Tally, journal: &Key, look: Look) {
        let outcome = match look {
            Look::Gone => return tally.settled += 1,
            Look::Changing => return tally.waiting += 1,
            Look::Strange(error) => {
                if tally.tells() {
                    tracing::error!(%error, %journal, "a journal of a directory's rename cannot be acted on, and is left as it is");
                }
                return;
            }
            Look::Unproved { heading, error, .. } => {
                let is_passing = matches!(error, NoKey::Unavailable(_));
                tally.waiting += usize::from(is_passing);
                if tally.tells() {
                    tell_unproved(journal, &heading, &error, is_passing);
                }
                return;
            }
            Look::Journal(seen) => self.settle_rename(*seen).await,
        };
        match outcome {
            Ok(Found::Settled) => tally.settled += 1,
            Ok(Found::Living) => tally.waiting += 1,
            Ok(Found::Strange) => {}
            Err(Error::BeingRenamed) => {
                tracing::warn!(%journal, "a rename of a directory that was left in the middle has to wait for another one");
                tally.waiting += 1;
            }
            Err(error) => {
                tracing::error!(%error, %journal, "a rename of a directory that was left in the middle could not be settled yet; this is tried again");
                tally.waiting += 1;
            }
        }
    }

    async fn settle_rename(self: &Arc<Self>, seen: Seen) -> Result<Found, Error> {
        let heading = seen.heading().clone();
        let (from, to) = (heading.from()?, heading.to()?);
        if seen.living {
            let host = heading.owner.host();
            tracing::warn!(%from, %to, host, "another mount is renaming this directory; both names are in between until it is done");
            return Ok(Found::Living);
        }
        let version = (seen.proved.key.as_str().to_owned(), seen.proved.version.etag.clone());
        let until = seen.proved.written() + self.settings.rename_lease;
        let (key, version, intent) = match seen.proved.intent(&self.gateway).await {
            Ok(found) => found,
            Err(Unreadable::Store(error)) if error.kind == Kind::NotFound => return Ok(Found::Settled),
            Err(Unreadable::Store(error)) if error.kind == Kind::PreconditionFailed => return Ok(Found::Living),
            Err(Unreadable::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(%error, %from, %to, "the journal of a rename that was left in the middle is damaged, and is left as it is; compare both directories by hand");
                // No other move has to give way to it.
                self.strange().insert(version.0, version.1);
                return Ok(Found::Strange);
            }
        };
        // Before it is taken over as well: that makes its journal young again, and others would wait for it.
        self.give_way_to_first(&key, &intent.heading).await?;
        self.take_over(key, intent, version.etag, until).await
    }

    /// Whoever held the journal made no copies after `until`, when it was not theirs for sure any more.
    async fn take_over(
        self: &Arc<Self>,
        key: Key,
        intent: Intent,
        etag: ETag,
        until: SystemTime,
    ) -> Result<Found, Error> {
        let (from, to, phase) = (intent.from()?, intent.to()?, intent.heading.phase);
        let journal = match Journal::take_over(&self.gateway, &self.settings, key, intent, (etag, until)).await {
            Err(error) if error.is_taken() => return Ok(Found::Living),
            Err(Error::Store(error)) if error.kind == Kind::NotFound => return Ok(Found::Settled),
            journal => journal?,
        };
        let heading = journal.intent().heading.clone();
        self.give_way_to_first(journal.key(), &heading).await?;
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
    /// The caller has given way: what another move has copied to the same place would be taken for copies of this one.
    pub(super) async fn undo(self: &Arc<Self>, journal: &Arc<Journal>) -> Result<(), Error> {
        let (from, to, replaces) = {
            let intent = journal.intent();
            (intent.from()?, intent.to()?, intent.heading.replaces)
        };
        let mut found = self.objects_below(&to).await?;
        let sources = self.etags_below(&from).await?;
        // The empty directory that was to be replaced stays.
        let marker =
            if found.first().is_some_and(|first| first.key == to.as_str()) { Some(found.remove(0)) } else { None };
        at_most_until_one_fails(found, |object| self.take_back(journal, &sources, object)).await?;
        if let Some(marker) = marker.filter(|_| !replaces) {
            self.take_back(journal, &sources, marker).await?;
        }
        journal.end().await
    }

    /// Deletes a copy, if it is one and the source is there: the very version that the journal names as the copy of the
    /// version that the source is, or, of what the journal had not noted yet, an object that the move can have made and
    /// that is proved to equal its source. Anything else stays: another program made it, or it is all that there is. An
    /// old version of a journal that an attacker puts back says nothing that could undo this.
    async fn take_back(&self, journal: &Journal, sources: &Sources, object: Listed) -> Result<(), Error> {
        let (from, to, noted, made) = {
            let intent = journal.intent();
            let (from, to) = (intent.from()?, intent.to()?);
            let noted = intent.objects.get(&object.key[to.as_str().len()..]).cloned();
            (from, to, noted, intent.heading.begun()..=journal.copied_until())
        };
        let path = &object.key[to.as_str().len()..];
        let (source, key) = (key_below(&from, path)?, key_below(&to, path)?);
        let is_noted = noted.as_ref().is_some_and(|copied| {
            copied.copy() == object.etag && sources.get(path).is_some_and(|etag| *etag == copied.source())
        });
        let is_copy = is_noted
            || (noted.is_none_or(|copied| copied.copy() != object.etag)
                && is_within(object.last_modified, &made)
                && self.is_proved(&source, &key, None, &object.etag).await?);
        if !is_copy {
            tracing::warn!(%key, %source, "this object is not proved to be a copy that the undone rename made of what its source is now, and stays");
            return Ok(());
        }
        Ok(self.gateway.expunge(&key, &Version { etag: object.etag, id: None }).await?)
    }

    /// Deletes the sources of a move whose copies all stand. A source whose target is not proved to be its copy stays:
    /// since the names have moved, a program may have changed the target, or another have put something there.
    async fn finish(&self, journal: &Arc<Journal>) -> Result<(), Error> {
        let (from, to, objects) = {
            let intent = journal.intent();
            (intent.from()?, intent.to()?, intent.objects.clone())
        };
        let (there, sources) = (self.etags_below(&to).await?, self.etags_below(&from).await?);
        // A source that is not there any more needs no proof.
        let left = objects.into_iter().filter(|(path, copied)| sources.get(path) == Some(&copied.source()));
        let judge = async |(path, copied): (String, Copied)| {
            let (source, target) = (key_below(&from, &path)?, key_below(&to, &path)?);
            let is_proved = match there.get(&path) {
                None => false,
                Some(etag) if *etag == copied.copy() => true,
                Some(etag) => self.is_proved(&source, &target, Some(&copied.source()), etag).await?,
            };
            if !is_proved {
                tracing::warn!(%source, %target, "the target is not proved to be the copy of this object, which stays under the old name; compare both, and delete the one that is not needed");
            }
            Ok::<_, Error>(is_proved.then(|| (path, copied.source())))
        };
        let judged: Vec<_> = stream::iter(left).map(judge).buffer_unordered(PROOFS_MAX).try_collect().await?;
        delete_sources(&self.gateway, &from, judged.into_iter().flatten().collect()).await?;
        journal.end().await
    }

    /// Whether the object `etag` at `copy` is proved to be a copy of `source`: of the version `original`, where that is
    /// known.
    async fn is_proved(&self, source: &Key, copy: &Key, original: Option<&ETag>, etag: &ETag) -> Result<bool, Error> {
        match self.gateway.proved_copy(source, copy).await {
            Ok(proved) => Ok(proved.is_some_and(|(a, b)| {
                original.is_none_or(|etag| a.meta.version.etag == *etag) && b.meta.version.etag == *etag
            })),
            // Changed while it was read.
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn etags_below(&self, prefix: &Prefix) -> Result<Sources, Error> {
        let path = |object: Listed| (object.key[prefix.as_str().len()..].to_owned(), object.etag);
        Ok(self.objects_below(prefix).await?.into_iter().map(path).collect())
    }
}

impl Tally {
    /// Whether one more journal is told of by itself.
    fn tells(&mut self) -> bool {
        self.told += 1;
        self.untold = self.told.saturating_sub(TOLD_MAX);
        self.told <= TOLD_MAX
    }
}

/// What it says is believed by nobody, and told as what it says.
fn tell_unproved(journal: &Key, heading: &Heading, error: &NoKey, is_passing: bool) {
    let (from, to) = (heading.from(), heading.to());
    let (from, to) = (from.as_ref().map_or("?", Prefix::as_str), to.as_ref().map_or("?", Prefix::as_str));
    let host = heading.owner.host();
    if is_passing {
        tracing::error!(%error, %journal, from, to, host, "a journal says that this host has renamed a directory; nothing is deleted, and this is tried again");
    } else {
        tracing::warn!(%error, %journal, from, to, host, "a journal says that this host has renamed a directory; it is left to that host, and both names stay as they are: mount there, with the same --spill-dir and key, or compare both directories by hand and delete the journal");
    }
}

/// The store tells times to the second, and its machines may not agree to some.
fn is_within(time: SystemTime, made: &RangeInclusive<SystemTime>) -> bool {
    time + CLOCKS_DIFFER_MAX >= *made.start() && time <= *made.end() + CLOCKS_DIFFER_MAX
}
