//! Counts requests and body bytes by S3 operation, and KMS calls by action.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// A snapshot of what was counted since the start, or since the last reset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// By the name of the S3 operation, such as `PutObject`.
    pub s3: BTreeMap<String, OperationCount>,
    /// KMS calls that S3 made for its requests, by action, such as `GenerateDataKey`.
    pub kms_for_s3: BTreeMap<String, u64>,
    /// KMS calls that clients made themselves, by action.
    pub kms_direct: BTreeMap<String, u64>,
}

/// The counts of one S3 operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCount {
    /// Requests that arrived, with any result.
    pub requests: u64,
    /// Bytes of request bodies as they came over the wire, so with the framing of `aws-chunked`.
    pub body_bytes_in: u64,
    /// Bytes of answer bodies that were handed to the connection.
    pub body_bytes_out: u64,
}

impl Counters {
    /// The counts of one operation; all zero when it was never asked.
    #[must_use]
    pub fn operation(&self, name: &str) -> OperationCount {
        self.s3.get(name).copied().unwrap_or_default()
    }

    /// How many requests asked for the operation.
    #[must_use]
    pub fn requests(&self, name: &str) -> u64 {
        self.operation(name).requests
    }

    /// How many requests came in, over all S3 operations.
    #[must_use]
    pub fn all_requests(&self) -> u64 {
        self.s3.values().map(|count| count.requests).sum()
    }

    /// How many KMS calls S3 made, over all actions.
    #[must_use]
    pub fn all_kms_for_s3(&self) -> u64 {
        self.kms_for_s3.values().sum()
    }
}

/// The live counts of the S3 side.
///
/// Each request locks the map once, to find its meter. The meter itself is lock-free, because every frame of a body
/// updates it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    meters: Mutex<BTreeMap<&'static str, Arc<Meter>>>,
}

/// The counts of one operation while they grow.
#[derive(Debug, Default)]
pub(super) struct Meter {
    requests: AtomicU64,
    body_bytes_in: AtomicU64,
    body_bytes_out: AtomicU64,
}

impl Tally {
    /// Counts one request, and gives the meter for its bodies.
    pub(super) fn request(&self, operation: &'static str) -> Arc<Meter> {
        let mut meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        let meter = meters.entry(operation).or_default();
        meter.requests.fetch_add(1, Relaxed);
        Arc::clone(meter)
    }

    pub(super) fn snapshot(&self) -> BTreeMap<String, OperationCount> {
        let meters = self.meters.lock().unwrap_or_else(PoisonError::into_inner);
        meters.iter().map(|(name, meter)| ((*name).to_owned(), meter.count())).collect()
    }

    /// Starts from zero. Requests that are under way go on feeding the old meters, so they do not leak into the new
    /// counts.
    pub(super) fn reset(&self) {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Meter {
    pub(super) fn add_in(&self, bytes: usize) {
        self.body_bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn add_out(&self, bytes: usize) {
        self.body_bytes_out.fetch_add(bytes as u64, Relaxed);
    }

    fn count(&self) -> OperationCount {
        OperationCount {
            requests: self.requests.load(Relaxed),
            body_bytes_in: self.body_bytes_in.load(Relaxed),
            body_bytes_out: self.body_bytes_out.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_bytes_are_counted_by_operation() {
        let tally = Tally::default();
        tally.request("PutObject").add_in(7);
        tally.request("PutObject").add_in(5);
        tally.request("GetObject").add_out(3);
        let counters = Counters { s3: tally.snapshot(), ..Counters::default() };
        assert_eq!(
            counters.operation("PutObject"),
            OperationCount { requests: 2, body_bytes_in: 12, body_bytes_out: 0 }
        );
        assert_eq!(counters.operation("GetObject").body_bytes_out, 3);
        assert_eq!((counters.all_requests(), counters.requests("HeadObject")), (3, 0));
    }

    #[test]
    fn a_reset_forgets_requests_under_way() {
        let tally = Tally::default();
        let under_way = tally.request("GetObject");
        tally.reset();
        under_way.add_out(9);
        assert!(tally.snapshot().is_empty());
    }
}
