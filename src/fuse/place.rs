//! Mounting on a directory that is held, and unmounting that mount and no other.
//!
//! Only fusermount3 needs names, and takes nothing else. What it did is checked afterwards.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen, move_mount,
};
use rustix::process::{getgid, getuid};

use super::MountOptions;
use super::passing::receive;
use crate::mounts::{self, Identity, Mount};

/// What mount(8), findmnt(8) and /proc/self/mountinfo show as the type, with `fuse.` before it.
pub(super) const SUBTYPE: &str = "dssefs";
const KIND: &str = "fuse.dssefs";

/// The longest value that fsconfig(2) takes, in bytes, without the zero behind it.
const SOURCE_BYTES_MAX: usize = 255;

/// A mount that was made, and the device on which the kernel sends its requests.
pub(super) struct Made {
    pub(super) device: OwnedFd,
    pub(super) identity: Identity,
    /// Where it is.
    pub(super) point: PathBuf,
}

/// Mounts on the directory that the descriptor is of. Nothing stays mounted when this fails.
pub(super) fn mount(directory: &OwnedFd, options: &MountOptions) -> io::Result<Made> {
    if getuid().is_root() { as_root(directory, options) } else { by_helper(directory, options) }
}

/// Mounts by the API of Linux 5.2. It takes a descriptor for the place, and returns one of the mount before any program
/// can reach it.
fn as_root(directory: &OwnedFd, options: &MountOptions) -> io::Result<Made> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in [
        ("source", shown_source(&options.source)),
        ("subtype", SUBTYPE),
        ("fd", &device.as_raw_fd().to_string()),
        ("rootmode", "40000"),
        ("user_id", &getuid().as_raw().to_string()),
        ("group_id", &getgid().as_raw().to_string()),
    ] {
        fsconfig_set_string(&context, name, value)?;
    }
    let flags = [("default_permissions", true), ("allow_other", options.allow_other), ("ro", options.read_only)];
    flags.into_iter().filter(|(_, given)| *given).try_for_each(|(name, _)| fsconfig_set_flag(&context, name))?;
    fsconfig_create(&context)?;
    let mut attributes =
        MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOATIME;
    if options.read_only {
        attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
    }
    let made = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let by_descriptors = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&made, "", directory, "", by_descriptors)?;
    let looked_at = Identity::of(&made).and_then(|identity| Ok((require_at(directory, &identity)?, identity)));
    let (point, identity) = looked_at.inspect_err(|_| {
        // It is ours, as its descriptor is. What is left otherwise has no daemon and refuses everything.
        let _ = rustix::mount::unmount(mounts::by_descriptor(&made), UnmountFlags::DETACH);
    })?;
    Ok(Made { device: device.into(), identity, point })
}

/// fsconfig(2) takes 255 bytes of a value. The source is only shown; a prefix may have a thousand.
fn shown_source(source: &str) -> &str {
    source.get(..source.floor_char_boundary(SOURCE_BYTES_MAX)).unwrap_or_default()
}

/// The set-user-id helper of libfuse takes names. Its working directory is the directory itself, and what it made is
/// compared with it.
fn by_helper(directory: &OwnedFd, options: &MountOptions) -> io::Result<Made> {
    let before: BTreeSet<u64> = Mount::all()?.into_iter().map(|mount| mount.id).collect();
    let (ours, theirs) = UnixStream::pair()?;
    let options_text = helper_options(options);
    fusermount(directory, &["-o".as_ref(), options_text.as_ref(), "--".as_ref(), ".".as_ref()], Some(theirs))?;
    let device = receive(&ours)?.1.ok_or_else(|| io::Error::other("fusermount3 sent no device"))?;
    let own = Some(getuid().as_raw());
    let is_new = |mount: &Mount| !before.contains(&mount.id) && mount.kind == KIND && mount.user == own;
    let new: Vec<Mount> = Mount::all()?.into_iter().filter(is_new).collect();
    let mut is_undone = new.is_empty();
    for mount in &new {
        let Ok(identity) = open_root(mount).and_then(Identity::of) else { continue };
        if identity.id() != mount.id {
            continue;
        }
        match require_at(directory, &identity) {
            Ok(point) => return Ok(Made { device, identity, point }),
            // With more than one, another mount of this user may have come meanwhile, which is not ours to end.
            Err(_) => is_undone |= new.len() == 1 && unmount(&identity).is_ok(),
        }
    }
    Err(if is_undone { elsewhere() } else { left_over() })
}

fn left_over() -> io::Error {
    io::Error::other(
        "the directory was renamed or mounted on by another program meanwhile; \
         a mount without a daemon may be left, which \
         `findmnt -t fuse.dssefs` lists and `dssefs umount` removes",
    )
}

fn elsewhere() -> io::Error {
    io::Error::other(
        "the directory was renamed or mounted on by another program meanwhile, and nothing stays mounted; \
         find out which program changes the directories \
         above it, and try again",
    )
}

