//! Judges the answers to writes, and deletes objects whose encryption is wrong.

use std::ops::Deref;
use std::sync::Arc;

use super::Gateway;
use crate::object::{ETag, Key, Version, VersionId};
use crate::policy::{Algorithm, EncryptionContext, Facts, Judge, Verdict};
use crate::s3::ambiguous_write::AmbiguousWrite;
use crate::s3::aws::{AnswerHeaders, Answered, AttemptLog};
use crate::s3::error::{Error, FailedWrite, Kind};
use crate::s3::metrics::Operation;
use crate::s3::request::{Condition, Stored};

/// A value that the store proved to be under DSSE-KMS and the expected key. Only the gateway can make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// The proved value.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Where else the content of a stored object exists. The gateway deletes an object whose encryption is wrong, unless
/// that would lose acknowledged content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherCopy {
    /// On this host, or in another object.
    Held,
    /// In the version that it replaces: so nowhere in a bucket that keeps no versions.
    Predecessor,
    /// Nowhere: this host has no copy of some parts that it sent.
    Nowhere,
}

impl OtherCopy {
    /// For a copy of `source` to `key`.
    #[must_use]
    pub fn of_copy(source: &Key, key: &Key) -> OtherCopy {
        if source == key { OtherCopy::Predecessor } else { OtherCopy::Held }
    }

    fn survives_without(self, version: &Version) -> bool {
        match self {
            OtherCopy::Held => true,
            OtherCopy::Predecessor => version.id.is_some(),
            OtherCopy::Nowhere => false,
        }
    }
}

/// A write whose answer has come or is lost.
pub(super) struct Write<'a> {
    pub(super) operation: Operation,
    pub(super) key: &'a Key,
    pub(super) condition: &'a Condition,
    pub(super) other_copy: OtherCopy,
}

/// How the object of a write is recognised if the answer does not name its version.
pub(super) enum Made {
    /// By its content and its metadata.
    By(Box<AmbiguousWrite>),
    /// As a copy of the object at this key, with its content and metadata.
    CopyOf(Key),
}

impl Gateway {
    /// Decides whether a write has succeeded.
    ///
    /// The encryption comes first, also if the rest of the answer is missing or cannot be read: an object under the
    /// wrong encryption is deleted. Then comes the version, from the answer or else from the object.
    pub(super) async fn settle(
        &self,
        write: &Write<'_>,
        answer: Result<Answered, Error>,
        attempts: &AttemptLog,
        made: impl FnOnce() -> Made,
    ) -> Result<Verified<Stored>, Error> {
        let answered = match answer {
            Ok(answered) => answered,
            Err(error) => {
                // 1. The headers of an answer of success name a wrong encryption: delete the object.
                if let Some(AnswerHeaders { facts, etag, id, request_id }) = self.bad_headers(attempts) {
                    let named = Named { version: etag.map(|etag| Version { etag, id: id.clone() }), id };
                    return Err(self.take_back_bad(write, &made(), &facts, request_id, named).await);
                }
                // 2. The store refused the write: it has failed.
                if !attempts.is_ambiguous() {
                    return Err(error);
                }
                // 3. The answer was lost: look whether the object is what was sent, and judge it.
                let stored = match made() {
                    Made::By(attempt) => self.resolve_ambiguous(*attempt, error).await?,
                    Made::CopyOf(original) => self.recognise_copy(&original, write.key, error).await?,
                };
                return self.verify_or_undo(write, stored).await;
            }
        };
        // 4. The answer is complete: judge it, and delete the object if the verdict is bad.
        let named = Named { version: answered.version(), id: answered.id };
        let encryption = answered.encryption;
        if self.judge.judge_write(&encryption.facts) != Verdict::Compliant {
            return Err(self.take_back_bad(write, &made(), &encryption.facts, encryption.request_id, named).await);
        }
        // 5. Name the version.
        match named.version {
            Some(version) => Ok(Verified(Stored { version, encryption })),
            None => self.find_unnamed(write, made(), encryption.request_id).await,
        }
    }

