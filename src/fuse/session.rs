//! Mounting and unmounting.

use std::io;
use std::path::{Path, PathBuf};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};

use super::Adapter;

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

/// A mount that answers. Its requests are served by [`Mounted::serve`].
pub struct Mounted {
    session: Session<Adapter>,
    unmounter: SessionUnmounter,
    mountpoint: PathBuf,
}

/// Ends a mount from another thread.
pub struct Unmounter {
    unmounter: SessionUnmounter,
    mountpoint: PathBuf,
}

/// Mounts at `mountpoint`, and returns when the kernel has shaken hands.
///
/// # Errors
/// The mount point or /dev/fuse cannot be used, or fusermount3 is needed and missing.
pub fn mount(adapter: Adapter, mountpoint: &Path, options: &MountOptions) -> io::Result<Mounted> {
    let mut session = Session::new(adapter, mountpoint, &config(options))?;
    let unmounter = session.unmount_callable();
    Ok(Mounted { session, unmounter, mountpoint: mountpoint.to_owned() })
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    // A comma would be taken for the beginning of another option.
    let source = options.source.replace(',', "_");
    config.mount_options = vec![
        MountOption::FSName(source),
        MountOption::Subtype("dssefs".to_owned()),
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
    /// What ends the mount from another thread. To be taken before `serve`.
    #[must_use]
    pub fn split(self) -> (Server, Unmounter) {
        let Mounted { session, unmounter, mountpoint } = self;
        (Server(session), Unmounter { unmounter, mountpoint })
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
        match self.unmounter.unmount() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                let lazy = rustix::mount::UnmountFlags::DETACH;
                Ok(rustix::mount::unmount(&self.mountpoint, lazy)?)
            }
            outcome => outcome,
        }
    }
}
