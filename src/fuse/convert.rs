//! Between the kernel's types and ours.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileHandle, FileType, INodeNo, Request, TimeOrNow};

use dssefs_fs::vfs::{
    Allocation, Attributes, Expect, Fh, Ino, Kind, Name, NameError, Privileges, Sought, SpecialKind, TimeChange,
    Timestamp, is_for_the_owner,
};

/// The best size of reads and writes that stat(2) shows, in bytes: the largest request that the kernel sends.
const IO_BYTES: u32 = 1024 * 1024;

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn inode_number(ino: Ino) -> INodeNo {
    INodeNo(ino.0)
}

pub(super) fn fh(handle: FileHandle) -> Fh {
    Fh(handle.0)
}

pub(super) fn handle(fh: Fh) -> FileHandle {
    FileHandle(fh.0)
}

pub(super) fn name(text: &OsStr) -> Result<Name, NameError> {
    Name::from_bytes(text.as_bytes())
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharacterDevice(_) => FileType::CharDevice,
        Kind::BlockDevice(_) => FileType::BlockDevice,
    }
}

/// The number of a device; 0 for everything else.
fn device(kind: Kind) -> u32 {
    match kind {
        Kind::CharacterDevice(number) | Kind::BlockDevice(number) => number,
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Fifo | Kind::Socket => 0,
    }
}

/// What a mode's type bits ask mknod(2) for; None for a file.
pub(super) fn special_kind(mode: u32, device: u32) -> Option<SpecialKind> {
    match mode & libc::S_IFMT {
        libc::S_IFIFO => Some(SpecialKind::Fifo),
        libc::S_IFSOCK => Some(SpecialKind::Socket),
        libc::S_IFCHR => Some(SpecialKind::CharacterDevice(device)),
        libc::S_IFBLK => Some(SpecialKind::BlockDevice(device)),
        _ => None,
    }
}

/// The flags of setxattr(2).
pub(super) fn expect(flags: i32) -> Expect {
    match flags {
        libc::XATTR_CREATE => Expect::Absent,
        libc::XATTR_REPLACE => Expect::Present,
        _ => Expect::Any,
    }
}

/// What a mode of fallocate(2) asks for; none for a mode that S3 cannot do.
pub(super) fn allocation(mode: i32) -> Option<Allocation> {
    const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
    const PUNCH_AND_KEEP: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
    const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
    const ZERO_AND_KEEP: i32 = ZERO | KEEP;
    match mode {
        0 => Some(Allocation::Grow),
        KEEP => Some(Allocation::Reserve),
        PUNCH_AND_KEEP | ZERO_AND_KEEP => Some(Allocation::Clear),
        ZERO => Some(Allocation::ClearAndGrow),
        _ => None,
    }
}

pub(super) fn sought(whence: i32) -> Option<Sought> {
    match whence {
        libc::SEEK_DATA => Some(Sought::Data),
        libc::SEEK_HOLE => Some(Sought::Hole),
        _ => None,
    }
}

