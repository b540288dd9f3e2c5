//! Observes each attempt at a request. The SDK's result shows only the last one.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use aws_sdk_s3::config::interceptors::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef, InterceptorContext,
};
use aws_sdk_s3::config::retry::{ClassifyRetry, RetryAction};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::orchestrator::{HttpResponse, Metadata};
use aws_smithy_runtime_api::client::retries::RequestAttempts;

use super::xml::element;
use crate::object::{ETag, VersionId};
use crate::policy::{Algorithm, Facts};
use crate::s3::bounds::Exceeded;
use crate::s3::classify::classify;
use crate::s3::connect::SentTwice;
use crate::s3::error::{Error, Kind};
use crate::s3::error_chain::caused_by;
use crate::s3::kms_rate_limiter::{KmsRateLimiter, calls_kms};
use crate::s3::liveness::StoreLiveness;
use crate::s3::metrics::{Operation, StoreCounters};

/// Counts retries and throttling, and informs the rate limiter, the liveness and the clock.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    pub(super) counters: Arc<StoreCounters>,
    pub(super) kms_limiter: Arc<KmsRateLimiter>,
    pub(super) liveness: Arc<StoreLiveness>,
    pub(super) clock: StoreClock,
}

#[dyn_dispatch_hint]
impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "dssefs-watch"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if settings.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1) {
            StoreCounters::add(&self.counters.retries, 1);
            if settings.load::<Metadata>().and_then(|asked| named(asked.name())).is_some_and(calls_kms) {
                self.kms_limiter.charge_retry();
            }
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(response) = context.response() else { return Ok(()) };
        self.liveness.answered();
        if let Some(time) = date(response) {
            self.clock.set(time);
        }
        if response.status().as_u16() == 503 {
            StoreCounters::add(&self.counters.throttled, 1);
        }
        let failed = !matches!(context.output_or_error(), Some(Ok(_)));
        if failed && meaning(response) == Some(Kind::Throttled { kms: true }) {
            StoreCounters::add(&self.counters.throttled_by_kms, 1);
            self.kms_limiter.throttled();
        }
        Ok(())
    }
}

/// Decides about retries where the SDK would decide otherwise.
///
/// Never retries an answer beyond its limits. Retries what the store has refused without carrying it out: content that
/// was damaged on its way, and errors within a 200 (CopyObject and CompleteMultipartUpload, S3 API reference).
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused;

impl ClassifyRetry for Refused {
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let error = context.output_or_error().and_then(|outcome| outcome.err());
        if error.is_some_and(|error| caused_by::<Exceeded>(error).is_some()) {
            // The next answer would be as long.
            return RetryAction::RetryForbidden;
        }
        let failed = error.is_some();
        match context.response().filter(|_| failed).and_then(meaning) {
            Some(Kind::Integrity | Kind::Unavailable) => RetryAction::transient_error(),
            Some(Kind::Throttled { .. }) => RetryAction::throttling_error(),
            _ => RetryAction::NoActionIndicated,
        }
    }

    fn name(&self) -> &'static str {
        "dssefs-refused"
    }
}

fn named(name: &str) -> Option<Operation> {
    Operation::ALL.into_iter().find(|operation| operation.to_string() == name)
}

/// What the body of an error means, if the SDK has kept it. The SDK has one error type for each operation; the XML is
/// the same for all ("Error responses", S3 API reference).
fn meaning(response: &HttpResponse) -> Option<Kind> {
    let text = std::str::from_utf8(response.body().bytes()?).ok()?;
    let (code, message) = (element(text, "Code"), element(text, "Message"));
    // The callers' questions do not depend on the operation.
    code.map(|code| classify(Operation::PutObject, response.status().as_u16(), Some(code), message))
}

/// The store's own time when it answered: `Date` (RFC 9110, 6.6.1), to the second.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreTime(Arc<OnceLock<SystemTime>>);

impl StoreTime {
    /// None before an answer, and from a store that sends no time.
    pub(super) fn first(&self) -> Option<SystemTime> {
        self.0.get().copied()
    }
}

#[dyn_dispatch_hint]
impl Intercept for StoreTime {
    fn name(&self) -> &'static str {
        "dssefs-store-time"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(time) = context.response().and_then(date) {
            // The first answer's time is the earliest, so an age computed from it is never too high.
            let _ = self.0.set(time);
        }
        Ok(())
    }
}

fn date(response: &HttpResponse) -> Option<SystemTime> {
    let text = response.headers().get("date")?;
    SystemTime::try_from(DateTime::from_str(text, DateTimeFormat::HttpDate).ok()?).ok()
}

/// The store's clock according to its newest answer. The clock of this host may be wrong.
#[derive(Clone, Debug, Default)]
pub(in crate::s3) struct StoreClock(Arc<Mutex<Option<(SystemTime, Instant)>>>);

