//! Mounting and unmounting.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{getgid, getuid};

use super::Adapter;

/// What mount(8), findmnt(8) and /proc/self/mountinfo show as the type, with `fuse.` before it.
const SUBTYPE: &str = "dssefs";

/// How the kernel is asked to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What mount(8) shows as the device: `s3://bucket/prefix`.
    pub source: String,
    /// Refuse every change.
    pub read_only: bool,
    /// Let other users in.
    pub allow_other: bool,
    /// Threads that take requests from the kernel, at least 1.
    pub threads: usize,
}

/// A mount that answers. Its requests are served by [`Server::serve`].
pub struct Mounted {
    session: Session<Adapter>,
    unmounter: Unmounter,
}

/// Ends a mount from another thread.
pub enum Unmounter {
    /// We mounted with mount(2), and unmount with umount(2).
    System(PathBuf),
    /// fusermount3 mounted for us.
    Helper(SessionUnmounter),
}

/// Mounts at `mountpoint`, and returns when the kernel has shaken hands.
///
/// # Errors
/// The mount point or /dev/fuse cannot be used, or fusermount3 is needed and missing.
pub fn mount(adapter: Adapter, mountpoint: &Path, options: &MountOptions) -> io::Result<Mounted> {
    if !getuid().is_root() {
        let mut session = Session::new(adapter, mountpoint, &config(options))?;
        let unmounter = Unmounter::Helper(session.unmount_callable());
        return Ok(Mounted { session, unmounter });
    }
    let device = mount_as_root(mountpoint, options)?;
    let config = config(options);
    let unmounter = Unmounter::System(mountpoint.to_owned());
    match Session::from_fd(adapter, device, config.acl, config) {
        Ok(session) => Ok(Mounted { session, unmounter }),
        Err(error) => {
            rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
            Err(error)
        }
    }
}

/// mount(2) by ourselves: fuser's own way as root gives the mount no subtype, by which people and scanners know it.
fn mount_as_root(mountpoint: &Path, options: &MountOptions) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
    let mut flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let allow_other = if options.allow_other { ",allow_other" } else { "" };
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{allow_other}\0",
        device.as_raw_fd(),
        getuid().as_raw(),
        getgid().as_raw(),
    );
    let data = std::ffi::CString::from_vec_with_nul(data.into_bytes()).map_err(io::Error::other)?;
    rustix::mount::mount(options.source.as_str(), mountpoint, format!("fuse.{SUBTYPE}"), flags, data.as_c_str())?;
    Ok(device.into())
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    // A comma would be taken for the beginning of another option.
    let source = options.source.replace(',', "_");
    config.mount_options = vec![
        MountOption::FSName(source),
        MountOption::Subtype(SUBTYPE.to_owned()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
    ];
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = options.threads > 1;
    config
}

impl Mounted {
    /// The two ends: what serves until the mount is gone, and what ends it from another thread.
    #[must_use]
    pub fn split(self) -> (Server, Unmounter) {
        (Server(self.session), self.unmounter)
    }
}

/// Serves the kernel's requests.
pub struct Server(Session<Adapter>);

impl Server {
    /// Serves until the file system is unmounted.
    ///
    /// # Errors
    /// The kernel's device failed.
    pub fn serve(self) -> io::Result<()> {
        self.0.run()
    }
}

impl Unmounter {
    /// Takes the mount out of the tree. Programs that have files open keep them until they close them.
    ///
    /// # Errors
    /// It cannot be unmounted.
    pub fn unmount(&mut self) -> io::Result<()> {
        match self {
            Unmounter::System(mountpoint) => Ok(rustix::mount::unmount(mountpoint.as_path(), UnmountFlags::DETACH)?),
            Unmounter::Helper(session) => session.unmount(),
        }
    }
}
