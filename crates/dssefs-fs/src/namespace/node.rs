//! Values of a node: its number, its attributes, what a change asks for.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dssefs_s3::object::Name;
use dssefs_s3::s3::Head;

/// The number of a node, the kernel's name for a file or directory. No two nodes have the same one at a time. It is the
/// same in each mount, where the key under which the mount has met the node decides it (`number`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The directory that is mounted (`FUSE_ROOT_ID`).
    pub const ROOT: Ino = Ino(1);
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Bytes.
    File,
    /// Names.
    Directory,
    /// A path to follow.
    Symlink,
    /// A named pipe; the kernel does its work.
    Fifo,
    /// A socket; the kernel does its work.
    Socket,
    /// A character device, by its number as the kernel's `new_encode_dev` has it. The mount's `nodev` keeps it from
    /// being used.
    CharacterDevice(u32),
    /// A block device, likewise.
    BlockDevice(u32),
}

/// Seconds and nanoseconds since 1970; earlier times have negative seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub seconds: i64,
    /// What is added to them: 0 to 999,999,999.
    pub nanoseconds: u32,
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => after_epoch(since),
            Err(error) => before_epoch(error.duration()),
        }
    }
}

fn after_epoch(since: Duration) -> Timestamp {
    Timestamp { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}

fn before_epoch(until: Duration) -> Timestamp {
    let seconds = i64::try_from(until.as_secs()).unwrap_or(i64::MAX);
    match until.subsec_nanos() {
        0 => Timestamp { seconds: -seconds, nanoseconds: 0 },
        nanoseconds => Timestamp { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    }
}

/// What stat(2) shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Length in bytes; of a symlink, that of its target; 0 for a directory.
    pub size: u64,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When the content changed.
    pub mtime: Timestamp,
    /// When the content was read, where a program recorded it; else the same as `mtime`.
    pub atime: Timestamp,
    /// When content or attributes changed.
    pub ctime: Timestamp,
    /// 1 for a file, 0 when it is unlinked; 2 and one for each known subdirectory for a directory.
    pub nlink: u32,
}

/// The attributes that an object without any in its metadata shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Defaults {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits of files.
    pub file_mode: u32,
    /// Permission bits of directories.
    pub dir_mode: u32,
}

/// A node as a lookup answers it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number.
    pub ino: Ino,
    /// What stat(2) shows.
    pub attributes: Attributes,
    /// What HEAD or PUT said. None for implicit directories, and for files that are not in the store yet or were only
    /// listed.
    pub object: Option<Arc<Head>>,
}

/// One entry of a directory's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The node's number.
    pub ino: Ino,
    /// None where a listing does not prove it and no HEAD has told it yet.
    pub kind: Option<Kind>,
    /// Its name.
    pub name: Name,
}

/// What a change of a file does to its set-user-id and set-group-id bits (write(2), chown(2), inode(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privileges {
    /// The caller has CAP_FSETID, so a change of content keeps them.
    Keep,
    /// They go.
    Drop {
        /// The caller's own group. Linux takes set-group-id without execution for the group away from a file only if
        /// the caller is outside of the file's group. The kernel does not name the caller's other groups to a daemon,
        /// so a member through one of those counts as outside too. Nothing but mandatory locking, which Linux has
        /// given up, has ever used the bit in that form.
        gid: u32,
    },
}

impl Default for Privileges {
    /// Takes all away: no process has this group.
    fn default() -> Privileges {
        Privileges::Drop { gid: u32::MAX }
    }
}

impl Privileges {
    /// The permission bits `mode` of a file of the group `gid` after a change of its content.
    #[must_use]
    pub fn after_write(self, mode: u32, gid: u32) -> u32 {
        match self {
            Privileges::Keep => mode,
            Privileges::Drop { .. } => self.after_chown(mode, gid),
        }
    }

    /// The permission bits `mode` of a file, whose group was `gid`, after a change of its owner or group. That takes
    /// set-user-id away, and the caller does not matter.
    fn after_chown(self, mode: u32, gid: u32) -> u32 {
        let is_outside = matches!(self, Privileges::Drop { gid: own } if own != gid);
        let set_group = if mode & 0o010 != 0 || is_outside { 0o2000 } else { 0 };
        mode & !(0o4000 | set_group)
    }
}

