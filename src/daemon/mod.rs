//! Starts the layers of a mount in order, proves that the store can do what is promised, serves, and stops the layers
//! in reverse order.
//!
//! Nothing here knows what a file is. This room may use every room below it.

mod build;
mod confine;
mod descriptors;
pub mod doctor;
mod exit_report;
mod identity;
mod memory;
pub mod recover;
mod rename_keys;
mod resolve_key;
mod sessions;
mod settings;
mod spill_dir;
mod start_error;
mod stop;
mod take_over;
mod trusted_path;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::config::Config;
use crate::fuse::{self, Adapter, MountHelper};
use dssefs_fs::journal::Journal;
use dssefs_fs::vfs::Vfs;
use dssefs_seal::crypto;

use spill_dir::SpillDir;

pub use crate::fuse::{LogFile, MountOptions, is_late_answer, run_mount_helper};
pub use dssefs_fs::vfs::{REPORT_ATTRIBUTE, RETRY_ATTRIBUTE, UnsavedFile, UnsavedReport};
pub use dssefs_seal::secret::close_inherited;
pub use exit_report::{ExitReport, ReportFile};
pub use identity::Identity;
pub use start_error::StartError;
pub use trusted_path::trusted_log;

/// The version of the program, and of its FIPS module where it has one.
#[cfg(not(feature = "fips"))]
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of the program, and of its FIPS module where it has one.
#[cfg(feature = "fips")]
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " with AWS-LC FIPS 3.1.0");

/// A mount that answers.
#[derive(Debug)]
pub struct Mounted {
    /// As `s3://bucket/prefix`.
    pub source: String,
    /// Where it is in fact, without links.
    pub mountpoint: PathBuf,
    /// The key, for people: an ARN, or that it is the AWS managed key.
    pub key: String,
}

/// The command that runs the daemon, and has the terminal and the log.
pub trait Owner: Send + Sync {
    /// This process is confined: threads that are started from now on are too.
    fn confined(&self);
    /// The mount answers.
    fn ready(&self, mounted: &Mounted);
    /// What SIGHUP means.
    fn hangup(&self) -> Hangup;
    /// The log goes on in this file.
    fn log_to(&self, file: File);
}

/// What SIGHUP means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hangup {
    /// The same as SIGTERM.
    Ends,
    /// The log was renamed, and is opened again.
    ReopensLog,
    /// Nothing.
    Ignored,
}

/// Mounts, serves, and returns after the unmount, when all that could be saved is saved.
///
/// # Errors
/// [`StartError`] says why there is no mount, or what was unsaved at its end.
pub fn run(config: Config, owner: Arc<dyn Owner>) -> Result<(), StartError> {
    let (mount, mounted) = start(config, &*owner)?;
    owner.ready(&mounted);
    tracing::info!("{} is mounted at {}", mounted.source, mounted.mountpoint.display());
    mount.serve(owner)
}

/// All that lives as long as the mount.
struct RunningMount {
    runtime: Runtime,
    vfs: Arc<Vfs>,
    ending: stop::Ending,
    journal: Option<Arc<Journal>>,
    server: fuse::Server,
    unmounter: fuse::Unmounter,
    signals: stop::Signals,
}

fn start(mut config: Config, owner: &dyn Owner) -> Result<(RunningMount, Mounted), StartError> {
    // 1. Protect the memory, and prove the ciphers: the proof makes keys.
    let memory = memory::protect();
    prove_ciphers()?;
    settings::warn_of_dangers(&config);
    descriptors::raise_limit();
    // 2. Check the spill directory before anything is opened there. From here on the path without links is used.
    let spill_dir = SpillDir::make(&config.spill_dir)?;
    spill_dir.path().clone_into(&mut config.spill_dir);
    let options = MountOptions {
        source: config.source().to_string(),
        read_only: config.read_only,
        allow_other: config.allow_other,
        threads: config.fuse_threads,
    };
    // 3. Start the helper, close the sandbox, start the threads. In this order: the helper stays outside the sandbox,
    //    and each thread inherits the sandbox of the thread that starts it.
    let helper = MountHelper::start(config.mountpoint.directory.as_fd(), &options, config.log.file.as_deref());
    let helper = helper.map_err(|error| StartError::fuse(&config, &error))?;
    let sandbox = confine::confine(&config, memory.keys)?;
    owner.confined();
    let protection = format!("{} {sandbox}", memory.summary);
    tracing::info!(protection, "what this process has given up");
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .thread_name("dssefs")
        .build()
        .map_err(|error| StartError::Internal(format!("the threads cannot be started: {error}")))?;
    // 4. Prove the bucket, and build the file system.
    let built = runtime.block_on(build::build(&config, &spill_dir, protection))?;
    let adapter = Adapter::new(Arc::clone(&built.vfs), runtime.handle().clone(), config.metadata_ttl, config.errno);
    // 5. Take signals, and mount. In this order: a signal must not end the process and leave a mount without a daemon.
    let signals = runtime.block_on(async { stop::Signals::new(owner.hangup()) });
    let signals = signals.map_err(|error| StartError::Internal(format!("signals cannot be received: {error}")))?;
    let mounted = fuse::mount(adapter, helper, &options).map_err(|error| StartError::fuse(&config, &error))?;
    let mountpoint = mounted.point();
    let (server, unmounter) = mounted.split();
    let ending =
        stop::Ending { gateway: built.gateway, stop_timeout: config.stop_timeout, spill_dir: config.spill_dir };
    let mount = RunningMount { runtime, vfs: built.vfs, ending, journal: built.journal, server, unmounter, signals };
    Ok((mount, Mounted { source: options.source, mountpoint, key: built.key }))
}

impl RunningMount {
    /// Serves until the file system is unmounted, or until a signal asks for the end and programs had their time to
    /// close files. Then saves the rest.
    fn serve(self, owner: Arc<dyn Owner>) -> Result<(), StartError> {
        let RunningMount { runtime, vfs, ending, journal, server, unmounter, mut signals } = self;
        // 1. Answer signals and the kernel's requests, each beside the other.
        let unmounter = Arc::new(unmounter);
        if let Some(hangups) = signals.of_log.take() {
            runtime.spawn(stop::reopen_log(hangups, Arc::clone(&unmounter), owner));
        }
        let (done, served) = oneshot::channel();
        std::thread::spawn(move || done.send(server.serve()));
        // 2. Wait for the end: of the kernel's connection, or of what a signal has started.
        let stopped = stop::on_signal(signals, Arc::clone(&vfs), &ending, unmounter);
        let served = runtime.block_on(async {
            tokio::select! {
                served = served => served.unwrap_or_else(|_| {
                    Err(io::Error::other("the thread that serves it has panicked"))
                }),
                () = stopped => Ok(()),
            }
        });
        // 3. Save what is left. No request of a program comes in any more.
        let unsaved = runtime.block_on(stop::save(&vfs, &ending));
        // 4. Stop the layers in reverse order; the journal is last, because commits write to it.
        drop(vfs);
        runtime.shutdown_timeout(stop::GRACE);
        stop::close(journal);
        served.map_err(|error| StartError::Internal(format!("the kernel's device failed: {error}")))?;
        unsaved
    }
}

/// Proves the ciphers.
fn prove_ciphers() -> Result<(), StartError> {
    crypto::self_test()
        .map_err(|error| StartError::Internal(format!("the ciphers of this build cannot be trusted: {error}")))?;
    if !crypto::hardware_accelerated() {
        tracing::warn!("this processor has no AES instructions: sealing is some fifty times slower");
    }
    Ok(())
}
