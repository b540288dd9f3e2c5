//! Multipart uploads: judged before their first byte leaves this host, and at each answer.

use std::sync::Arc;

use super::{Gateway, OtherCopy, Verified, Write};
use crate::object::{ByteRange, CommitId, Crc64, Key};
use crate::s3::ambiguous_write::AmbiguousWrite;
use crate::s3::aws::{AttemptLog, PartAnswer, Whole};
use crate::s3::error::{Error, Kind};
use crate::s3::metrics::Operation;
use crate::s3::payload::Payload;
use crate::s3::request::{Condition, NewObject, Part, Source, Stored};

/// A multipart upload that is under way. The caller completes or aborts it; a dropped one stays in the bucket until a
/// lifecycle rule removes it.
#[must_use = "an upload that is neither completed nor aborted stays in the bucket, unseen and billed"]
pub struct Upload {
    gateway: Arc<Gateway>,
    shared: Box<About>,
}

struct About {
    id: String,
    new: NewObject,
    /// Kept for all tries at completing: the answer to an earlier one may have been lost.
    attempts: AttemptLog,
    /// The encryption context in the answer that began the upload. No later answer has it.
    context: Option<String>,
}

/// An upload that could not be completed.
pub struct Unfinished {
    /// Why.
    pub error: Error,
    /// The upload, as long as it can still be completed: later, or under another condition.
    pub upload: Option<Upload>,
}

impl Gateway {
    /// Begins a multipart upload, and judges the store's answer before any content leaves this host.
    ///
    /// # Errors
    /// As S3 answers; on [`Kind::Mismatch`] the upload was aborted.
    pub async fn start_upload(self: &Arc<Self>, new: &NewObject) -> Result<Upload, Error> {
        const CREATE: Operation = Operation::CreateMultipartUpload;
        let attempts = AttemptLog::default();
        let new = &self.stamped(new);
        let created = self.store.create(self.policy(), new, &attempts).await;
        let created = created.map_err(|error| self.unread_answer(CREATE, &new.key, error, &attempts))?;
        let judged = self.verify_upload(CREATE, &new.key, &created.facts, created.request_id);
        let Some(id) = created.id else {
            let nameless = self.failure(Kind::Protocol, CREATE, &new.key).because("the answer has no upload id");
            return Err(judged.err().unwrap_or_else(|| nameless.into()));
        };
        if let Some(ledger) = self.ledger.get() {
            ledger.begun(&id);
        }
        let mut upload = self.resume_upload(new, id);
        upload.shared.context = created.facts.context;
        match judged {
            Ok(()) => Ok(upload),
            Err(error) => {
                upload.abandon().await;
                Err(error)
            }
        }
    }

    /// Continues an upload that an earlier process began for the same object, by its id, and with the commit id that it
    /// was begun with. Makes no request; the upload is judged when it is completed.
    pub fn resume_upload(self: &Arc<Self>, new: &NewObject, id: String) -> Upload {
        let about = About { id, new: new.clone(), attempts: AttemptLog::default(), context: None };
        Upload { gateway: Arc::clone(self), shared: Box::new(about) }
    }
}

impl Upload {
    /// The store's name for it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The commit id of the object that it will become; None where its metadata had no room for one.
    #[must_use]
    pub fn commit(&self) -> Option<&CommitId> {
        self.shared.new.commit.as_ref()
    }