    /// The object of a write that succeeded, and whose answer has no ETag.
    async fn find_unnamed(
        &self,
        write: &Write<'_>,
        made: Made,
        request_id: Option<String>,
    ) -> Result<Verified<Stored>, Error> {
        if let Ok(Some(stored)) = self.look_again(write, &made).await {
            return self.verify_or_undo(write, stored).await;
        }
        let mut failure = self.failure(Kind::Protocol, write.operation, write.key).because("the answer has no ETag");
        failure.request_id = request_id;
        Err(match made {
            Made::By(attempt) => Error::from(failure).leaving(FailedWrite::Unknown(Arc::from(attempt))),
            Made::CopyOf(_) => failure.into(),
        })
    }

    /// The object that the write has made, proved by content and metadata; not the one that was there before.
    async fn look_again(&self, write: &Write<'_>, made: &Made) -> Result<Option<Stored>, Error> {
        let found = match made {
            Made::By(attempt) => self.look_for(attempt).await?,
            Made::CopyOf(original) if original == write.key => None,
            Made::CopyOf(original) => self
                .likeness(original, write.key)
                .await?
                .map(|head| Stored { version: head.meta.version, encryption: head.encryption }),
        };
        let was_there = |stored: &Stored| *write.condition == Condition::Matches(stored.version.etag.clone());
        Ok(found.filter(|stored| !was_there(stored)))
    }

    /// Judges an object that was looked up, by the store's present facts. It stays if the verdict is bad.
    pub(super) async fn verify(
        &self,
        operation: Operation,
        key: &Key,
        stored: Stored,
    ) -> Result<Verified<Stored>, Error> {
        let condition = &Condition::None;
        self.verify_or_undo(&Write { operation, key, condition, other_copy: OtherCopy::Nowhere }, stored).await
    }

    async fn verify_or_undo(&self, write: &Write<'_>, stored: Stored) -> Result<Verified<Stored>, Error> {
        // The object is a write of this mount.
        match self.judge.judge_write(&stored.encryption.facts) {
            Verdict::Compliant => Ok(Verified(stored)),
            verdict => {
                let why = self.mismatch_reason(&stored.encryption.facts);
                let (undone, failed_write) = self.take_back(write, &stored.version, None).await;
                let request_id = stored.encryption.request_id;
                let why = format!("{why}; {undone}");
                Err(self.mismatch(write.operation, write.key, verdict, request_id, &why).leaving(failed_write))
            }
        }
    }

    /// The first answer of success, among all attempts, whose encryption is wrong.
    fn bad_headers(&self, attempts: &AttemptLog) -> Option<AnswerHeaders> {
        attempts.headers().into_iter().find(|said| self.judge(&said.facts) != Verdict::Compliant)
    }

    /// `error`, unless an answer of success came before it whose headers name a wrong encryption and whose rest could
    /// not be read.
    pub(super) fn unread_answer(&self, operation: Operation, key: &Key, error: Error, attempts: &AttemptLog) -> Error {
        let bad = attempts.headers().into_iter().find(|said| !self.part_fits(&said.facts));
        match bad {
            None => error,
            Some(said) => {
                let verdict = self.judge(&said.facts);
                self.mismatch(operation, key, verdict, said.request_id, &self.mismatch_reason(&said.facts))
            }
        }
    }

    /// Deletes the object of an answer with a bad verdict, and says so in the error.
    async fn take_back_bad(
        &self,
        write: &Write<'_>,
        made: &Made,
        facts: &Facts,
        request_id: Option<String>,
        named: Named,
    ) -> Error {
        let (verdict, why) = (self.judge(facts), self.mismatch_reason(facts));
        let version = match named.version {
            Some(version) => Ok(Some(version)),
            None => self.look_again(write, made).await.map(|found| found.map(|stored| stored.version)),
        };
        let (undone, failed_write) = match (version, named.id) {
            (Ok(Some(version)), _) => self.take_back(write, &version, Some(made)).await,
            // The version has an id of its own, so the delete does not touch earlier ones. It stays if it may be the
            // only copy.
            (_, Some(id)) if write.other_copy != OtherCopy::Nowhere => {
                match self.store.delete(write.key, Some(&id), None).await {
                    Ok(()) => ("the object was deleted again".to_owned(), FailedWrite::Nothing),
                    Err(error) => (left_there(&error.to_string()), unknown(made)),
                }
            }
            (Ok(None), _) => (left_there("no object is proved to be the one that was sent"), unknown(made)),
            (Err(error), _) => (left_there(&error.to_string()), unknown(made)),
        };
        let why = format!("{why}; {undone}");
        self.mismatch(write.operation, write.key, verdict, request_id, &why).leaving(failed_write)
    }

