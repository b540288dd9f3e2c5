//! Why a mount is still there, or what its end has left, in sentences.

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use super::holders::Holder;
use crate::cli::exit::Exit;
use crate::daemon::{ExitReport, UnsavedReport};
use dssefs_s3::escaping::{shown, shown_value};

/// Files that a message names. The daemon names no more; another user's file system could.
const NAMED_MAX: usize = 10;
/// Holders that a message names.
const HOLDERS_MAX: usize = 10;

/// Why a mount is still there, or what its end has left. Foreign text is escaped, line breaks are the program's own.
#[derive(Debug, thiserror::Error)]
pub(super) enum UmountError {
    #[error(
        "{path} is in use; close its files and leave it (fuser -vm {path} names the processes), then try again",
        path = shown(.0)
    )]
    Busy(PathBuf),
    #[error("{} is not a mount of dssefs; findmnt -t fuse,fuse.dssefs lists them", shown(.0))]
    NotMounted(PathBuf),
    #[error("{} stays mounted: another mount is on top of the one that was asked for; unmount that first", shown(.0))]
    Replaced(PathBuf),
    #[error("the list of mounts cannot be read: {0}")]
    Mounts(#[source] io::Error),
    #[error("fusermount3 is missing ({0}); install it with apt-get install fuse3")]
    HelperMissing(#[source] io::Error),
    #[error("{} cannot be unmounted: {}", shown(path), shown(reason))]
    Refused { path: PathBuf, reason: String },
    #[error(
        "{} does not tell this user what is still to be stored ({}), and stays mounted; \
         unmount it as the user who has mounted it, or with --force, which may lose changes",
        shown(path),
        shown_value(reason)
    )]
    Hidden { path: PathBuf, reason: io::Error },
    #[error(
        "{} stays mounted: {}, and no journal keeps them:\n\
         {}repair what is named there and try again; with --force they are lost",
        shown(path), could_not(report.closed), names(report)
    )]
    Unsaved { path: PathBuf, report: Box<UnsavedReport> },
    #[error("{} is unmounted; {}", shown(path), fate(*end, report))]
    Ended { path: PathBuf, end: ExitReport, report: Box<UnsavedReport> },
    #[error(
        "{} is unmounted; {} before that, and its daemon did not say what became of them:\n\
         {}its log has more; dssefs recover {} list names what a journal keeps",
        shown(path), could_not(report.closed), names(report), shown(&report.spill_dir)
    )]
    Unknown { path: PathBuf, report: Box<UnsavedReport> },
    #[error(
        "{} is unmounted, and its daemon did not say how it ended{}; see its log",
        shown(path), because(reason.as_deref())
    )]
    Silent { path: PathBuf, reason: Option<String> },
    #[error("{} is unmounted here, but its daemon (process {pid}) lives on, {}", shown(path), held(holders, report))]
    Held { path: PathBuf, pid: i32, holders: Vec<Holder>, report: Box<UnsavedReport> },
    #[error(
        "{} is unmounted, and its daemon (process {pid}) has not ended within {waited_s} s; \
         {}wait for that process, its log says how it ends",
        shown(path),
        unsaved(report)
    )]
    Slow { path: PathBuf, pid: i32, waited_s: u64, report: Box<UnsavedReport> },
}

