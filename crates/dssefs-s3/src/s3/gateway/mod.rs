//! The doorway to the store: every request goes out under the policy, and every answer is judged on its way in.

mod ambiguous;
mod compare;
mod copy;
mod download;
mod leftovers;
mod probe;
mod retry;
mod upload;
mod verified;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;

use super::ambiguous_write::{AmbiguousWrite, Content};
use super::aws::{AttemptLog, Store};
use super::connect::Connection;
use super::error::{Error, Failure, Kind};
use super::ledger::Ledger;
use super::payload::{Checksum, Payload};
use super::request::{BucketFacts, Condition, Head, ListPage, ListRequest, NewObject, Stored, Versioning};
use crate::object::{Bucket, ByteRange, Key, Version};
use crate::policy::{Facts, Judge, KeyArn, Policy, Verdict};
use crate::s3::metrics::{Operation, StoreCounters, StoreSnapshot};

pub use download::Download;
pub use probe::Conditions;
pub use retry::BodyRetries;
pub use upload::{Unfinished, Upload};
use verified::{Made, Write};
pub use verified::{OtherCopy, Verified};

/// One bucket under one policy. Shared by everything that reads or writes objects.
pub struct Gateway {
    store: Store,
    judge: Judge,
    ledger: OnceLock<Ledger>,
}

impl Gateway {
    /// Makes no request. `config` comes from [`load`](super::load) with the same `connection`.
    #[must_use]
    pub fn new(config: &SdkConfig, connection: &Connection, bucket: Bucket, policy: Policy) -> Gateway {
        Gateway { store: Store::new(config, connection, bucket), judge: Judge::new(policy), ledger: OnceLock::new() }
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &Bucket {
        self.store.bucket()
    }

    /// What is asked of each write, and held against each answer.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        self.judge.policy()
    }

    /// The verdict on an object, by what the store has said of it: see [`Judge::judge`].
    #[must_use]
    pub fn judge(&self, facts: &Facts) -> Verdict {
        self.judge.judge(facts)
    }

    /// The key that answers must name; with `aws/s3` the one that the first answer to a write has named, None before
    /// that.
    #[must_use]
    pub fn expected_key(&self) -> Option<&KeyArn> {
        self.judge.expected_key()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> StoreSnapshot {
        self.store.counters().snapshot()
    }

    /// For the end of a mount: from now on a request fails as soon as the store has given no sign of life for
    /// `stop_timeout`, whatever time it would have otherwise. Only the first call counts.
    pub fn start_deadline(&self, stop_timeout: Duration) {
        self.store.start_deadline(stop_timeout);
    }

    /// Returns when requests fail because of [`Gateway::start_deadline`], so that nobody waits any longer for what only an
    /// answer can bring.
    pub async fn wait_until_stalled(&self) {
        self.store.wait_until_stalled().await;
    }

    /// One page of a listing (ListObjectsV2). Needs no KMS permission and tells nothing of encryption.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn list(&self, request: &ListRequest<'_>) -> Result<ListPage, Error> {
        self.store.list(request).await
    }

    /// What the store says of an object, without a call to KMS. Not judged: reading an object that is not under
    /// DSSE-KMS is for the caller to allow or refuse.
    ///
    /// # Errors
    /// As S3 answers. A 400 or 403 has no body on HEAD, so its reason is found out with a GET of one byte. An object
    /// that is not there is [`Kind::NotFound`] also where the credentials may list a prefix alone, for which S3 answers
    /// 403.
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

