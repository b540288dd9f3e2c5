//! What is kept of a file's changes beyond the life of the process: what an entry of the journal says, and the way back.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::journal::{EntryId, Journal};
use crate::object::{ETag, Key, KeyError, Version, VersionId};
use crate::policy::{ContextError, EncryptionContext, KeyArn, KeyArnError, Policy};
use crate::s3::{NewObject, Source};
use crate::spill::{Chunks, RangeSet};

use super::commit::CHANGED_WHILE_SENT_MAX;
use super::state::State;
use super::{Aim, Destination, Engine, Error, Target, Writer};

/// Bytes that are read for the journal at a time.
const RUN_BYTES: u64 = 4 << 20;
/// The version of what an entry says.
const VERSION: u32 = 1;

/// The changes of one file, but for their bytes: what they are to become, and what they were made to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
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
}

/// An entry that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    /// Not what any version writes.
    #[error("the description of the file cannot be read ({0}); it was made by another version")]
    Json(#[from] serde_json::Error),
    /// Made by a later version.
    #[error(
        "the description of the file has version {0}, and this program knows {VERSION}; use the version that wrote it"
    )]
    Version(u32),
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
    key: String,
    user: BTreeMap<String, String>,
    content_type: Option<String>,
    content_headers: BTreeMap<String, String>,
    storage_class: Option<String>,
    tags: Option<String>,
    kms_key: Option<String>,
    context: Vec<String>,
    size: u64,
    base: Option<BaseText>,
    base_len: u64,
    replaces: Option<String>,
    reason: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct BaseText {
    key: String,
    etag: String,
    version_id: Option<String>,
    size: u64,
}

impl Kept {
    /// What an entry of the journal is to say.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let Kept { object, policy, size, base, base_len, replaces, reason } = self.clone();
        let text = Text {
            version: VERSION,
            key: object.key.to_string(),
            user: object.user,
            content_type: object.content_type,
            content_headers: object.content_headers,
            storage_class: object.storage_class,
            tags: object.tags,
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
        };
        serde_json::to_vec(&text).expect("texts and numbers can always be written as JSON")
    }

    /// Reads what an entry of the journal says.
    ///
    /// # Errors
    /// [`KeptError`] when this version did not write it.
    pub fn decode(bytes: &[u8]) -> Result<Kept, KeptError> {
        let text: Text = serde_json::from_slice(bytes)?;
        if text.version != VERSION {
            return Err(KeptError::Version(text.version));
        }
        let object = NewObject {
            key: Key::new(text.key)?,
            user: text.user,
            content_type: text.content_type,
            content_headers: text.content_headers,
            storage_class: text.storage_class,
            tags: text.tags,
        };
        let policy = Policy {
            key: text.kms_key.as_deref().map(KeyArn::new).transpose()?,
            context: EncryptionContext::parse(&text.context)?,
        };
        let base = text.base.map(BaseText::into_source).transpose()?;
        let replaces = text.replaces.as_deref().map(ETag::new);
        let (size, base_len, reason) = (text.size, text.base_len, text.reason);
        Ok(Kept { object, policy, size, base, base_len, replaces, reason })
    }
}

impl BaseText {
    fn into_source(self) -> Result<Source, KeyError> {
        let id = self.version_id.as_deref().map(VersionId::new);
        Ok(Source { key: Key::new(self.key)?, version: Version { etag: ETag::new(&self.etag), id }, size: self.size })
    }
}

/// The end of a file's changes that came back from a journal: their object, and nobody who waits for it.
struct Recovered(Target);

impl Destination for Recovered {
    fn aim(&self) -> Aim {
        Aim::Object(self.0.clone())
    }

    fn committed(&self, _: &Key, _: crate::s3::Head) {}
}

impl Writer {
    /// Whether the changes can be kept by a journal at the cost of sealing at most `bytes_max` of content: not while parts of them
    /// are on their way to the store, nor those to the copy of another object, which may be gone when they come back.
    #[must_use]
    pub fn can_be_kept(&self, bytes_max: u64) -> bool {
        let Aim::Object(target) = self.destination.aim() else { return false };
        let own = self.state().base.as_ref().is_none_or(|base| base.key == target.object.key);
        own && !self.is_streaming() && self.buffer.present().covered_bytes() <= bytes_max
    }

    /// Appends the changes to `journal`, in the place of the entry `before`, and returns when they stand on the disk, with their number (see [`Writer::changes`]); None when
    /// there are none that could be stored. Blocks. The changes stay changes.
    ///
    /// # Errors
    /// The bytes cannot be read, or the journal cannot keep them; nothing is kept then.
    pub fn keep(
        &self,
        journal: &Journal,
        before: Option<EntryId>,
        reason: Option<&str>,
    ) -> Result<Option<(EntryId, u64)>, Error> {
        for _ in 0..CHANGED_WHILE_SENT_MAX {
            let Aim::Object(target) = self.destination.aim() else { return Ok(None) };
            let Some((kept, changes)) = self.to_keep(&target, reason)? else { return Ok(None) };
            let mut draft = journal.draft(&kept.encode(), before)?;
            for run in runs(&self.buffer.present(), kept.size) {
                let mut offset = run.start;
                let chunks: Chunks = self.buffer.snapshot(run)?.chunks();
                for chunk in chunks {
                    let chunk = chunk?;
                    draft.add(offset, &chunk)?;
                    offset += chunk.len() as u64;
                }
            }
            if self.state().changes == changes {
                return Ok(Some((draft.finish()?, changes)));
            }
        }
        let Aim::Object(target) = self.destination.aim() else { return Ok(None) };
        Err(Error::ChangedWhileSent { key: target.object.key.to_string() })
    }

    fn to_keep(&self, target: &Target, reason: Option<&str>) -> Result<Option<(Kept, u64)>, Error> {
        let state = self.state();
        if !state.is_dirty() {
            return Ok(None);
        }
        let whole = state.stream.as_ref().is_none_or(|stream| stream.keep_all_whole(&self.buffer));
        if !whole {
            return Err(Error::PartsLeft { key: target.object.key.to_string() });
        }
        let kept = Kept {
            object: target.object.clone(),
            policy: self.engine.gateway.policy().clone(),
            size: state.size,
            base: state.base.clone(),
            base_len: state.base_len,
            replaces: state.replaces.clone(),
            reason: reason.map(str::to_owned),
        };
        Ok(Some((kept, state.changes)))
    }

    /// A writer with the changes that `kept` describes, but for their bytes, which [`Writer::write`] puts back, and for the file's end,
    /// to which [`Writer::resize`] then cuts or stretches it.
    #[must_use]
    pub fn recovered(engine: &Arc<Engine>, kept: &Kept) -> Arc<Writer> {
        let destination = Recovered(Target { object: kept.object.clone(), exact: true });
        let mut state = State::new(kept.base.clone(), kept.base_len, true);
        state.replaces.clone_from(&kept.replaces);
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
        let kept = Kept {
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
        };
        assert_eq!(Kept::decode(&kept.encode()).unwrap(), kept);
        let later = String::from_utf8(kept.encode()).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(matches!(Kept::decode(later.as_bytes()), Err(KeptError::Version(2))));
        assert!(matches!(Kept::decode(b"{"), Err(KeptError::Json(_))));
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
