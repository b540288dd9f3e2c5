//! The way to the store: S3's verbs, each write asked for as DSSE-KMS and each answer judged.
//!
//! Everything goes through the [`Gateway`]. It asks for DSSE-KMS on each request that creates an object, holds every
//! answer against the mount's policy, and hands out a [`Verified`] receipt only for answers that prove what was asked.
//! It never sends encryption headers on GET or HEAD (S3 answers 400), never asks for a bucket key (DSSE-KMS has none),
//! never reports a stored object that was not judged, and never returns fewer bytes than it announced without an error.
//!
//! Requests that cost a KMS call keep a pace (`kms_rate_limiter`), since the quota is shared with everybody else in the account.
//! When the mount ends, a store that gives no sign of life any more (`liveness`) is given up.
//!
//! What it does not do: cache, plan parts, or decide on errno values.
//!
//! Uploads under way are noted in a file of the local disk (`ledger`), so that those of a crashed process can be ended.
//!
//! What a server may answer at most, and how long content may take, is decided in the HTTP client (`bounds`).
//!
//! The operations of the SDK are called in `aws` alone; `connect` sets the SDK up (as whom, by which way, what never
//! goes in the clear), and `credentials` finds the caller's again when they were renewed. This room may use `object`,
//! and `policy`.

mod ambiguous_write;
mod aws;
mod backoff;
mod bounds;
mod classify;
mod connect;
mod credentials;
mod error;
mod error_chain;
mod gateway;
mod kms_rate_limiter;
mod ledger;
mod liveness;
mod metrics;
mod payload;
mod request;

pub use ambiguous_write::{AmbiguousWrite, Content};
pub use aws_config::SdkConfig;
pub use backoff::{Backoff, Jitter};
pub use connect::{
    AccessKey, ConnectError, Connection, IdentityError, InsecureEndpoint, ProxyError, load, load_as, without_reuse,
};
pub use credentials::{named_by, profile_files};
pub use error::{Error, FailedWrite, Failure, Kind};
pub use gateway::{BodyRetries, Conditions, Download, Gateway, OtherCopy, Unfinished, Upload, Verified};
pub use metrics::{Operation, StoreSnapshot};
pub use payload::{Checksum, Payload, WithSha1};
pub use request::{
    BucketFacts, CONTENT_HEADERS, Condition, Head, ListPage, ListRequest, Listed, NewObject, Part, Source, Stored,
    Versioning,
};
