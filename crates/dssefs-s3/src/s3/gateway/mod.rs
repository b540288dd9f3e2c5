//! The gateway to the store: every request goes out under the policy, and every answer is judged.

mod ambiguous;
mod annotations;
mod compare;
mod copy;
mod delete;
mod download;
mod held;
mod leftovers;
mod probe;
mod retry;
mod upload;
mod verified;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;

use super::ambiguous_write::AmbiguousWrite;
use super::aws::{AttemptLog, Store};
use super::connect::Connection;
use super::error::{Error, Failure, Kind};
use super::ledger::Ledger;
use super::payload::{Checksum, Payload};
use super::request::{BucketFacts, Condition, Head, ListPage, ListRequest, NewObject, Stored, Versioning};
use crate::object::{Bucket, ByteRange, Key, Version};
use crate::policy::{Facts, Judge, KeyArn, Policy, Verdict};
use crate::s3::metrics::{Operation, StoreCounters, StoreSnapshot};

pub use annotations::KeptAnnotations;
pub use download::Download;
pub use held::held_prefix;
pub use leftovers::Leftovers;
pub use probe::Conditions;
pub use retry::{BodyRetries, ConflictRetries};
pub use upload::{Unfinished, Upload};
use verified::Write;
pub use verified::{OtherCopy, Verified};

/// One bucket under one policy. All code that reads or writes objects shares it.
pub struct Gateway {
    store: Store,
    judge: Judge,
    ledger: OnceLock<Ledger>,
    /// Whether the store carries out deletes whose condition does not hold.
    ignores_conditions_of_deletes: AtomicBool,
    /// Whether to ask for the annotations of objects. False from the moment on at which the store turns out not to know
    /// them.
    asks_for_annotations: AtomicBool,
}

impl Gateway {
    /// Makes no request. `config` comes from [`load`](super::load) with the same `connection`.
    #[must_use]
    pub fn new(config: &SdkConfig, connection: &Connection, bucket: Bucket, policy: Policy) -> Gateway {
        Gateway {
            store: Store::new(config, connection, bucket),
            judge: Judge::new(policy),
            ledger: OnceLock::new(),
            ignores_conditions_of_deletes: AtomicBool::new(false),
            asks_for_annotations: AtomicBool::new(connection.keeps_annotations),
        }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        self.store.bucket()
    }