impl StoreClock {
    fn set(&self, time: SystemTime) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// None before the first answer, and from a store that sends no time.
    pub(in crate::s3) fn now(&self) -> Option<SystemTime> {
        let newest = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        newest.and_then(|(time, at)| time.checked_add(at.elapsed()))
    }
}

/// The headers of a successful answer, whether or not the rest of the answer can be read.
#[derive(Clone, Debug)]
pub(in crate::s3) struct AnswerHeaders {
    pub(in crate::s3) facts: Facts,
    pub(in crate::s3) etag: Option<ETag>,
    pub(in crate::s3) id: Option<VersionId>,
    pub(in crate::s3) request_id: Option<String>,
}

impl AnswerHeaders {
    fn of(response: &HttpResponse) -> AnswerHeaders {
        let text = |name: &str| response.headers().get(name).filter(|text| !text.is_empty());
        let facts = Facts::from_headers(
            text("x-amz-server-side-encryption"),
            text("x-amz-server-side-encryption-aws-kms-key-id"),
            text("x-amz-server-side-encryption-bucket-key-enabled").map(|text| text == "true"),
            text("x-amz-server-side-encryption-customer-algorithm"),
        );
        AnswerHeaders {
            facts: facts.with_context(text("x-amz-server-side-encryption-context")),
            etag: text("etag").and_then(super::etag),
            id: text("x-amz-version-id").and_then(super::version_id),
            request_id: text("x-amz-request-id").map(str::to_owned),
        }
    }

    fn is_silent(&self) -> bool {
        self.facts.algorithm == Algorithm::None && self.facts.key_arn.is_none()
    }
}

/// What the SDK's result does not tell of the attempts at one write: whether the write may have been carried out
/// although it failed, and what the headers of successful answers said.
///
/// A write is ambiguous after an attempt that had no answer, or a server error other than a plain refusal (503), or
/// that went out twice. An answer of success whose rest cannot be read is an error to the SDK, but the object may be
/// there.
#[derive(Clone, Debug, Default)]
pub(in crate::s3) struct AttemptLog {
    ambiguous: Arc<AtomicBool>,
    headers: Arc<Mutex<Vec<AnswerHeaders>>>,
}

impl AttemptLog {
    /// Before another try: the headers of earlier answers are judged already.
    pub(in crate::s3) fn forget_headers(&self) {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(in crate::s3) fn is_ambiguous(&self) -> bool {
        self.ambiguous.load(Relaxed)
    }

    /// The headers of successful answers: at most one entry for each attempt, the earliest first.
    pub(in crate::s3) fn headers(&self) -> Vec<AnswerHeaders> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the final error into account. An attempt that ends by the time limit of the whole operation passes no
    /// interceptor.
    pub(super) fn note_failure(&self, error: &Error) {
        if matches!(error.kind, Kind::Timeout | Kind::Unreachable | Kind::Unavailable) {
            self.ambiguous.store(true, Relaxed);
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for AttemptLog {
    fn name(&self) -> &'static str {
        "dssefs-attempt-log"
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let failed = !matches!(context.output_or_error(), Some(Ok(_)));
        let refused = context.response().is_some_and(|response| {
            let status = response.status().as_u16();
            status == 503 || (300..500).contains(&status)
        });
        // What the first copy of the request did may be why the second one was refused.
        let twice = context.response().is_some_and(|response| response.extension::<SentTwice>().is_some());
        if failed && (twice || !refused) {
            self.ambiguous.store(true, Relaxed);
        }
        let succeeded = context.response().filter(|response| response.status().is_success());
        if let Some(headers) = succeeded.map(AnswerHeaders::of).filter(|headers| !headers.is_silent()) {
            self.headers.lock().unwrap_or_else(PoisonError::into_inner).push(headers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_types::body::SdkBody;

    use super::*;

    fn answer(body: &str) -> HttpResponse {
        HttpResponse::new(503.try_into().unwrap(), SdkBody::from(body))
    }

    #[test]
    fn the_limits_of_kms_and_of_s3_are_told_apart_by_the_words() {
        let slow = |words: &str| {
            format!("<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>{words}</Message></Error>")
        };
        let kms = slow("Please reduce your request rate for operations involving AWS KMS.");
        assert_eq!(meaning(&answer(&kms)), Some(Kind::Throttled { kms: true }));
        assert_eq!(meaning(&answer(&slow("Please reduce your request rate."))), Some(Kind::Throttled { kms: false }));
        assert_eq!(meaning(&answer("")), None);
        assert_eq!(meaning(&answer("<Error><Code>SlowDown")), None);
    }

    #[test]
    fn every_operation_is_found_by_the_name_that_the_sdk_gives_it() {
        assert!(Operation::ALL.into_iter().all(|operation| named(&operation.to_string()) == Some(operation)));
        assert_eq!(named("PutObjectAcl"), None);
    }
}
