//! The one place with errno names.

use crate::{journal, namespace, read, spill, write};
use dssefs_s3::object::NameError;
use dssefs_s3::s3::{self, Kind};

use super::Error;

/// The number of an error, as errno.h has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Which numbers key trouble gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ErrnoStyle {
    /// ENOKEY, EKEYREVOKED, EKEYEXPIRED and EKEYREJECTED tell the kinds of key trouble apart.
    #[default]
    Native,
    /// EACCES and EIO, for programs that do not know those.
    Posix,
}

impl Error {
    /// The number that the program sees.
    #[must_use]
    pub fn errno(&self, style: ErrnoStyle) -> Errno {
        let native = self.native();
        Errno(match style {
            ErrnoStyle::Native => native,
            ErrnoStyle::Posix => posix(native),
        })
    }

    /// Whether it tells of trouble that a person should hear of, and not of an ordinary answer such as "no such file".
    #[must_use]
    pub fn is_trouble(&self) -> bool {
        match self {
            Error::Store(error) => is_store_trouble(error),
            Error::Namespace(error) => match error {
                namespace::Error::Store(error) => is_store_trouble(error),
                namespace::Error::NoRandomness
                | namespace::Error::NoJournalKey(_)
                | namespace::Error::BeingRenamed
                | namespace::Error::TargetTaken
                | namespace::Error::MarkerHasContent { .. }
                | namespace::Error::NoRoomForNames { .. }
                | namespace::Error::EndlessListing { .. } => true,
                _ => false,
            },
            Error::Read(_) | Error::Write(_) | Error::Stale | Error::Noncompliant { .. } | Error::Panicked(_) => true,
            Error::Name(_)
            | Error::BadHandle
            | Error::NotOpenForWriting
            | Error::PastEnd
            | Error::NoAttribute
            | Error::ReadOnlyAttribute
            | Error::Unsupported(_)
            | Error::Invalid(_)
            // The log has one line for each user, written where the call is refused.
            | Error::TooManyOpen { .. }
            | Error::TooManyNames { .. }
            | Error::HardLink => false,

        }
    }

    /// Whether the store no longer has the version that was asked for.
    pub(super) fn is_of_a_version(&self) -> bool {
        let (Error::Store(error)
        | Error::Namespace(namespace::Error::Store(error))
        | Error::Read(read::Error::Store(error))) = self
        else {
            return false;
        };
        matches!(error.kind, Kind::NotFound | Kind::PreconditionFailed)
    }

    /// Whether the object is no longer the one that the changes were made to.
    #[must_use]
    pub(super) fn is_lost_race(&self) -> bool {
        matches!(self, Error::Write(error) if error.disposition().is_lost_race())
    }

    /// Whether trying the same again cannot help.
    #[must_use]
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Error::Write(error) if error.disposition().is_final())
    }

    /// What to do about it, where the error's own sentence does not say that.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        let remedy = self.store_error()?.remedy();
        (!remedy.is_empty()).then_some(remedy)
    }

    /// The error and its remedy, for texts that outlive the log line: `user.dsse.last-error` and the journal's reason.
    #[must_use]
    pub fn advice(&self) -> String {
        let said = self.to_string();
        match self.remedy() {
            Some(remedy) => format!("{}. {remedy}", said.trim_end_matches('.')),
            None => said,
        }
    }

    /// The answer of the store that is behind this error.
    fn store_error(&self) -> Option<&s3::Error> {
        match self {
            Error::Store(error)
            | Error::Namespace(namespace::Error::Store(error))
            | Error::Read(read::Error::Store(error)) => Some(error),
            Error::Write(error) => store_error_of_write(error),
            _ => None,
        }
    }

    fn native(&self) -> i32 {
        match self {
            Error::Store(error) => store(error.kind),
            Error::Namespace(error) => names(error),
            Error::Read(read::Error::Store(error)) => store(error.kind),
            Error::Read(read::Error::Length { .. }) => libc::ESTALE,
            Error::Write(error) => writing(error),
            Error::Name(error) => name(error),
            Error::BadHandle | Error::NotOpenForWriting => libc::EBADF,
            Error::Stale => libc::ESTALE,
            Error::Noncompliant { .. } => libc::EKEYREJECTED,
            Error::PastEnd => libc::ENXIO,
            Error::NoAttribute => libc::ENODATA,
            Error::ReadOnlyAttribute | Error::HardLink => libc::EPERM,
            Error::Unsupported(_) => libc::EOPNOTSUPP,
            Error::Invalid(_) => libc::EINVAL,
            Error::TooManyOpen { .. } => libc::EMFILE,
            Error::TooManyNames { .. } => libc::ENOMEM,
            Error::Panicked(_) => libc::EIO,
        }
    }
}

