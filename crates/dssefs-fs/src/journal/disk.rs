//! The calls by which a segment or a description gets to the disk and off it. All of them are here, so that a test can
//! tell what a loss of power leaves of them: it may take any write that was not followed by a sync.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// A segment that is appended to.
pub(super) struct SegmentFile {
    file: File,
    #[cfg(test)]
    path: std::path::PathBuf,
}

impl SegmentFile {
    /// A new file. Its name is on the disk once its directory was synced.
    pub(super) fn create(path: &Path) -> io::Result<SegmentFile> {
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        #[cfg(test)]
        tape::note(path, tape::Did::Create);
        Ok(SegmentFile {
            file,
            #[cfg(test)]
            path: path.to_owned(),
        })
    }

    /// After an error some of the bytes may be there.
    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        tape::allow(tape::Call::Append)?;
        #[cfg(test)]
        tape::note(&self.path, tape::Did::Append(bytes.to_vec()));
        (&self.file).write_all(bytes)
    }

    /// Sets room aside for bytes to come, where the file system can.
    pub(super) fn reserve(&self, offset: u64, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, bytes) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Cuts the end off, and gives back what was set aside behind it.
    pub(super) fn cut(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)?;
        #[cfg(test)]
        tape::note(&self.path, tape::Did::Cut(bytes));
        Ok(())
    }

    /// Returns when all that was appended is on the disk (fdatasync(2)).
    pub(super) fn sync(&self) -> io::Result<()> {
        #[cfg(test)]
        tape::allow(tape::Call::Sync)?;
        #[cfg(test)]
        tape::take_time();
        self.file.sync_data()?;
        #[cfg(test)]
        tape::note(&self.path, tape::Did::Sync);
        Ok(())
    }
}

/// A new description, empty. Its name is on the disk once its directory was synced.
pub(super) fn create_description(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    #[cfg(test)]
    tape::note(path, tape::Did::Create);
    Ok(file)
}

/// Returns when all of a description is on the disk.
pub(super) fn write_description(mut file: &File, path: &Path, text: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    tape::note(path, tape::Did::Append(text.to_vec()));
    file.write_all(text)?;
    file.sync_all()?;
    #[cfg(test)]
    tape::note(path, tape::Did::Sync);
    // Only tests ask where it lies.
    let _ = path;
    Ok(())
}

/// Gives a session another name, for good once the directory of both was synced.
pub(super) fn rename(session: &Path, to: &Path) -> io::Result<()> {
    fs::rename(session, to)?;
    #[cfg(test)]
    tape::note(session, tape::Did::Rename(to.to_owned()));
    Ok(())
}

/// Takes a file's name away, for good once its directory was synced.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)?;
    #[cfg(test)]
    tape::note(path, tape::Did::Remove);
    Ok(())
}

/// A regular file to be read. What else has taken its place, a link or a pipe that would be waited at for ever, is an
/// error.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "this is no regular file; another program has put it there"))
        }
    }
}

/// Fills `bytes` with what lies at `offset` of the file at `path`.
pub(super) fn read_at(file: &File, path: &Path, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(test)]
    tape::allow_read(path, offset..offset + bytes.len() as u64)?;
    // Only tests ask where it lies.
    let _ = path;
    file.read_exact_at(bytes, offset)
}

/// So that names that were made or removed in it are so after a loss of power too (fsync(2)).
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    #[cfg(test)]
    tape::note(path, tape::Did::Sync);
    Ok(())
}

/// What a test's thread has done to the disk, in order.
#[cfg(test)]
pub(super) mod tape {
    use std::cell::{Cell, RefCell};
    use std::io;
    use std::ops::Range;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    #[derive(Clone, Debug)]
    pub(in super::super) enum Did {
        Create,
        Append(Vec<u8>),
        Cut(u64),
        Sync,
        Remove,
        Rename(PathBuf),
    }

    /// What a disk can fail at.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in super::super) enum Call {
        Append,
        Sync,
    }

    thread_local! {
        static TAPE: RefCell<Vec<(PathBuf, Did)>> = const { RefCell::new(Vec::new()) };
        static FAILING: Cell<Option<Call>> = const { Cell::new(None) };
        static SYNC_TAKES: Cell<Duration> = const { Cell::new(Duration::ZERO) };
        static WORN: RefCell<Option<(PathBuf, u64)>> = const { RefCell::new(None) };
    }

    /// From now on the disk of this thread fails at these calls, or at none.
    pub(in super::super) fn fail(call: Option<Call>) {
        FAILING.set(call);
    }

    /// From now on each sync of a segment takes this thread so much longer.
    pub(in super::super) fn slow(sync: Duration) {
        SYNC_TAKES.set(sync);
    }

    pub(super) fn take_time() {
        std::thread::sleep(SYNC_TAKES.get());
    }

    pub(super) fn allow(call: Call) -> io::Result<()> {
        if FAILING.get() == Some(call) { Err(io::Error::other("scripted")) } else { Ok(()) }
    }

    /// From now on this byte of a file cannot be read by this thread.
    pub(in super::super) fn wear_out(path: &Path, offset: u64) {
        WORN.set(Some((path.to_owned(), offset)));
    }

    pub(super) fn allow_read(path: &Path, range: Range<u64>) -> io::Result<()> {
        let worn = WORN.with_borrow(|worn| worn.as_ref().is_some_and(|(at, byte)| at == path && range.contains(byte)));
        if worn { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }

    pub(super) fn note(path: &Path, did: Did) {
        TAPE.with_borrow_mut(|tape| tape.push((path.to_owned(), did)));
    }

    pub(in super::super) fn length() -> usize {
        TAPE.with_borrow(Vec::len)
    }

    pub(in super::super) fn take() -> Vec<(PathBuf, Did)> {
        TAPE.take()
    }
}
