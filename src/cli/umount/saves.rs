//! The wait for closed files that are still to be stored, as far as the mount tells of them.

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;

use super::error::{UmountError, names};
use super::place::Place;
use super::watch::Watched;
use crate::cli::say;
use crate::daemon::{REPORT_ATTRIBUTE, RETRY_ATTRIBUTE, UnsavedReport};
use dssefs_s3::escaping::{shown, shown_value};

/// How long nothing may become of the files that are not stored, after each of them was tried again.
const SAVES_STALL: Duration = Duration::from_secs(5);
/// The same while they are being tried: a store that does not answer is given up by each request only after its own
/// time.
const SAVES_SILENCE: Duration = Duration::from_secs(60);
/// How often is asked what is not stored.
const SAVES_POLL: Duration = Duration::from_millis(500);
/// How long another user's mount is waited for in all: it could claim progress without end.
const SAVES_OF_OTHERS: Duration = Duration::from_mins(10);
/// How often the full list is printed, and that the daemon has still not ended.
pub(super) const TOLD_EVERY: Duration = Duration::from_secs(3);
/// How long the file system may take for one attribute. A daemon answers these from memory, also when its store is
/// dead.
const ATTRIBUTE_WITHIN: Duration = Duration::from_secs(20);
/// What an attribute has at most, in bytes (xattr(7)).
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
/// The attribute of a mount's root that names the daemon.
const PID_ATTRIBUTE: &str = "user.dsse.mount.pid";

/// Files may be closed and still on their way to the store, or have been refused by it. All are tried once more, and
/// waited for as long as something becomes of them. Then what the journal keeps need not keep the mount; anything else
/// does, unless it is to be given up. If the daemon dies meanwhile, its last report is all that is known.
pub(super) fn wait_for_saves(place: &Place, force: bool, watched: Watched) -> Result<Known, UmountError> {
    let (mut progress, mut last) = (None::<Progress>, None);
    let end = (!place.mounter().is_own()).then(|| Instant::now() + SAVES_OF_OTHERS);
    loop {
        let report = match report(place, force, watched)? {
            Known::Report(report) => report,
            other => return Ok(last.map_or(other, Known::Report)),
        };
        if report.closed == 0 {
            return Ok(Known::Report(report));
        }
        let progress = progress.get_or_insert_with(|| {
            // Without another try the wait is for the tries that the mount makes by itself.
            let _ = try_again(place, watched);
            Progress::begin()
        });
        if progress.note(&report) && end.is_none_or(|end| Instant::now() < end) {
            last = Some(report);
            sleep(SAVES_POLL);
            continue;
        }
        return match report.open {
            0 if force || report.kept == report.closed => Ok(Known::Report(report)),
            0 => Err(UmountError::Unsaved { path: place.path().to_owned(), report }),
            _ => Err(UmountError::Busy(place.path().to_owned())),
        };
    }
}

/// What is known of the changes of a mount that are not stored.
pub(super) enum Known {
    /// The last report of its daemon.
    Report(Box<UnsavedReport>),
    /// Its daemon is gone, and has reported nothing.
    Dead,
    /// Its daemon does not tell this user, and the mount is to be unmounted in spite of that: why it does not.
    Hidden(String),
}

/// How far the files of a mount have come.
struct Progress {
    fewest: u64,
    bytes_sent: u64,
    /// When either became better.
    last: Instant,
    /// The number printed last, and when the full list was printed.
    told: u64,
    told_in_full: Instant,
}

impl Progress {
    fn begin() -> Progress {
        let now = Instant::now();
        Progress { fewest: u64::MAX, bytes_sent: 0, last: now, told: 0, told_in_full: now }
    }

    /// Tells of it, and whether it is worth while to wait on.
    fn note(&mut self, report: &UnsavedReport) -> bool {
        self.tell(report);
        let now = Instant::now();
        if report.closed < self.fewest || report.bytes_sent > self.bytes_sent {
            *self =
                Progress { fewest: report.closed.min(self.fewest), bytes_sent: report.bytes_sent, last: now, ..*self };
        }
        let limit = if report.trying { SAVES_SILENCE } else { SAVES_STALL };
        now.duration_since(self.last) < limit
    }

    fn tell(&mut self, report: &UnsavedReport) {
        let in_full = self.told_in_full.elapsed() >= TOLD_EVERY;
        if !in_full && self.told == report.closed {
            return;
        }
        self.told = report.closed;
        match report.closed {
            1 => say("1 file is still to be stored"),
            many => say(&format!("{many} files are still to be stored")),
        }
        if in_full {
            say(names(report).trim_end_matches('\n'));
            self.told_in_full = Instant::now();
        }
    }
}

/// What the daemon tells now. One that does not tell this user is an error without `force`.
fn report(place: &Place, force: bool, watched: Watched) -> Result<Known, UmountError> {
    let reason = match attribute(place, REPORT_ATTRIBUTE, watched)? {
        Ok(value) => match serde_json::from_slice(&value) {
            Ok(report) => return Ok(Known::Report(report)),
            Err(error) => error.into(),
        },
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            say(&format!(
                "the daemon of {} has died; of what it had not stored, dssefs recover names what a journal keeps",
                shown(place.path())
            ));
            return Ok(Known::Dead);
        }
        Err(error) => error,
    };
    if force {
        Ok(Known::Hidden(format!("it does not tell this user: {}", shown_value(&reason))))
    } else {
        Err(UmountError::Hidden { path: place.path().to_owned(), reason })
    }
}

/// The process that the mount names as its daemon.
pub(super) fn named_process(place: &Place, watched: Watched) -> Option<i32> {
    let value = attribute(place, PID_ATTRIBUTE, watched).ok()?.ok()?;
    str::from_utf8(&value).ok()?.parse().ok()
}

/// An attribute of the mount's root, asked for with the rights of the user who mounted.
fn attribute(place: &Place, name: &str, watched: Watched) -> Result<io::Result<Vec<u8>>, UmountError> {
    let root = place.root()?;
    watched.step(ATTRIBUTE_WITHIN, "asked for an attribute");
    Ok(place.mounter().run(|| {
        let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
        let length = getxattr(&root, name, &mut value)?;
        value.truncate(length);
        Ok(value)
    }))
}

fn try_again(place: &Place, watched: Watched) -> Result<io::Result<()>, UmountError> {
    let root = place.root()?;
    watched.step(ATTRIBUTE_WITHIN, "asked to try again");
    Ok(place.mounter().run(|| Ok(setxattr(&root, RETRY_ATTRIBUTE, &[], XattrFlags::empty())?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(closed: u64, bytes_sent: u64, trying: bool) -> Box<UnsavedReport> {
        Box::new(UnsavedReport { closed, bytes_sent, trying, ..UnsavedReport::default() })
    }

    #[test]
    fn fewer_files_and_more_bytes_are_progress_and_nothing_else_is() {
        let begun = || {
            let mut progress = Progress::begin();
            assert!(progress.note(&report(2, 10, false)));
            progress.last = Instant::now().checked_sub(SAVES_STALL).expect("the clock has run for so long");
            progress
        };
        assert!(begun().note(&report(1, 10, false)));
        assert!(begun().note(&report(2, 11, false)));
        assert!(begun().note(&report(2, 10, true)), "they are being tried");
        assert!(!begun().note(&report(2, 10, false)));
        assert!(!begun().note(&report(3, 10, false)));
    }
}
