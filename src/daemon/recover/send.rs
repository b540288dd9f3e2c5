//! The sending of what was left: each entry under the condition of its own write, of several states of one file the
//! newest first.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use dssefs_fs::journal::{self, EntryId, RecoveredEntry, RecoveredSession};
use dssefs_fs::write::{self, Disposition, Engine, KeptError, PendingChanges, Writer};
use dssefs_s3::object::{Key, Prefix};
use dssefs_s3::policy::{Policy, Verdict};
use dssefs_s3::s3::{self, Condition, Gateway, KeptAnnotations, Kind, NewObject};

use super::StartError;
use crate::config::Source;

/// Files that are sent at the same time.
const SENDS_MAX: usize = 16;

/// What became of one entry. There is none for one that is there twice.
pub(in crate::daemon) struct Outcome {
    /// Which of the sessions that were sent together has it.
    pub(in crate::daemon) session: usize,
    pub(in crate::daemon) entry: EntryId,
    pub(in crate::daemon) key: String,
    /// Why it is still kept; None: the store has it.
    pub(in crate::daemon) error: Option<String>,
    /// The object that has to stay as it is for a later try.
    needs: Option<Key>,
}

/// One entry that is to be sent.
struct Job<'a> {
    session: usize,
    id: EntryId,
    engine: Arc<Engine>,
    left: &'a RecoveredSession,
    entry: &'a RecoveredEntry,
    kept: PendingChanges,
}

/// Why one file could not be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Journal(#[from] journal::Error),
    #[error(transparent)]
    Kept(#[from] KeptError),
    #[error(transparent)]
    Write(#[from] write::Error),
    #[error(transparent)]
    Store(#[from] s3::Error),
    #[error(
        "its upload was begun under another KMS key or encryption context than this mount's; \
         dssefs recover DIR upload completes it"
    )]
    OtherPolicy,
    #[error(
        "{bytes} bytes of it are in a multipart upload and cannot be read before that is completed; \
         dssefs recover DIR upload does it"
    )]
    InUpload { bytes: u64 },
    #[error("a newer state of the same file is kept too, and has to be stored first")]
    NewerWaits,
    #[error("a copy of what the store has now is kept too, and has to be stored first")]
    CopyWaits,
}