fn store_error_of_write(error: &write::Error) -> Option<&s3::Error> {
    match error {
        write::Error::Store(error) => Some(error),
        write::Error::Copy { error, .. } => store_error_of_write(error),
        _ => None,
    }
}

fn is_store_trouble(error: &s3::Error) -> bool {
    error.kind != Kind::NotFound
}

fn store(kind: Kind) -> i32 {
    match kind {
        Kind::KeyNotFound => libc::ENOKEY,
        Kind::KeyDisabled | Kind::KeyPendingDeletion => libc::EKEYREVOKED,
        Kind::KeyMaterialExpired => libc::EKEYEXPIRED,
        Kind::KeyUnusable | Kind::Mismatch { .. } => libc::EKEYREJECTED,
        Kind::AccessDenied { .. } | Kind::Credentials | Kind::Archived => libc::EACCES,
        Kind::NotFound => libc::ENOENT,
        Kind::PreconditionFailed => libc::ESTALE,
        Kind::Unsupported => libc::EOPNOTSUPP,
        Kind::Configuration => libc::EPROTO,
        Kind::TooLarge => libc::EFBIG,
        Kind::KeyUnavailable
        | Kind::NoSuchBucket
        | Kind::NoSuchUpload
        | Kind::Conflict
        | Kind::Throttled { .. }
        | Kind::Timeout
        | Kind::Unreachable
        | Kind::Unavailable
        | Kind::Integrity
        | Kind::Local
        | Kind::Protocol => libc::EIO,
    }
}

fn writing(error: &write::Error) -> i32 {
    match error {
        // The object that was to be replaced is gone: to the writer, that is a lost race.
        write::Error::Store(error) if error.kind == Kind::NotFound => libc::ESTALE,
        write::Error::Store(error) => store(error.kind),
        write::Error::Spill(error) => spilling(error),
        write::Error::Journal(journal::Error::NoSpace) => libc::ENOSPC,
        write::Error::Journal(_) | write::Error::Ledger { .. } => libc::EIO,
        // A program that changes the source of a copy has lost no race.
        write::Error::Copy { error, .. } => match writing(error) {
            libc::ESTALE => libc::EIO,
            other => other,
        },
        write::Error::TooLarge { .. } => libc::EFBIG,
        write::Error::Stalled { .. } | write::Error::InUpload => libc::ENOSPC,
        write::Error::Deleted | write::Error::NameLost | write::Error::SourceGone { .. } => libc::ESTALE,
        write::Error::PartsLost { .. }
        | write::Error::Incomplete { .. }
        | write::Error::GivenUp
        | write::Error::Abandoned
        | write::Error::ChangedWhileSent { .. } => libc::EIO,
    }
}

fn spilling(error: &spill::Error) -> i32 {
    match error {
        spill::Error::NoSpace => libc::ENOSPC,
        spill::Error::BeyondEnd => libc::EFBIG,
        spill::Error::TooLong { .. } | spill::Error::MemoryTooSmall { .. } => libc::EINVAL,
        spill::Error::Absent { .. }
        | spill::Error::Busy
        | spill::Error::Superseded { .. }
        | spill::Error::Tampered { .. }
        | spill::Error::Directory { .. }
        | spill::Error::Io(_)
        | spill::Error::Crypto(_) => libc::EIO,
    }
}