pub(super) fn file_attr(ino: Ino, attributes: &Attributes) -> FileAttr {
    FileAttr {
        ino: inode_number(ino),
        size: attributes.size,
        blocks: attributes.size.div_ceil(512),
        atime: system_time(attributes.atime),
        mtime: system_time(attributes.mtime),
        ctime: system_time(attributes.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(attributes.kind),
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or(0),
        nlink: attributes.nlink,
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: device(attributes.kind),
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// How long the kernel believes attributes, and the name that they came with. The kernel leaves it to the daemon to
/// clear set-user-id and set-group-id, and then goes on showing them as they were. So it may believe those of no file
/// that has them.
pub(super) fn believed(attributes: &Attributes, ttl: Duration) -> Duration {
    let has_privileges = attributes.kind == Kind::File && attributes.mode & 0o6000 != 0;
    if has_privileges { Duration::ZERO } else { ttl }
}

/// What truncate(2), O_TRUNC, fallocate(2) and chown(2) do to set-user-id and set-group-id bits. The kernel says with
/// some of these requests whether the caller has CAP_FSETID, but fuser does not hand that on. Usually root has it and
/// no other user.
pub(super) fn privileges_of(request: &Request) -> Privileges {
    if request.uid() == 0 { Privileges::Keep } else { Privileges::Drop { gid: request.gid() } }
}

/// Attributes for root and the mounting user do not exist for other users, whom `--allow-other` lets in.
pub(super) fn is_hidden_from(request: &Request, attribute: &[u8]) -> bool {
    let is_owner = request.uid() == 0 || request.uid() == rustix::process::geteuid().as_raw();
    is_for_the_owner(attribute) && !is_owner
}

pub(super) fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::Now => TimeChange::Now,
        TimeOrNow::SpecificTime(time) => TimeChange::To(Timestamp::from(time)),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let exact = base.and_then(|base| base.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))));
    exact.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_with_privileges_are_believed_for_no_time() {
        let time = Timestamp { seconds: 0, nanoseconds: 0 };
        let (kind, ttl) = (Kind::File, Duration::from_secs(9));
        let file =
            Attributes { kind, size: 0, mode: 0, uid: 0, gid: 0, mtime: time, atime: time, ctime: time, nlink: 1 };
        for (mode, kind, expected) in [
            (0o1777, Kind::File, ttl),
            (0o4755, Kind::File, Duration::ZERO),
            (0o2755, Kind::File, Duration::ZERO),
            (0o2755, Kind::Directory, ttl),
        ] {
            assert_eq!(believed(&Attributes { mode, kind, ..file }, ttl), expected, "{mode:o} {kind:?}");
        }
    }

    #[test]
    fn times_before_1970_keep_their_fraction() {
        let before = Timestamp { seconds: -2, nanoseconds: 500_000_000 };
        assert_eq!(UNIX_EPOCH.duration_since(system_time(before)).unwrap(), Duration::from_millis(1_500));
        assert_eq!(Timestamp::from(system_time(before)), before);
    }

    #[test]
    fn each_flag_of_the_kernel_has_its_meaning() {
        assert_eq!([0, 1, 2].map(expect), [Expect::Any, Expect::Absent, Expect::Present]);
        let modes = [0, 1, 3, 0x10, 0x11].map(allocation);
        let clear = Some(Allocation::Clear);
        let grown = [Some(Allocation::Grow), Some(Allocation::Reserve), clear, Some(Allocation::ClearAndGrow), clear];
        assert_eq!(modes, grown);
        // Collapse, insert, unshare, and a hole that would end the file.
        assert_eq!([2, 0x08, 0x20, 0x40].map(allocation), [None; 4]);
        assert_eq!([libc::SEEK_DATA, libc::SEEK_HOLE].map(sought), [Some(Sought::Data), Some(Sought::Hole)]);
        assert_eq!(sought(libc::SEEK_SET), None);
    }

    #[test]
    fn the_type_bits_of_mknod_are_told_apart() {
        let device = 0x0103;
        let kinds = [libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK, libc::S_IFREG, 0];
        let special = kinds.map(|bits| special_kind(bits | 0o644, device));
        let [character, block] = [SpecialKind::CharacterDevice(device), SpecialKind::BlockDevice(device)];
        let expected = [Some(SpecialKind::Fifo), Some(SpecialKind::Socket), Some(character), Some(block), None, None];
        assert_eq!(special, expected);
    }

    #[test]
    fn stat_counts_started_blocks_and_shows_all_permission_bits() {
        let time = Timestamp { seconds: 1, nanoseconds: 0 };
        let file = |size, kind| {
            let attributes = Attributes {
                kind,
                size,
                mode: 0o7751,
                uid: 1,
                gid: 2,
                mtime: time,
                atime: time,
                ctime: time,
                nlink: 3,
            };
            file_attr(Ino(5), &attributes)
        };
        assert_eq!([0, 1, 512, 513].map(|size| file(size, Kind::File).blocks), [0, 1, 1, 2]);
        let shown = file(1, Kind::File);
        assert_eq!((shown.perm, shown.uid, shown.gid, shown.nlink, shown.rdev), (0o7751, 1, 2, 3, 0));
        assert_eq!([Kind::CharacterDevice(7), Kind::BlockDevice(8)].map(|kind| file(0, kind).rdev), [7, 8]);
    }
}