    /// What the gateway asks for with each write and expects of each answer.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.judge.policy()
    }

    /// The verdict on an object, by the facts that the store gave: see [`Judge::judge`].
    #[must_use]
    pub fn judge(&self, facts: &Facts) -> Verdict {
        self.judge.judge(facts)
    }

    /// The key that answers must name. With `aws/s3` it is the key of the first answer to a write; None before that.
    #[must_use]
    pub fn expected_key(&self) -> Option<&KeyArn> {
        self.judge.expected_key()
    }

    /// The counters.
    #[must_use]
    pub fn counters(&self) -> StoreSnapshot {
        self.store.counters().snapshot()
    }

    /// Starts the end of a mount: from now on a request fails once the store has neither answered nor taken a byte for
    /// `stop_timeout`, even if its own limits would give it more time. Only the first call counts.
    pub fn start_deadline(&self, stop_timeout: Duration) {
        self.store.start_deadline(stop_timeout);
    }

    /// Returns when requests fail because of [`Gateway::start_deadline`], so that no caller waits for an answer any
    /// longer.
    pub async fn wait_until_stalled(&self) {
        self.store.wait_until_stalled().await;
    }

    /// One page of a listing (ListObjectsV2). It needs no KMS permission and has no facts about encryption.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn list(&self, request: &ListRequest<'_>) -> Result<ListPage, Error> {
        self.store.list(request).await
    }

    /// The facts of an object, without a call to KMS and without a verdict: the caller decides whether to read an
    /// object that is not under DSSE-KMS.
    ///
    /// # Errors
    /// As S3 answers. A 400 or 403 to HEAD has no body, so a GET of one byte finds the reason. A missing object is
    /// [`Kind::NotFound`] also for credentials that may list only a prefix, to which S3 answers 403.
    pub async fn head(&self, key: &Key) -> Result<Head, Error> {
        match self.store.head(key).await {
            Err(error) if matches!(error.status, Some(400 | 403)) && error.code.is_none() => {
                match self.reason_of(key, &error).await {
                    Some(reason) => Err(self.or_absent(key, reason).await),
                    None => self.store.head(key).await,
                }
            }
            answer => answer,
        }
    }

    /// [`Gateway::head`], and the checksums of the whole object that the store gives. One KMS call.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn head_with_checksums(&self, key: &Key) -> Result<(Head, Vec<Checksum>), Error> {
        match self.store.head_with_checksums(key).await {
            Err(error) => Err(self.or_absent(key, error).await),
            answer => answer,
        }
    }

    /// [`Gateway::head`], and the age of the object by the store's own clock, to the second; None if the store sends no
    /// time. The clock of this host is not used.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn head_with_age(&self, key: &Key) -> Result<(Head, Option<Duration>), Error> {
        match self.store.head_with_age(key).await {
            Err(error) => Err(self.or_absent(key, error).await),
            answer => answer,
        }
    }

    /// The time by the store's own clock, to the second, according to its newest answer; this host's time if the store
    /// sends none.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.store.clock().now().unwrap_or_else(SystemTime::now)
    }

    /// Begins to read an object: all of it, or `range`, which may end beyond the object's end but must begin inside it.
    /// With a `pin` the version must be that one.
    ///
    /// # Errors
    /// As S3 answers; [`Kind::PreconditionFailed`] when the object is not the pinned version any more, and
    /// [`Kind::Protocol`] when the store returns another range.
    pub async fn get(&self, key: &Key, pin: Option<&Version>, range: Option<ByteRange>) -> Result<Download, Error> {
        let answer = match self.store.get(key, pin, range).await {
            Err(error) => return Err(self.or_absent(key, error).await),
            Ok(answer) => answer,
        };
        Ok(Download::new(self.bucket(), key, Arc::clone(self.store.counters()), answer))
    }

    /// Writes a whole object in one request (PutObject; S3 takes up to 5 GiB this way).
    ///
    /// If an answer was lost, the gateway looks for the object as [`Gateway::find`] does.
    ///
    /// # Errors
    /// As S3 answers. What the write has left in the store is the error's [`FailedWrite`](super::FailedWrite).
    pub async fn put(
        &self,
        new: &NewObject,
        body: Arc<dyn Payload>,
        condition: &Condition,
    ) -> Result<Verified<Stored>, Error> {
        let (new, attempts) = (&self.stamped(new), AttemptLog::default());
        let answer = self.store.put(self.policy(), new, &body, condition, &attempts).await;
        let attempt = || AmbiguousWrite { object: new.clone(), size: body.len(), upload: None };
        let write = Write { operation: Operation::PutObject, key: &new.key, other_copy: OtherCopy::Held };
        self.settle(&write, answer, &attempts, attempt).await
    }

    /// An object's tags in the form of `x-amz-tagging` (`a=1&b=2`); None if it has none.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn tags(&self, key: &Key) -> Result<Option<String>, Error> {
        self.store.tags(key, None).await
    }

    /// Whether the bucket exists and the caller may list it below `prefix`: asks for one object there. Asks nothing
    /// about the whole bucket, because credentials may be limited to a prefix (`s3:prefix`). HEAD of the bucket needs
    /// the same permission, and its errors have no body.
    ///
    /// # Errors
    /// [`Kind::NoSuchBucket`], [`Kind::AccessDenied`], and [`Kind::Configuration`] with the bucket's Region in the
    /// message when it is in another one.
    pub async fn reach(&self, prefix: &str) -> Result<(), Error> {
        let one = ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: 1 };
        self.list(&one).await.map(drop)
    }

    /// The bucket's configuration, as far as the caller may read it. The rest is unknown, and the log says so.
    pub async fn bucket_facts(&self) -> BucketFacts {
        let (encryption, versioning) = tokio::join!(self.store.default_encryption(), self.store.versioning());
        let unknown = |error: &Error| tracing::info!(%error, "a part of the bucket's configuration is unknown");
        BucketFacts {
            default_encryption: encryption.inspect_err(unknown).unwrap_or_else(|_| Facts::unknown()),
            versioning: versioning.inspect_err(unknown).unwrap_or(Versioning::Unknown),
        }
    }

    /// Why the store refused a HEAD, whose answer has no body: the answer to a GET has one. None if the GET got another
    /// answer. Then the HEAD is worth another try: if the reason was this host's clock, the SDK has corrected it.
    async fn reason_of(&self, key: &Key, refused: &Error) -> Option<Error> {
        let reason = self.store.get(key, None, ByteRange::new(0, 1)).await.err()?;
        (reason.code.is_some() && reason.status == refused.status).then_some(reason)
    }

    /// What a denial means. S3 answers 403 for a missing object to credentials that may list only below a prefix
    /// ("HeadObject", S3 API reference). They may list the key, which shows whether it exists: it is the first of the
    /// keys that begin with it.
    async fn or_absent(&self, key: &Key, error: Error) -> Error {
        if error.kind != (Kind::AccessDenied { kms: false }) {
            return error;
        }
        let prefix = key.as_str();
        let one = ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: 1 };
        match self.list(&one).await {
            Ok(page) if page.objects.first().is_none_or(|first| first.key != prefix) => {
                self.failure(Kind::NotFound, Operation::HeadObject, key).into()
            }
            Ok(_) | Err(_) => error,
        }
    }

    fn failure(&self, kind: Kind, operation: Operation, key: &Key) -> Failure {
        Failure::new(kind, operation, self.bucket(), Some(key))
    }

    fn count_mismatch(&self) {
        StoreCounters::add(&self.store.counters().mismatches, 1);
    }
}
