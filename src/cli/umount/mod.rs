//! `dssefs umount`.
//!
//! Root may unmount what another user has mounted, also a file system of that user's own making. Its answers are
//! believed no further than that user could go: they name a process and a directory, which must be that user's, and
//! root works there with that user's rights.

mod end;
mod error;
mod holders;
mod place;
mod process;
mod saves;
mod watch;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::exit::Exit;
use super::{say, sentence};
use crate::daemon::{ExitReport, ReportFile, UnsavedReport};
use dssefs_s3::escaping::{shown, shown_value};

use end::{End, wait_for_end};
use error::UmountError;
use place::Place;
use process::Process;
use saves::{Known, named_process, wait_for_saves};
use watch::{Watched, supervise};

/// The arguments of `dssefs umount`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Unmount also when changes cannot be stored and no journal keeps them: they are lost then, unless the daemon's
    /// last try stores them
    #[arg(long)]
    force: bool,
    /// This process is the one that unmounts (see `watch`)
    #[arg(long, hide = true)]
    watched: bool,
    /// The directory that a bucket is mounted on
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
}

/// How long the way to the mount point may take.
const FIND_WITHIN: Duration = Duration::from_secs(20);
/// How long the spill directory may take.
const SPILL_DIR_WITHIN: Duration = Duration::from_secs(20);
/// How long the kernel may take for the unmount: pages that a mapping has changed go to the daemon in it.
const UNMOUNT_WITHIN: Duration = Duration::from_mins(30);
/// The same of another user's mount.
const UNMOUNT_OF_OTHERS_WITHIN: Duration = Duration::from_mins(1);

pub(super) fn run(arguments: &Arguments) -> Exit {
    if !arguments.watched {
        return supervise(arguments);
    }
    match umount(&arguments.mountpoint, arguments.force, Watched::begin()) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain_in_lines(&error);
            Exit::from(&error)
        }
    }
}

/// Prints an error whose sentence has lines of its own. Foreign text is escaped in it already.
fn complain_in_lines(error: &UmountError) {
    let lines: Vec<String> = sentence(error).split('\n').map(shown).collect();
    say(&lines.join("\n"));
}

fn umount(given: &Path, force: bool, watched: Watched) -> Result<(), UmountError> {
    // 1. Find the mount and its daemon, and wait until the daemon has saved what it can.
    watched.step(FIND_WITHIN, "looked up");
    let mut place = Place::find(given)?;
    let daemon = find_daemon(&place, watched);
    let (report, hidden) = match wait_for_saves(&place, force, watched)? {
        Known::Report(report) => (Some(report), None),
        Known::Dead => (None, None),
        Known::Hidden(reason) => (None, Some(reason)),
    };
    // 2. Make the file for the daemon's exit report, and unmount.
    let file = match (&daemon, &report) {
        (Ok(daemon), Some(report)) => create_report_file(&place, daemon, report, watched),
        (Err(reason), Some(_)) => Err(reason.clone()),
        // It does not tell, and that was not to keep it; or it has died.
        (_, None) => Err(String::new()),
    };
    let is_own = place.mounter().is_own();
    watched.step(if is_own { UNMOUNT_WITHIN } else { UNMOUNT_OF_OTHERS_WITHIN }, "unmounted");
    place.unmount()?;
    // 3. Wait for the end of the daemon.
    let path = place.path().to_owned();
    if let Ok(daemon) = daemon {
        let pid = daemon.pid();
        match wait_for_end(&daemon, file.as_ref().ok(), place.info(), is_own, watched) {
            End::Ended => {}
            End::Held(holders) => {
                return Err(UmountError::Held { path, pid, holders, report: report.unwrap_or_default() });
            }
            End::Slow(waited) => {
                let (waited_s, report) = (waited.as_secs(), report.unwrap_or_default());
                return Err(UmountError::Slow { path, pid, waited_s, report });
            }
        }
    }
    // 4. Read how it ended.
    watched.step(SPILL_DIR_WITHIN, "asked how it ended");
    match (report, hidden) {
        (Some(report), _) => verdict(path, report, file.as_ref().map_err(String::as_str)),
        (None, Some(reason)) => Err(UmountError::Silent { path, reason: Some(reason) }),
        (None, None) => Ok(()),
    }
}

/// The daemon's process, where the mount still answers and the process is what it says; otherwise why not.
fn find_daemon(place: &Place, watched: Watched) -> Result<Process, String> {
    let pid = named_process(place, watched).ok_or_else(|| "it does not name its process".to_owned())?;
    Process::of_mounter(pid, place.mounter()).map_err(|error| error.to_string())
}

fn create_report_file(
    place: &Place,
    daemon: &Process,
    report: &UnsavedReport,
    watched: Watched,
) -> Result<ReportFile, String> {
    watched.step(SPILL_DIR_WITHIN, "asked for its spill directory");
    let pid = u32::try_from(daemon.pid()).map_err(|error| error.to_string())?;
    let file = ReportFile::create(&report.spill_dir, pid, place.mounter());
    file.map_err(|error| {
        say(&format!("how the daemon ends will be in its log alone: {}", shown_value(&error)));
        error.to_string()
    })
}

/// What became of the last changes. That counts, and not what was unsaved before: the daemon tries everything once more
/// at its end, and pages that a mapping has changed may come to it only then.
fn verdict(path: PathBuf, report: Box<UnsavedReport>, file: Result<&ReportFile, &str>) -> Result<(), UmountError> {
    match file.map(ReportFile::read) {
        Ok(Some(ExitReport { kept: 0, lost: 0 })) => Ok(()),
        Ok(Some(end)) => Err(UmountError::Ended { path, end, report }),
        Ok(None) | Err(_) if report.closed > 0 => Err(UmountError::Unknown { path, report }),
        Ok(None) => Err(UmountError::Silent { path, reason: None }),
        Err(reason) => Err(UmountError::Silent { path, reason: Some(reason.to_owned()) }),
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{getegid, geteuid};

    use super::error::fate;
    use super::*;
    use crate::daemon::Identity;

    #[test]
    fn what_is_not_mounted_is_a_mistake_of_the_caller() {
        let error = umount(Path::new("/proc"), false, Watched::unwatched()).expect_err("not ours");
        assert!(matches!(error, UmountError::NotMounted(_)), "{error}");
        assert_eq!(Exit::from(&error), Exit::Usage);
    }

    fn report(closed: u64) -> Box<UnsavedReport> {
        Box::new(UnsavedReport { closed, ..UnsavedReport::default() })
    }

    #[test]
    fn the_exit_report_decides_and_a_missing_one_is_no_success() {
        let exit = |report, file: Result<&ReportFile, &str>| {
            verdict(PathBuf::from("/mnt"), report, file).map_or_else(|error| Exit::from(&error), |()| Exit::Ok)
        };
        let directory = tempfile::tempdir().unwrap();
        let own = Identity { user: geteuid().as_raw(), group: getegid().as_raw() };
        let file = ReportFile::create(directory.path(), 1, own).unwrap();
        assert_eq!(exit(report(0), Ok(&file)), Exit::Internal);
        assert_eq!(exit(report(1), Ok(&file)), Exit::Unsaved);
        assert_eq!((exit(report(1), Err("full")), exit(report(0), Err("full"))), (Exit::Unsaved, Exit::Internal));
        let said = fate(ExitReport { kept: 1, lost: 2 }, &report(3));
        assert!(said.starts_with("3 files could not be stored, and the changes of 2 of them are lost"), "{said}");
    }
}
