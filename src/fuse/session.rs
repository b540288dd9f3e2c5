//! Serving a mount, from the kernel's handshake to its end.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use fuser::{Config, Session, SessionACL};

use super::options::MountOptions;
use super::{Adapter, MountHelper};

/// A mount that answers. Its requests are served by [`Server::serve`].
pub struct Mounted {
    session: Session<Adapter>,
    unmounter: Unmounter,
    point: PathBuf,
}

/// Unmounts from another thread, and opens the mount's log again.
#[derive(Debug)]
pub struct Unmounter(MountHelper);

/// Mounts by the helper, and returns after the kernel's handshake.
///
/// # Errors
/// The directory or /dev/fuse cannot be used, something else was mounted there meanwhile, or fusermount3 is needed and
/// missing.
pub fn mount(adapter: Adapter, helper: MountHelper, options: &MountOptions) -> io::Result<Mounted> {
    let (device, point) = helper.mount()?;
    let config = config(options);
    let answering = device.try_clone().map(|device| adapter.answering(device));
    match answering.and_then(|adapter| Session::from_fd(adapter, device, config.acl, config)) {
        Ok(session) => Ok(Mounted { session, unmounter: Unmounter(helper), point }),
        Err(error) => {
            if let Err(error) = helper.unmount() {
                tracing::error!(%error, "the mount could not be unmounted again; unmount it with `fusermount3 -uz`");
            }
            Err(error)
        }
    }
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    // The kernel takes an answer only on the device that gave the request, and `directory_reply` has one alone.
    config.clone_fd = false;
    config
}

impl Mounted {
    /// Where the mount is.
    #[must_use]
    pub fn point(&self) -> PathBuf {
        self.point.clone()
    }

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
        self.0.run().or_else(|error| if is_end(&error) { Ok(()) } else { Err(error) })
    }
}

/// Whether the mount is gone. The kernel says ENODEV then, which fuser knows; to a thread that is just taking a request
/// it says ECONNABORTED.
fn is_end(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECONNABORTED)
}

impl Unmounter {
    /// Takes the mount out of the tree. Programs that have files open keep them until they close them.
    ///
    /// # Errors
    /// It cannot be unmounted, or another mount is in its place, which stays.
    pub fn unmount(&self) -> io::Result<()> {
        self.0.unmount()
    }

    /// Opens the log's file by its name.
    ///
    /// # Errors
    /// The file cannot be opened for appending, or is no regular file.
    pub fn open_log(&self) -> io::Result<File> {
        self.0.open_log()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_torn_down_is_the_end_and_no_failure() {
        assert!(is_end(&io::Error::from_raw_os_error(libc::ECONNABORTED)));
        assert!(!is_end(&io::Error::from_raw_os_error(libc::EIO)));
    }
}
