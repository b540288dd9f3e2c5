//! A buffer as the search for memory knows it, and the list of all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::contents::Contents;
use super::resources::Resources;

/// Every buffer of a mount, so that a search for memory also reaches those that no program writes to.
#[derive(Default)]
pub(super) struct Registry {
    cores: Mutex<HashMap<u64, Weak<Core>>>,
    next: AtomicU64,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Weak<Core>>> {
        // Each of its operations leaves the map whole.
        self.cores.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer as the pool knows it.
pub(super) struct Core {
    pub(super) resources: Arc<Resources>,
    cores: Arc<Registry>,
    id: u64,
    contents: Mutex<Contents>,
    /// A copy of what the contents say, to be read without their lock.
    memory_bytes: AtomicU64,
}

impl Core {
    /// An empty buffer, which is on the list of `cores` until it is dropped.
    pub(super) fn new(resources: Arc<Resources>, cores: &Arc<Registry>) -> Arc<Core> {
        let id = cores.next.fetch_add(1, Ordering::Relaxed);
        let (contents, memory_bytes) = (Mutex::default(), AtomicU64::new(0));
        let core = Arc::new(Core { resources, cores: Arc::clone(cores), id, contents, memory_bytes });
        cores.lock().insert(id, Arc::downgrade(&core));
        core
    }

    /// All buffers of the mount that are alive.
    pub(super) fn all(&self) -> Vec<Arc<Core>> {
        self.cores.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Memory charged to the buffer after its last call, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes.load(Ordering::SeqCst)
    }

    /// Does something with the contents on behalf of the buffer's user.
    pub(super) fn change<T>(&self, work: impl FnOnce(&mut Contents) -> T) -> T {
        let done = self.relieve_with(work);
        self.resources.settle();
        done
    }

    /// Does something with the contents on behalf of a caller that searches for memory, and gives no notice of it.
    pub(super) fn relieve_with<T>(&self, work: impl FnOnce(&mut Contents) -> T) -> T {
        let mut contents = self.lock();
        let done = work(&mut contents);
        self.memory_bytes.store(contents.memory_bytes(), Ordering::SeqCst);
        done
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        // After a panic in the middle of a change the content is unknown. It must not be uploaded as if it were whole.
        self.contents.lock().expect("no thread has panicked while it changed this buffer")
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.cores.lock().remove(&self.id);
    }
}
