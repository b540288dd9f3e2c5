//! Recovery of interrupted moves: a mount that finds one undoes or finishes it.
//!
//! 1. List the journals and read each; skip what is no journal (`settle_each`).
//! 2. Leave a move to its owner while that may be at work (`settle_rename`).
//! 3. Give way to a move that overlaps and comes first.
//! 4. Take the journal over, by a write on the condition that it is still the same version (`take_over`).
//! 5. Give way once more, as another mount may have begun a move meanwhile.
//! 6. Undo a move whose journal says `copying`; finish one whose journal says `deleting`.
//! 7. Delete the journal.

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
use dssefs_s3::object::{ETag, Key, Prefix};
use dssefs_s3::s3::{Backoff, Jitter, Kind, Listed};

/// Journals that cannot be acted on and that one look logs one by one.
const LOGGED_MAX: usize = 20;
/// How long a mount waits before it tries again to undo a rename of its own, at first and at most.
const UNDO_BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(5), Jitter::None);
/// Targets that are compared with their sources at the same time.
const PROOFS_MAX: usize = 4;
/// How far apart two times of the store may be that mean the same.
const CLOCKS_DIFFER_MAX: Duration = Duration::from_secs(60);

/// The objects below a prefix: their ETags by path.
type Sources = BTreeMap<String, ETag>;

/// What became of one journal.
enum Found {
    /// Its move is done or undone, and it is gone.
    Settled,
    /// It cannot be acted on.
    Strange,
    /// Another process works on it, or its lease is not over yet.
    Living,
}

/// What became of all journals.
#[derive(Default)]
struct Tally {
    settled: usize,
    /// To be looked at again.
    waiting: usize,
    /// Those that cannot be acted on, and that the log names.
    logged: usize,
    /// Those that the log only counts.
    unlogged: usize,
}

impl DirectoryRenames {
    /// As [`Namespace::recover`](super::super::Namespace::recover).
    pub(in super::super) async fn recover(self: &Arc<Self>) {
        if !self.settle_renames().await {
            self.look_again_later();
        }
    }

    /// Looks at the journals at intervals, until each of their moves is done or undone.
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

    /// Undoes a move of this mount whose copies could not be taken back at once. `exclusive` is released when that is
    /// done, or after `rename_lease`: then the directory is in use again, and the mount looks at the move at intervals.
    pub(super) fn undo_soon(self: &Arc<Self>, copies: Arc<Copies>, exclusive: ExclusiveSubtreeGuard) {
        let (renames, key) = (Arc::clone(self), copies.journal_key().clone());
        // This also drops the journal, which would otherwise rewrite itself.
        drop(copies);
        tokio::spawn(async move {
            let _exclusive = exclusive;
            let (end, mut retry) = (Instant::now() + renames.settings.rename_lease, 1);
            while let Err(error) = renames.undo_own(&key).await {
                let pause = UNDO_BACKOFF.pause(retry);
                if Instant::now() + pause >= end {
                    tracing::error!(
                        %error,
                        journal = %key,
                        "a rename that failed could not be undone in time; \
                         both names show a part of the directory until the store lets this mount undo it"
                    );
                    return renames.look_again_later();
                }
                tokio::select! {
                    () = tokio::time::sleep(pause) => retry += 1,
                    // This mount ends without the store, and its files must not wait: the next mount undoes the move.
                    () = renames.gateway.wait_until_stalled() => return,
                }
            }
        });
    }

