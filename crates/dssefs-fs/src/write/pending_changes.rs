//! A file's changes as the journal keeps them beyond the life of the process: what an entry says, and the writer that
//! is made from it.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::journal::{Draft, EntryId, Journal};
use crate::spill::{self, Buffer, RangeSet};
use dssefs_s3::object::{CommitId, Crc64, ETag, Key, KeyError, Version, VersionId};
use dssefs_s3::policy::{ContextError, EncryptionContext, KeyArn, KeyArnError, Policy};
use dssefs_s3::s3::{AmbiguousWrite, NewObject, Part, Source, Upload};

use super::early_upload::{EarlyUpload, Sent};
use super::parts::AppendLayout;
use super::state::{AMBIGUOUS_COMMITS_MAX, AmbiguousCommit, CommitMark, State};
use super::{CommitTarget, Destination, Engine, Error, Target, Writer};

/// How often an entry is described again because parts were sent and evicted, or attributes changed, meanwhile.
const TRIES_MAX: u32 = 5;
/// Bytes that are read for the journal at a time.
const RUN_BYTES: u64 = 4 << 20;
/// The versions of what an entry says: the second can name an upload, the third lost bytes, the fourth ambiguous
/// commits by their checksums, the fifth commit ids. Each entry has the lowest version that can say what it has to, and
/// none has the fourth any more.
const VERSIONS: RangeInclusive<u32> = 1..=5;
const VERSION_WITH_UPLOAD: u32 = 2;
const VERSION_WITH_LOSS: u32 = 3;
const VERSION_WITH_COMMITS: u32 = 5;

/// The changes of one file, but for their bytes: what they are to become, and what they were made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingChanges {
    /// The object that they are to become.
    pub object: NewObject,
    /// The key and the context that it is to be encrypted under.
    pub policy: Policy,
    /// The file's length in bytes.
    pub size: u64,
    /// The object that the changes were made to.
    pub base: Option<Source>,
    /// How many of its first bytes are still part of the file.
    pub base_len: u64,
    /// What the object may replace; None: nothing.
    pub replaces: Option<ETag>,
    /// Why it is not in the store, when that was tried.
    pub reason: Option<String>,
    /// Where the bytes are that are neither kept nor in the base.
    pub upload: Option<KeptUpload>,
    /// Bytes that were written and are lost with the upload that had them. They are no holes, so such a file is never
    /// stored.
    pub lost: Vec<Range<u64>>,
    /// Commits of earlier changes that may have succeeded. The object of each may be replaced as well.
    pub tried: Vec<KeptAttempt>,
    /// The commit ids of attempts to store exactly this. An object with one of them is what the file was to become. The
    /// first is that of the next attempt.
    pub commits: Vec<CommitId>,
}

/// A commit whose answer was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAttempt {
    /// What the object was to be, with its commit id.
    pub object: NewObject,
    /// Its length in bytes.
    pub size: u64,
    /// The multipart upload that was to become the object.
    pub upload: Option<String>,
    /// What was written since.
    pub since: Vec<Range<u64>>,
    /// The smallest size of the file since, in bytes.
    pub low_water: u64,
}

/// A multipart upload that has bytes of the file. This host has no copy of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptUpload {
    /// The store's name for it.
    pub id: String,
    /// What it was begun with, with its commit id.
    pub object: NewObject,
    /// Whether the object may have only the metadata of [`PendingChanges::object`]. Otherwise older times are good
    /// enough.
    pub exact: bool,
    /// How many of the file's first bytes it takes from the base.
    pub copied: u64,
    /// The parts that the store has confirmed and this host has not whole.
    pub parts: Vec<KeptUploadPart>,
}

/// A part that the store has confirmed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptUploadPart {
    /// 1 to 10,000.
    pub number: u32,
    /// The store's name for its content.
    pub etag: String,
    /// Its length in bytes.
    pub size: u64,
    /// The CRC-64/NVME of its content.
    pub crc64: Crc64,
}

