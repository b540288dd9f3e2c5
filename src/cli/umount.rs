//! `dssefs umount`.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::fs::{XattrFlags, getxattr, setxattr};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, geteuid, test_kill_process};

use super::complain;
use super::exit::Exit;
use crate::daemon::{LastWord, REPORT_ATTRIBUTE, RETRY_ATTRIBUTE, Slip, UnsavedReport};

/// The arguments of `dssefs umount`.
#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Unmount also when changes cannot be stored and no journal keeps them: they are lost then, unless the daemon's last try stores them
    #[arg(long)]
    force: bool,
    /// The directory that a bucket is mounted on
    #[arg(value_name = "DIR")]
    mountpoint: PathBuf,
}

/// Why a mount is still there, or what its end has left.
#[derive(Debug, thiserror::Error)]
enum UmountError {
    #[error("{} is in use; close its files and leave it (fuser -vm {} names who is there), then try again", .0.display(), .0.display())]
    Busy(PathBuf),
    #[error("{} is not a mount of dssefs; findmnt -t fuse,fuse.dssefs lists them", .0.display())]
    NotMounted(PathBuf),
    #[error("the list of mounts cannot be read: {0}")]
    Mounts(#[source] io::Error),
    #[error("fusermount3 is missing ({0}); install it with apt-get install fuse3")]
    HelperMissing(#[source] io::Error),
    #[error("{} cannot be unmounted: {reason}", path.display())]
    Refused { path: PathBuf, reason: String },
    #[error(
        "{} does not tell this user what is still to be stored ({reason}), and stays mounted; unmount it as the user who has mounted it, or \
         with --force, which may lose changes",
        path.display()
    )]
    Hidden { path: PathBuf, reason: io::Error },
    #[error(
        "{} stays mounted: {}, and no journal keeps them:\n{}mend what is told there and try again; with --force they are lost",
        path.display(), could_not(report.closed), names(report)
    )]
    Unsaved { path: PathBuf, report: Box<UnsavedReport> },
    #[error("{} is unmounted; {}", path.display(), fate(*word, report))]
    Ended { path: PathBuf, word: LastWord, report: Box<UnsavedReport> },
    #[error(
        "{} is unmounted; {} before that, and its daemon did not say what became of them:\n{}its log has more; what a journal keeps, \
         dssefs recover {} list names",
        path.display(), could_not(report.closed), names(report), report.spill_dir.display()
    )]
    Unknown { path: PathBuf, report: Box<UnsavedReport> },
    #[error("{} is unmounted, and its daemon did not say how it ended; see its log", .0.display())]
    Silent(PathBuf),
}

const POLL: Duration = Duration::from_millis(20);
/// How long nothing may become of the files that are not stored, after each of them was tried again.
const SAVES_STALL: Duration = Duration::from_secs(5);
/// The same while they are being tried: a store that does not answer is given up by each request only after its own time.
const SAVES_SILENCE: Duration = Duration::from_secs(60);
/// How often is asked what is not stored.
const SAVES_POLL: Duration = Duration::from_millis(500);
/// How often it is told in full, and that the daemon has still not ended.
const TOLD_EVERY: Duration = Duration::from_secs(3);
/// What an attribute has at most, in bytes (xattr(7)).
const ATTRIBUTE_BYTES_MAX: usize = 64 << 10;
/// The attribute of a mount's root that names the daemon.
const PID_ATTRIBUTE: &str = "user.dsse.mount.pid";

pub(super) fn run(arguments: &Arguments) -> Exit {
    match umount(&arguments.mountpoint, arguments.force) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(&error);
            exit_of(&error)
        }
    }
}

fn exit_of(error: &UmountError) -> Exit {
    match error {
        UmountError::NotMounted(_) => Exit::Usage,
        UmountError::Busy(_) => Exit::Busy,
        UmountError::Mounts(_) | UmountError::Silent(_) => Exit::Internal,
        UmountError::HelperMissing(_) | UmountError::Refused { .. } | UmountError::Hidden { .. } => Exit::Fuse,
        UmountError::Unsaved { .. } | UmountError::Ended { .. } | UmountError::Unknown { .. } => Exit::Unsaved,
    }
}

