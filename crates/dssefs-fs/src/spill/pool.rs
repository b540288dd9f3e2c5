//! The memory and the disk of a mount, as other rooms know them.

use std::path::Path;
use std::sync::Arc;

use dssefs_seal::sealed::ByteBudget;

use super::buffer::Buffer;
use super::registry::{Core, Registry};
use super::resources::Resources;
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
    resources: Arc<Resources>,
    cores: Arc<Registry>,
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
        let resources = Resources::new(directory, memory_bytes_max, spill_bytes_max)?;
        resources.sealed_file()?;
        Ok(Arc::new(Pool { resources: Arc::new(resources), cores: Arc::default() }))
    }

    /// An empty buffer.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        Buffer::new(Core::new(Arc::clone(&self.resources), &self.cores))
    }

    /// The local disk, which the buffers share with the journal.
    pub fn disk(&self) -> Arc<ByteBudget> {
        Arc::clone(self.resources.disk())
    }

    /// What is taken at this moment.
    pub fn usage(&self) -> Usage {
        let (memory, disk) = (self.resources.memory(), self.resources.disk());
        let limits = Limits { memory_bytes_max: memory.bytes_max(), spill_bytes_max: disk.bytes_max() };
        Usage { memory_bytes: memory.used_bytes(), spill_bytes: disk.used_bytes(), limits }
    }

    /// The longest single write, in bytes: half of the memory, so that with the blocks at both ends it fits into the
    /// whole.
    pub fn write_bytes_max(&self) -> u64 {
        self.resources.write_bytes_max()
    }

    /// Completes when memory or disk came back, or may be had now, after this call. Take the future first and try then;
    /// when that is [`Error::Busy`], wait for the future and begin again. So no notice is lost.
    pub fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        self.resources.released()
    }

    /// Completes [`Pool::released`] for all callers that wait, because something that they hope for has ended.
    pub fn wake(&self) {
        self.resources.wake();
    }
}