/// Sends every entry, the files of many keys at a time, each under the condition of its own write. `recovered` are of
/// one source, the oldest first; so are the outcomes.
pub(in crate::daemon) async fn send_all(
    recovered: &[RecoveredSession],
    mut engine: impl FnMut(&Policy) -> Result<Arc<Engine>, StartError>,
) -> Result<Vec<Outcome>, StartError> {
    // 1. One job for each readable entry, in order of the keys. What cannot be read is an outcome already.
    let (mut jobs, mut outcomes) = (BTreeMap::<Key, Vec<Job<'_>>>::new(), Vec::new());
    for (session, left) in recovered.iter().enumerate() {
        for damage in left.damage() {
            tracing::error!(%damage, "what an earlier mount left is not whole");
        }
        for (id, entry) in left.entries() {
            match PendingChanges::decode(entry.description.as_slice()) {
                Ok(kept) => {
                    let engine = engine(&kept.policy)?;
                    let job = Job { session, id, engine, left, entry, kept };
                    jobs.entry(job.kept.object.key.clone()).or_default().push(job);
                }
                Err(error) => {
                    let key = "a file whose name is unknown".to_owned();
                    outcomes.push(Outcome { session, entry: id, key, error: Some(error.to_string()), needs: None });
                }
            }
        }
    }
    // 2. Send in rounds: an entry that stands on another key waits until that key's entries are sent.
    while !jobs.is_empty() {
        let (ready, needed) = ready(jobs);
        jobs = needed;
        let waits = |key: &Key| outcomes.iter().any(|outcome: &Outcome| outcome.needs.as_ref() == Some(key));
        let (held, free): (Jobs<'_>, Jobs<'_>) = ready.into_iter().partition(|(key, _)| waits(key));
        let held: Vec<Outcome> = held.values().flatten().map(|job| job.outcome(Some(SendError::CopyWaits))).collect();
        let sent: Vec<Vec<Outcome>> =
            stream::iter(free.into_values()).map(send_in_turn).buffer_unordered(SENDS_MAX).collect().await;
        outcomes.extend(sent.into_iter().flatten().chain(held));
    }
    outcomes.sort_by_key(|outcome| (outcome.session, outcome.entry));
    Ok(outcomes)
}

/// By the keys of their objects.
type Jobs<'a> = BTreeMap<Key, Vec<Job<'a>>>;

/// Those that replace no object that another one still has to be copied from, and the rest. A circle,
/// which no mount makes, holds nothing up.
fn ready(jobs: Jobs<'_>) -> (Jobs<'_>, Jobs<'_>) {
    let needed: BTreeSet<Key> = jobs.values().flatten().filter_map(Job::needs).collect();
    let (needed, ready): (Jobs<'_>, Jobs<'_>) = jobs.into_iter().partition(|(key, _)| needed.contains(key));
    if ready.is_empty() { (needed, ready) } else { (ready, needed) }
}

/// Sends the entries of one key, which come oldest first, one after the other and the newest first: what was
/// acknowledged last is what the store is to have. Those that it has overtaken are refused by their own conditions
/// then, and kept as what others overtake is. While the newest may still be stored later, no older one takes its place.
async fn send_in_turn(mut jobs: Vec<Job<'_>>) -> Vec<Outcome> {
    let mut nth = 0;
    while nth < jobs.len() {
        // Of the two, the first one says where the entry stands among the others.
        if jobs[..nth].iter().any(|earlier| earlier.was_carried_over_as(&jobs[nth])) {
            jobs.remove(nth);
        } else {
            nth += 1;
        }
    }
    let (mut outcomes, mut unsent, are_several) = (Vec::new(), Vec::new(), jobs.len() > 1);
    for job in jobs {
        // Checked before a newer one is stored in its place: the object may be stored without a note in the journal. On
        // an error the entry is sent again.
        match are_several && job.is_stored().await.unwrap_or(false) {
            true => outcomes.push(job.outcome(None)),
            false => unsent.push(job),
        }
    }
    let (mut newer_waits, mut for_good) = (false, false);
    for job in unsent.into_iter().rev() {
        let error = if newer_waits { Some(SendError::NewerWaits) } else { job.send().await.err() };
        let is_lost = matches!(error, Some(SendError::Write(write::Error::PartsLost { .. })));
        newer_waits |= error.is_some() && !is_lost;
        for_good |= !is_lost && error.as_ref().is_some_and(SendError::is_final);
        let outcome = job.outcome(error);
        // Behind one that never goes to the store it never does either.
        outcomes.push(if for_good { Outcome { needs: None, ..outcome } } else { outcome });
    }
    outcomes
}

impl SendError {
    /// The sentence, and what to do about it.
    fn advice(&self) -> String {
        match self {
            SendError::Store(error) => error.advice(),
            SendError::Write(write::Error::Store(error)) => error.advice(),
            other => other.to_string(),
        }
    }

    /// Whether no later try can succeed.
    fn is_final(&self) -> bool {
        match self {
            SendError::Write(error) => {
                let disposition = error.disposition();
                disposition.is_lost_copy() || disposition == Disposition::PartsLost
            }
            SendError::Kept(_) => true,
            SendError::Journal(_)
            | SendError::Store(_)
            | SendError::OtherPolicy
            | SendError::InUpload { .. }
            | SendError::NewerWaits
            | SendError::CopyWaits => false,
        }
    }
}

impl Job<'_> {
    fn outcome(&self, error: Option<SendError>) -> Outcome {
        // What another writer has overtaken never goes to the store, and must not keep from it what can.
        let needs = error.as_ref().filter(|error| !error.is_final()).and_then(|_| self.needs());
        let (key, error) = (self.kept.object.key.to_string(), error.map(|error| error.advice()));
        Outcome { session: self.session, entry: self.id, key, error, needs }
    }

    /// The other object whose bytes it counts on, and which goes when its name gets another one.
    fn needs(&self) -> Option<Key> {
        let foreign = |base: &&s3::Source| base.key != self.kept.object.key && base.version.id.is_none();
        self.kept.base.as_ref().filter(foreign).map(|base| base.key.clone())
    }

    /// Whether `other` is the same entry once more: a mount carried it over into its own session and was killed before
    /// it could remove this one.
    fn was_carried_over_as(&self, other: &Job<'_>) -> bool {
        let said = |job: &Job<'_>| PendingChanges { reason: None, ..job.kept.clone() };
        let mut pieces = self.left.content(self.entry).zip(other.left.content(other.entry));
        self.session != other.session
            && self.entry.content_bytes == other.entry.content_bytes
            && said(self) == said(other)
            && pieces.all(|pair| match pair {
                (Ok((at, bytes)), Ok((other_at, other_bytes))) => {
                    at == other_at && bytes.as_slice() == other_bytes.as_slice()
                }
                _ => false,
            })
    }

    async fn is_stored(&self) -> Result<bool, SendError> {
        is_stored(self.engine.gateway(), &self.kept).await
    }

    async fn send(&self) -> Result<(), SendError> {
        self.store().await?;
        // An upload that an earlier process had completed unseen was not ended here.
        if let Some(upload) = &self.kept.upload {
            self.engine.gateway().note_ended_upload(&upload.id);
        }
        Ok(())
    }

    async fn store(&self) -> Result<(), SendError> {
        let Job { engine, left, entry, kept, .. } = self;
        if self.is_stored().await? {
            return Ok(());
        }
        refuse_lost(kept)?;
        // Completed under another policy it would be judged wrong, and deleted with the only copy of its parts.
        if kept.upload.is_some() && kept.policy != *engine.gateway().policy() {
            return Err(SendError::OtherPolicy);
        }
        let writer = Writer::recovered(engine, kept);
        let outcome = match put_back(&writer, left, entry, kept, Sending::Ahead).await {
            Ok(()) => self.commit(&writer).await,
            Err(error) => Err(told_by_loss(error, kept)),
        };
        if outcome.is_err() && kept.upload.is_none() {
            // The upload that was begun here, if one was, is of no use to the next try.
            writer.discard().await;
        }
        outcome
    }
}