fn umount(given: &Path, force: bool) -> Result<(), UmountError> {
    let path = find(given)?;
    let daemon = daemon_of(&path);
    let report = wait_for_saves(&path, force)?;
    let slip = daemon.zip(report.as_ref()).and_then(|(pid, report)| lay_slip(pid, report));
    if geteuid().is_root() {
        by_system_call(&path)?;
    } else {
        by_helper(&path)?;
    }
    if let Some(pid) = daemon {
        wait_for_end(pid);
    }
    report.map_or(Ok(()), |report| verdict(path, report, slip.as_ref()))
}

/// What became of the last changes. That counts, and not what was unsaved before: the daemon tries everything once more at its end, and pages
/// that a mapping has changed may come to it only then.
fn verdict(path: PathBuf, report: Box<UnsavedReport>, slip: Option<&Slip>) -> Result<(), UmountError> {
    match slip.map(Slip::read) {
        Some(Some(LastWord { kept: 0, lost: 0 })) => Ok(()),
        Some(Some(word)) => Err(UmountError::Ended { path, word, report }),
        Some(None) | None if report.closed > 0 => Err(UmountError::Unknown { path, report }),
        Some(None) => Err(UmountError::Silent(path)),
        None => Ok(()),
    }
}

fn lay_slip(pid: Pid, report: &UnsavedReport) -> Option<Slip> {
    let pid = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    let laid = Slip::lay(&report.spill_dir, pid);
    laid.inspect_err(|error| eprintln!("how the daemon ends will be in its log alone: {error}")).ok()
}

fn could_not(count: u64) -> String {
    if count == 1 { "1 file could not be stored".to_owned() } else { format!("{count} files could not be stored") }
}

/// A line for each file that the report names.
fn names(report: &UnsavedReport) -> String {
    let mut lines = String::new();
    for file in &report.files {
        let why = file.error.as_deref().unwrap_or("on its way to the store");
        // Into a String that cannot fail.
        let _ = writeln!(lines, "  {}: {why}", file.key);
    }
    let unnamed = report.closed.saturating_sub(report.files.len() as u64);
    if unnamed > 0 {
        let _ = writeln!(lines, "  and {unnamed} more");
    }
    lines
}

fn fate(word: LastWord, report: &UnsavedReport) -> String {
    let (names, directory) = (names(report), report.spill_dir.display());
    let kept = format!("the next mount of its source sends them, and dssefs recover {directory} list names them");
    match word {
        LastWord { kept: count, lost: 0 } => {
            format!("{}, and the journal keeps them:\n{names}{kept}", could_not(count))
        }
        LastWord { kept: 0, lost } => {
            format!("{}, and their changes are lost:\n{names}the log of its daemon names all", could_not(lost))
        }
        LastWord { kept: count, lost } => format!(
            "{}, and the changes of {lost} of them are lost:\n{names}the log of its daemon says which; the journal keeps the others: {kept}",
            could_not(count + lost)
        ),
    }
}

/// The mount point as the kernel writes it. A dead mount cannot be resolved any more, but its parent can.
fn find(given: &Path) -> Result<PathBuf, UmountError> {
    let absolute = std::path::absolute(given).map_err(UmountError::Mounts)?;
    let resolved = match (absolute.parent().map(Path::canonicalize), absolute.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => absolute,
    };
    let resolved = resolved.canonicalize().unwrap_or(resolved);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(UmountError::Mounts)?;
    if is_mounted(&mounts, &resolved) { Ok(resolved) } else { Err(UmountError::NotMounted(given.to_owned())) }
}