/// What chmod, chown and utimens ask for; None keeps what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// New permission bits.
    pub mode: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New time of modification.
    pub mtime: Option<Timestamp>,
    /// New time of access.
    pub atime: Option<Timestamp>,
    /// What a new owner or group does beside that.
    pub privileges: Privileges,
}

impl Change {
    /// `attributes` with this change made at the time `now`. A change of owner or
    /// group takes a file's privileges away (chown(2)).
    #[must_use]
    pub fn applied(&self, attributes: Attributes, now: Timestamp) -> Attributes {
        let given_away = (self.uid.is_some() || self.gid.is_some()) && attributes.kind != Kind::Directory;
        let kept =
            if given_away { self.privileges.after_chown(attributes.mode, attributes.gid) } else { attributes.mode };
        Attributes {
            mode: self.mode.map_or(kept, |mode| mode & 0o7777),
            uid: self.uid.unwrap_or(attributes.uid),
            gid: self.gid.unwrap_or(attributes.gid),
            mtime: self.mtime.unwrap_or(attributes.mtime),
            atime: self.atime.unwrap_or(attributes.atime),
            ctime: now,
            ..attributes
        }
    }

    /// Whether it asks for more than new times.
    #[must_use]
    pub fn beyond_times(&self) -> bool {
        self.mode.is_some() || self.uid.is_some() || self.gid.is_some()
    }

    /// Whether it asks for nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.beyond_times() && self.mtime.is_none() && self.atime.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_owner_gets_a_file_without_its_privileges_and_a_directory_with_them() {
        let time = Timestamp::default();
        let file = Attributes {
            kind: Kind::File,
            size: 0,
            mode: 0o6755,
            uid: 0,
            gid: 0,
            mtime: time,
            atime: time,
            ctime: time,
            nlink: 1,
        };
        let chown = Change { uid: Some(0), privileges: Privileges::Keep, ..Change::default() };
        assert_eq!(chown.applied(file, time).mode, 0o755);
        let not_executable = Attributes { mode: 0o6745, ..file };
        assert_eq!(chown.applied(not_executable, time).mode, 0o2745);
        let by = |gid| Change { privileges: Privileges::Drop { gid }, ..chown };
        assert_eq!(by(0).applied(not_executable, time).mode, 0o2745, "a member of the file's group");
        assert_eq!(by(9).applied(not_executable, time).mode, 0o745, "a caller outside of it");
        assert_eq!(chown.applied(Attributes { kind: Kind::Directory, ..file }, time).mode, 0o6755);
        assert_eq!(Change { atime: Some(time), ..Change::default() }.applied(file, time).mode, 0o6755);
    }

    #[test]
    fn a_write_takes_set_group_id_away_as_the_kernel_does() {
        let after = |mode, caller: Privileges| caller.after_write(mode, 5);
        let (member, outsider) = (Privileges::Drop { gid: 5 }, Privileges::Drop { gid: 6 });
        assert_eq!(after(0o6777, Privileges::Keep), 0o6777);
        assert_eq!((after(0o6777, member), after(0o6777, outsider)), (0o777, 0o777));
        assert_eq!((after(0o6767, member), after(0o6767, outsider)), (0o2767, 0o767));
        assert_eq!(after(0o6767, Privileges::default()), 0o767);
    }

    #[test]
    fn times_before_1970_round_down_to_whole_seconds() {
        let early = UNIX_EPOCH - Duration::from_millis(1500);
        assert_eq!(Timestamp::from(early), Timestamp { seconds: -2, nanoseconds: 500_000_000 });
        assert_eq!(Timestamp::from(UNIX_EPOCH - Duration::from_secs(2)), Timestamp { seconds: -2, nanoseconds: 0 });
        assert_eq!(Timestamp::from(UNIX_EPOCH + Duration::from_nanos(7)), Timestamp { seconds: 0, nanoseconds: 7 });
    }
}
