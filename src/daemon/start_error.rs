//! Why a mount did not start, or ended badly.

use std::io;
use std::path::Path;

use crate::config::{Config, Source};
use dssefs_fs::spill;
use dssefs_s3::kms;
use dssefs_s3::s3::{self, ConnectError, Kind};

/// By what a person can do about it. The text is one clear sentence or two.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub enum StartError {
    /// The bucket is not there.
    Bucket(String),
    /// Permission is missing.
    Access(String),
    /// The key is not usable.
    Key(String),
    /// The store does not answer, or there are no credentials for it.
    Unreachable(String),
    /// The store does not do DSSE-KMS, or does not keep the conditions of writes.
    Mismatch(String),
    /// The kernel's side.
    Fuse(String),
    /// At the end, changes were left that the store does not have.
    Unsaved(String),
    /// What was named is not there, cannot be used, or several things have the name.
    Argument(String),
    /// What was kept on the local disk is not as it was written.
    Damaged(String),
    /// The rest.
    Internal(String),
}

impl StartError {
    /// The same failure with another text, which `tell` makes of the present one.
    pub(super) fn reworded(mut self, tell: impl FnOnce(&str) -> String) -> StartError {
        let (StartError::Bucket(text)
        | StartError::Access(text)
        | StartError::Key(text)
        | StartError::Unreachable(text)
        | StartError::Mismatch(text)
        | StartError::Fuse(text)
        | StartError::Unsaved(text)
        | StartError::Argument(text)
        | StartError::Damaged(text)
        | StartError::Internal(text)) = &mut self;
        *text = tell(text);
        self
    }

    /// Sorts the failure of a request that the start depends on.
    pub(super) fn store(doing: &str, error: &s3::Error) -> StartError {
        let text = format!("{doing}: {}", error.advice());
        match error.kind {
            Kind::Configuration if is_insecure(error) => StartError::Argument(text),
            Kind::NoSuchBucket | Kind::NotFound => StartError::Bucket(text),
            Kind::AccessDenied { .. } | Kind::Archived => StartError::Access(text),
            Kind::KeyNotFound
            | Kind::KeyDisabled
            | Kind::KeyPendingDeletion
            | Kind::KeyMaterialExpired
            | Kind::KeyUnavailable
            | Kind::KeyUnusable => StartError::Key(text),
            Kind::Mismatch { .. } | Kind::Unsupported => StartError::Mismatch(text),
            Kind::Credentials
            | Kind::Throttled { .. }
            | Kind::Timeout
            | Kind::Unreachable
            | Kind::Unavailable
            | Kind::Configuration => StartError::Unreachable(text),
            Kind::NoSuchUpload
            | Kind::PreconditionFailed
            | Kind::Conflict
            | Kind::Integrity
            | Kind::TooLarge
            | Kind::Local
            | Kind::Protocol => StartError::Internal(text),
        }
    }

    /// The store would let one host silently undo what another stored.
    pub(super) fn conditions(source: &Source, how: &str) -> StartError {
        StartError::Mismatch(format!(
            "the store of {} does not keep the conditions of writes ({how}), so two hosts that change one file \
             would not hear of each other; use a store that does, \
             or mount with --last-writer-wins and let one host alone write",
            source
        ))
    }

    pub(super) fn fuse(config: &Config, error: &io::Error) -> StartError {
        let mountpoint = config.mountpoint.path.display();
        StartError::Fuse(match error.raw_os_error() {
            _ if !Path::new("/dev/fuse").exists() => {
                format!("{mountpoint} cannot be mounted: there is no /dev/fuse; load the module with `modprobe fuse`")
            }
            _ => format!(
                "{mountpoint} cannot be mounted: {error}; check that it is a directory of yours, \
                 that nothing is mounted there, and that /dev/fuse may be used \
                 (without root: fusermount3 of the package fuse3)"
            ),
        })
    }
}

/// Whether a request was refused on this side, as it would have gone in the clear.
fn is_insecure(error: &s3::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |error| error.source()).any(|error| error.is::<s3::InsecureEndpoint>())
}

impl From<ConnectError> for StartError {
    fn from(error: ConnectError) -> StartError {
        let text = error.to_string();
        match error {
            // What the caller has to write otherwise, and no network is about to change.
            ConnectError::Insecure(_)
            | ConnectError::Identity(_)
            | ConnectError::Proxy(_)
            | ConnectError::CaBundle { .. } => StartError::Argument(text),
            ConnectError::NoRegion | ConnectError::NoCredentials(_) | ConnectError::Tls(_) => {
                StartError::Unreachable(text)
            }
        }
    }
}

impl From<kms::Error> for StartError {
    fn from(error: kms::Error) -> StartError {
        let text = error.to_string();
        match error {
            kms::Error::NotFound { .. }
            | kms::Error::Disabled(_)
            | kms::Error::PendingDeletion(_)
            | kms::Error::NotReady { .. }
            | kms::Error::WrongUse { .. }
            | kms::Error::NotWrappedHere { .. } => StartError::Key(text),
            kms::Error::Denied { .. } | kms::Error::UseDenied { .. } => StartError::Access(text),
            kms::Error::NotSent { .. } => StartError::Argument(text),
            kms::Error::Throttled { .. } | kms::Error::Unavailable { .. } => StartError::Unreachable(text),
        }
    }
}

impl From<spill::Error> for StartError {
    fn from(error: spill::Error) -> StartError {
        let text = error.to_string();
        match error {
            spill::Error::Directory { .. }
            | spill::Error::NoSpace
            | spill::Error::MemoryTooSmall { .. }
            | spill::Error::Io(_) => StartError::Argument(text),
            _ => StartError::Internal(text),
        }
    }
}
