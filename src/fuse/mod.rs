//! The kernel's protocol: decodes a request, hands it with its reply to a task, and encodes the answer.
//!
//! The kernel's threads never wait for the network: each request becomes a task that owns its reply. A task that is
//! lost answers EIO, because a dropped reply does, so it cannot hang a program. A process beside the daemon, the mount
//! helper, mounts and unmounts. This room decides nothing about files. It may use `vfs`, `mounts`, and `secret` for the
//! bytes of a write that its task carries.

mod adapter;
mod convert;
mod directory_reply;
mod log_file;
mod mount_helper;
mod options;
mod passing;
mod place;
mod session;

pub use adapter::Adapter;
pub use directory_reply::is_late_answer;
pub use log_file::LogFile;
pub use mount_helper::{MountHelper, run_mount_helper};
pub use options::MountOptions;
pub use session::{Mounted, Server, Unmounter, mount};
