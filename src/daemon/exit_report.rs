//! Reports what became of unsaved changes at the end of a mount to the process that unmounts it.
//!
//! That process is not the daemon's parent, so it does not learn the exit code. It creates a file in the spill
//! directory, where both may write. The daemon notes two things there: that the kernel let go of the mount and it
//! saves, and then how the saving ended. The process that created the file reads and removes it. A daemon that finds no
//! file writes none, so nothing is left behind. The file has numbers and no names: names must not rest on the disk in
//! clear.
//!
//! Root may create the file for the daemon of another user. The path then comes from that user, who may change at any
//! moment what it leads to. So the directory is opened once, with the user's rights; its owner is checked on the
//! descriptor; and everything is done relative to that.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fstat, open, openat, unlinkat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Identity;

/// How much of the file is read, in bytes.
const BYTES_MAX: usize = 200;

/// The line by which the daemon says that it saves.
const SAVING: &str = "saving";

/// The bits of a mode that let other users make and remove files.
const OTHERS_WRITE: u32 = 0o022;

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// Files that the store does not have and the journal keeps.
    pub kept: u64,
    /// Files whose changes are lost.
    pub lost: u64,
}

/// The file in which a daemon reports how it ended. It is removed when this value is dropped.
#[derive(Debug)]
pub struct ReportFile {
    directory: OwnedFd,
    name: String,
    file: File,
    /// The directory's owner.
    owner: Identity,
}

fn name_of(pid: u32) -> String {
    format!("ended-{pid}")
}

/// Notes in the file of this process, if there is one, that the kernel let go of the mount. From here on the daemon
/// only saves.
pub(super) fn report_saving(directory: &Path) {
    append(directory, SAVING);
}

fn append(directory: &Path, line: &str) {
    let path = directory.join(name_of(std::process::id()));
    let file = OpenOptions::new().append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    match file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(%error, "the process that unmounts cannot be told how the saving ended; this log says it");
        }
        _ => {}
    }
}

impl ExitReport {
    /// Writes the report into the file of this process, if another process has created one.
    pub(super) fn write(self, directory: &Path) {
        append(directory, &format!("{{\"kept\":{},\"lost\":{}}}", self.kept, self.lost));
    }
}

impl ReportFile {
    /// Creates the file for the daemon `pid` of the user `mounter`, whose spill directory is `directory`. The file of
    /// an earlier process of that number is replaced.
    ///
    /// # Errors
    /// The directory is missing. It does not belong to the mounter (only root's daemon may have another user's). Other
    /// users may write to it, or its owner may not.
    pub fn create(directory: &Path, pid: u32, mounter: Identity) -> io::Result<ReportFile> {
        let is_own = mounter.is_own();
        let directory = mounter.run(|| open_directory(directory, is_own))?;
        let owner = owner_of(&directory, mounter)?;
        let name = name_of(pid);
        let file = owner.run(|| {
            match unlinkat(&directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            let flags =
                OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            Ok(File::from(openat(&directory, &name, flags, Mode::RUSR | Mode::WUSR)?))
        })?;
        Ok(ReportFile { directory, name, file, owner })
    }

    /// What the daemon has reported, once it has ended; None: it ended without a report.
    #[must_use]
    pub fn read(&self) -> Option<ExitReport> {
        self.text().lines().rev().find_map(|line| serde_json::from_str(line).ok())
    }

    /// Whether the daemon has said that the kernel let go of the mount and that it saves the rest.
    #[must_use]
    pub fn is_saving(&self) -> bool {
        self.text().lines().any(|line| line == SAVING)
    }

    fn text(&self) -> String {
        let mut text = [0; BYTES_MAX];
        let length = self.file.read_at(&mut text, 0).unwrap_or_default();
        String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned()
    }
}

/// A link in the last place is followed only for a mounter who is this user: another user could change it.
fn open_directory(path: &Path, is_own: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, if is_own { flags } else { flags | OFlags::NOFOLLOW }, Mode::empty())?)
}

/// Whose rights the file is created with: those of the directory's owner, who is the mounter. The daemon of root may
/// have been given another user's directory. That user could make root write elsewhere, so root becomes that user
/// first.
fn owner_of(directory: &OwnedFd, mounter: Identity) -> io::Result<Identity> {
    let found = fstat(directory)?;
    if found.st_uid != mounter.user && mounter.user != 0 {
        let why =
            format!("the spill directory belongs to user {}, and the mount to user {}", found.st_uid, mounter.user);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    if found.st_mode & OTHERS_WRITE != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "other users may write to the spill directory"));
    }
    let group = if found.st_uid == mounter.user { mounter.group } else { found.st_gid };
    Ok(Identity { user: found.st_uid, group })
}