    /// Undoes a move of this mount, whatever the last version of its journal says: no source has been touched yet.
    async fn undo_own(self: &Arc<Self>, key: &Key) -> Result<(), Error> {
        let seen = match self.look_at(key, &self.settings.prefix).await? {
            Look::Gone => return Ok(()),
            Look::Journal(seen) if seen.heading().owner == Owner::this() => seen,
            // Another mount has taken it over, and will undo or finish it.
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
        tracing::warn!(%from, %to, "the rename of this directory failed; the mount undoes it now");
        self.undo(&journal).await
    }

    /// True when nothing is left to look at again. A move that had to wait for another is looked at again once that one
    /// is done or undone.
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
                tracing::error!(
                    %error,
                    "the mount cannot find out whether a rename of a directory was interrupted; it tries again"
                );
                return Tally { waiting: 1, ..tally };
            }
        };
        if more {
            let (prefix, below) = (&self.settings.prefix, JOURNAL_PREFIX);
            tracing::warn!(
                "there are more objects below {prefix}{below} than a mount looks at; \
                 the journal of an interrupted rename may be among them: delete those that no mount needs"
            );
        }
        for (key, look) in looks {
            self.settle(&mut tally, &key, look).await;
        }
        if tally.unlogged > 0 {
            tracing::warn!(
                journals = tally.unlogged,
                "the mount cannot act on more objects beside the journals, and leaves them as they are"
            );
        }
        tally
    }

    async fn settle(self: &Arc<Self>, tally: &mut Tally, journal: &Key, look: Look) {
        let outcome = match look {
            Look::Gone => return tally.settled += 1,
            Look::Changing => return tally.waiting += 1,
            Look::Strange(error) => {
                if tally.logs_one_more() {
                    tracing::error!(
                        %error,
                        %journal,
                        "the journal of a directory's rename cannot be acted on; the mount leaves it as it is"
                    );
                }
                return;
            }
            Look::Unproved { heading, error, .. } => {
                let is_passing = matches!(error, NoKey::Unavailable(_));
                tally.waiting += usize::from(is_passing);
                if tally.logs_one_more() {
                    log_unproved(journal, &heading, &error, is_passing);
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
                tracing::warn!(%journal, "an interrupted rename of a directory has to wait for another rename");
                tally.waiting += 1;
            }
            Err(error) => {
                tracing::error!(
                    %error,
                    %journal,
                    "an interrupted rename of a directory could not be finished or undone yet; the mount tries again"
                );
                tally.waiting += 1;
            }
        }
    }

    async fn settle_rename(self: &Arc<Self>, seen: Seen) -> Result<Found, Error> {
        // 1. A mount that lives goes on with its own rename.
        let heading = seen.heading().clone();
        let (from, to) = (heading.from()?, heading.to()?);
        if seen.living {
            let host = heading.owner.host();
            tracing::warn!(
                %from,
                %to,
                host,
                "another mount is renaming this directory; both names show a part of it until that is done"
            );
            return Ok(Found::Living);
        }
        // 2. Read what the rename was to do.
        let version = (seen.proved.key.as_str().to_owned(), seen.proved.version.etag.clone());
        let until = seen.proved.written() + self.settings.rename_lease;
        let (key, version, intent) = match seen.proved.intent(&self.gateway).await {
            Ok(found) => found,
            Err(Unreadable::Store(error)) if error.kind == Kind::NotFound => return Ok(Found::Settled),
            Err(Unreadable::Store(error)) if error.kind == Kind::PreconditionFailed => return Ok(Found::Living),
            Err(Unreadable::Store(error)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(
                    %error,
                    %from,
                    %to,
                    "the journal of an interrupted rename is damaged; the mount leaves it as it is: \
                     compare both directories by hand"
                );
                // No other move has to give way to it.
                self.strange().insert(version.0, version.1);
                return Ok(Found::Strange);
            }
        };
        // 3. Let an older rename of the same names go first, and take this one over. In this order: a take-over makes
        //    the journal young again, and other moves would wait for it.
        self.give_way_to_first(&key, &intent.heading).await?;
        self.take_over(key, intent, version.etag, until).await
    }

    /// The former holder of the journal made no copies after `until`, when its lease had ended.
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
                tracing::warn!(%from, %to, "a rename of this directory was interrupted; the mount undoes it");
                self.undo(&journal).await?;
            }
            Phase::Deleting => {
                tracing::warn!(%from, %to, "a rename of this directory was interrupted; the mount finishes it");
                self.finish(&journal).await?;
            }
        }
        Ok(Found::Settled)
    }

    /// Deletes the copies of a move, the claim of the target last, and then its journal. The move has deleted no
    /// source. The caller has given way: otherwise this could take another move's copies at the same place for its own.
    pub(super) async fn undo(self: &Arc<Self>, journal: &Arc<Journal>) -> Result<(), Error> {
        let (from, to, replaces) = {
            let intent = journal.intent();
            (intent.from()?, intent.to()?, intent.heading.replaces)
        };
        // 1. List both directories. The marker of an empty directory that was to be replaced stays.
        let mut found = self.objects_below(&to).await?;
        let sources = self.etags_below(&from).await?;
        let marker =
            if found.first().is_some_and(|first| first.key == to.as_str()) { Some(found.remove(0)) } else { None };
        // 2. Delete the copies, and the claim after them: without it another mount could move something there.
        at_most_until_one_fails(found, |object| self.take_back(journal, &sources, object)).await?;
        if let Some(marker) = marker.filter(|_| !replaces) {
            self.take_back(journal, &sources, marker).await?;
        }
        // 3. Nothing is left to undo.
        journal.end().await
    }

    /// Deletes a copy, if it is one and its source is there. It is one if the journal names exactly this version as the
    /// copy of the source's present version. If the journal had not noted it yet, the move must have been able to make
    /// it, and it must be proved to equal its source. Anything else stays: another program made it, or it is the last
    /// one. This holds for an old version of a journal, which an attacker may put back, as well.
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
            tracing::warn!(
                %key,
                %source,
                "this object stays: it is not proved to be a copy that the undone rename made of its present source"
            );
            return Ok(());
        }
        self.gateway.delete_version(&key, &object.etag).await?;
        Ok(())
    }

    /// Deletes the sources of a move whose copies all stand. A source whose target is not proved to be its copy stays:
    /// since the names moved, a program may have changed the target, or another host may have replaced it.
    async fn finish(&self, journal: &Arc<Journal>) -> Result<(), Error> {
        let (from, to, objects) = {
            let intent = journal.intent();
            (intent.from()?, intent.to()?, intent.objects.clone())
        };
        let (there, sources) = (self.etags_below(&to).await?, self.etags_below(&from).await?);
        // 1. Prove each target. A source that is gone needs no proof.
        let left = objects.into_iter().filter(|(path, copied)| sources.get(path) == Some(&copied.source()));
        let judge = async |(path, copied): (String, Copied)| {
            let (source, target) = (key_below(&from, &path)?, key_below(&to, &path)?);
            let is_proved = match there.get(&path) {
                None => false,
                Some(etag) if *etag == copied.copy() => true,
                Some(etag) => self.is_proved(&source, &target, Some(&copied.source()), etag).await?,
            };
            if !is_proved {
                tracing::warn!(
                    %source,
                    %target,
                    "this object stays under its old name: the target is not proved to be its copy; \
                     compare both, and delete the one that is not needed"
                );
            }
            Ok::<_, Error>(is_proved.then(|| (path, copied.source())))
        };
        let judged: Vec<_> = stream::iter(left).map(judge).buffer_unordered(PROOFS_MAX).try_collect().await?;
        // 2. Delete the sources whose copies are proved, and then the journal.
        delete_sources(&self.gateway, &from, judged.into_iter().flatten().collect()).await?;
        journal.end().await
    }

    /// Whether the object `etag` at `copy` is proved to be a copy of `source`: of the version `original`, where that is
    /// known.
    async fn is_proved(&self, source: &Key, copy: &Key, original: Option<&ETag>, etag: &ETag) -> Result<bool, Error> {
        match self.gateway.verify_copy_bytewise(source, copy).await {
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
    /// Counts a journal that cannot be acted on, and answers whether the log names it.
    fn logs_one_more(&mut self) -> bool {
        self.logged += 1;
        self.unlogged = self.logged.saturating_sub(LOGGED_MAX);
        self.logged <= LOGGED_MAX
    }
}

/// The log repeats what the journal says, but this mount does not act on it.
fn log_unproved(journal: &Key, heading: &Heading, error: &NoKey, is_passing: bool) {
    let (from, to) = (heading.from(), heading.to());
    let (from, to) = (from.as_ref().map_or("?", Prefix::as_str), to.as_ref().map_or("?", Prefix::as_str));
    let host = heading.owner.host();
    if is_passing {
        tracing::error!(
            %error,
            %journal,
            from,
            to,
            host,
            "a journal says that this host has renamed a directory; nothing is deleted, and the mount tries again"
        );
    } else {
        tracing::warn!(
            %error,
            %journal,
            from,
            to,
            host,
            "a journal says that this host has renamed a directory; it is left to that host, and both names stay as \
             they are: mount there, with the same --spill-dir and key, or compare both directories by hand and delete \
             the journal"
        );
    }
}

/// The store gives times in whole seconds, and the clocks of its machines may differ by some seconds.
fn is_within(time: SystemTime, made: &RangeInclusive<SystemTime>) -> bool {
    time + CLOCKS_DIFFER_MAX >= *made.start() && time <= *made.end() + CLOCKS_DIFFER_MAX
}
