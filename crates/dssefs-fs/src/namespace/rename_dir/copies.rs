//! The copies of one move: made, taken back, and their sources deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::{StreamExt, stream};

use super::super::error::Error;
use super::DirectoryRenames;
use super::intent::Copied;
use super::intent_log::Journal;
use super::key_below;
use dssefs_s3::object::{ETag, Key, Prefix, Version};
use dssefs_s3::s3::{self, Condition, Gateway, Kind, Listed, Removal, Source, Stored};

/// Requests of one move that are under way at the same time.
const REQUESTS_MAX: usize = 16;
/// How often the source is listed again, while other hosts go on changing it.
const ROUNDS_MAX: usize = 5;
/// S3's own name for the storage class that needs no name.
const STANDARD: &str = "STANDARD";

/// How this move takes the target's marker, so that no other mount moves something there at the same time.
pub(super) enum Claim {
    /// There is none; the move makes it.
    New,
    /// It is this one, of an empty directory. The move first copies it onto itself, so that it can stay as it was.
    Replace(Listed),
}

/// One object that stands under both names.
#[derive(Clone)]
pub(super) struct Copy {
    pub(super) source: ETag,
    pub(super) stored: Stored,
}

/// One move's copies, by their path below the two directories. The empty path is the directory's own marker.
pub(super) struct Copies {
    renames: Arc<DirectoryRenames>,
    journal: Arc<Journal>,
    from: Prefix,
    to: Prefix,
    made: Mutex<BTreeMap<String, Copy>>,
    /// Paths that stay under the old name: other hosts made them, and they were not copied any more, or took their
    /// copies away.
    unsettled: Mutex<Vec<String>>,
    /// Whether the store has refused the claim of the target, so that nothing that is there can be this move's.
    refused: AtomicBool,
}

/// What brings the copies up to the source as it is now.
enum Step {
    /// Not copied yet.
    Copy(Listed),
    /// Copied, and replaced by another host since.
    CopyAgain(Listed, ETag),
    /// Copied, and deleted by another host since.
    TakeBack(String, Version),
}

impl fmt::Debug for Copies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copies").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}

