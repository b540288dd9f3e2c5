//! What happens between the attempts at a request, which the SDK's results do not tell.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use aws_sdk_s3::config::interceptors::{BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint;
use aws_smithy_runtime_api::client::retries::RequestAttempts;

use crate::metrics::StoreCounters;
use crate::s3::error::{Error, Kind};

/// Counts retries and rate limits.
#[derive(Debug)]
pub(super) struct Watch(Arc<StoreCounters>);

impl Watch {
    pub(super) fn new(counters: &Arc<StoreCounters>) -> Watch {
        Watch(Arc::clone(counters))
    }
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
            StoreCounters::add(&self.0.retries, 1);
        }
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.response().is_some_and(|response| response.status().as_u16() == 503) {
            StoreCounters::add(&self.0.throttled, 1);
        }
        Ok(())
    }
}

/// The store's own time when it answered: `Date` (RFC 9110, 6.6.1), to the second.
#[derive(Clone, Debug, Default)]
pub(super) struct StoreTime(Arc<OnceLock<SystemTime>>);

impl StoreTime {
    /// None before an answer, and from a store that does not tell.
    pub(super) fn told(&self) -> Option<SystemTime> {
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
        let date = context.response().and_then(|response| response.headers().get("date"));
        let date = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let Some(time) = date.and_then(|date| SystemTime::try_from(date).ok()) {
            // The first answer's time is the earliest, so an age computed from it is never too high.
            let _ = self.0.set(time);
        }
        Ok(())
    }
}

/// Whether some attempt at a write ended so that the write may have happened all the same: without an answer, or with an error
/// of the server that is not a plain refusal (503).
#[derive(Clone, Debug, Default)]
pub(in crate::s3) struct Doubt(Arc<AtomicBool>);

impl Doubt {
    pub(in crate::s3) fn is_raised(&self) -> bool {
        self.0.load(Relaxed)
    }

    /// The last attempt counts too, and one that the time limit of the whole operation cut off is not seen from inside.
    pub(super) fn weigh(&self, error: &Error) {
        if matches!(error.kind, Kind::Timeout | Kind::Unreachable | Kind::Unavailable) {
            self.0.store(true, Relaxed);
        }
    }
}

#[dyn_dispatch_hint]
impl Intercept for Doubt {
    fn name(&self) -> &'static str {
        "dssefs-doubt"
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
        if failed && !refused {
            self.0.store(true, Relaxed);
        }
        Ok(())
    }
}
