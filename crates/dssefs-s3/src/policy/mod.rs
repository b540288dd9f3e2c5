//! The DSSE-KMS settings of a mount, and the one verdict on every answer of the store.
//!
//! Attributes, audit, doctor and the gateway all use [`Judge`], so they cannot disagree. This room does no
//! I/O. It uses no other room.

mod context;
mod judge;
mod key_arn;
mod verdict;

pub use context::{ContextError, EncryptionContext};
pub use judge::Judge;
pub use key_arn::{KeyArn, KeyArnError};
pub use verdict::{Algorithm, Evidence, Facts, Observation, Verdict};

/// The algorithm that the gateway asks for with every object: dual-layer server-side encryption with AWS KMS keys
/// ("Specifying dual-layer server-side encryption with AWS KMS keys", S3 User Guide).
pub const ALGORITHM: &str = "aws:kms:dsse";

/// What a mount asks of the store and expects of its answers. There is no way to ask for less than DSSE-KMS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The key that answers must name. None: the AWS managed key `aws/s3`, whose ARN the first answer to a write names
    /// (see [`Judge`]).
    pub key: Option<KeyArn>,
    /// The pairs that are bound to each data key in addition to the object's ARN; often empty.
    pub context: EncryptionContext,
}
