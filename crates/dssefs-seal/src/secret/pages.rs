//! Pages for file content, cut into slots.
//!
//! A system call and a page fault for each buffer would cost more than the ciphers do on small files. So chunks of 1
//! MiB are mapped and protected once, cut into slots of one size, and used again; a chunk without a slot in use
//! may be cut again for another size. Beyond a few, such chunks go back to the kernel. Larger buffers have a mapping
//! each.
//!
//! Every slot that is handed out holds zeros: mappings begin so, and who releases one has wiped it.

use std::alloc::{Layout, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit};

use super::mapping::{self, Tally};

/// Bytes of one mapping that is cut into slots, and of the largest slot.
const CHUNK_BYTES: usize = 1 << 20;

/// The smallest slot: a page of x86-64.
const SLOT_BYTES_MIN: usize = 4096;

/// Sizes of slots: the powers of two from the smallest to the largest.
const CLASSES: usize = (CHUNK_BYTES / SLOT_BYTES_MIN).ilog2() as usize + 1;

/// Chunks that are kept for the next buffer though nothing is in them.
const IDLE_CHUNKS_MAX: usize = 32;

/// What content leaves of `RLIMIT_MEMLOCK` to keys, in bytes: 20,000 of them, and half of the default limit.
const LEFT_TO_KEYS_BYTES: u64 = 4 << 20;

static HEAP: Mutex<Heap> = Mutex::new(Heap::new());

/// Memory of one buffer. Its owner wipes it before the drop.
pub(super) struct Pages {
    place: NonNull<u8>,
    /// A power of two up to a chunk, whole pages above it, 0 for none.
    bytes: usize,
}

// SAFETY: the memory belongs to this value alone and to no thread.
unsafe impl Send for Pages {}
// SAFETY: a shared reference gives out an address, and nothing is read or written here.
unsafe impl Sync for Pages {}

impl Pages {
    /// At least `bytes` of zeros. Ends the process when the system has no memory, as every allocation does.
    pub(super) fn new(bytes: usize) -> Pages {
        match bytes {
            0 => Pages { place: NonNull::dangling(), bytes: 0 },
            1..=CHUNK_BYTES => {
                let bytes = bytes.next_power_of_two().max(SLOT_BYTES_MIN);
                Pages { place: heap().take(bytes), bytes }
            }
            _ => {
                let bytes = bytes.next_multiple_of(SLOT_BYTES_MIN);
                Pages { place: heap().map_alone(bytes), bytes }
            }
        }
    }

    /// The first byte; valid for as many as were asked for, all initialised.
    pub(super) fn place(&self) -> NonNull<u8> {
        self.place
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        match self.bytes {
            0 => {}
            1..=CHUNK_BYTES => heap().give_back(self.place, self.bytes),
            _ => heap().unmap_alone(self.place, self.bytes),
        }
    }
}

/// How the memory for content is protected.
pub(super) fn tally() -> Tally {
    heap().tally
}

fn heap() -> MutexGuard<'static, Heap> {
    // No operation can panic halfway: after a failed allocation there is no process.
    HEAP.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Heap {
    /// Every chunk that is cut, by its address.
    chunks: BTreeMap<NonNull<u8>, Chunk>,
    /// For each class, the chunks with a free slot. The lowest is used first, so that others empty.
    partial: [BTreeSet<NonNull<u8>>; CLASSES],
    /// Chunks that are not cut.
    idle: Vec<(NonNull<u8>, bool)>,
    /// Mappings of their own that were locked.
    alone_protected: BTreeSet<NonNull<u8>>,
    tally: Tally,
}

struct Chunk {
    class: usize,
    /// Numbers of the free slots, at most 256.
    free: Vec<u16>,
    protected: bool,
}

// SAFETY: the addresses are of mapped memory that belongs to no thread.
unsafe impl Send for Heap {}

impl Heap {
    const fn new() -> Self {
        Heap {
            chunks: BTreeMap::new(),
            partial: [const { BTreeSet::new() }; CLASSES],
            idle: Vec::new(),
            alone_protected: BTreeSet::new(),
            tally: Tally::NONE,
        }
    }

    fn take(&mut self, slot_bytes: usize) -> NonNull<u8> {
        let class = class_of(slot_bytes);
        let base = self.partial[class].first().copied().unwrap_or_else(|| self.cut(class));
        let chunk = self.chunks.get_mut(&base).expect("partial chunks are cut");
        let number = chunk.free.pop().expect("a partial chunk has a free slot");
        if chunk.free.is_empty() {
            self.partial[class].remove(&base);
        }
        // SAFETY: slots of a chunk lie within it.
        unsafe { base.add(usize::from(number) * slot_bytes) }
    }

    fn give_back(&mut self, place: NonNull<u8>, slot_bytes: usize) {
        let (base, chunk) = self.chunks.range_mut(..=place).next_back().expect("every slot lies in a chunk");
        let base = *base;
        // A chunk has 256 slots at most.
        chunk.free.push(((place.addr().get() - base.addr().get()) / slot_bytes) as u16);
        self.partial[chunk.class].insert(base);
        if chunk.free.len() == CHUNK_BYTES / slot_bytes {
            self.retire(base);
        }
    }

