//! The operations of S3: the only code that calls those of the SDK.
//!
//! It translates answers into the types of `object` and `policy`. The gateway judges them.

mod account;
mod annotations;
mod bucket;
mod content_headers;
mod failure;
mod multipart;
mod read;
mod watch;
mod write;
mod xml;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_config::SdkConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::client::customize::CustomizableOperation;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use watch::StoreClock;

use super::bounds::extra_time;
use super::connect::Connection;
use super::error::{Error, Failure, Kind};
use super::kms_rate_limiter::{KmsRateLimiter, calls_kms};
use super::liveness::StoreLiveness;
use super::payload::{Broken, Outgoing, Payload};
use crate::object::{Bucket, ETag, Key, Version, VersionId};
use crate::policy::{Evidence, Facts, Observation};
use crate::s3::metrics::{Operation, StoreCounters};

pub(super) use failure::of_broken_body;
pub(super) use multipart::{PartAnswer, Whole};
pub(super) use read::Answer;
pub(super) use watch::{AnswerHeaders, AttemptLog};
pub(super) use write::{Answered, Deleted};

/// The most time that the size of a request can add to its limits.
const EXTRA_TIME_MAX: Duration = Duration::from_secs(300);
/// RFC 3986's unreserved characters and the slash stand for themselves in a copy source.
const COPY_SOURCE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Reads the encryption headers of an answer. Answers without a field for customer-provided keys pass None.
macro_rules! facts {
    ($answer:expr, $sse_c:expr, $context:expr) => {
        facts!($answer, $sse_c).with_context($context)
    };
    ($answer:expr, $sse_c:expr) => {
        crate::policy::Facts::from_headers(
            $answer.server_side_encryption().map(aws_sdk_s3::types::ServerSideEncryption::as_str),
            $answer.ssekms_key_id(),
            $answer.bucket_key_enabled(),
            $sse_c,
        )
    };
}
pub(in crate::s3::aws) use facts;

/// One bucket, as the SDK reaches it.
pub(super) struct Store {
    /// Asks for checksums, and verifies them if an answer has one.
    client: Client,
    /// The same without checksums: that of an object does not fit a range of it.
    ranged: Client,
    bucket: Bucket,
    counters: Arc<StoreCounters>,
    kms_limiter: Arc<KmsRateLimiter>,
    liveness: Arc<StoreLiveness>,
    clock: StoreClock,
    signs_bodies: bool,
    attempts_max: u32,
    attempt_timeout: Duration,
    operation_timeout: Duration,
}

impl Store {
    pub(super) fn new(config: &SdkConfig, connection: &Connection, bucket: Bucket) -> Store {
        let counters = Arc::new(StoreCounters::default());
        let kms_limiter = Arc::new(KmsRateLimiter::new(connection.kms_requests_per_second_max));
        let liveness = Arc::new(StoreLiveness::new());
        let clock = StoreClock::default();
        let watch = watch::Watch {
            counters: Arc::clone(&counters),
            kms_limiter: Arc::clone(&kms_limiter),
            liveness: Arc::clone(&liveness),
            clock: clock.clone(),
        };
        let mut builder = aws_sdk_s3::config::Builder::from(config)
            .force_path_style(connection.force_path_style || bucket.needs_path_style())
            .retry_partition(unrationed())
            .retry_classifier(watch::Refused)
            .interceptor(account::Account::of(connection))
            .interceptor(watch);
        if let Some(url) = &connection.endpoint_url {
            builder = builder.endpoint_url(url);
        }
        let ranged = builder.clone().response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        Store {
            client: Client::from_conf(
                builder.response_checksum_validation(ResponseChecksumValidation::WhenSupported).build(),
            ),
            ranged: Client::from_conf(ranged.build()),
            bucket,
            counters,
            kms_limiter,
            liveness,
            clock,
            signs_bodies: connection.signs_bodies(),
            attempts_max: connection.attempts_max,
            attempt_timeout: connection.attempt_timeout,
            operation_timeout: connection.operation_timeout,
        }
    }

    pub(super) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    pub(super) fn counters(&self) -> &Arc<StoreCounters> {
        &self.counters
    }

    pub(super) fn clock(&self) -> &StoreClock {
        &self.clock
    }

    /// The most attempts at a request, and the most time for all of them.
    pub(super) fn limits(&self) -> (u32, Duration) {
        (self.attempts_max, self.operation_timeout)
    }

    /// Counts a request, waits for the rate limiter and for the answer, and gives a failure its meaning.
    fn ask<T, E>(
        &self,
        operation: Operation,
        key: Option<&Key>,
        request: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> impl Future<Output = Result<T, Error>>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        self.counters.request(operation);
        // The SDK's futures are tens of kilobytes; on the heap they do not inflate those of every caller above.
        let request = Box::pin(request);
        async move {
            let failed = |failure: Failure| {
                StoreCounters::add(&self.counters.failures, 1);
                Error::from(failure)
            };
            let answer = async {
                if calls_kms(operation) && !self.kms_limiter.acquire(self.operation_timeout).await {
                    return Err(self.too_many(operation, key));
                }
                request.await.map_err(|error| failure::describe(error, operation, &self.bucket, key))
            };
            // A request that waits for the rate limiter must end with the mount as well.
            let outcome = tokio::select! {
                biased;
                answer = answer => answer,
                silence = self.liveness.wait_until_stalled() => Err(self.silent(operation, key, silence)),
            };
            outcome.map_err(failed)
        }
    }

