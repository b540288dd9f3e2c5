//! Opens the log's file: no other user can choose which file its name leads to, and no open waits.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fcntl_getfl, fcntl_setfl, fstat, openat, statat};
use rustix::process::geteuid;
use rustix::termios::isatty;

/// Everybody may make and rename files in a directory with this bit.
const EVERYBODY_WRITES: u32 = 0o002;
/// The device /dev/null (Linux's admin-guide/devices.txt).
const NULL_DEVICE: (u32, u32) = (1, 3);

/// Where the log is. The helper holds the directory open and follows no link in the last name. A user who may make
/// names in the directory could otherwise redirect the open by a link, or block it by a fifo without a reader.
#[derive(Debug)]
pub struct LogFile {
    directory: io::Result<OwnedFd>,
    name: OsString,
}

impl LogFile {
    /// Finds the directory of an absolute path. What is wrong with it the open tells.
    #[must_use]
    pub fn at(path: &Path) -> LogFile {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, path.parent().unwrap_or(path), flags, Mode::empty()).map_err(io::Error::from);
        LogFile { directory, name: path.file_name().unwrap_or_default().to_owned() }
    }

    /// Opens the file for appending, and makes it with mode 0600 where it is missing. Takes a regular file, a terminal
    /// and /dev/null. Never waits.
    ///
    /// # Errors
    /// It cannot be opened, is something else, or belongs to another user in a directory where everybody may make
    /// files.
    pub fn open(&self) -> io::Result<File> {
        let directory = self.directory.as_ref().map_err(|error| match error.raw_os_error() {
            Some(errno) => io::Error::from_raw_os_error(errno),
            None => io::Error::from(error.kind()),
        })?;
        // Before the open, which some devices take for a command.
        if let Ok(stat) = statat(directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            require_kind(&stat)?;
        }
        let how = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC;
        let safely = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = openat(directory, &self.name, how | safely, Mode::RUSR | Mode::WUSR)?;
        let stat = fstat(&file)?;
        require_kind(&stat)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => require_own(&fstat(directory)?, &stat)?,
            _ if !is_null(&stat) && !isatty(&file) => return Err(other("device")),
            _ => {}
        }
        // A terminal that is behind is waited for, by the log's thread.
        fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
        Ok(File::from(file))
    }
}

fn require_kind(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => Ok(()),
        FileType::Symlink => Err(other("symbolic link")),
        FileType::Fifo => Err(other("fifo")),
        FileType::Socket => Err(other("socket")),
        FileType::Directory => Err(other("directory")),
        FileType::BlockDevice | FileType::Unknown => Err(other("device")),
    }
}

fn other(kind: &str) -> io::Error {
    io::Error::other(format!("it is a {kind}, and the log is written to regular files only"))
}

fn is_null(stat: &Stat) -> bool {
    (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) == NULL_DEVICE
}

/// In a directory where everybody may make files, another user may have made the file to read the log. Or they gave a
/// second name to a file that is no log.
fn require_own(directory: &Stat, file: &Stat) -> io::Result<()> {
    let own = file.st_uid == geteuid().as_raw() && file.st_nlink == 1;
    if directory.st_mode & EVERYBODY_WRITES != 0 && !own {
        return Err(io::Error::other(
            "everybody may make files in its directory, and it belongs to another user or has a second name",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, hard_link, read, remove_file, rename, set_permissions};
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use rustix::fs::mkfifoat;

    use super::*;

    fn refusal(path: &Path) -> String {
        LogFile::at(path).open().unwrap_err().to_string()
    }

    #[test]
    fn the_log_is_opened_through_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let (logs, elsewhere) = (dir.path().join("logs"), dir.path().join("elsewhere"));
        [&logs, &elsewhere].into_iter().for_each(|path| create_dir(path).unwrap());
        let log = LogFile::at(&logs.join("log"));
        log.open().unwrap().write_all(b"one").unwrap();
        assert_eq!(logs.join("log").metadata().unwrap().permissions().mode() & 0o777, 0o600);
        rename(logs.join("log"), logs.join("log.1")).unwrap();
        log.open().unwrap().write_all(b"two").unwrap();
        assert_eq!(read(logs.join("log")).unwrap(), b"two");

        remove_file(logs.join("log")).unwrap();
        for target in [elsewhere.join("log"), logs.join("log.1")] {
            symlink(target, logs.join("log")).unwrap();
            assert!(log.open().unwrap_err().to_string().contains("symbolic link"));
            remove_file(logs.join("log")).unwrap();
        }
        rename(&logs, dir.path().join("renamed")).unwrap();
        symlink(&elsewhere, &logs).unwrap();
        log.open().unwrap();
        assert!(dir.path().join("renamed/log").exists(), "the directory is the old one");
        assert_eq!(std::fs::read_dir(&elsewhere).unwrap().count(), 0);
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let [fifo, read_fifo, socket] = ["fifo", "read", "socket"].map(|name| dir.path().join(name));
        for path in [&fifo, &read_fifo] {
            mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).unwrap();
        }
        let _reader = openat(CWD, &read_fifo, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap();
        let _socket = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
        for (path, kind) in
            [(fifo.as_path(), "fifo"), (&read_fifo, "fifo"), (&socket, "socket"), (dir.path(), "directory")]
        {
            assert!(refusal(path).contains(kind), "{}", path.display());
        }
        assert!(refusal(Path::new("/dev/zero")).contains("device"));
        LogFile::at(Path::new("/dev/null")).open().unwrap();
        assert!(refusal(&dir.path().join("none/log")).contains("No such file"));
    }

    #[test]
    fn a_log_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let [public, log, second] = ["public", "public/log", "second"].map(|name| dir.path().join(name));
        create_dir(&public).unwrap();
        set_permissions(&public, Permissions::from_mode(0o1777)).unwrap();
        LogFile::at(&log).open().unwrap();
        hard_link(&log, &second).unwrap();
        assert!(refusal(&log).contains("second name"));
        remove_file(&second).unwrap();
        LogFile::at(&log).open().unwrap();
        // Only root can give a file away.
        if chown(&log, Some(1), None).is_ok() {
            // The kernel may refuse it by itself (fs.protected_regular).
            let said = refusal(&log);
            assert!(said.contains("another user") || said.contains("Permission denied"), "{said}");
            set_permissions(&public, Permissions::from_mode(0o755)).unwrap();
            LogFile::at(&log).open().unwrap();
        }
    }
}