impl Copies {
    pub(super) fn new(renames: Arc<DirectoryRenames>, journal: Arc<Journal>, from: Prefix, to: Prefix) -> Copies {
        Copies {
            renames,
            journal,
            from,
            to,
            made: Mutex::default(),
            unsettled: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// What was made so far.
    pub(super) fn made(&self) -> MutexGuard<'_, BTreeMap<String, Copy>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unsettled(&self) -> MutexGuard<'_, Vec<String>> {
        self.unsettled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes all copies and has the journal say so. `found` are the objects below the source, its marker first.
    pub(super) async fn make(&self, found: Vec<Listed>, claim: Claim) -> Result<(), Error> {
        let marker = found.first().cloned().ok_or(Error::NotFound)?;
        let claimed =
            self.claim(&marker, claim).await.inspect_err(|error| self.refused.store(is_refusal(error), Relaxed))?;
        self.follow(found).await?;
        if let Some(etag) = claimed {
            // Only now: until here the empty directory that is replaced could be left as it was.
            self.copy(&marker, &Condition::Matches(etag)).await?;
        }
        self.leave_where_the_copy_is_gone().await?;
        self.journal.all_copied().await
    }

    /// Looks at the target before the journal says that all copies stand: a source whose copy another host has deleted
    /// or replaced stays. Another mount must take the journal over before it takes copies back, and then this mount can
    /// no longer write it. Programs of this mount cannot have changed the copies, as the directory is locked.
    async fn leave_where_the_copy_is_gone(&self) -> Result<(), Error> {
        let found = self.renames.objects_below(&self.to).await?;
        let there: BTreeMap<String, ETag> = found.into_iter().map(|object| (object.key, object.etag)).collect();
        let stands =
            |path: &str, copy: &Copy| there.get(&format!("{}{path}", self.to)) == Some(&copy.stored.version.etag);
        let gone: Vec<String> =
            self.made().extract_if(.., |path, copy| !stands(path, copy)).map(|(path, _)| path).collect();
        for path in gone {
            tracing::warn!(
                from = %self.from,
                path,
                "another host deleted or replaced the copy of this object; the object stays under the old name"
            );
            self.journal.strike(&path);
            self.unsettled().push(path);
        }
        Ok(())
    }

    /// Leaves the source alone: the copies are taken back, and the journal ends. False where they cannot be taken back
    /// now, or the journal has to be read first because its content is unknown.
    pub(super) async fn give_up(&self, error: &Error) -> bool {
        let (from, to) = (&self.from, &self.to);
        tracing::warn!(%error, %from, %to, "the directory could not be renamed; the mount deletes the copies");
        if matches!(error, Error::Overtaken) || !self.journal.is_held() {
            return false;
        }
        if self.refused.load(Relaxed) {
            if !self.journal.end_untouched().await {
                self.renames.look_again_later();
            }
            return true;
        }
        let outcome = self.take_back().await;
        if let Err(error) = &outcome {
            tracing::error!(
                %error,
                %from,
                %to,
                "copies of the directory could not be deleted; its source is complete, and the mount tries again"
            );
        }
        outcome.is_ok()
    }

    /// Where the journal is.
    pub(super) fn journal_key(&self) -> &Key {
        self.journal.key()
    }

    async fn take_back(&self) -> Result<(), Error> {
        let heading = self.journal.intent().heading.clone();
        self.renames.give_way_to_first(self.journal.key(), &heading).await?;
        self.renames.undo(&self.journal).await
    }

    /// Deletes the sources and ends the journal.
    pub(super) async fn delete_sources(&self) -> Result<(), Error> {
        let sources = self.made().iter().map(|(path, copy)| (path.clone(), copy.source.clone())).collect();
        let mut left = delete_sources(&self.renames.gateway, &self.from, sources).await?;
        if let Err(error) = self.journal.end().await {
            tracing::warn!(
                %error,
                from = %self.from,
                "the directory is renamed, but its journal could not be deleted; the mount tries again"
            );
            self.renames.look_again_later();
        }
        left.append(&mut self.unsettled());
        match left.first() {
            None => Ok(()),
            Some(path) => Err(Error::LeftBehind { objects: left.len(), example: format!("{}{path}", self.from) }),
        }
    }

    /// The ETag of the claimed marker, if it is still to be replaced by the source's.
    async fn claim(&self, marker: &Listed, claim: Claim) -> Result<Option<ETag>, Error> {
        let taken = |error: Error| if error.is_taken() { Error::NotEmpty } else { error };
        match claim {
            Claim::New => {
                self.copy(marker, &Condition::Absent).await.map_err(taken)?;
                Ok(None)
            }
            Claim::Replace(old) => {
                let key = key_below(&self.to, "")?;
                let condition = Condition::Matches(old.etag.clone());
                let claimed = duplicate(&self.renames.gateway, &key, &old, &key, &condition).await;
                Ok(Some(claimed.map_err(|error| taken(error.into()))?.version.etag))
            }
        }
    }

    /// Copies what is there, and then what other hosts change meanwhile, until nothing changes any more. An object that
    /// keeps changing stays at the source, because each is deleted only as the version that was copied.
    async fn follow(&self, found: Vec<Listed>) -> Result<(), Error> {
        let mut steps = self.steps(found);
        for _ in 0..ROUNDS_MAX {
            if steps.is_empty() {
                return Ok(());
            }
            at_most_until_one_fails(steps, |step| self.take(step)).await?;
            steps = self.steps(self.renames.objects_below(&self.from).await?);
        }
        for step in steps {
            // A changed one is found again when it is to be deleted, and one that was deleted leaves nothing behind.
            if let Step::Copy(object) = step {
                let path = object.key[self.from.as_str().len()..].to_owned();
                tracing::warn!(
                    from = %self.from,
                    path,
                    "other hosts keep making names in the old directory; this object stays under its old name"
                );
                self.unsettled().push(path);
            }
        }
        Ok(())
    }

    fn steps(&self, found: Vec<Listed>) -> Vec<Step> {
        let made = self.made();
        let mut gone: BTreeSet<&String> = made.keys().filter(|path| !path.is_empty()).collect();
        let mut steps = Vec::new();
        for object in found {
            let path = object.key[self.from.as_str().len()..].to_owned();
            gone.remove(&path);
            match made.get(&path) {
                // The marker is copied by `claim` and `make`.
                _ if path.is_empty() => {}
                None => steps.push(Step::Copy(object)),
                Some(copy) if copy.source != object.etag => {
                    steps.push(Step::CopyAgain(object, copy.stored.version.etag.clone()));
                }
                Some(_) => {}
            }
        }
        let taken_back = |path: &&String| Step::TakeBack((*path).clone(), made[*path].stored.version.clone());
        steps.extend(gone.iter().map(taken_back));
        steps
    }

    async fn take(&self, step: Step) -> Result<(), Error> {
        match step {
            Step::Copy(object) => self.copy_settled(&object, &Condition::Absent).await,
            Step::CopyAgain(object, etag) => self.copy_settled(&object, &Condition::Matches(etag)).await,
            Step::TakeBack(path, version) => {
                self.renames.gateway.expunge(&key_below(&self.to, &path)?, &version).await?;
                self.made().remove(&path);
                self.journal.strike(&path);
                Ok(())
            }
        }
    }

    /// A source that another host replaced or deleted meanwhile is left to the next round; a target that another host
    /// made ends it.
    async fn copy_settled(&self, object: &Listed, condition: &Condition) -> Result<(), Error> {
        match self.copy(object, condition).await {
            Err(Error::Store(error)) if error.kind == Kind::NotFound => Ok(()),
            Err(error) if error.is_taken() => {
                let now = self.renames.gateway.head(&Key::new(&object.key).map_err(|_| Error::NotFound)?).await;
                match now {
                    Ok(head) if head.meta.version.etag == object.etag => Err(Error::NotEmpty),
                    Ok(_) => Ok(()),
                    Err(error) if error.kind == Kind::NotFound => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            outcome => outcome,
        }
    }

    async fn copy(&self, object: &Listed, condition: &Condition) -> Result<(), Error> {
        if !self.journal.is_held() {
            return Err(Error::Overtaken);
        }
        let path = &object.key[self.from.as_str().len()..];
        let from = key_below(&self.from, path)?;
        let to = key_below(&self.to, path)?;
        let stored = duplicate(&self.renames.gateway, &from, object, &to, condition).await?;
        self.journal.note(path, Copied::new(&object.etag, &stored.version.etag));
        self.made().insert(path.to_owned(), Copy { source: object.etag.clone(), stored });
        Ok(())
    }
}

/// Whether a claim certainly did nothing. A store that did not answer, or had trouble of its own, may have made the
/// copy.
fn is_refusal(error: &Error) -> bool {
    match error {
        Error::NotEmpty => true,
        Error::Store(error) => error.kind == Kind::NotFound,
        _ => false,
    }
}

/// Deletes each source if it still is the version that was copied. The paths of those that other hosts have replaced,
/// which stay.
pub(super) async fn delete_sources(
    gateway: &Gateway,
    from: &Prefix,
    sources: Vec<(String, ETag)>,
) -> Result<Vec<String>, Error> {
    let delete = async |(path, etag): (String, ETag)| {
        let removal = gateway.delete_version(&key_below(from, &path)?, &etag).await?;
        Ok::<_, Error>((removal != Removal::Gone).then_some(path))
    };
    let outcomes: Vec<_> = stream::iter(sources).map(delete).buffer_unordered(REQUESTS_MAX).collect().await;
    let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
    let outcomes: Result<Vec<Option<String>>, Error> = outcomes.into_iter().collect();
    let replaced: Vec<String> = outcomes
        .inspect_err(|error| {
            tracing::error!(
                %error,
                %from,
                failed,
                "the directory has its new name, but not all objects could be deleted under the old name; \
                 the mount tries again"
            );
        })?
        .into_iter()
        .flatten()
        .collect();
    for path in &replaced {
        tracing::warn!(
            %from,
            path,
            "another host changed this object while its directory was renamed; it stays under the old name"
        );
    }
    Ok(replaced)
}

async fn duplicate(
    gateway: &Arc<Gateway>,
    from: &Key,
    object: &Listed,
    to: &Key,
    condition: &Condition,
) -> Result<Stored, s3::Error> {
    let version = Version { etag: object.etag.clone(), id: None };
    let source = Source { key: from.clone(), version, size: object.size };
    let storage_class = Some(object.storage_class.clone()).filter(|class| class != STANDARD);
    Ok(gateway.duplicate(&source, to, storage_class, condition).await?.into_inner())
}

/// Works on all items, some at a time. After a failure it begins no new item, but waits for those under way: a copy
/// whose answer is not read would still be made, and then no mount would take it back.
pub(super) async fn at_most_until_one_fails<T, F>(all: Vec<T>, work: impl Fn(T) -> F) -> Result<(), Error>
where
    F: Future<Output = Result<(), Error>>,
{
    let stopped = AtomicBool::new(false);
    let one = |item| {
        let work = (!stopped.load(Relaxed)).then(|| work(item));
        let stopped = &stopped;
        async move {
            let Some(work) = work else { return Ok(()) };
            work.await.inspect_err(|_| stopped.store(true, Relaxed))
        }
    };
    let outcomes: Vec<Result<(), Error>> = stream::iter(all).map(one).buffer_unordered(REQUESTS_MAX).collect().await;
    outcomes.into_iter().collect()
}