/// Reads the format of proc_pid_mountinfo(5): the fifth field is the mount point; after the dash come type and source.
fn is_mounted(mountinfo: &str, path: &Path) -> bool {
    let ours = |line: &str| {
        let (fields, rest) = line.split_once(" - ")?;
        let mut rest = rest.split(' ');
        let (kind, source) = (rest.next()?, rest.next()?);
        Some(is_ours(kind, source) && Path::new(&unescape(fields.split(' ').nth(4)?)) == path)
    };
    mountinfo.lines().any(|line| ours(line) == Some(true))
}

/// fusermount3 adds the subtype to the type. mount(2), which root uses, leaves plain `fuse`, and the source tells.
fn is_ours(kind: &str, source: &str) -> bool {
    kind == "fuse.dssefs" || (kind == "fuse" && source.starts_with("s3://"))
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

fn by_system_call(path: &Path) -> Result<(), UmountError> {
    unmount(path, UnmountFlags::empty()).map_err(|errno| match errno {
        Errno::BUSY => UmountError::Busy(path.to_owned()),
        other => UmountError::Refused { path: path.to_owned(), reason: io::Error::from(other).to_string() },
    })
}

fn by_helper(path: &Path) -> Result<(), UmountError> {
    let output = Command::new("fusermount3").env("LC_ALL", "C").arg("-u").arg("--").arg(path).output();
    let output = output.map_err(UmountError::HelperMissing)?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(UmountError::Busy(path.to_owned())),
        false => Err(UmountError::Refused { path: path.to_owned(), reason: said }),
    }
}

/// Files may be closed and still on their way to the store, or have been refused by it. All are tried once more, and waited for as long as
/// something becomes of them. Then what the journal keeps need not keep the mount; anything else does, unless it is to be given up. Of a
/// daemon that dies meanwhile, what it told last is what is known.
fn wait_for_saves(path: &Path, force: bool) -> Result<Option<Box<UnsavedReport>>, UmountError> {
    let (mut progress, mut last) = (None::<Progress>, None);
    while let Some(report) = report(path, force)? {
        if report.closed == 0 {
            return Ok(Some(report));
        }
        let progress = progress.get_or_insert_with(|| {
            // Without another try the wait is for the tries that the mount makes by itself.
            let _ = setxattr(path, RETRY_ATTRIBUTE, &[], XattrFlags::empty());
            Progress::begin()
        });
        if progress.note(&report) {
            last = Some(report);
            sleep(SAVES_POLL);
            continue;
        }
        return match report.open {
            0 if force || report.kept == report.closed => Ok(Some(report)),
            0 => Err(UmountError::Unsaved { path: path.to_owned(), report }),
            _ => Err(UmountError::Busy(path.to_owned())),
        };
    }
    Ok(last)
}

/// How far the files of a mount have come.
struct Progress {
    fewest: u64,
    bytes_sent: u64,
    /// When either became better.
    last: Instant,
    /// What was told last, and when it was told in full.
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
            1 => eprintln!("1 file is still to be stored"),
            many => eprintln!("{many} files are still to be stored"),
        }
        if in_full {
            eprint!("{}", names(report));
            self.told_in_full = Instant::now();
        }
    }
}

/// None: there is no daemon any more, or it does not tell and nobody wants to know.
fn report(path: &Path, force: bool) -> Result<Option<Box<UnsavedReport>>, UmountError> {
    let mut value = vec![0; ATTRIBUTE_BYTES_MAX];
    let reason = match getxattr(path, REPORT_ATTRIBUTE, &mut value) {
        Ok(length) => match serde_json::from_slice(value.get(..length).unwrap_or_default()) {
            Ok(report) => return Ok(Some(report)),
            Err(error) => error.into(),
        },
        Err(Errno::NOTCONN) => {
            eprintln!(
                "the daemon of {} has died; of what it had not stored, dssefs recover names what a journal keeps",
                path.display()
            );
            return Ok(None);
        }
        Err(errno) => io::Error::from(errno),
    };
    if force { Ok(None) } else { Err(UmountError::Hidden { path: path.to_owned(), reason }) }
}

fn number<T: std::str::FromStr>(path: &Path, attribute: &str) -> Option<T> {
    let mut value = [0; 24];
    let length = getxattr(path, attribute, &mut value).ok()?;
    str::from_utf8(value.get(..length)?).ok()?.parse().ok()
}

