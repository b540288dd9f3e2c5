//! The kernel's table of mounts: what is mounted where, and which mount a descriptor is on.
//!
//! A path names a mount only until somebody renames a directory above it. So a mount is known here by its [`Identity`], which is read
//! from a descriptor. The room only reads: it mounts and unmounts nothing, and sends no request to any file system. It uses no other room.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, readlink, statx};

/// `STATX_MNT_ID_UNIQUE` (statx(2), Linux 6.8): a number that no later mount gets.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// One line of the table (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The number of the mount. A later mount may get it when this one is gone.
    pub id: u64,
    /// The number of the mount that has the directory which this one covers.
    pub parent: u64,
    /// Major and minor number of the file system, as `0:57`.
    pub device: String,
    /// The directory that it covers, as this process reaches it now.
    pub point: PathBuf,
    /// The type, as `fuse.dssefs`.
    pub kind: String,
    /// What is mounted, as `s3://bucket`.
    pub source: OsString,
    /// The options of the file system, as `rw,user_id=0`.
    pub options: String,
}

impl Mount {
    /// All mounts that this process can reach.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn all() -> io::Result<Vec<Mount>> {
        let table = std::fs::read("/proc/self/mountinfo")?;
        Ok(table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect())
    }

    /// The mount whose root `directory` is, if it is one.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn rooted_at(directory: impl AsFd) -> io::Result<Option<Mount>> {
        let (id, path) = (id_of(&directory)?, path_of(&directory)?);
        Ok(Mount::all()?.into_iter().find(|mount| mount.id == id && mount.point == path))
    }

    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let mut text = || fields.next().map(|field| String::from_utf8_lossy(field).into_owned());
        let (id, parent, device) = (text()?.parse().ok()?, text()?.parse().ok()?, text()?);
        let _root = fields.next()?;
        let point = PathBuf::from(unescaped(fields.next()?));
        // Optional fields end with a dash.
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = String::from_utf8_lossy(rest.next()?).into_owned();
        let source = unescaped(rest.next()?);
        let options = String::from_utf8_lossy(rest.next()?).into_owned();
        Some(Mount { id, parent, device, point, kind, source, options })
    }
}

/// The kernel writes blanks, tabs, line breaks, backslashes and `#` as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|digits| digits.iter().all(|digit| (b'0'..=b'7').contains(digit)));
        match (first, digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok())) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Which mount it is, whatever its name is by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    id: u64,
    device: Option<String>,
    /// None: the kernel has no such numbers.
    unique: Option<u64>,
}

impl Identity {
    /// Of the mount that the descriptor is on. Sends no request to its file system.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn of(descriptor: impl AsFd) -> io::Result<Identity> {
        let id = id_of(&descriptor)?;
        let device = Mount::all()?.into_iter().find(|mount| mount.id == id).map(|mount| mount.device);
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let answer = statx(&descriptor, "", flags, UNIQUE).ok();
        let unique = answer.filter(|answer| answer.stx_mask & UNIQUE.bits() != 0).map(|answer| answer.stx_mnt_id);
        Ok(Identity { id, device, unique })
    }

    /// Its line in the table, where it is in it.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn find(&self) -> io::Result<Option<Mount>> {
        let is_it = |mount: &Mount| mount.id == self.id && Some(&mount.device) == self.device.as_ref();
        Ok(Mount::all()?.into_iter().find(is_it))
    }

    /// The number in the table.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Opens a directory by its name once, through links, for whatever is done with it later. Sends no request to a file system that is mounted
/// on it.
///
/// # Errors
/// It is not there, is no directory, or may not be reached.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// A path by which the kernel reaches what the descriptor is of, wherever that is by now. It holds for this process and for as long as the
/// descriptor.
#[must_use]
pub fn by_descriptor(descriptor: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_fd().as_raw_fd()))
}

/// Where the file or directory is now.
///
/// # Errors
/// /proc is not mounted.
pub fn path_of(descriptor: impl AsFd) -> io::Result<PathBuf> {
    let path = readlink(by_descriptor(descriptor), Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(path.as_bytes())))
}

/// The number of the mount that the descriptor is on.
///
/// # Errors
/// /proc is not mounted.
pub fn id_of(descriptor: impl AsFd) -> io::Result<u64> {
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd()))?;
    let number = facts.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    number.ok_or_else(|| io::Error::other("/proc/self/fdinfo does not name the mount of a descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_read_with_its_escapes() {
        let line = b"36 35 0:57 / /mnt/a\\040b\\012c\\134d rw,noatime shared:1 master:2 - fuse.dssefs s3://b/x\\011y rw,user_id=7";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.device.as_str()), (36, 35, "0:57"));
        assert_eq!(mount.point, Path::new("/mnt/a b\nc\\d"));
        assert_eq!((mount.kind.as_str(), mount.source.to_str()), ("fuse.dssefs", Some("s3://b/x\ty")));
        assert_eq!(mount.options, "rw,user_id=7");
        for broken in [&b""[..], b"36", b"x 35 0:57 / /mnt rw - a b c", b"36 35 0:57 / /mnt rw a b c"] {
            assert_eq!(Mount::parse(broken), None);
        }
    }

    #[test]
    fn what_only_looks_like_an_escape_stays_as_it_is() {
        for (written, meant) in [("\\04", "\\04"), ("\\089", "\\089"), ("\\777", "\\777"), ("a\\", "a\\")] {
            assert_eq!(unescaped(written.as_bytes()), meant, "{written}");
        }
    }

    #[test]
    fn a_mount_is_known_by_a_descriptor_on_it_and_a_directory_on_it_is_no_root() {
        let root = open_directory(Path::new("/proc")).unwrap();
        let mount = Mount::rooted_at(&root).unwrap().unwrap();
        assert_eq!((mount.kind.as_str(), mount.point.as_path()), ("proc", Path::new("/proc")));
        let below = open_directory(Path::new("/proc/self")).unwrap();
        assert_eq!(Mount::rooted_at(&below).unwrap(), None);
        let identity = Identity::of(&root).unwrap();
        assert_eq!(Identity::of(&below).unwrap(), identity);
        assert_eq!(identity.find().unwrap(), Some(mount));
        assert_ne!(Identity::of(open_directory(Path::new("/dev")).unwrap()).unwrap(), identity);
    }

    #[test]
    fn a_renamed_directory_is_where_it_is_now() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new\n"].map(|name| dir.path().join(name));
        std::fs::create_dir(&old).unwrap();
        let directory = open_directory(&old).unwrap();
        std::fs::rename(&old, &new).unwrap();
        assert_eq!(path_of(&directory).unwrap(), new);
        assert!(std::fs::metadata(by_descriptor(&directory)).unwrap().is_dir());
    }
}
