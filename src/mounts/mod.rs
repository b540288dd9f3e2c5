//! The kernel's table of mounts: what is mounted where, and which mount a descriptor is on.
//!
//! A path names a mount only until a directory above it is renamed. So a mount is known here by its [`Identity`],
//! which is read from a descriptor. The room only reads: it mounts and unmounts nothing, and sends no request to any
//! file system. It uses no other room.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, readlink, statx};

/// `STATX_MNT_ID_UNIQUE` (statx(2), Linux 6.8): a number that no later mount gets.
const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);

/// A longer table is refused, in bytes: other processes may have mounts without number.
const TABLE_BYTES_MAX: u64 = 64 << 20;

/// One line of the table (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The number of the mount. A later mount may get it when this one is gone.
    pub id: u64,
    /// The number of the mount that has the directory which this one covers.
    pub parent: u64,
    /// Major and minor number of the file system: equal for all mounts of one file system (`st_dev`).
    pub device: (u32, u32),
    /// The directory that it covers, as this process reaches it now.
    pub point: PathBuf,
    /// The type, as `fuse.dssefs`.
    pub kind: String,
    /// What its mounter calls it, as `s3://bucket`. The other fields are the kernel's own word.
    pub source: OsString,
    /// The user who has mounted it (`user_id=`), where it is a FUSE file system.
    pub user: Option<u32>,
    /// The group of that user (`group_id=`).
    pub group: Option<u32>,
}

impl Mount {
    /// All mounts that this process can reach.
    ///
    /// # Errors
    /// As [`Mount::seen_by`].
    pub fn all() -> io::Result<Vec<Mount>> {
        Mount::seen_by("self")
    }

    /// All mounts that a process can reach: its number, or `self`. Lines of an unknown form are left out.
    ///
    /// # Errors
    /// /proc is not mounted, this user may not look, or the table is longer than 64 MiB.
    pub fn seen_by(process: &str) -> io::Result<Vec<Mount>> {
        let mut table = Vec::new();
        File::open(Path::new("/proc").join(process).join("mountinfo"))?
            .take(TABLE_BYTES_MAX)
            .read_to_end(&mut table)?;
        if table.len() as u64 == TABLE_BYTES_MAX {
            return Err(io::Error::other("the table of mounts is longer than 64 MiB"));
        }
        Ok(table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect())
    }

    /// The mount with this number, if this process can reach it.
    ///
    /// # Errors
    /// As [`Mount::seen_by`].
    pub fn with_id(id: u64) -> io::Result<Option<Mount>> {
        Ok(Mount::all()?.into_iter().find(|mount| mount.id == id))
    }

    /// Whether dssefs mounted it, as far as type and source tell: any user can name them so. fusermount3 and fsopen(2)
    /// add the subtype to the type; mount(2), which earlier versions used for root, leaves plain `fuse`, and the source
    /// tells.
    #[must_use]
    pub fn is_named_dssefs(&self) -> bool {
        self.kind == "fuse.dssefs" || (self.kind == "fuse" && self.source.as_bytes().starts_with(b"s3://"))
    }

    /// The mount whose root `directory` is, if it is one.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn rooted_at(directory: impl AsFd) -> io::Result<Option<Mount>> {
        let (id, path) = (id_of(&directory)?, path_of(&directory)?);
        Ok(Mount::all()?.into_iter().find(|mount| mount.id == id && mount.point == path))
    }

    /// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAGS...] - TYPE SOURCE OPTIONS`
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let [id, parent, device] = [fields.next()?, fields.next()?, fields.next()?].map(str::from_utf8);
        let (major, minor) = device.ok()?.split_once(':')?;
        let point = PathBuf::from(unescaped(fields.nth(1)?));
        // Optional fields end with a dash.
        let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
        let kind = String::from_utf8_lossy(rest.next()?).into_owned();
        let source = unescaped(rest.next()?);
        // fusectl and the like are the kernel's.
        let is_fuse = ["fuse", "fuseblk"].iter().any(|fuse| kind.split('.').next() == Some(fuse));
        let options = rest.next().filter(|_| is_fuse).unwrap_or_default();
        Some(Mount {
            id: id.ok()?.parse().ok()?,
            parent: parent.ok()?.parse().ok()?,
            device: (major.parse().ok()?, minor.parse().ok()?),
            point,
            kind,
            source,
            user: number(options, "user_id="),
            group: number(options, "group_id="),
        })
    }
}

