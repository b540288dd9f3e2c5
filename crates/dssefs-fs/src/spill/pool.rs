//! The memory and the disk that all buffers of a mount share.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

use dssefs_seal::sealed::{ByteBudget, Charge, SealedFile};

use super::buffer::{Buffer, Core};
use super::{BLOCK_BYTES, Error};

/// The least [`Limits::memory_bytes_max`]: four blocks, so that a write of two that touches three has room.
pub const MEMORY_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;

/// What all buffers together may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Plaintext in memory, in bytes.
    pub memory_bytes_max: u64,
    /// Sealed data on the local disk, in bytes; 0 for none.
    pub spill_bytes_max: u64,
}

/// What all buffers together take at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Plaintext in memory, in bytes, with what only snapshots hold.
    pub memory_bytes: u64,
    /// Sealed data on the local disk, in bytes.
    pub spill_bytes: u64,
    /// What it may be.
    pub limits: Limits,
}

/// The memory and the disk of a mount.
pub struct Pool {
    directory: PathBuf,
    memory: Arc<ByteBudget>,
    disk: Arc<ByteBudget>,
    released: Arc<Notify>,
    /// Somebody found no memory since the last notice. Set before the buffers are searched for some, so that a buffer
    /// which is busy during the search gives notice when it is done.
    starving: AtomicBool,
    flights: Arc<Flights>,
    /// Every buffer, so that those can be relieved that nobody writes to.
    cores: Mutex<HashMap<u64, Weak<Core>>>,
    core_next: AtomicU64,
}

impl Pool {
    /// A pool that spills into `directory`, which is made with mode 0700 if it is missing. A file is sealed there once,
    /// to see that it can be done.
    ///
    /// # Errors
    /// [`Error::MemoryTooSmall`], [`Error::Directory`], [`Error::NoSpace`], [`Error::Crypto`].
    pub fn new(directory: &Path, limits: Limits) -> Result<Arc<Pool>, Error> {
        let Limits { memory_bytes_max, spill_bytes_max } = limits;
        if memory_bytes_max < MEMORY_BYTES_MIN {
            return Err(Error::MemoryTooSmall { memory_bytes_max });
        }
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| Error::Directory { directory: directory.to_owned(), source })?;
        let released = Arc::new(Notify::new());
        let notice = || {
            let released = Arc::clone(&released);
            move || released.notify_waiters()
        };
        let pool = Pool {
            directory: directory.to_owned(),
            memory: ByteBudget::with_notice(memory_bytes_max, notice()),
            disk: ByteBudget::with_notice(spill_bytes_max, notice()),
            flights: Arc::new(Flights {
                alive: AtomicU64::new(0),
                ended: AtomicU64::new(0),
                released: Arc::clone(&released),
            }),
            released,
            starving: AtomicBool::new(false),
            cores: Mutex::default(),
            core_next: AtomicU64::new(0),
        };
        pool.sealed_file()?;
        Ok(Arc::new(pool))
    }

    /// An empty buffer.
    pub fn buffer(self: &Arc<Self>) -> Buffer {
        let id = self.core_next.fetch_add(1, Ordering::Relaxed);
        let core = Arc::new(Core::new(Arc::clone(self), id));
        self.cores().insert(id, Arc::downgrade(&core));
        Buffer::new(core)
    }

    /// The local disk that the buffers share with whatever else is kept there.
    pub fn disk(&self) -> Arc<ByteBudget> {
        Arc::clone(&self.disk)
    }

    /// What is taken at this moment.
    pub fn usage(&self) -> Usage {
        let limits = Limits { memory_bytes_max: self.memory.bytes_max(), spill_bytes_max: self.disk.bytes_max() };
        Usage { memory_bytes: self.memory.used_bytes(), spill_bytes: self.disk.used_bytes(), limits }
    }

    /// The longest single write, in bytes: half of the memory, so that with the blocks at both ends it fits into the
    /// whole.
    pub fn write_bytes_max(&self) -> u64 {
        self.memory.bytes_max() / 2
    }

    /// Completes when memory or disk came back, or may be had now, after this call. Take the future first and try then;
    /// when that is [`Error::Busy`], wait for the future and begin again. So no notice is lost.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        Arc::clone(&self.released).notified_owned()
    }

    /// Completes [`Pool::released`] for whoever waits, because something that they hope for has ended.
    pub fn wake(&self) {
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

    /// All buffers that are alive.
    pub(super) fn live_cores(&self) -> Vec<Arc<Core>> {
        self.cores().values().filter_map(Weak::upgrade).collect()
    }

    pub(super) fn forget(&self, id: u64) {
        self.cores().remove(&id);
    }

    fn cores(&self) -> MutexGuard<'_, HashMap<u64, Weak<Core>>> {
        // Each of its operations leaves the map whole.
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
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
        // First counted as ended: whoever sees none alive then sees that one has ended.
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
        self.0.released.notify_waiters();
    }
}