/// For programs that do not know the key errnos.
fn posix(native: i32) -> i32 {
    match native {
        libc::ENOKEY | libc::EKEYREVOKED | libc::EKEYEXPIRED | libc::EKEYREJECTED => libc::EACCES,
        libc::EPROTO => libc::EIO,
        other => other,
    }
}

fn names(error: &namespace::Error) -> i32 {
    match error {
        namespace::Error::NotFound => libc::ENOENT,
        namespace::Error::Exists => libc::EEXIST,
        namespace::Error::NotADirectory => libc::ENOTDIR,
        namespace::Error::IsADirectory => libc::EISDIR,
        namespace::Error::NotEmpty | namespace::Error::MarkerHasContent { .. } => libc::ENOTEMPTY,
        namespace::Error::Name(error) => name(error),
        namespace::Error::NotPermitted => libc::EPERM,
        namespace::Error::IntoItself => libc::EINVAL,
        // What a local disk answers to a rename that needs a copy, so that programs copy.
        namespace::Error::TooLargeToRename { .. } => libc::EXDEV,
        namespace::Error::Reserved => libc::EPERM,
        namespace::Error::BeingRenamed | namespace::Error::LeftBehind { .. } | namespace::Error::TargetTaken => {
            libc::EBUSY
        }
        namespace::Error::Overtaken
        | namespace::Error::NoRandomness
        | namespace::Error::NoJournalKey(_)
        | namespace::Error::EndlessListing { .. } => libc::EIO,
        namespace::Error::NoRoomForNames { .. } => libc::ENOMEM,
        namespace::Error::Stale => libc::ESTALE,
        namespace::Error::NotALink => libc::EINVAL,
        namespace::Error::TargetTooLong { .. } => libc::ENAMETOOLONG,
        namespace::Error::Xattr(error) => attribute(*error),
        namespace::Error::Store(error) => store(error.kind),
    }
}

/// As setxattr(2) and removexattr(2) have it.
fn attribute(error: namespace::xattr::Error) -> i32 {
    match error {
        namespace::xattr::Error::Exists => libc::EEXIST,
        namespace::xattr::Error::Absent => libc::ENODATA,
        namespace::xattr::Error::TooLarge => libc::E2BIG,
        namespace::xattr::Error::NoRoom => libc::ENOSPC,
    }
}

fn name(error: &NameError) -> i32 {
    match error {
        NameError::Invalid(_) => libc::EINVAL,
        NameError::NotUtf8 => libc::EILSEQ,
        NameError::TooLong(_) | NameError::PathTooLong(_) => libc::ENAMETOOLONG,
    }
}

#[cfg(test)]
mod tests {
    use dssefs_s3::object::{Bucket, Key};
    use dssefs_s3::policy::Verdict;
    use dssefs_s3::s3::{Failure, Operation};

    use super::*;

    #[test]
    fn a_rename_that_is_in_the_way_is_told_in_the_log_and_a_missing_name_is_not() {
        assert!(Error::from(namespace::Error::BeingRenamed).is_trouble());
        assert!(Error::from(namespace::Error::NoRandomness).is_trouble());
        assert!(!Error::from(namespace::Error::NotFound).is_trouble());
    }

    const PAGE: &str = include_str!("../../../../docs/SEMANTICS.md");

    const NUMBERS: [(&str, i32); 14] = [
        ("ENOKEY", libc::ENOKEY),
        ("EKEYREVOKED", libc::EKEYREVOKED),
        ("EKEYEXPIRED", libc::EKEYEXPIRED),
        ("EKEYREJECTED", libc::EKEYREJECTED),
        ("EACCES", libc::EACCES),
        ("ESTALE", libc::ESTALE),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
        ("ENOSPC", libc::ENOSPC),
        ("ENOMEM", libc::ENOMEM),
        ("EMFILE", libc::EMFILE),
        ("EIO", libc::EIO),
        ("EFBIG", libc::EFBIG),
        ("EPROTO", libc::EPROTO),
        ("EBUSY", libc::EBUSY),
    ];