/// The daemon's process, where the mount still answers and the process is what it says.
fn daemon_of(path: &Path) -> Option<Pid> {
    let pid: i32 = number(path, PID_ATTRIBUTE)?;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    (name.trim() == "dssefs").then(|| Pid::from_raw(pid)).flatten()
}

/// The daemon is not our child, so there is nothing to wait on but its disappearance. It bounds its own end by `--stop-timeout`.
fn wait_for_end(pid: Pid) {
    let mut told = Instant::now();
    while lives(pid) {
        if told.elapsed() >= TOLD_EVERY {
            eprintln!("unmounted; its daemon (process {}) is still saving changes", pid.as_raw_nonzero());
            told = Instant::now();
        }
        sleep(POLL);
    }
}

/// Whether a process has not ended yet. EPERM means that it has not. One that nobody has waited for keeps its number, as a zombie, and has:
/// that is a matter between it and its parent (proc_pid_stat(5), field 3, behind the name in parentheses).
fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
    test_kill_process(pid) != Err(Errno::SRCH) && state != Some('Z')
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:50 / /mnt/data rw,nosuid,nodev shared:5 - fuse.dssefs s3://data rw,user_id=0
41 22 0:51 / /mnt/my\\040data rw,nosuid - fuse.dssefs s3://data rw
42 22 0:52 / /mnt/other rw - fuse.sshfs host: rw
43 22 0:53 / /mnt/by-root rw,nosuid,nodev - fuse s3://data rw,user_id=0
44 22 0:54 / /mnt/foreign rw - fuse /dev/fuse rw
";

    #[test]
    fn only_mounts_of_dssefs_are_found() {
        assert!(is_mounted(MOUNTS, Path::new("/mnt/data")));
        assert!(is_mounted(MOUNTS, Path::new("/mnt/my data")));
        assert!(is_mounted(MOUNTS, Path::new("/mnt/by-root")));
        for path in ["/mnt/other", "/mnt/foreign", "/", "/mnt", "/mnt/data/x"] {
            assert!(!is_mounted(MOUNTS, Path::new(path)), "{path}");
        }
    }

    #[test]
    fn what_is_not_mounted_is_a_mistake_of_the_caller() {
        let error = umount(Path::new("/proc"), false).expect_err("not ours");
        assert!(matches!(error, UmountError::NotMounted(_)), "{error}");
        assert_eq!(exit_of(&error), Exit::Usage);
    }

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

    #[test]
    fn the_last_word_counts_and_silence_is_told() {
        let exit = |report, slip: Option<&Slip>| {
            verdict(PathBuf::from("/mnt"), report, slip).map_or_else(|error| exit_of(&error), |()| Exit::Ok)
        };
        let directory = tempfile::tempdir().unwrap();
        let slip = Slip::lay(directory.path(), 1).unwrap();
        assert_eq!(exit(report(0, 0, false), Some(&slip)), Exit::Internal);
        assert_eq!(exit(report(1, 0, false), Some(&slip)), Exit::Unsaved);
        assert_eq!((exit(report(1, 0, false), None), exit(report(0, 0, false), None)), (Exit::Unsaved, Exit::Ok));
        let said = fate(LastWord { kept: 1, lost: 2 }, &report(3, 0, false));
        assert!(said.starts_with("3 files could not be stored, and the changes of 2 of them are lost"), "{said}");
    }

    #[test]
    fn the_end_of_a_process_is_noticed() {
        let mut child = Command::new("sleep").arg("0.05").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let reaper = std::thread::spawn(move || child.wait());
        wait_for_end(pid);
        assert!(reaper.join().unwrap().unwrap().success());
    }

    #[test]
    fn a_process_that_its_parent_has_not_waited_for_has_ended() {
        let mut child = Command::new("true").spawn().unwrap();
        wait_for_end(Pid::from_child(&child));
        assert!(child.wait().unwrap().success());
    }
}