impl Drop for ReportFile {
    fn drop(&mut self) {
        // A file that stays harms no one: the next process of that number replaces it.
        let _ = self.owner.run(|| Ok(unlinkat(&self.directory, &self.name, AtFlags::empty())?));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

    use rustix::process::{getegid, geteuid};

    use super::*;

    fn own() -> Identity {
        Identity { user: geteuid().as_raw(), group: getegid().as_raw() }
    }

    fn entries(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn a_daemon_fills_a_report_file_and_creates_none() {
        let directory = tempfile::tempdir().unwrap();
        let report = ExitReport { kept: 2, lost: 1 };
        report_saving(directory.path());
        report.write(directory.path());
        assert_eq!(entries(directory.path()), 0);
        std::fs::write(directory.path().join(name_of(std::process::id())), "of an earlier process").unwrap();
        let file = ReportFile::create(directory.path(), std::process::id(), own()).unwrap();
        assert_eq!((file.read(), file.is_saving()), (None, false), "it has not ended");
        report_saving(directory.path());
        assert_eq!((file.read(), file.is_saving()), (None, true), "it has not ended");
        report.write(directory.path());
        assert_eq!(file.read(), Some(report));
        drop(file);
        assert_eq!(entries(directory.path()), 0);
    }

    #[test]
    fn a_report_file_stays_in_the_directory_that_was_opened() {
        let place = tempfile::tempdir().unwrap();
        let [spill, moved, victim] = ["spill", "moved", "victim"].map(|name| place.path().join(name));
        [&spill, &victim].iter().for_each(|path| std::fs::create_dir(path).unwrap());
        let kept = victim.join(name_of(7));
        let file = ReportFile::create(&spill, 7, own()).unwrap();
        std::fs::rename(&spill, &moved).unwrap();
        std::os::unix::fs::symlink(&victim, &spill).unwrap();
        std::fs::write(&kept, "kept").unwrap();
        drop(file);
        assert_eq!((entries(&moved), std::fs::read(&kept).unwrap()), (0, b"kept".to_vec()));
    }

    #[test]
    fn a_directory_that_others_may_write_to_gets_no_report_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(
            ReportFile::create(directory.path(), 7, own()).unwrap_err().to_string().contains("other users may write")
        );
        assert_eq!(entries(directory.path()), 0);
    }

    #[test]
    #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
    fn root_creates_a_report_file_for_a_user_as_that_user() {
        if !geteuid().is_root() {
            println!("skipped: only root can become another user");
            return;
        }
        let nobody = Identity { user: 65_534, group: 65_534 };
        let place = tempfile::tempdir().unwrap();
        let [spill, victim, link] = ["spill", "victim", "link"].map(|name| place.path().join(name));
        [&spill, &victim].iter().for_each(|path| std::fs::create_dir(path).unwrap());
        for path in [place.path(), &spill] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        std::os::unix::fs::symlink(&spill, &link).unwrap();
        let refused = |path: &Path| ReportFile::create(path, 7, nobody).unwrap_err();
        assert!(refused(&victim).to_string().contains("belongs to user 0"), "a directory of root");
        chown(&spill, Some(nobody.user), Some(nobody.group)).unwrap();
        assert_eq!(refused(&link).raw_os_error(), Some(libc::ENOTDIR), "a link");
        assert_eq!((entries(&victim), entries(&spill)), (0, 0));
        let file = ReportFile::create(&spill, 7, nobody).unwrap();
        let laid = spill.join(name_of(7)).metadata().unwrap();
        assert_eq!((laid.uid(), laid.gid(), laid.mode() & 0o7777), (nobody.user, nobody.group, 0o600));
        drop(file);
        // The daemon of root has a directory of a user: what root does there, it does as that user.
        let file = ReportFile::create(&spill, 7, Identity { user: 0, group: 0 }).unwrap();
        assert_eq!(spill.join(name_of(7)).metadata().unwrap().uid(), nobody.user);
        drop(file);
        assert_eq!(entries(&spill), 0);
    }
}