    /// Deletes an object under the wrong encryption, unless its content exists nowhere else. Returns what has become of
    /// it.
    async fn take_back(&self, write: &Write<'_>, version: &Version, made: Option<&Made>) -> (String, FailedWrite) {
        if !write.other_copy.survives_without(version) {
            let text = "the object stays as it is, because its content exists nowhere else: store it again when the \
                        store encrypts as asked";
            return (text.to_owned(), FailedWrite::LeftBehind(version.clone()));
        }
        // In a bucket that keeps versions, the previous one is the object again.
        let deleted = if version.id.is_some() { FailedWrite::Nothing } else { FailedWrite::Deleted };
        let gone = ("the object was deleted again".to_owned(), deleted);
        match self.expunge_version(write.key, version).await {
            Ok(true) => gone,
            Ok(false) => self.take_back_other(write, version, made, gone).await,
            Err(error) => (stays(&error), FailedWrite::LeftBehind(version.clone())),
        }
    }

    /// The present version is not the one that the answer named: it is another writer's, or ours under another ETag.
    async fn take_back_other(
        &self,
        write: &Write<'_>,
        named: &Version,
        made: Option<&Made>,
        gone: (String, FailedWrite),
    ) -> (String, FailedWrite) {
        let replaced = "another writer has replaced the object".to_owned();
        let Some(made) = made else { return (replaced, FailedWrite::Nothing) };
        match self.look_again(write, made).await {
            Ok(Some(ours)) if ours.version != *named => match self.expunge_version(write.key, &ours.version).await {
                Ok(true) => gone,
                Ok(false) => (replaced, FailedWrite::Nothing),
                Err(error) => (stays(&error), FailedWrite::LeftBehind(ours.version)),
            },
            Ok(_) => (replaced, FailedWrite::Nothing),
            Err(error) => (left_there(&error.to_string()), unknown(made)),
        }
    }

    /// Judges an answer before anything was stored.
    pub(super) fn verify_upload(
        &self,
        operation: Operation,
        key: &Key,
        facts: &Facts,
        request_id: Option<String>,
    ) -> Result<(), Error> {
        match self.judge.judge_write(facts) {
            Verdict::Compliant => Ok(()),
            verdict => Err(self.mismatch(operation, key, verdict, request_id, &self.mismatch_reason(facts))),
        }
    }

    /// Judges the answer to a part. Some servers send no encryption headers there; those that they send must be right.
    pub(super) fn verify_part(&self, operation: Operation, key: &Key, facts: &Facts) -> Result<(), Error> {
        if self.part_fits(facts) {
            return Ok(());
        }
        Err(self.mismatch(operation, key, self.judge(facts), None, &self.mismatch_reason(facts)))
    }

    /// Whether each encryption header of a part's answer is absent or right.
    fn part_fits(&self, facts: &Facts) -> bool {
        part_fits(&self.judge, facts)
    }

    fn mismatch_reason(&self, facts: &Facts) -> String {
        mismatch_reason(&self.judge, facts)
    }

    fn mismatch(
        &self,
        operation: Operation,
        key: &Key,
        verdict: Verdict,
        request_id: Option<String>,
        why: &str,
    ) -> Error {
        self.count_mismatch();
        let mut failure = self.failure(Kind::Mismatch { verdict }, operation, key).because(why);
        failure.request_id = request_id;
        let error = Error::from(failure);
        tracing::error!(%error, "the store did not prove the encryption that the daemon asked for");
        error
    }

