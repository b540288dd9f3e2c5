//! The way to the store: each write asks for DSSE-KMS, and each answer is judged.
//!
//! Everything goes through the [`Gateway`]. It asks for DSSE-KMS on each request that creates an object, holds every
//! answer against the mount's policy, and hands out a [`Verified`] receipt only for answers that prove what was asked.
//! It never sends encryption headers on GET or HEAD (S3 answers 400), never asks for a bucket key (DSSE-KMS has none),
//! never reports a stored object that was not judged, and never returns fewer bytes than it announced without an error.
//!
//! A rate limiter (`kms_rate_limiter`) slows down requests that cost a KMS call, because all programs of the account
//! share the quota. When the mount ends, the gateway gives up a store that does not answer any more (`liveness`).
//!
//! A lost answer of a write is noticed in `aws/watch` (`AttemptLog`) and resolved in `gateway/ambiguous`. What cannot
//! be resolved at once goes to the caller as an [`AmbiguousWrite`]; pauses before retries are a [`Backoff`].
//!
//! What it does not do: cache, plan parts, or decide on errno values.
//!
//! A file on the local disk (`ledger`) lists the uploads under way and the objects that are held for open files
//! (`gateway/held`), so that the next process can end those of a crashed one.
//!
//! The HTTP client limits how much a server may answer and how long content may take (`bounds`).
//!
//! Only `aws` calls the operations of the SDK. `connect` sets the SDK up: credentials, proxies, and what never goes in
//! the clear. `connect::credentials` reads the credentials again when their files change. This room may use `object`,
//! `policy` and `crypto` (for random names).

mod ambiguous_write;
mod aws;
mod backoff;
mod bounds;
mod classify;
mod connect;
mod error;
mod error_chain;
mod gateway;
mod kms_rate_limiter;
mod ledger;
mod liveness;
mod metrics;
mod payload;
mod request;

pub use ambiguous_write::AmbiguousWrite;
pub use aws_config::SdkConfig;
pub use backoff::{Backoff, Jitter};
pub use connect::{
    AccessKey, ConnectError, Connection, IdentityError, InsecureEndpoint, ProxyError, load, load_as, named_by,
    profile_files, without_reuse,
};
pub use error::{Error, FailedWrite, Failure, Kind};
pub use gateway::{
    BodyRetries, Conditions, ConflictRetries, Download, Gateway, KeptAnnotations, Leftovers, OtherCopy, Unfinished,
    Upload, Verified, held_prefix,
};
pub use metrics::{Operation, StoreSnapshot};
pub use payload::{Checksum, Payload, TARGET_BYTES_MAX, WithSha1};
pub use request::{
    BucketFacts, CONTENT_HEADERS, Condition, Head, LastWriterWins, ListPage, ListRequest, Listed, NewObject, Part,
    Removal, Source, Stored, UNKNOWN_TYPE, Versioning,
};