    /// The numbers in each row of the table: native, and with `--errno posix`.
    fn documented() -> Vec<(i32, i32)> {
        let section = PAGE.split("\n## ").find(|section| section.starts_with("Error numbers\n")).unwrap();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
        let number = |name: &str| NUMBERS.iter().find(|(known, _)| *known == name).expect(name).1;
        let numbers = |row: &str| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [_, native, posix] = cells.as_slice() else { panic!("{row}") };
            (number(native), number(posix))
        };
        rows.skip(1).map(numbers).collect()
    }

    #[test]
    fn semantics_lists_every_errno() {
        let rows = documented();
        assert!(rows.len() > 10, "{rows:?}");
        for (native, old) in &rows {
            assert_eq!(posix(*native), *old, "{native}");
        }
        let (kms, verdict) = (true, Verdict::NotDsse);
        for kind in [
            Kind::KeyNotFound,
            Kind::KeyDisabled,
            Kind::KeyPendingDeletion,
            Kind::KeyMaterialExpired,
            Kind::KeyUnavailable,
            Kind::KeyUnusable,
            Kind::AccessDenied { kms },
            Kind::Credentials,
            Kind::NoSuchBucket,
            Kind::NoSuchUpload,
            Kind::PreconditionFailed,
            Kind::Conflict,
            Kind::Archived,
            Kind::Throttled { kms },
            Kind::Timeout,
            Kind::Unreachable,
            Kind::Unavailable,
            Kind::Integrity,
            Kind::Mismatch { verdict },
            Kind::Unsupported,
            Kind::Configuration,
            Kind::TooLarge,
            Kind::Local,
            Kind::Protocol,
        ] {
            assert!(rows.iter().any(|(native, _)| *native == store(kind)), "{kind:?}");
        }
        for (name, number) in NUMBERS {
            assert!(rows.iter().any(|row| row.0 == number), "no row has {name}");
        }
    }

    #[test]
    fn advice_adds_the_remedy_of_a_refused_request() {
        let (bucket, key) = (Bucket::new("tests").unwrap(), Key::new("file").unwrap());
        let refused = || s3::Error::from(Failure::new(Kind::KeyDisabled, Operation::PutObject, &bucket, Some(&key)));
        let copied = write::Error::Copy { key: "copy".to_owned(), error: Box::new(refused().into()) };
        for error in [refused().into(), write::Error::from(refused()).into(), Error::from(copied)] {
            assert_eq!(error.remedy(), Some("Enable the KMS key again (kms:EnableKey)."));
            assert_eq!(error.advice(), format!("{error}. Enable the KMS key again (kms:EnableKey)."));
        }
        assert_eq!((Error::Stale.remedy(), Error::Stale.advice()), (None, Error::Stale.to_string()));
    }

    #[test]
    fn want_of_room_is_told_from_a_store_that_is_silent_at_the_end_and_neither_is_final() {
        let number = |error: write::Error| {
            let error = Error::from(error);
            assert!(!error.is_final(), "{error}");
            error.errno(ErrnoStyle::Native).0
        };
        assert_eq!(number(write::Error::Stalled { seconds: 120 }), libc::ENOSPC);
        assert_eq!(number(write::Error::GivenUp), libc::EIO);
    }

    #[test]
    fn trouble_of_the_local_disk_with_one_file_is_not_the_end_for_another() {
        let key = "a".to_owned();
        for error in [
            write::Error::Journal(journal::Error::NoSpace),
            write::Error::Journal(journal::Error::Broken("gone".to_owned())),
            write::Error::Ledger { key, source: std::io::Error::from(std::io::ErrorKind::StorageFull) },
        ] {
            assert!(!Error::from(error).is_final());
        }
        assert!(Error::from(write::Error::Abandoned).is_final());
    }
}