impl Job<'_> {
    /// Replaces the object, and gives its annotations to the new one.
    async fn commit(&self, writer: &Arc<Writer>) -> Result<(), SendError> {
        let annotations = self.keep_annotations().await?;
        let outcome = writer.commit().await;
        if let Some(kept) = annotations {
            let is_lost = outcome.as_ref().is_err_and(|error| error.disposition().is_lost_race());
            if is_lost {
                self.engine.gateway().release_annotations(&kept).await;
            } else if outcome.is_ok() {
                self.put_annotations_back(&kept).await;
            }
            // Otherwise the object may be there: the next start looks, and ends what is held.
        }
        Ok(outcome?)
    }

    async fn keep_annotations(&self) -> Result<Option<KeptAnnotations>, SendError> {
        let (gateway, object) = (self.engine.gateway(), &self.kept.object);
        let Some(replaced) = &self.kept.replaces else { return Ok(None) };
        let names = gateway.annotations(&object.key).await?;
        if names.is_empty() {
            return Ok(None);
        }
        let source = Source::parse(&self.left.session().source);
        let root = source.map_or_else(|_| Prefix::root(), |source| source.prefix);
        Ok(Some(gateway.keep_annotations(names, (&object.key, replaced), &root, object.tags.clone()).await?))
    }

    async fn put_annotations_back(&self, kept: &KeptAnnotations) {
        let (gateway, key) = (self.engine.gateway(), &self.kept.object.key);
        let done = match gateway.head(key).await {
            Ok(head) => gateway.put_annotations_back(kept, key, &head.meta.version).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            let remedy = error.remedy();
            tracing::error!(
                %key, held = %kept.held(), %error, remedy,
                "the new object does not have the annotations of the old one yet; they are held, and the next mount \
                 on this host puts them back"
            );
        }
    }
}

pub(super) fn refuse_lost(kept: &PendingChanges) -> Result<(), SendError> {
    if kept.lost.is_empty() { Ok(()) } else { Err(parts_lost(kept, &kept.lost)) }
}