    /// From now on a request fails once the store has neither answered nor taken a byte for `stop_timeout`.
    pub(super) fn start_deadline(&self, stop_timeout: Duration) {
        self.liveness.start_deadline(stop_timeout);
    }

    /// Returns when the store has been silent for too long.
    pub(super) async fn wait_until_stalled(&self) {
        self.liveness.wait_until_stalled().await;
    }

    fn too_many(&self, operation: Operation, key: Option<&Key>) -> Failure {
        let seconds = self.operation_timeout.as_secs();
        Failure::new(Kind::Throttled { kms: true }, operation, &self.bucket, key).because(format!(
            "more requests wait for KMS than --kms-requests-per-second lets through in {seconds} s; raise it, or send \
             fewer requests at once"
        ))
    }

    fn silent(&self, operation: Operation, key: Option<&Key>, silence: Duration) -> Failure {
        Failure::new(Kind::Unreachable, operation, &self.bucket, key)
            .because(format!("the mount is ending, and the store has not answered for {} s", silence.as_secs_f64()))
    }

    /// The body of a PutObject.
    fn outgoing_object(&self, operation: Operation, key: &Key, payload: &Arc<dyn Payload>) -> Result<Outgoing, Error> {
        Outgoing::whole(payload, self.signs_bodies, &self.liveness).map_err(|error| self.local(operation, key, error))
    }

    /// The body of a part.
    fn outgoing_part(&self, operation: Operation, key: &Key, payload: &Arc<dyn Payload>) -> Result<Outgoing, Error> {
        Outgoing::new(payload, self.signs_bodies, &self.liveness).map_err(|error| self.local(operation, key, error))
    }

    /// The cause, if the body broke on this host; the SDK knows only that it broke.
    fn blame(&self, error: Error, broken: &Broken) -> Error {
        match (broken.take(), &error.key) {
            (Some(reason), Some(key)) => self.local(error.operation, key, reason),
            _ => error,
        }
    }

    fn local(&self, operation: Operation, key: &Key, error: std::io::Error) -> Error {
        let failure = Failure::new(Kind::Local, operation, &self.bucket, Some(key));
        failure.because(error.to_string()).from_source(error).into()
    }

    fn protocol(&self, operation: Operation, key: Option<&Key>, message: impl Into<String>) -> Error {
        Failure::new(Kind::Protocol, operation, &self.bucket, key).because(message).into()
    }

    /// The version that an answer names.
    fn version(&self, operation: Operation, key: &Key, tag: Option<&str>, id: Option<&str>) -> Result<Version, Error> {
        let etag = tag.and_then(etag).ok_or_else(|| self.protocol(operation, Some(key), "the answer has no ETag"))?;
        Ok(Version { etag, id: id.and_then(version_id) })
    }

    /// `bucket/key?versionId=id`, escaped, as `x-amz-copy-source` takes it; access points have a form of their own
    /// (CopyObject, S3 API reference).
    fn copy_source(&self, key: &Key, version: &Version) -> String {
        let infix = if self.bucket.as_str().starts_with("arn:") { "/object/" } else { "/" };
        let path = format!("{}{infix}{key}", self.bucket);
        let path = utf8_percent_encode(&path, COPY_SOURCE);
        match &version.id {
            None => path.to_string(),
            Some(id) => format!("{path}?versionId={}", utf8_percent_encode(id.as_str(), NON_ALPHANUMERIC)),
        }
    }

    /// Gives a request that moves `bytes` enough time.
    fn patient<T, E, B>(&self, request: CustomizableOperation<T, E, B>, bytes: u64) -> CustomizableOperation<T, E, B> {
        let extra = extra_time(bytes, EXTRA_TIME_MAX);
        if extra.is_zero() {
            return request;
        }
        let limits = TimeoutConfig::builder()
            .operation_attempt_timeout(self.attempt_timeout + extra)
            .operation_timeout(self.operation_timeout + extra)
            .build();
        request.config_override(aws_sdk_s3::Config::builder().timeout_config(limits))
    }
}

/// The entity tag of an answer, unless it is empty.
fn etag(text: &str) -> Option<ETag> {
    (!text.trim_matches('"').is_empty()).then(|| ETag::new(text))
}

/// The version id of an answer. `null` does not name one version: in a bucket without versioning, or with suspended
/// versioning, the next write replaces it. There only the ETag distinguishes versions.
fn version_id(text: &str) -> Option<VersionId> {
    (!text.is_empty() && text != "null").then(|| VersionId::new(text))
}

/// Retries without a budget. The SDK's standard budget has 500 tokens; a retry takes 5, a success returns 1. One minute
/// of throttling uses it up on a busy mount, and then programs get EIO at the first refusal for a long time.
///
/// Here the number of attempts and the time of each operation limit retries. Their backoff has jitter, and those that
/// need KMS are rate-limited.
fn unrationed() -> RetryPartition {
    RetryPartition::custom("dssefs").token_bucket(TokenBucket::unlimited()).build()
}

fn observed(facts: Facts, evidence: Evidence, request_id: Option<&str>) -> Observation {
    Observation { facts, evidence, verified_at: SystemTime::now(), request_id: request_id.map(str::to_owned) }
}

/// A length as the SDK takes it. No object comes near the limit (48.8 TiB).
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
