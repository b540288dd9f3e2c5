//! The memory, the disk and the notices that all buffers of a mount share.
//!
//! The lowest file of the room: it knows no buffer. [`super::Pool`] adds the list of buffers.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

use dssefs_seal::sealed::{ByteBudget, Charge, SealedFile};

use super::{BLOCK_BYTES, Error};

/// What all buffers of a mount share.
pub(super) struct Resources {
    directory: PathBuf,
    memory: Arc<ByteBudget>,
    disk: Arc<ByteBudget>,
    released: Arc<Notify>,
    /// Whether a caller has found no memory since the last notice. Set before the buffers are searched for some, so
    /// that a buffer which is busy during the search gives notice when it is done.
    starving: AtomicBool,
    flights: Arc<Flights>,
}

impl Resources {
    /// Makes `directory` with mode 0700 if it is missing.
    pub(super) fn new(directory: &Path, memory_bytes_max: u64, disk_bytes_max: u64) -> Result<Resources, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::Directory { directory: directory.to_owned(), source })?;
        let released = Arc::new(Notify::new());
        let notice = || {
            let released = Arc::clone(&released);
            move || released.notify_waiters()
        };
        let (alive, ended) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Resources {
            directory: directory.to_owned(),
            memory: ByteBudget::with_notice(memory_bytes_max, notice()),
            disk: ByteBudget::with_notice(disk_bytes_max, notice()),
            flights: Arc::new(Flights { alive, ended, released: Arc::clone(&released) }),
            released,
            starving: AtomicBool::new(false),
        })
    }

    pub(super) fn memory(&self) -> &ByteBudget {
        &self.memory
    }

    pub(super) fn disk(&self) -> &Arc<ByteBudget> {
        &self.disk
    }

    /// The longest single write, in bytes: half of the memory, so that with the blocks at both ends it fits into the
    /// whole.
    pub(super) fn write_bytes_max(&self) -> u64 {
        self.memory.bytes_max() / 2
    }

    pub(super) fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.released).notified_owned()
    }

    pub(super) fn wake(&self) {
        self.released.notify_waiters();
    }

    pub(super) fn charge_memory(&self, bytes: u64) -> Option<Charge> {
        self.memory.charge(bytes)
    }

    pub(super) fn sealed_file(&self) -> Result<SealedFile, Error> {
        Ok(SealedFile::create(&self.directory, BLOCK_BYTES, Arc::clone(&self.disk))?)
    }

    pub(super) fn in_flight(&self) -> InFlight {
        InFlight::new(Arc::clone(&self.flights))
    }

    /// Whether a snapshot or a chunk of one is alive, so that memory will come back when it ends.
    pub(super) fn has_snapshots(&self) -> bool {
        self.flights.alive.load(Ordering::SeqCst) > 0
    }

    /// How many snapshots and chunks have ended so far.
    pub(super) fn snapshots_ended(&self) -> u64 {
        self.flights.ended.load(Ordering::SeqCst)
    }

    pub(super) fn starve(&self) {
        self.starving.store(true, Ordering::SeqCst);
    }

    /// A buffer is done with a call: what it held during that call can be sealed now.
    pub(super) fn settle(&self) {
        if self.starving.swap(false, Ordering::SeqCst) {
            self.released.notify_waiters();
        }
    }
}

/// Held by each snapshot and each chunk of one. Gives notice after it went.
pub(super) struct InFlight(Arc<Flights>);

struct Flights {
    alive: AtomicU64,
    ended: AtomicU64,
    released: Arc<Notify>,
}

impl InFlight {
    fn new(flights: Arc<Flights>) -> Self {
        flights.alive.fetch_add(1, Ordering::SeqCst);
        InFlight(flights)
    }
}

impl Clone for InFlight {
    fn clone(&self) -> Self {
        InFlight::new(Arc::clone(&self.0))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // Counted as ended first: a caller that then sees none alive also sees that one has ended.
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
        self.0.released.notify_waiters();
    }
}