    /// The key of the object that it will become.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.shared.new.key
    }

    /// Sends part `number` (1 to 10,000). The caller may send parts in any order, at the same time, and repeatedly.
    /// Each has 5 MiB to 5 GiB; the last may be smaller.
    ///
    /// # Errors
    /// As S3 answers, and [`Kind::Mismatch`], after which the upload should be aborted.
    pub async fn put_part(&self, number: u32, body: Arc<dyn Payload>) -> Result<Part, Error> {
        let attempts = AttemptLog::default();
        let answer = self.gateway.store.put_part(self.key(), self.id(), number, &body, &attempts).await;
        self.judged(Operation::UploadPart, answer, &attempts)
    }

    /// Makes part `number` from a range of an object in the same bucket. The bytes do not pass through this host.
    ///
    /// # Errors
    /// As S3 answers; [`Kind::PreconditionFailed`] when the source is another version now; and [`Kind::Mismatch`].
    pub async fn copy_part(&self, number: u32, source: &Source, range: ByteRange) -> Result<Part, Error> {
        let attempts = AttemptLog::default();
        let of = (source, range);
        let answer = self.gateway.store.copy_part(self.key(), self.id(), number, of, &attempts).await;
        self.judged(Operation::UploadPartCopy, answer, &attempts)
    }

    /// The part in an answer, after the verdict on the encryption.
    fn judged(
        &self,
        operation: Operation,
        answer: Result<PartAnswer, Error>,
        attempts: &AttemptLog,
    ) -> Result<Part, Error> {
        let answer = answer.map_err(|error| self.gateway.unread_answer(operation, self.key(), error, attempts))?;
        self.gateway.verify_part(operation, self.key(), &answer.facts)?;
        let nameless = || self.gateway.failure(Kind::Protocol, operation, self.key()).because("the answer has no ETag");
        answer.part.ok_or_else(|| nameless().into())
    }

    /// Makes the object out of `parts`, in the order of their numbers. `size` is the object's length in bytes, `crc64`
    /// its checksum if it is known; S3 compares both.
    ///
    /// If the answer to this or an earlier try was lost, the gateway looks for the object as [`Gateway::find`] does.
    ///
    /// # Errors
    /// [`Unfinished`] has the reason, and the upload if it can still be completed. After [`Kind::Mismatch`] the gateway
    /// has deleted the object, unless `other_copy` forbids it.
    pub async fn complete(
        self,
        mut parts: Vec<Part>,
        size: u64,
        crc64: Option<Crc64>,
        condition: &Condition,
        other_copy: OtherCopy,
    ) -> Result<Verified<Stored>, Unfinished> {
        parts.sort_by_key(|part| part.number);
        let About { id, new, attempts, context } = &*self.shared;
        let whole = Whole { parts: &parts, size, crc64 };
        // An earlier try may have been carried out. The headers of its answer were judged then.
        attempts.forget_headers();
        let mut answer = self.gateway.store.complete(&new.key, id, &whole, condition, attempts).await;
        if let Ok(answer) = &mut answer {
            answer.encryption.facts.context.clone_from(context);
        }
        let was_completed = answer.is_ok();
        let attempt = || AmbiguousWrite { object: new.clone(), size, upload: Some(id.clone()) };
        let write = Write { operation: Operation::CompleteMultipartUpload, key: &new.key, other_copy };
        let settled = self.gateway.settle(&write, answer, attempts, attempt).await;
        match settled {
            Err(error) if !was_completed => Err(self.unfinished(error, other_copy).await),
            settled => {
                self.ended();
                settled.map_err(|error| Unfinished { error, upload: None })
            }
        }
    }

    /// Ends the upload and discards its parts. An upload that is gone already is no error.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn abort(self) -> Result<(), Error> {
        match self.gateway.store.abort(self.key(), self.id()).await {
            Err(error) if error.kind != Kind::NoSuchUpload => Err(error),
            _ => {
                self.ended();
                Ok(())
            }
        }
    }

    fn ended(&self) {
        self.gateway.note_ended_upload(self.id());
    }

    /// Aborts while the caller gets another error.
    pub(super) async fn abandon(self) {
        if let Err(error) = self.abort().await {
            tracing::warn!(%error, "the daemon could not abort a multipart upload, which stays in the bucket");
        }
    }

    async fn unfinished(self, error: Error, other_copy: OtherCopy) -> Unfinished {
        match error.kind {
            Kind::NoSuchUpload => Unfinished { error, upload: None },
            // The store used the wrong encryption. A later completion of the same upload would get the same one.
            Kind::Mismatch { .. } if other_copy != OtherCopy::Nowhere => {
                self.abandon().await;
                Unfinished { error, upload: None }
            }
            // S3 asks for a new upload after this one (CompleteMultipartUpload, "ConditionalRequestConflict"). If the
            // parts exist nowhere else there can be no new upload; the next try shows whether this one is gone.
            Kind::Conflict if other_copy != OtherCopy::Nowhere => {
                self.abandon().await;
                Unfinished { error, upload: None }
            }
            _ => Unfinished { error, upload: Some(self) },
        }
    }
}

impl std::fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unfinished").field("error", &self.error).field("given_back", &self.upload.is_some()).finish()
    }
}
