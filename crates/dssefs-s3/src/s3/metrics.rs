//! Counters of the traffic with the store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// An operation of the S3 API, by the name that the API reference gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each variant is the name of a page of the S3 API reference")]
pub enum Operation {
    ListObjectsV2,
    HeadObject,
    GetObject,
    PutObject,
    CopyObject,
    DeleteObject,
    GetObjectTagging,
    ListObjectAnnotations,
    GetObjectAnnotation,
    PutObjectAnnotation,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListMultipartUploads,
    GetBucketEncryption,
    GetBucketVersioning,
}

impl Operation {
    /// Every operation, in the order of its counter.
    pub const ALL: [Operation; 18] = [
        Operation::ListObjectsV2,
        Operation::HeadObject,
        Operation::GetObject,
        Operation::PutObject,
        Operation::CopyObject,
        Operation::DeleteObject,
        Operation::GetObjectTagging,
        Operation::ListObjectAnnotations,
        Operation::GetObjectAnnotation,
        Operation::PutObjectAnnotation,
        Operation::CreateMultipartUpload,
        Operation::UploadPart,
        Operation::UploadPartCopy,
        Operation::CompleteMultipartUpload,
        Operation::AbortMultipartUpload,
        Operation::ListMultipartUploads,
        Operation::GetBucketEncryption,
        Operation::GetBucketVersioning,
    ];

    /// Whether it is about annotations.
    pub(super) fn is_of_annotations(self) -> bool {
        matches!(
            self,
            Operation::ListObjectAnnotations | Operation::GetObjectAnnotation | Operation::PutObjectAnnotation
        )
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The counters of one mount's traffic with the store.
#[derive(Debug, Default)]
pub(super) struct StoreCounters {
    requests: [AtomicU64; Operation::ALL.len()],
    /// Requests that ended in an error, after all retries.
    pub failures: AtomicU64,
    /// Attempts beyond the first of their request.
    pub retries: AtomicU64,
    /// Attempts that the store answered with 503 (its own or KMS's rate limit).
    pub throttled: AtomicU64,
    /// Attempts that were refused because of KMS's rate limit, and not of S3's.
    pub throttled_by_kms: AtomicU64,
    /// Answers refused because they did not prove DSSE-KMS under the expected key.
    pub mismatches: AtomicU64,
    /// Bytes of object content that the store took.
    pub bytes_sent: AtomicU64,
    /// Bytes of object content that the store gave.
    pub bytes_received: AtomicU64,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct StoreSnapshot {
    /// Requests by the operation's name; retries are not counted again, and operations that were never used are left
    /// out.
    pub requests: BTreeMap<String, u64>,
    /// Requests that ended in an error, after all retries.
    pub failures: u64,
    /// Attempts beyond the first of their request.
    pub retries: u64,
    /// Attempts that the store answered with 503 (its own or KMS's rate limit).
    pub throttled: u64,
    /// Attempts that were refused because of KMS's rate limit, and not of S3's.
    pub throttled_by_kms: u64,
    /// Answers refused because they did not prove DSSE-KMS under the expected key.
    pub mismatches: u64,
    /// Bytes of object content that the store took.
    pub bytes_sent: u64,
    /// Bytes of object content that the store gave.
    pub bytes_received: u64,
}

impl StoreCounters {
    /// Counts one request.
    pub(super) fn request(&self, operation: Operation) {
        self.requests[operation as usize].fetch_add(1, Relaxed);
    }

    /// Adds to one of the counters.
    pub(super) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    /// What has been counted so far. Counters that change meanwhile may be read before or after their change.
    #[must_use]
    pub(super) fn snapshot(&self) -> StoreSnapshot {
        let requests = Operation::ALL
            .iter()
            .map(|&operation| (operation.to_string(), self.requests[operation as usize].load(Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect();
        StoreSnapshot {
            requests,
            failures: self.failures.load(Relaxed),
            retries: self.retries.load(Relaxed),
            throttled: self.throttled.load(Relaxed),
            throttled_by_kms: self.throttled_by_kms.load(Relaxed),
            mismatches: self.mismatches.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            bytes_received: self.bytes_received.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_its_own_counter() {
        let counters = StoreCounters::default();
        for (index, operation) in Operation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
            counters.request(operation);
        }
        assert_eq!(counters.snapshot().requests.len(), Operation::ALL.len());
        assert!(counters.snapshot().requests.values().all(|&count| count == 1));
    }

    #[test]
    fn a_snapshot_shows_what_was_counted_and_nothing_else() {
        let counters = StoreCounters::default();
        counters.request(Operation::PutObject);
        counters.request(Operation::PutObject);
        StoreCounters::add(&counters.bytes_sent, 7);
        let snapshot = counters.snapshot();
        assert_eq!(snapshot.requests, BTreeMap::from([("PutObject".to_owned(), 2)]));
        assert_eq!((snapshot.bytes_sent, snapshot.bytes_received), (7, 0));
    }
}