/// An entry that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Not what any version writes.
    #[error("the description of the file cannot be read ({0}); it was made by another version")]
    Json(#[from] serde_json::Error),
    /// Made by a later version.
    #[error(
        "the description of the file has version {0}, and this program knows {max}; use the version that wrote it",
        max = VERSIONS.end()
    )]
    Version(u32),
    /// An upload that cannot be.
    #[error("the journal describes the file's upload as no version of dssefs does; another program made the entry")]
    Upload,
    /// The object's name.
    #[error("the file's name cannot be a key: {0}")]
    Key(#[from] KeyError),
    /// The KMS key.
    #[error(transparent)]
    KeyArn(#[from] KeyArnError),
    /// The encryption context.
    #[error(transparent)]
    Context(#[from] ContextError),
}

/// The text of an entry.
#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    #[serde(flatten)]
    object: ObjectText,
    kms_key: Option<String>,
    context: Vec<String>,
    size: u64,
    base: Option<BaseText>,
    base_len: u64,
    replaces: Option<String>,
    reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upload: Option<UploadText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    lost: Vec<Range<u64>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tried: Vec<AttemptText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    commits: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct AttemptText {
    object: ObjectText,
    size: u64,
    upload: Option<String>,
    since: Vec<Range<u64>>,
    low_water: u64,
}

#[derive(Serialize, Deserialize)]
struct ObjectText {
    key: String,
    user: BTreeMap<String, String>,
    content_type: Option<String>,
    content_headers: BTreeMap<String, String>,
    storage_class: Option<String>,
    tags: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct UploadText {
    id: String,
    object: ObjectText,
    exact: bool,
    copied: u64,
    parts: Vec<KeptUploadPart>,
}

#[derive(Serialize, Deserialize)]
struct BaseText {
    key: String,
    etag: String,
    version_id: Option<String>,
    size: u64,
}

impl PendingChanges {
    /// What an entry of the journal is to say.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let PendingChanges { object, policy, size, base, base_len, replaces, reason, upload, lost, tried, commits } =
            self.clone();
        let text = Text {
            version: match (tried.is_empty() && commits.is_empty(), lost.is_empty(), &upload) {
                (false, _, _) => VERSION_WITH_COMMITS,
                (true, false, _) => VERSION_WITH_LOSS,
                (true, true, Some(_)) => VERSION_WITH_UPLOAD,
                (true, true, None) => *VERSIONS.start(),
            },
            object: ObjectText::of(object),
            kms_key: policy.key.map(|key| key.to_string()),
            context: policy.context.pairs().map(|(name, value)| format!("{name}={value}")).collect(),
            size,
            base: base.map(|base| BaseText {
                key: base.key.to_string(),
                etag: base.version.etag.as_str().to_owned(),
                version_id: base.version.id.map(|id| id.as_str().to_owned()),
                size: base.size,
            }),
            base_len,
            replaces: replaces.map(|etag| etag.as_str().to_owned()),
            reason,
            upload: upload.map(UploadText::of),
            lost,
            tried: tried.into_iter().map(AttemptText::of).collect(),
            commits: commits.iter().map(|id| id.as_str().to_owned()).collect(),
        };
        serde_json::to_vec(&text).expect("texts and numbers can always be written as JSON")
    }

    /// Reads what an entry of the journal says.
    ///
    /// # Errors
    /// [`KeptError`] when this version did not write it.
    pub fn decode(bytes: &[u8]) -> Result<PendingChanges, KeptError> {
        let text: Text = serde_json::from_slice(bytes)?;
        if !VERSIONS.contains(&text.version) {
            return Err(KeptError::Version(text.version));
        }
        let object = text.object.into_object()?;
        let policy = Policy {
            key: text.kms_key.as_deref().map(KeyArn::new).transpose()?,
            context: EncryptionContext::parse(&text.context)?,
        };
        let base = text.base.map(BaseText::into_source).transpose()?;
        let replaces = text.replaces.as_deref().map(ETag::new);
        let (size, base_len, reason) = (text.size, text.base_len, text.reason);
        let upload = text.upload.map(UploadText::into_upload).transpose()?;
        let possible = |upload: &KeptUpload| upload.copied <= base_len && upload.sent_ranges(size).is_some();
        if !upload.as_ref().is_none_or(possible) {
            return Err(KeptError::Upload);
        }
        let tried = text.tried.into_iter().take(AMBIGUOUS_COMMITS_MAX).map(AttemptText::into_attempt);
        let mut tried = tried.collect::<Result<Vec<_>, _>>()?;
        // Without a commit id, as in entries of version 4, the object could not be recognised.
        tried.retain(|attempt| attempt.object.commit.is_some());
        let commits = text.commits.iter().filter_map(|text| CommitId::new(text)).collect();
        let lost = text.lost;
        Ok(PendingChanges { object, policy, size, base, base_len, replaces, reason, upload, lost, tried, commits })
    }
}

impl KeptUpload {
    /// The bytes of a file of `size` bytes that are in the upload; None when these cannot be its parts.
    #[must_use]
    pub fn sent_ranges(&self, size: u64) -> Option<Vec<Range<u64>>> {
        let layout = AppendLayout::behind(self.copied)?;
        let range = |part: &KeptUploadPart| {
            let range = layout.part(part.number)?;
            let range = range.start..range.end.min(size);
            let sent_by_writer = part.number >= layout.first() && range.start < range.end;
            (sent_by_writer && range.end - range.start == part.size).then_some(range)
        };
        self.parts.iter().map(range).collect()
    }

    /// With the parts that are there alone from now on. Another one may be sent again in its place, and is then not
    /// what the entry says.
    fn of(early_upload: &EarlyUpload, buffer: &Buffer, upload: &Upload, size: u64, exact: bool) -> KeptUpload {
        let part = |(number, sent): (u32, Sent)| KeptUploadPart {
            number,
            etag: sent.part.etag.as_str().to_owned(),
            size: sent.part.size,
            crc64: sent.crc64,
        };
        KeptUpload {
            id: upload.id().to_owned(),
            object: NewObject { commit: upload.commit().cloned(), ..early_upload.target.object.clone() },
            exact,
            copied: early_upload.layout.copied(),
            parts: early_upload.sent_alone(size, buffer).into_iter().map(part).collect(),
        }
    }

    /// The upload as a writer goes on with it. None when these cannot be its parts.
    fn into_early_upload(self, engine: &Engine) -> Option<EarlyUpload> {
        let KeptUpload { id, object, exact, copied, parts } = self;
        let sent = parts.into_iter().map(|KeptUploadPart { number, etag, size, crc64 }| Sent {
            part: Part { number, etag: ETag::new(&etag), size, crc64: Some(crc64) },
            crc64,
        });
        let upload = engine.gateway.resume_upload(&object, id);
        let object = NewObject { commit: None, ..object };
        Some(EarlyUpload::resumed(Target { object, exact }, AppendLayout::behind(copied)?, upload, sent))
    }
}

impl KeptAttempt {
    fn of(commit: &AmbiguousCommit) -> KeptAttempt {
        let AmbiguousWrite { object, size, upload } = AmbiguousWrite::clone(&commit.attempt);
        let CommitMark { since, low_water, .. } = &commit.mark;
        KeptAttempt { object, size, upload, since: since.iter().collect(), low_water: *low_water }
    }

    fn into_ambiguous_commit(self) -> AmbiguousCommit {
        let KeptAttempt { object, size, upload, since, low_water } = self;
        let attempt = AmbiguousWrite { object, size, upload };
        // The kept file has changes to any object that the commit made.
        let mark = CommitMark { changes: 0, since: since.into_iter().collect(), low_water };
        AmbiguousCommit { attempt: Arc::new(attempt), mark }
    }
}

impl AttemptText {
    fn of(attempt: KeptAttempt) -> AttemptText {
        let KeptAttempt { object, size, upload, since, low_water } = attempt;
        AttemptText { object: ObjectText::of(object), size, upload, since, low_water }
    }

    fn into_attempt(self) -> Result<KeptAttempt, KeyError> {
        let AttemptText { object, size, upload, since, low_water } = self;
        Ok(KeptAttempt { object: object.into_object()?, size, upload, since, low_water })
    }
}

impl UploadText {
    fn of(upload: KeptUpload) -> UploadText {
        let KeptUpload { id, object, exact, copied, parts } = upload;
        UploadText { id, object: ObjectText::of(object), exact, copied, parts }
    }

    fn into_upload(self) -> Result<KeptUpload, KeyError> {
        let UploadText { id, object, exact, copied, parts } = self;
        Ok(KeptUpload { id, object: object.into_object()?, exact, copied, parts })
    }
}

impl ObjectText {
    fn of(object: NewObject) -> ObjectText {
        let NewObject { key, user, content_type, content_headers, storage_class, tags, commit } = object;
        let (key, commit) = (key.to_string(), commit.map(|id| id.as_str().to_owned()));
        ObjectText { key, user, content_type, content_headers, storage_class, tags, commit }
    }

    fn into_object(self) -> Result<NewObject, KeyError> {
        let ObjectText { key, user, content_type, content_headers, storage_class, tags, commit } = self;
        let (key, commit) = (Key::new(key)?, commit.as_deref().and_then(CommitId::new));
        Ok(NewObject { key, user, content_type, content_headers, storage_class, tags, commit })
    }
}

impl BaseText {
    fn into_source(self) -> Result<Source, KeyError> {
        let id = self.version_id.as_deref().map(VersionId::new);
        Ok(Source { key: Key::new(self.key)?, version: Version { etag: ETag::new(&self.etag), id }, size: self.size })
    }
}

/// The destination of changes that came back from a journal: their object. No program waits for it.
struct Recovered(Target);

impl Destination for Recovered {
    fn commit_target(&self) -> CommitTarget {
        CommitTarget::Object(self.0.clone())
    }

    fn committed(&self, _: &Key, _: dssefs_s3::s3::Head) {}
}

impl Writer {
    /// Whether the changes can be kept by a journal at the cost of sealing at most `bytes_max` of content: not while
    /// parts of them are on their way to the store, nor those to the copy of another object, which may be gone when
    /// they come back.
    #[must_use]
    pub fn can_be_kept(&self, bytes_max: u64) -> bool {
        let CommitTarget::Object(target) = self.destination.commit_target() else { return false };
        let own = self.state().base.as_ref().is_none_or(|base| base.key == target.object.key);
        let content_bytes = self.buffer.present().covered_bytes() + self.since.present().covered_bytes();
        own && !self.is_streaming() && content_bytes <= bytes_max
    }

    /// Appends what is promised to `journal`, in the place of the entry `before`, and returns when it stands on the
    /// disk, with the number of its last change (see [`Writer::promised`]); None when there is nothing that could be
    /// stored. Blocks. The changes stay changes.
    ///
    /// Where parts of them are in an upload and not on this host, the entry names the upload, which then outlives this
    /// process.
    ///
    /// # Errors
    /// The bytes cannot be read, or the journal cannot keep them; nothing is kept then.
    pub fn keep(
        &self,
        journal: &Journal,
        before: Option<EntryId>,
        reason: Option<&str>,
    ) -> Result<Option<(EntryId, u64)>, Error> {
        self.refuse_if_abandoned()?;
        for _ in 0..TRIES_MAX {
            let CommitTarget::Object(target) = self.destination.commit_target() else { return Ok(None) };
            // 1. Describe the changes as they are now.
            let Some((kept, local, changes)) = self.to_keep(&target, reason) else { return Ok(None) };
            // 2. Append the description and the bytes.
            let mut draft = journal.draft(&kept.encode(), before)?;
            match self.add_all(&local, kept.size, &mut draft) {
                // A part was sent and evicted meanwhile: describe the changes again.
                Err(Error::Spill(spill::Error::Absent { .. })) => continue,
                outcome => outcome?,
            }
            // 3. Finish the entry, unless a program has changed attributes meanwhile.
            if self.state().changes == changes {
                return Ok(Some((self.finish(draft, &kept)?, changes)));
            }
        }
        let CommitTarget::Object(target) = self.destination.commit_target() else { return Ok(None) };
        Err(Error::ChangedWhileSent { key: target.object.key.to_string() })
    }

    fn add_all(&self, local: &RangeSet, size: u64, draft: &mut Draft<'_>) -> Result<(), Error> {
        for run in runs(local, size) {
            // What the journal keeps is sealed, and checked against nothing else when it comes back.
            self.buffer.snapshot(run)?.hand_over(|offset, chunk| Ok::<_, Error>(draft.add(offset, chunk)?))?;
        }
        Ok(())
    }

    /// Notes that the entry needs the upload, and then finishes the entry. In the other order, the entry could name an
    /// upload that the next start has aborted. After a crash in between, the next start finds no entry that names the
    /// upload, and aborts it.
    fn finish(&self, draft: Draft<'_>, kept: &PendingChanges) -> Result<EntryId, Error> {
        let gateway = &self.engine.gateway;
        let Some(upload) = &kept.upload else { return Ok(draft.finish()?) };
        let noted = gateway.let_outlive(&upload.id);
        noted.map_err(|source| Error::Ledger { key: kept.object.key.to_string(), source })?;
        Ok(draft.finish()?)
    }

    /// What an entry is to say, the bytes that belong to it, and the number of the change that they are of.
    fn to_keep(&self, target: &Target, reason: Option<&str>) -> Option<(PendingChanges, RangeSet, u64)> {
        let mut state = self.state();
        // What no close has promised is no one's to store.
        if !state.is_promised() {
            return None;
        }
        let changes = state.changes;
        let next = state.commit_id(changes, || self.engine.gateway.commit_id());
        let begun = state.early_upload.as_ref().and_then(|early_upload| early_upload.upload.get()?.commit().cloned());
        let upload = state
            .early_upload
            .as_ref()
            .and_then(|early_upload| self.needed_upload(early_upload, state.size, target.exact));
        let mut local = self.buffer.present();
        let in_upload = upload.as_ref().and_then(|upload| upload.sent_ranges(state.size)).unwrap_or_default();
        let mut lost = state.written.clone();
        lost.remove(state.size..u64::MAX);
        local.iter().chain(in_upload.iter().cloned()).for_each(|range| lost.remove(range));
        in_upload.into_iter().for_each(|range| local.remove(range));
        let kept = PendingChanges {
            object: target.object.clone(),
            policy: self.engine.gateway.policy().clone(),
            size: state.size,
            base: state.base.clone(),
            base_len: state.base_len,
            replaces: state.replaces.clone(),
            reason: reason.map(str::to_owned),
            upload,
            lost: lost.iter().collect(),
            tried: state.ambiguous.iter().map(KeptAttempt::of).collect(),
            commits: next.into_iter().chain(begun).collect(),
        };
        Some((kept, local, state.changes))
    }

    /// The upload under way, if parts of the file are in it alone. Otherwise what is here stays here from now on.
    fn needed_upload(&self, early_upload: &EarlyUpload, size: u64, exact: bool) -> Option<KeptUpload> {
        let upload = early_upload.upload.get()?;
        let evicted = || early_upload.evicted(&(0..u64::MAX), &self.buffer.present());
        (evicted() || !early_upload.keep_all_whole(&self.buffer))
            .then(|| KeptUpload::of(early_upload, &self.buffer, upload, size, exact))
    }

    /// A writer with the changes that `kept` describes, but for their bytes, which [`Writer::write`] puts back, and for
    /// the file's end, to which [`Writer::resize`] then cuts or stretches it.
    #[must_use]
    pub fn recovered(engine: &Arc<Engine>, kept: &PendingChanges) -> Arc<Writer> {
        let exact = kept.upload.as_ref().is_none_or(|upload| upload.exact);
        let destination = Recovered(Target { object: kept.object.clone(), exact });
        let mut state = State::new(kept.base.clone(), kept.base_len, true);
        state.replaces.clone_from(&kept.replaces);
        kept.commits.first().cloned().into_iter().for_each(|id| state.resume_commit(id));
        state.ambiguous = kept.tried.iter().cloned().map(KeptAttempt::into_ambiguous_commit).collect();
        if !kept.lost.is_empty() {
            state.size = kept.size;
            kept.lost.iter().cloned().for_each(|range| state.written.insert(range));
        }
        if let Some(upload) = kept.upload.clone() {
            let sent = upload.sent_ranges(kept.size).unwrap_or_default();
            state.size = kept.size;
            // Should the upload be gone, they must not be taken for holes.
            sent.into_iter().for_each(|range| state.written.insert(range));
            state.early_upload = upload.into_early_upload(engine);
        }
        Writer::over(engine, state, Box::new(destination))
    }
}

/// The present ranges of a file of `size` bytes, in runs of at most [`RUN_BYTES`].
fn runs(present: &RangeSet, size: u64) -> Vec<Range<u64>> {
    let cut = |range: Range<u64>| {
        let starts = (range.start..range.end).step_by(RUN_BYTES as usize);
        starts.map(move |start| start..range.end.min(start + RUN_BYTES))
    };
    present.intersection(0..size).flat_map(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_entry_says_reads_as_what_was_meant() {
        let mut object = NewObject::at(Key::new("a/b").unwrap());
        object.user.insert("mode".to_owned(), "33188".to_owned());
        object.tags = Some("a=1".to_owned());
        let version = Version { etag: ETag::new("e"), id: Some(VersionId::new("v")) };
        let kept = PendingChanges {
            object,
            policy: Policy {
                key: Some(KeyArn::new("arn:aws:kms:eu-west-1:111122223333:key/0a1b").unwrap()),
                context: EncryptionContext::parse(&["a=b=c", "d="]).unwrap_or_default(),
            },
            size: 7,
            base: Some(Source { key: Key::new("a/b").unwrap(), version, size: 9 }),
            base_len: 3,
            replaces: Some(ETag::new("f")),
            reason: Some("no answer".to_owned()),
            upload: None,
            lost: Vec::new(),
            tried: Vec::new(),
            commits: Vec::new(),
        };
        assert_eq!(PendingChanges::decode(&kept.encode()).unwrap(), kept);
        let without = PendingChanges { lost: vec![1..3, 5..7], ..kept.clone() };
        assert_eq!(PendingChanges::decode(&without.encode()).unwrap(), without);
        let attempt = KeptAttempt {
            object: NewObject { commit: CommitId::new(&"7".repeat(32)), ..kept.object.clone() },
            size: 6,
            upload: Some("u".to_owned()),
            since: std::iter::once(1..3).collect(),
            low_water: 5,
        };
        let commits = CommitId::new(&"8".repeat(32)).into_iter().collect();
        let tried = PendingChanges { tried: vec![attempt], commits, ..kept.clone() };
        assert_eq!(PendingChanges::decode(&tried.encode()).unwrap(), tried);
        let later = String::from_utf8(kept.encode()).unwrap().replace("\"version\":1", "\"version\":6");
        assert!(matches!(PendingChanges::decode(later.as_bytes()), Err(KeptError::Version(6))));
        assert!(matches!(PendingChanges::decode(b"{"), Err(KeptError::Json(_))));
    }

    #[test]
    fn an_entry_names_the_upload_that_it_needs_and_no_other_is_believed() {
        const MIB: u64 = 1 << 20;
        let part =
            |number, size| KeptUploadPart { number, etag: "e".to_owned(), size, crc64: Crc64::from_value(u64::MAX) };
        let parts = vec![part(1, 16 * MIB), part(3, 8 * MIB)];
        let object = NewObject::at(Key::new("a").unwrap());
        let upload = KeptUpload { id: "u".to_owned(), object: object.clone(), exact: false, copied: 0, parts };
        let (policy, size) = (Policy { key: None, context: EncryptionContext::default() }, 40 * MIB);
        let kept = |upload| PendingChanges {
            object: object.clone(),
            policy: policy.clone(),
            size,
            base: None,
            base_len: 0,
            replaces: None,
            reason: None,
            upload: Some(upload),
            lost: Vec::new(),
            tried: Vec::new(),
            commits: Vec::new(),
        };
        let possible = kept(upload.clone());
        assert_eq!(PendingChanges::decode(&possible.encode()).unwrap(), possible);
        assert_eq!(upload.sent_ranges(size).unwrap(), [0..16 * MIB, 32 * MIB..40 * MIB]);
        for impossible in [
            KeptUpload { copied: 7, ..upload.clone() },
            KeptUpload { copied: 10 * MIB, ..upload.clone() },
            KeptUpload { parts: vec![part(2, 5)], ..upload.clone() },
            KeptUpload { parts: vec![part(0, 5)], ..upload.clone() },
            KeptUpload { parts: vec![part(4, 0)], ..upload.clone() },
            KeptUpload { parts: vec![part(20_000, 5)], ..upload },
        ] {
            assert!(matches!(PendingChanges::decode(&kept(impossible).encode()), Err(KeptError::Upload)));
        }
    }

    #[test]
    fn long_ranges_are_read_in_runs() {
        let mut present = RangeSet::default();
        present.insert(10..10 + 2 * RUN_BYTES + 5);
        present.insert(100 * RUN_BYTES..100 * RUN_BYTES + 1);
        let cut = runs(&present, 100 * RUN_BYTES);
        assert_eq!(cut.len(), 3);
        assert_eq!((cut[0].start, cut[2].end), (10, 10 + 2 * RUN_BYTES + 5));
    }
}