    /// [`Gateway::head`], and the checksums of the whole object where the store tells them. One KMS call.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn head_with_checksums(&self, key: &Key) -> Result<(Head, Vec<Checksum>), Error> {
        match self.store.head_with_checksums(key).await {
            Err(error) => Err(self.or_absent(key, error).await),
            answer => answer,
        }
    }

    /// [`Gateway::head`], and how long ago the object was stored by the store's own clock, to the second; None where
    /// the store does not tell the time. The clock of this host has no part in it.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn head_with_age(&self, key: &Key) -> Result<(Head, Option<Duration>), Error> {
        match self.store.head_with_age(key).await {
            Err(error) => Err(self.or_absent(key, error).await),
            answer => answer,
        }
    }

    /// The time by the store's own clock, to the second, as its newest answer told it; this host's time where the store
    /// tells none.
    #[must_use]
    pub fn time(&self) -> SystemTime {
        self.store.clock().now().unwrap_or_else(SystemTime::now)
    }

    /// Begins to read an object: all of it, or `range`, which may end beyond the object's end but must begin inside it.
    /// With a `pin` the version must be that one.
    ///
    /// # Errors
    /// As S3 answers; [`Kind::PreconditionFailed`] when the object is not the pinned version any more, and
    /// [`Kind::Protocol`] when the store gives another range than was asked for.
    pub async fn get(&self, key: &Key, pin: Option<&Version>, range: Option<ByteRange>) -> Result<Download, Error> {
        let answer = match self.store.get(key, pin, range).await {
            Err(error) => return Err(self.or_absent(key, error).await),
            Ok(answer) => answer,
        };
        Ok(Download::new(self.bucket(), key, Arc::clone(self.store.counters()), answer))
    }

    /// Writes a whole object in one request (PutObject; S3 takes up to 5 GiB this way).
    ///
    /// When the answer to a first attempt was lost and a later one is refused for what the first one did, the object is
    /// looked up: if its content (by length and checksum) and its metadata are those that were sent, the write has
    /// succeeded.
    ///
    /// # Errors
    /// As S3 answers. What is left in the store then is the error's [`FailedWrite`](super::FailedWrite).
    pub async fn put(
        &self,
        new: &NewObject,
        body: Arc<dyn Payload>,
        condition: &Condition,
    ) -> Result<Verified<Stored>, Error> {
        let attempts = AttemptLog::default();
        let answer = self.store.put(self.policy(), new, &body, condition, &attempts).await;
        let attempt = || {
            let content = body.kept_checksum().map_or(Content::Unknown, Content::Of);
            Made::By(Box::new(AmbiguousWrite { object: new.clone(), size: body.len(), content, upload: None }))
        };
        let write = Write { operation: Operation::PutObject, key: &new.key, condition, other_copy: OtherCopy::Held };
        self.settle(&write, answer, &attempts, attempt).await
    }

    /// Deletes an object. S3's delete succeeds as well when there is none, and in a bucket with versioning the old
    /// versions remain.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn delete(&self, key: &Key) -> Result<(), Error> {
        self.store.delete(key, None, None).await
    }

    /// An object's tags in the form of `x-amz-tagging` (`a=1&b=2`), for rewrites that must carry them over; None when
    /// it has none.
    ///
    /// # Errors
    /// As S3 answers.
    pub async fn tags(&self, key: &Key) -> Result<Option<String>, Error> {
        self.store.tags(key, None).await
    }

    /// Whether the bucket exists and may be used below `prefix`: one object there is asked for. Nothing is asked of the
    /// bucket as a whole, as credentials may be limited to a prefix (`s3:prefix`). HEAD of the bucket needs the same
    /// permission and has no body to tell why.
    ///
    /// # Errors
    /// [`Kind::NoSuchBucket`], [`Kind::AccessDenied`], and [`Kind::Configuration`] with the bucket's Region in the
    /// message when it is in another one.
    pub async fn reach(&self, prefix: &str) -> Result<(), Error> {
        let one = ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: 1 };
        self.list(&one).await.map(drop)
    }

    /// What the bucket is configured to do, as far as the caller may know. Whatever cannot be found out is unknown, and
    /// logged.
    pub async fn bucket_facts(&self) -> BucketFacts {
        let (encryption, versioning) = tokio::join!(self.store.default_encryption(), self.store.versioning());
        let unknown = |error: &Error| tracing::info!(%error, "the bucket's configuration is not known in full");
        BucketFacts {
            default_encryption: encryption.inspect_err(unknown).unwrap_or_else(|_| Facts::unknown()),
            versioning: versioning.inspect_err(unknown).unwrap_or(Versioning::Unknown),
        }
    }

    /// Why a HEAD without a body in its answer was refused: a GET has one. None when the GET was answered otherwise, so
    /// that the HEAD is worth another try: where the reason was this host's clock, the SDK has put it right by then.
    async fn reason_of(&self, key: &Key, refused: &Error) -> Option<Error> {
        let reason = self.store.get(key, None, ByteRange::new(0, 1)).await.err()?;
        (reason.code.is_some() && reason.status == refused.status).then_some(reason)
    }

    /// What a denial means. To credentials that may list only below a prefix, S3 answers 403 for an object that is not
    /// there ("HeadObject", S3 API reference); a listing of the key, which they may ask for, tells the two apart. The
    /// key is the first of those that begin with it.
    async fn or_absent(&self, key: &Key, error: Error) -> Error {
        if error.kind != (Kind::AccessDenied { kms: false }) {
            return error;
        }
        let prefix = key.as_str();
        let one = ListRequest { prefix, delimiter: false, start_after: None, continuation: None, entries_max: 1 };
        match self.list(&one).await {
            Ok(page) if page.objects.first().is_none_or(|first| first.key != prefix) => {
                self.failure(Kind::NotFound, Operation::HeadObject, key).because("there is no such object").into()
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
