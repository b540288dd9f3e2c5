//! The kernel's list of mounts (proc_pid_mountinfo(5)).

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A longer list is refused, in bytes: other processes may have mounts without number.
const BYTES_MAX: u64 = 64 << 20;

/// One mount. Only what the kernel itself vouches for: the file system has no say in these fields, but for the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique among the mounts that exist (until 64-bit ids, a number may be used again after the unmount).
    pub id: u64,
    /// The mount that this one is on.
    pub parent: u64,
    /// The device number of the file system, major and minor: equal for all mounts of one file system (`st_dev`).
    pub device: (u32, u32),
    /// Where, seen from the root of the process whose list this is.
    pub mountpoint: PathBuf,
    /// The type, with the subtype behind a dot: `fuse.dssefs`.
    pub kind: OsString,
    /// What the mounter named as the device.
    pub source: OsString,
    /// Who mounted it (`user_id=`), where it is a FUSE file system.
    pub user: Option<u32>,
    /// The mounter's group (`group_id=`).
    pub group: Option<u32>,
}

impl MountInfo {
    /// The mounts that the process of this list sees, such as `/proc/self/mountinfo`.
    ///
    /// # Errors
    /// The list cannot be read, or is longer than 64 MiB.
    pub fn read(list: &Path) -> io::Result<Vec<MountInfo>> {
        let mut text = Vec::new();
        File::open(list)?.take(BYTES_MAX).read_to_end(&mut text)?;
        if text.len() as u64 == BYTES_MAX {
            return Err(io::Error::other("the list of mounts is longer than 64 MiB"));
        }
        Ok(MountInfo::parse(&text))
    }

    /// The lines that have the known form; others are left out.
    #[must_use]
    pub fn parse(text: &[u8]) -> Vec<MountInfo> {
        text.split(|byte| *byte == b'\n').filter_map(MountInfo::parse_line).collect()
    }

    /// `ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAGS...] - TYPE SOURCE SUPEROPTIONS`. Blanks within a field are escaped.
    fn parse_line(line: &[u8]) -> Option<MountInfo> {
        let mut fields = line.split(|byte| *byte == b' ');
        let [id, parent, device] = [fields.next()?, fields.next()?, fields.next()?].map(str::from_utf8);
        let (major, minor) = device.ok()?.split_once(':')?;
        let mountpoint = unescape(fields.nth(1)?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source) = (unescape(fields.next()?), unescape(fields.next()?));
        let options = fields.next().unwrap_or_default();
        Some(MountInfo {
            id: id.ok()?.parse().ok()?,
            parent: parent.ok()?.parse().ok()?,
            device: (major.parse().ok()?, minor.parse().ok()?),
            mountpoint: mountpoint.into(),
            kind,
            source,
            user: number(options, "user_id="),
            group: number(options, "group_id="),
        })
    }

    /// Whether dssefs mounted it, as far as type and source tell: any user can name them so. fusermount3 adds the subtype to the type.
    /// mount(2), which root uses, leaves plain `fuse`, and the source tells.
    #[must_use]
    pub fn is_named_dssefs(&self) -> bool {
        self.kind == "fuse.dssefs" || (self.kind == "fuse" && self.source.as_bytes().starts_with(b"s3://"))
    }
}

/// The last option of that name. FUSE writes its own options behind those of all others.
fn number(options: &[u8], name: &str) -> Option<u32> {
    let mut options = options.rsplit(|byte| *byte == b',');
    let value = options.find_map(|option| option.strip_prefix(name.as_bytes()))?;
    str::from_utf8(value).ok()?.parse().ok()
}

/// Blanks, tabs, line feeds, backslashes and hashes are written as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// The name of a kernel thread, program or command, as the process calls itself (`comm`); empty when it has ended.
#[must_use]
pub fn command_of(pid: u32) -> OsString {
    let mut name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    if name.last() == Some(&b'\n') {
        name.pop();
    }
    OsStr::from_bytes(&name).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &[u8] = b"22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:50 / /mnt/data rw,nosuid,nodev shared:5 master:3 - fuse.dssefs s3://data rw,user_id=1000,group_id=100,allow_other
41 22 0:51 / /mnt/my\\040da\\134ta\\012\xff rw,nosuid - fuse.dssefs s3://data rw,user_id=0,group_id=0
42 22 0:52 / /mnt/other rw - fuse.sshfs host: rw,user_id=1000,group_id=1000
43 22 0:53 /below /mnt/by-root rw,nosuid,nodev - fuse s3://data rw,context=\"x,user_id=7\",user_id=0,group_id=0
44 22 0:54 / /mnt/foreign rw - fuse /dev/fuse rw,user_id=0,group_id=0
not a line
45 22 0:55
";

    #[test]
    fn every_field_of_a_mount_is_read() {
        let mounts = MountInfo::parse(MOUNTS);
        assert_eq!(mounts.len(), 6);
        let expected = MountInfo {
            id: 40,
            parent: 22,
            device: (0, 50),
            mountpoint: "/mnt/data".into(),
            kind: "fuse.dssefs".into(),
            source: "s3://data".into(),
            user: Some(1000),
            group: Some(100),
        };
        assert_eq!(mounts[1], expected);
        assert_eq!(mounts[2].mountpoint.as_os_str().as_bytes(), b"/mnt/my da\\ta\n\xff");
        assert_eq!((mounts[0].user, mounts[4].user), (None, Some(0)));
    }

    #[test]
    fn only_mounts_named_dssefs_are_found() {
        let named: Vec<bool> = MountInfo::parse(MOUNTS).iter().map(MountInfo::is_named_dssefs).collect();
        assert_eq!(named, [false, true, true, false, true, false]);
    }

    #[test]
    fn the_list_of_this_process_is_read() {
        let mounts = MountInfo::read(Path::new("/proc/self/mountinfo")).unwrap();
        assert!(mounts.iter().any(|mount| mount.mountpoint == Path::new("/")), "{mounts:?}");
    }
}