/// Of an upload that is gone, what was in it alone.
fn told_by_loss(error: SendError, kept: &PendingChanges) -> SendError {
    let is_gone = matches!(&error, SendError::Write(write::Error::Store(error)) if error.kind == Kind::NoSuchUpload);
    let lost = kept.upload.as_ref().filter(|_| is_gone).and_then(|upload| upload.sent_ranges(kept.size));
    lost.filter(|lost| !lost.is_empty()).map_or(error, |lost| parts_lost(kept, &lost))
}

fn parts_lost(kept: &PendingChanges, lost: &[Range<u64>]) -> SendError {
    let lost = lost.iter().cloned().collect();
    write::Error::PartsLost { key: kept.object.key.to_string(), lost }.into()
}

/// Whether the object is what the file was to become: its answer was lost, or came after the last word in the journal.
/// It has the commit id of an attempt to store exactly this. An entry of an earlier version names none; then the
/// condition of the write decides.
///
/// An upload that could not be begun with the last word on the file's attributes may be complete, and its metadata not
/// yet put right. That is done here: the content is not on this host any more.
async fn is_stored(gateway: &Arc<Gateway>, kept: &PendingChanges) -> Result<bool, SendError> {
    if kept.commits.is_empty() {
        return Ok(false);
    }
    let head = match gateway.head(&kept.object.key).await {
        Err(error) if error.kind == Kind::NotFound => return Ok(false),
        answer => answer?,
    };
    let is_ours = head.meta.commit.as_ref().is_some_and(|id| kept.commits.contains(id)) && head.meta.size == kept.size;
    if !is_ours || gateway.judge(&head.encryption.facts) != Verdict::Compliant {
        return Ok(false);
    }
    let times_may_differ = kept.upload.as_ref().is_some_and(|upload| !upload.exact);
    if head.meta.user != kept.object.user && !times_may_differ {
        let condition = Condition::Matches(head.meta.version.etag.clone());
        let source = s3::Source { key: kept.object.key.clone(), version: head.meta.version, size: kept.size };
        let object = NewObject { commit: head.meta.commit, ..kept.object.clone() };
        gateway.copy(&source, &object, &condition).await?;
    }
    Ok(true)
}

/// What becomes of a file's bytes while they are put back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// Those of a large file are sent meanwhile, so that they need not all have room here.
    Ahead,
    /// They stay on this host.
    Never,
}

pub(super) async fn put_back(
    writer: &Arc<Writer>,
    left: &RecoveredSession,
    entry: &RecoveredEntry,
    kept: &PendingChanges,
    sending: Sending,
) -> Result<(), SendError> {
    for piece in left.content(entry) {
        let (offset, bytes) = piece?;
        match sending {
            Sending::Ahead => writer.write(offset, bytes.as_slice()).await?,
            Sending::Never => writer.put_back(offset, bytes.as_slice()).await?,
        }
    }
    if writer.size() != kept.size {
        writer.resize(kept.size).await?;
    }
    Ok(())
}

/// What stands in the upload of an entry that needs one.
pub(super) fn uploaded_bytes(kept: &PendingChanges) -> u64 {
    kept.upload.iter().flat_map(|upload| &upload.parts).map(|part| part.size).sum()
}

#[cfg(test)]
mod tests {
    use dssefs_s3::object::Bucket;
    use dssefs_s3::s3::{Failure, Operation};

    use super::*;

    #[test]
    fn a_refused_send_says_what_to_do() {
        let refused = || -> s3::Error {
            let (bucket, key) = (Bucket::new("tests").unwrap(), Key::new("file").unwrap());
            Failure::new(Kind::KeyDisabled, Operation::PutObject, &bucket, Some(&key)).into()
        };
        for error in [SendError::from(refused()), SendError::from(write::Error::from(refused()))] {
            assert!(error.advice().ends_with(". Enable the KMS key again (kms:EnableKey)."), "{}", error.advice());
        }
        assert_eq!(SendError::NewerWaits.advice(), SendError::NewerWaits.to_string());
    }
}