/// The last option of that name. FUSE writes its own options behind those that others may have a say in.
fn number(options: &[u8], name: &str) -> Option<u32> {
    let mut options = options.rsplit(|byte| *byte == b',');
    let value = options.find_map(|option| option.strip_prefix(name.as_bytes()))?;
    str::from_utf8(value).ok()?.parse().ok()
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
    device: Option<(u32, u32)>,
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
        let device = Mount::with_id(id)?.map(|mount| mount.device);
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
        let is_it = |mount: &Mount| mount.id == self.id && Some(mount.device) == self.device;
        Ok(Mount::all()?.into_iter().find(is_it))
    }

    /// The number in the table.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

/// Opens a directory by its name once, through links, for whatever is done with it later. Sends no request to a file
/// system that is mounted on it.
///
/// # Errors
/// It is not there, is no directory, or may not be reached.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens a directory that is to be mounted on, through links. Unlike [`open_directory`] it sets off no automount: the
/// trigger itself is opened. The caller has to see that it is a directory.
///
/// # Errors
/// It is not there, or may not be reached.
pub fn open_place(path: &Path) -> io::Result<OwnedFd> {
    // A slash at the end asks the kernel for a directory, and that sets the trigger off.
    let path: PathBuf = path.components().collect();
    Ok(openat(CWD, &path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// A path by which the kernel reaches what the descriptor is of, wherever that is by now. It holds for this process and
/// for as long as the descriptor.
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
        let line = b"36 35 0:57 / /mnt/a\\040b\\012c\\134d rw,noatime shared:1 master:2 \
            - fuse.dssefs s3://b/x\\011y rw,user_id=7";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.parent, mount.device), (36, 35, (0, 57)));
        assert_eq!(mount.point, Path::new("/mnt/a b\nc\\d"));
        assert_eq!((mount.kind.as_str(), mount.source.to_str()), ("fuse.dssefs", Some("s3://b/x\ty")));
        assert_eq!((mount.user, mount.group), (Some(7), None));
        for broken in [&b""[..], b"36", b"x 35 0:57 / /mnt rw - a b c", b"36 35 0:57 / /mnt rw a b c"] {
            assert_eq!(Mount::parse(broken), None);
        }
    }

    #[test]
    fn the_mounter_is_the_one_that_the_kernel_names_last() {
        let line = b"43 22 0:53 / /mnt rw - fuse s3://data rw,context=\"x,user_id=7\",user_id=0,group_id=100";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.user, mount.group), (Some(0), Some(100)));
        for other in ["ext4 /dev/vda", "fusectl fusectl"] {
            let line = format!("22 1 0:21 / / rw - {other} rw,user_id=7");
            assert_eq!(Mount::parse(line.as_bytes()).unwrap().user, None, "{other}");
        }
        assert_eq!(Mount::parse(b"41 22 0:45 / /d rw - fuseblk /dev/sdb1 rw,user_id=3").unwrap().user, Some(3));
    }

    #[test]
    fn only_mounts_named_dssefs_are_taken_for_such() {
        let is_named = |kind_and_source: &str| {
            let line = format!("40 22 0:50 / /mnt rw - {kind_and_source} rw,user_id=0");
            Mount::parse(line.as_bytes()).unwrap().is_named_dssefs()
        };
        assert!(is_named("fuse.dssefs s3://data") && is_named("fuse s3://data"));
        assert!(!is_named("fuse.sshfs host:") && !is_named("fuse /dev/fuse") && !is_named("ext4 s3://data"));
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
