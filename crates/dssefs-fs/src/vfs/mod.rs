//! The meaning of each file system call, in our own types: what a program is promised, without the kernel's protocol.
//!
//! Here the engines meet: `namespace` knows names and attributes, `read` one version of an object, `write` the changes
//! of one file. This room ties them to open files, and turns every failure into an errno in one place. `ops` has the
//! calls, `saving` the fate of closed files, and `keeping` what the journal has of them. The room sends no
//! request of its own and knows nothing of FUSE. It may use `object`, `policy`, `secret`, `journal`, `s3`, `namespace`,
//! `read`, `spill` and `write`.

mod description;
mod errno;
mod error;
mod file;
mod files;
mod handles;
mod keeping;
mod noncompliant;
mod ops;
mod pages;
mod saving;
mod slots;
mod unsaved;

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Once, Weak};

use crate::namespace::Namespace;
use crate::read::ReadBudget;
use crate::write::{Engine, Slots};
use dssefs_s3::s3::Gateway;

pub use crate::namespace::xattr::Expect;
pub use crate::namespace::{Attributes, DirEntry, Ino, Kind, Node, Privileges, Timestamp};
pub use dssefs_s3::object::{Name, NameError};
pub use errno::{Errno, ErrnoStyle};
pub use error::Error;
pub use handles::{Access, Fh};
pub use keeping::{JournalCoverage, JournalPolicy};
pub use ops::{
    Allocation, MountFacts, Opened, Place, RenameMode, SetAttributes, Sought, SpecialKind, Statfs, TimeChange,
};
pub use saving::{SaveExtent, Unsaved};
pub use unsaved::{REPORT_ATTRIBUTE, RETRY_ATTRIBUTE, UnsavedFile, UnsavedReport, is_for_the_owner};

use files::Files;
use handles::Handles;
use pages::Pages;

/// What to do when a program reads an object that is not DSSE-KMS under the mount's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoncompliantRead {
    /// Serve it; its attributes tell.
    Serve,
    /// Answer EKEYREJECTED before a byte is served, and to every call that would store its content again as compliant.
    Refuse,
}

/// How a mount behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// See [`NoncompliantRead`].
    pub on_noncompliant_read: NoncompliantRead,
    /// Whether listxattr names the `user.dsse.*` attributes; they can be read by name in any case.
    pub list_attributes: bool,
    /// What the root directory's attributes say of the mount.
    pub facts: MountFacts,
}

/// A mounted file system.
pub struct Vfs {
    /// For tasks that outlive the call that began them.
    me: Weak<Vfs>,
    gateway: Arc<Gateway>,
    namespace: Arc<Namespace>,
    engine: Arc<Engine>,
    read_budget: Arc<ReadBudget>,
    settings: Settings,
    /// None: changes end with the process.
    journal_policy: Option<JournalPolicy>,
    saves: Slots,
    /// How many requests to try all closed files again are under way.
    tries: AtomicUsize,
    files: Files,
    handles: Handles,
    /// The log says once that a program has tried to set what the mount reports.
    ignored_report: Once,
    /// Shared with the links of writers, which note the versions that they make.
    pages: Arc<Pages>,
}

impl Vfs {
    /// A file system out of its engines.
    #[must_use]
    pub fn new(
        gateway: Arc<Gateway>,
        namespace: Arc<Namespace>,
        engine: Arc<Engine>,
        read_budget: Arc<ReadBudget>,
        settings: Settings,
        journal_policy: Option<JournalPolicy>,
    ) -> Arc<Vfs> {
        let (files, handles, pages) = (
            Files::new(namespace.numbers_in_use()),
            Handles::new(rustix::process::geteuid().as_raw(), namespace.names_bytes_max()),
            Arc::new(Pages::new()),
        );
        Arc::new_cyclic(|me| Vfs {
            me: Weak::clone(me),
            gateway,
            namespace,
            engine,
            read_budget,
            settings,
            journal_policy,
            saves: Slots::new(saving::SAVES_MAX, saving::SLOW_SAVES_MAX),
            tries: AtomicUsize::new(0),
            files,
            handles,
            ignored_report: Once::new(),
            pages,
        })
    }
}