    /// Makes a chunk of slots of one class.
    fn cut(&mut self, class: usize) -> NonNull<u8> {
        let (base, protected) = self.idle.pop().unwrap_or_else(|| self.map(CHUNK_BYTES));
        let free = (0..(CHUNK_BYTES >> class) / SLOT_BYTES_MIN).rev().map(|number| number as u16).collect();
        self.chunks.insert(base, Chunk { class, free, protected });
        self.partial[class].insert(base);
        base
    }

    /// Nothing is in this chunk.
    fn retire(&mut self, base: NonNull<u8>) {
        let chunk = self.chunks.remove(&base).expect("the caller has found it there");
        self.partial[chunk.class].remove(&base);
        if self.idle.len() < IDLE_CHUNKS_MAX {
            self.idle.push((base, chunk.protected));
        } else {
            self.unmap(base, CHUNK_BYTES, chunk.protected);
        }
    }

    fn map_alone(&mut self, bytes: usize) -> NonNull<u8> {
        let (place, protected) = self.map(bytes);
        if protected {
            self.alone_protected.insert(place);
        }
        place
    }

    fn unmap_alone(&mut self, place: NonNull<u8>, bytes: usize) {
        let protected = self.alone_protected.remove(&place);
        self.unmap(place, bytes, protected);
    }

    fn map(&mut self, bytes: usize) -> (NonNull<u8>, bool) {
        let Ok(place) = mapping::map(bytes) else { handle_alloc_error(layout(bytes)) };
        let taken = self.tally.protected_bytes + bytes as u64 + LEFT_TO_KEYS_BYTES;
        let has_room = getrlimit(Resource::Memlock).current.is_none_or(|limit| taken <= limit);
        let protected = self.tally.add(bytes, &mapping::protect(place, bytes, has_room));
        (place, protected)
    }

    fn unmap(&mut self, place: NonNull<u8>, bytes: usize, protected: bool) {
        self.tally.remove(bytes, protected);
        // SAFETY: a mapping of ours as a whole, and nothing of it is handed out.
        unsafe { mapping::unmap(place, bytes) };
    }
}

fn class_of(slot_bytes: usize) -> usize {
    (slot_bytes / SLOT_BYTES_MIN).ilog2() as usize
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, SLOT_BYTES_MIN).unwrap_or(Layout::new::<u8>())
}

#[cfg(test)]
mod tests {
    use super::super::mapping::tests::vm_flags_of;
    use super::*;

    #[test]
    fn slots_of_all_sizes_are_apart_from_each_other_and_hold_zeros() {
        let sizes = (1..400).map(|n| n * n * 17 % 2_500_000 + 1);
        let mut slots: Vec<(Pages, usize)> = sizes.map(|bytes| (Pages::new(bytes), bytes)).collect();
        slots.sort_by_key(|(pages, _)| pages.place);
        for pair in slots.windows(2) {
            assert!(pair[0].0.place.addr().get() + pair[0].1 <= pair[1].0.place.addr().get());
        }
        for (pages, bytes) in &slots {
            // SAFETY: as many bytes as were asked for, and no other code has them.
            let memory = unsafe { std::slice::from_raw_parts_mut(pages.place.as_ptr(), *bytes) };
            assert!(memory.iter().all(|byte| *byte == 0));
            memory.fill(0xEE);
        }
        for (pages, bytes) in slots {
            // SAFETY: as above.
            unsafe { std::slice::from_raw_parts_mut(pages.place.as_ptr(), bytes) }.fill(0);
        }
    }

    #[test]
    fn pages_are_left_out_of_dumps_and_of_children() {
        for bytes in [1, 70_000, 3 << 20] {
            let pages = Pages::new(bytes);
            let flags = vm_flags_of(pages.place.addr().get());
            assert!(["dd", "wf"].iter().all(|wanted| flags.iter().any(|flag| flag == wanted)), "{bytes}: {flags:?}");
        }
    }

    #[test]
    fn a_heap_gives_back_what_it_does_not_need() {
        let mut heap = Heap::new();
        let many = (0..IDLE_CHUNKS_MAX + 8).map(|_| heap.take(CHUNK_BYTES)).collect::<Vec<_>>();
        assert_eq!(heap.tally.protected_bytes + heap.tally.unprotected_bytes, ((IDLE_CHUNKS_MAX + 8) << 20) as u64);
        for pages in many {
            heap.give_back(pages, CHUNK_BYTES);
        }
        assert_eq!(heap.tally.protected_bytes + heap.tally.unprotected_bytes, (IDLE_CHUNKS_MAX << 20) as u64);
        let small = heap.take(SLOT_BYTES_MIN);
        assert_eq!((heap.idle.len(), heap.chunks.len()), (IDLE_CHUNKS_MAX - 1, 1), "an idle chunk is cut again");
        heap.give_back(small, SLOT_BYTES_MIN);
        for (base, protected) in std::mem::take(&mut heap.idle) {
            heap.unmap(base, CHUNK_BYTES, protected);
        }
        assert_eq!((heap.tally.protected_bytes, heap.tally.unprotected_bytes), (0, 0));
    }
}