impl From<&UmountError> for Exit {
    fn from(error: &UmountError) -> Exit {
        match error {
            UmountError::NotMounted(_) => Exit::Usage,
            UmountError::Busy(_) => Exit::Busy,
            UmountError::Mounts(_) | UmountError::Silent { .. } => Exit::Internal,
            UmountError::HelperMissing(_)
            | UmountError::Refused { .. }
            | UmountError::Hidden { .. }
            | UmountError::Replaced(_) => Exit::Fuse,
            UmountError::Unsaved { .. } | UmountError::Ended { .. } | UmountError::Unknown { .. } => Exit::Unsaved,
            UmountError::Held { .. } | UmountError::Slow { .. } => Exit::Held,
        }
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({})", shown(reason))).unwrap_or_default()
}

fn held(holders: &[Holder], report: &UnsavedReport) -> String {
    let unsaved = unsaved(report);
    if holders.is_empty() {
        return format!(
            "and does not save yet: something that cannot be seen from here holds the file system, \
             such as a container, a process of another user, or a file opened through another mount; \
             {unsaved}end that, then the daemon saves and ends"
        );
    }
    let mut text = "because the file system is still mounted elsewhere:\n".to_owned();
    for holder in holders.iter().take(HOLDERS_MAX) {
        // Into a String that cannot fail.
        let _ = writeln!(text, "  {holder}");
    }
    if let Some(unnamed) = holders.len().checked_sub(HOLDERS_MAX).filter(|count| *count > 0) {
        let _ = writeln!(text, "  and {unnamed} more");
    }
    text + &unsaved + "unmount it there, or end these processes; then the daemon saves and ends"
}

/// What was unsaved when the daemon was asked last, as a sentence of its own.
fn unsaved(report: &UnsavedReport) -> String {
    match report.closed {
        0 => String::new(),
        count => format!("{} before that:\n{}", could_not(count), names(report)),
    }
}

pub(super) fn could_not(count: u64) -> String {
    if count == 1 { "1 file could not be stored".to_owned() } else { format!("{count} files could not be stored") }
}

/// A line for each file that the report names.
pub(super) fn names(report: &UnsavedReport) -> String {
    let mut lines = String::new();
    let files = report.files.iter().take(NAMED_MAX);
    let named = files.len() as u64;
    for file in files {
        let why = file.error.as_deref().unwrap_or("on its way to the store");
        let _ = writeln!(lines, "  {}: {}", shown(&file.key), shown(why));
    }
    let unnamed = report.closed.saturating_sub(named);
    if unnamed > 0 {
        let _ = writeln!(lines, "  and {unnamed} more");
    }
    lines
}

pub(super) fn fate(end: ExitReport, report: &UnsavedReport) -> String {
    let (names, directory) = (names(report), shown(&report.spill_dir));
    let kept = format!("the next mount of its source sends them, and dssefs recover {directory} list names them");
    match end {
        ExitReport { kept: count, lost: 0 } => {
            format!("{}, and the journal keeps them:\n{names}{kept}", could_not(count))
        }
        ExitReport { kept: 0, lost } => {
            format!("{}, and their changes are lost:\n{names}the log of its daemon names all", could_not(lost))
        }
        ExitReport { kept: count, lost } => format!(
            "{}, and the changes of {lost} of them are lost:\n\
             {names}the log of its daemon says which; the journal keeps the others: {kept}",
            could_not(count.saturating_add(lost))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::UnsavedFile;

    #[test]
    fn names_of_another_users_file_system_are_few_and_escaped() {
        let file = UnsavedFile { key: "a\n  b: stored\u{1b}[2J".into(), error: Some("no\r\u{202e}".into()) };
        let report = UnsavedReport { closed: u64::MAX, files: vec![file; 500], ..UnsavedReport::default() };
        let said = names(&report);
        assert_eq!(said.lines().count(), NAMED_MAX + 1);
        assert_eq!(said.lines().next(), Some("  a\\n  b: stored\\u{1b}[2J: no\\r\\u{202e}"));
        assert!(said.ends_with(&format!("  and {} more\n", u64::MAX - NAMED_MAX as u64)), "{said}");
        assert!(fate(ExitReport { kept: u64::MAX, lost: u64::MAX }, &report).starts_with(&could_not(u64::MAX)));
    }

    #[test]
    fn what_holds_a_file_system_is_named_and_what_cannot_be_seen_is_said() {
        let holders = vec![Holder::here("/b\n".into()), Holder::elsewhere(7, "sh\u{1b}".into(), "/c".into())];
        let said = |holders| {
            let report = Box::default();
            UmountError::Held { path: "/mnt".into(), pid: 1, holders, report }.to_string()
        };
        let named = said(holders);
        assert!(named.contains("\n  /b\\n\n") && named.contains("  /c of process 7 (sh\\u{1b})"), "{named}");
        assert!(said(Vec::new()).contains("cannot be seen from here"));
    }
}