/// Where the mount is, if that is on the directory and on no other mount above it. The kernel
/// gives the names of both places. This function asks for each twice, so that a rename in between cannot make two
/// different places look alike.
fn require_at(directory: &OwnedFd, identity: &Identity) -> io::Result<PathBuf> {
    let below = mounts::id_of(directory)?;
    for _ in 0..8 {
        let place = mounts::path_of(directory)?;
        let mount = identity.find()?.ok_or_else(elsewhere)?;
        if mounts::path_of(directory)? != place {
            continue;
        }
        let is_there = mount.parent == below && mount.point == place && is_met_beside(directory, &mount)?;
        return if is_there { Ok(place) } else { Err(elsewhere()) };
    }
    Err(elsewhere())
}

/// Whether the mount is met under its last name in the parent of the directory, which is found without names. A user
/// may own a directory whose parent is closed to them, and then sees no more than the names.
fn is_met_beside(directory: &OwnedFd, mount: &Mount) -> io::Result<bool> {
    let Some(name) = mount.point.file_name() else { return Ok(false) };
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = openat(directory, "..", flags | OFlags::DIRECTORY, Mode::empty());
    match parent.and_then(|parent| openat(parent, name, flags, Mode::empty())) {
        Ok(there) => Ok(mounts::id_of(there)? == mount.id),
        Err(Errno::ACCESS) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Takes this mount out of the tree, and no other. Programs that have files open keep them until they close them. A
/// mount that is gone already is as wanted.
///
/// # Errors
/// Another mount covers it, its name leads elsewhere, or the kernel or fusermount3 refuse.
pub(super) fn unmount(identity: &Identity) -> io::Result<()> {
    let Some(mount) = identity.find()? else { return Ok(()) };
    let root = open_root(&mount)?;
    if Identity::of(&root)? != *identity {
        return Err(io::Error::other(format!(
            "{:?} leads to another mount, which was left alone; unmount that one first, \
             or find out which program renames the directories above",
            mount.point
        )));
    }
    if getuid().is_root() {
        return Ok(rustix::mount::unmount(mounts::by_descriptor(&root), UnmountFlags::DETACH)?);
    }
    // The helper takes names only. It is brought to the parent that was looked at, so that only the last name is left
    // to it.
    drop(root);
    let (parent, name) = held(&mount)?;
    fusermount(&parent, &["-u".as_ref(), "-z".as_ref(), "--".as_ref(), name], None)?;
    match identity.find()? {
        None => Ok(()),
        Some(_) => Err(io::Error::other("fusermount3 has left it where it is")),
    }
}

/// A descriptor on whatever is on top at the mount's place.
fn open_root(mount: &Mount) -> io::Result<OwnedFd> {
    let (parent, name) = held(mount)?;
    Ok(openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// The directory of the mount point, and the mount point's name in it.
fn held(mount: &Mount) -> io::Result<(OwnedFd, &OsStr)> {
    let parts = mount.point.parent().zip(mount.point.file_name());
    let (parent, name) =
        parts.ok_or_else(|| io::Error::other("nothing can be done about a mount on the root directory"))?;
    Ok((mounts::open_directory(parent)?, name))
}

/// As fusermount3 takes them. A comma would be taken for the beginning of another option, and a backslash for part of
/// an escape.
fn helper_options(options: &MountOptions) -> String {
    let is_plain = |character: char| !matches!(character, ',' | '\\') && !character.is_control();
    let source = options.source.chars().map(|character| if is_plain(character) { character } else { '_' });
    let source = source.collect::<String>();
    let read_only = if options.read_only { ",ro" } else { "" };
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    format!("fsname={source},subtype={SUBTYPE},default_permissions,nodev,nosuid,noatime{read_only}{allow_other}")
}

/// The set-user-id helper of libfuse, which mounts for everybody; `socket` is where it sends the device
/// (fusermount3(1)).
fn fusermount(directory: &OwnedFd, arguments: &[&OsStr], socket: Option<UnixStream>) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.args(arguments).env("LC_ALL", "C").stdin(Stdio::null()).stdout(Stdio::null());
    command.current_dir(mounts::by_descriptor(directory));
    if let Some(socket) = socket {
        command.env("_FUSE_COMMFD", "0").stdin(OwnedFd::from(socket));
    }
    let output = command.output().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("fusermount3 is missing; install it with `apt-get install fuse3`"),
        _ => error,
    })?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() { Ok(()) } else { Err(io::Error::other(said)) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn no_source_forges_a_mount_option() {
        let options =
            MountOptions { source: "s3://b/a,suid\\\n".to_owned(), read_only: true, allow_other: false, threads: 1 };
        let expected = "fsname=s3://b/a_suid__,subtype=dssefs,default_permissions,nodev,nosuid,noatime,ro";
        assert_eq!(helper_options(&options), expected);
    }

    #[test]
    fn a_mount_is_found_by_its_own_line() {
        let proc = mounts::open_directory(Path::new("/proc")).unwrap();
        let (mount, identity) = (Mount::rooted_at(&proc).unwrap().unwrap(), Identity::of(&proc).unwrap());
        assert_eq!(Identity::of(open_root(&mount).unwrap()).unwrap(), identity);
        let elsewhere = require_at(&mounts::open_directory(Path::new("/dev")).unwrap(), &identity);
        assert!(elsewhere.unwrap_err().to_string().contains("meanwhile"));
    }
}
