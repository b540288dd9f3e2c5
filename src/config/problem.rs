//! What can be wrong with options, all of it at once.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::EndpointError;
use super::source::SourceError;
use super::units::{DurationError, ModeError, SizeError};
use dssefs_fs::namespace::ContentTypeError;
use dssefs_s3::object::Bucket;
use dssefs_s3::policy::{ContextError, KeyArnError};

/// One thing that is wrong, as a sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// `BUCKET[/PREFIX]`.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// `--content-type`.
    #[error("--content-type is none: {0}")]
    ContentType(#[from] ContentTypeError),
    /// The mount point cannot be looked at.
    #[error("{path} cannot be a mount point ({error}); make the directory first, for example with mkdir -p")]
    MountpointMissing {
        /// As given.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A daemon died and left its mount behind.
    #[error(
        "{what} ({kind}) is still mounted at {path}, and its daemon is gone; \
         remove it first with `dssefs umount {path}`"
    )]
    MountpointDead {
        /// As given.
        path: PathBuf,
        /// The type of the mount.
        kind: String,
        /// What is mounted.
        what: String,
    },
    /// Another mount, which this one would hide.
    #[error(
        "{what} ({kind}) is mounted at {path} already, and this mount would hide it; \
         name another directory, or unmount it first with `{remedy} {path}`"
    )]
    MountpointTaken {
        /// As given.
        path: PathBuf,
        /// The type of the mount.
        kind: String,
        /// What is mounted.
        what: String,
        /// The command that unmounts it.
        remedy: &'static str,
    },
    /// The mount would wait for itself, or hide its spill.
    #[error(
        "the spill directory {spill} and the mount point {mountpoint} are one directory, or one is inside the other; \
         give another with \
         --spill-dir"
    )]
    SpillMeetsMountpoint {
        /// Without links.
        spill: PathBuf,
        /// Without links.
        mountpoint: PathBuf,
    },
    /// The mount would hide its log, or write it into itself.
    #[error("the log {log} is inside the mount point {mountpoint}; name another file with --log-file")]
    LogInMountpoint {
        /// Without links.
        log: PathBuf,
        /// Without links.
        mountpoint: PathBuf,
    },
    /// A file.
    #[error("{0} is not a directory; name an existing directory as mount point")]
    MountpointNotADirectory(PathBuf),
    /// An endpoint, with the flag that names it.
    #[error("{flag}: {error}")]
    Endpoint {
        /// `--endpoint-url` or `--kms-endpoint-url`.
        flag: &'static str,
        /// What is wrong with it.
        #[source]
        error: EndpointError,
    },
    /// A name of a bucket that can be no name of a host.
    #[error(
        "{0} is a name of an old bucket or of a store that is not AWS; \
         give --endpoint-url, or --force-path-style for an old bucket in AWS"
    )]
    PathStyle(Bucket),
    /// A KMS key, with the flag that names it.
    #[error("{flag}: {error}, or like an id, alias/NAME or the ARN of an alias, which KMS resolves")]
    Key {
        /// `--kms-key-id` or `--spill-kms-key-id`.
        flag: &'static str,
        /// What is wrong with it.
        #[source]
        error: KeyArnError,
    },
    /// The number of an AWS account, with the flag that names it.
    #[error("{flag}: {text:?} is no AWS account; give its 12 digits")]
    Account {
        /// `--expected-bucket-owner`.
        flag: &'static str,
        /// As given.
        text: String,
    },
    /// `--encryption-context`.
    #[error("--encryption-context: {0}")]
    Context(#[from] ContextError),
    /// An option that was given and is empty: often a variable of a script that was not set.
    #[error("{0} is empty; give a value or leave the option out")]
    Empty(&'static str),
    /// What makes sense only where the spill outlives the process.
    #[error("{0} needs --spill-keys kms; add it, or leave the option out")]
    NeedsKmsSpill(&'static str),
    /// No KMS key for the spill.
    #[error(
        "--spill-keys kms needs a KMS key of your own, because aws/s3 makes no data keys; \
         give --spill-kms-key-id or --kms-key-id"
    )]
    NoSpillKey,
    /// There are two layers.
    #[error("--spill-kms-key-id was given {0} times, and the spill has two layers; give it once or twice")]
    TooManySpillKeys(usize),
    /// Neither HOME nor `XDG_STATE_HOME`.
    #[error("there is no home directory to keep the spill in; give --spill-dir")]
    SpillDirUnknown,
    /// `--file-mode` or `--dir-mode`.
    #[error("{flag}: {error}")]
    Mode {
        /// Which of them.
        flag: &'static str,
        /// What is wrong with it.
        #[source]
        error: ModeError,
    },
    /// A duration, with the flag that names it.
    #[error("{flag}: {error}")]
    Duration {
        /// Which one.
        flag: &'static str,
        /// What is wrong with it.
        #[source]
        error: DurationError,
    },
    /// A duration that nothing could be done in.
    #[error("{flag} is too short; give it at least {least:?}")]
    TooShort {
        /// Which one.
        flag: &'static str,
        /// The shortest that is of use.
        least: Duration,
    },
    /// `--memory` or `--spill`.
    #[error("{flag}: {error}")]
    Size {
        /// Which of them.
        flag: &'static str,
        /// What is wrong with it.
        #[source]
        error: SizeError,
    },
    /// A budget that nothing could be done with.
    #[error("{flag} is {bytes} bytes, and at least {bytes_min} are needed; give it more")]
    BudgetTooSmall {
        /// `--memory` or `--spill`.
        flag: &'static str,
        /// As given.
        bytes: u64,
        /// The least that works.
        bytes_min: u64,
    },
    /// A relative path, and the directory it is relative to is gone.
    #[error("{path} cannot be made an absolute path ({error}); give an absolute path")]
    Path {
        /// As given.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Everything that is wrong; never empty.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.0.iter();
        if let Some(first) = lines.next() {
            write!(f, "{first}")?;
        }
        lines.try_for_each(|problem| write!(f, "\n{problem}"))
    }
}

impl std::error::Error for Problems {}