    /// Deletes exactly this version, which this mount has stored: by its id, or, without one, only while it is the
    /// object. Another writer's object that replaced it stays.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn expunge(&self, key: &Key, version: &Version) -> Result<(), Error> {
        self.expunge_version(key, version).await.map(drop)
    }

    /// The same; false if another version is there, which stays.
    async fn expunge_version(&self, key: &Key, version: &Version) -> Result<bool, Error> {
        match &version.id {
            Some(id) => self.store.delete(key, Some(id), None).await.map(|()| true),
            None => self.delete_version(key, &version.etag).await,
        }
    }

    /// Deletes an object if it still is this version. Like [`Gateway::delete`], it leaves old versions in a bucket that
    /// keeps them. Returns true if there is no object afterwards, and false if there is another version, which stays.
    /// For a store without conditional deletes, asks for the version first.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn delete_version(&self, key: &Key, etag: &ETag) -> Result<bool, Error> {
        match self.store.delete(key, None, Some(etag)).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind == Kind::NotFound => Ok(true),
            // A second attempt gets this too, if the answer to the first was lost in a bucket that keeps versions.
            Err(error) if error.kind == Kind::PreconditionFailed => Ok(self.etag_now(key).await?.is_none()),
            Err(error) if error.kind == Kind::Unsupported => match self.etag_now(key).await? {
                Some(now) if now == *etag => self.store.delete(key, None, None).await.map(|()| true),
                now => Ok(now.is_none()),
            },
            Err(error) => Err(error),
        }
    }

    pub(super) async fn etag_now(&self, key: &Key) -> Result<Option<ETag>, Error> {
        match self.head(key).await {
            Ok(head) => Ok(Some(head.meta.version.etag)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The version that an answer names, as far as it does.
struct Named {
    version: Option<Version>,
    id: Option<VersionId>,
}

fn stays(error: &Error) -> String {
    format!("the object is still in the bucket, because the daemon could not delete it again: {error}")
}

fn left_there(why: &str) -> String {
    format!("the object may still be in the bucket, because the daemon could not delete it: {why}; look, and delete it")
}

fn unknown(made: &Made) -> FailedWrite {
    match made {
        Made::By(attempt) => FailedWrite::Unknown(Arc::from(attempt.clone())),
        Made::CopyOf(_) => FailedWrite::Nothing,
    }
}

fn part_fits(judge: &Judge, facts: &Facts) -> bool {
    match judge.judge_write(facts) {
        Verdict::Compliant => true,
        Verdict::WrongKey => facts.key_arn.is_none(),
        Verdict::NotDsse => facts.algorithm == Algorithm::None && facts.key_arn.is_none(),
        Verdict::WrongContext | Verdict::Pending | Verdict::Unknown => false,
    }
}

fn mismatch_reason(judge: &Judge, facts: &Facts) -> String {
    let key = |arn: Option<&str>| arn.map_or(String::new(), |arn| format!(" under {arn}"));
    let context = |header: &String| match EncryptionContext::answered(header) {
        Some(context) => format!(" with the encryption context {}", context.json()),
        None => " with an encryption context that cannot be read".to_owned(),
    };
    let asked = &judge.policy().context;
    let answered_context = facts.context.as_ref().map_or_else(String::new, context);
    let asked_context = if facts.context.is_some() { format!(" with {}", asked.json()) } else { String::new() };
    let expected = match judge.expected_key() {
        Some(arn) if judge.policy().key.is_none() => format!(" under aws/s3, which is {arn},"),
        Some(arn) => format!(" under {arn}"),
        None => " under a key that the answer names by its ARN".to_owned(),
    };
    format!(
        "the store answered {}{}{answered_context}, and aws:kms:dsse{expected}{asked_context} was asked for",
        facts.algorithm,
        key(facts.key_arn.as_deref()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{KeyArn, Policy};

    const ARN: &str = "arn:aws:kms:eu-west-1:111122223333:key/0a1b";

    #[test]
    fn a_parts_answer_may_be_silent_but_not_wrong() {
        let judge = Judge::new(Policy { key: Some(KeyArn::new(ARN).unwrap()), ..Policy::default() });
        let fits = |sse: Option<&str>, key: Option<&str>| part_fits(&judge, &Facts::from_headers(sse, key, None, None));
        assert!(fits(Some("aws:kms:dsse"), Some(ARN)));
        assert!(fits(Some("aws:kms:dsse"), None));
        assert!(fits(None, None));
        assert!(!fits(Some("aws:kms:dsse"), Some("arn:other")));
        assert!(!fits(None, Some("arn:other")));
        assert!(!fits(Some("AES256"), None));
        assert!(!fits(Some("aws:kms"), Some(ARN)));
        assert!(!part_fits(&judge, &Facts::from_headers(None, None, None, Some("AES256"))));
        assert!(!part_fits(&judge, &Facts::unknown()));
    }

    #[test]
    fn a_mismatch_names_what_was_said_and_what_was_asked() {
        let judge = Judge::new(Policy { key: Some(KeyArn::new(ARN).unwrap()), ..Policy::default() });
        assert_eq!(
            mismatch_reason(&judge, &Facts::from_headers(Some("AES256"), None, None, None)),
            format!("the store answered AES256, and aws:kms:dsse under {ARN} was asked for")
        );
    }
}
