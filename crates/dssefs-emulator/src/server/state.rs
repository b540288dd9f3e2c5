//! What all requests to one endpoint share.

use std::sync::Arc;

use super::super::counters::{Counters, Tally};
use super::super::faults::Faults;
use super::super::kms::signature::Credentials;
use super::super::kms::{Caller, Kms};

/// The keys, the faults and the counters of one endpoint, and the credentials that it accepts.
pub(crate) struct State {
    pub(super) credentials: Credentials,
    /// Where it listens.
    pub(super) port: u16,
    pub(super) region: String,
    pub(crate) kms: Arc<Kms>,
    pub(crate) faults: Faults,
    pub(super) tally: Tally,
}

impl State {
    pub(crate) fn counters(&self) -> Counters {
        let (kms_for_s3, kms_direct) = (self.kms.calls(Caller::S3), self.kms.calls(Caller::Client));
        Counters { s3: self.tally.snapshot(), kms_for_s3, kms_direct }
    }

    pub(crate) fn reset_counters(&self) {
        self.tally.reset();
        self.kms.reset_call_log();
    }
}
