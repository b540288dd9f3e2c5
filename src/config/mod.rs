//! The options of a mount: as given ([`RawConfig`]) and as checked ([`Config`]).
//!
//! Options come from flags and from the environment (`DSSEFS_*`), which clap fills into [`RawConfig`].
//! [`Config::check`] turns them into types whose constructors are the checks, and reports every problem at once, each
//! with a sentence that says what to do. The room looks at the mount point and asks the network nothing: what the
//! bucket and the key say is the daemon's to find out. It may use `mounts`, `object` and `policy`, and takes the types
//! of some options from `s3`, `namespace` and `vfs`.

mod checked;
mod choice;
mod endpoint;
mod examined;
mod place;
mod problem;
mod raw;
mod source;
mod units;

pub use dssefs_s3::s3::Connection;

pub use checked::{Config, JournalKeys, KeyChoice, Log, MEMORY_BYTES_MIN, check_store};
pub use endpoint::{EndpointError, without_credentials};
pub use examined::Examined;
pub use place::Mountpoint;
pub use problem::{Problem, Problems};
pub use raw::{Commit, LogFormat, RawConfig, RawStore, Sandbox, SpillKeys, XattrList};
pub use source::{Source, SourceError};
pub use units::{DurationError, ModeError, SizeError, parse_duration, parse_mode, parse_size};
