//! Who may have written a journal. The daemon makes and keeps the keys; here they only have names.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use dssefs_s3::object::Prefix;
use dssefs_seal::crypto::MacKey;

/// What a journal says of its key. An attacker may have written it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum KeyName {
    /// A data key of KMS.
    Kms {
        /// The ARN of the KMS key that wraps it.
        arn: String,
        /// The data key in wrapped form, in base64.
        wrapped: String,
    },
    /// A key that one host keeps in a spill directory.
    Host {
        /// What follows from the key, and the key does not follow from.
        id: String,
    },
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum NoKey {
    /// A key that dssefs has not made.
    #[error("no mount of this source made its key: {0}")]
    Forged(String),
    /// It may be right, but this mount can never find out.
    #[error("this mount cannot prove who wrote it: {0}")]
    Elsewhere(String),
    /// It may be right, and this mount can find out later.
    #[error("its key is not available at the moment: {0}")]
    Unavailable(String),
}

/// The key of a mount, with the name that its journals give it.
pub type OwnKey = (KeyName, Arc<MacKey>);

/// Gives the keys of journals.
pub trait Authenticator: Send + Sync + fmt::Debug {
    /// The key under which this mount writes its journals, made at the first call.
    ///
    /// # Errors
    /// A sentence that says why there is none.
    fn own(&self) -> BoxFuture<'_, Result<OwnKey, String>>;

    /// The key that the mount of `root` has named `name`.
    ///
    /// # Errors
    /// [`NoKey`].
    fn find<'a>(&'a self, name: &'a KeyName, root: &'a Prefix) -> BoxFuture<'a, Result<Arc<MacKey>, NoKey>>;
}
