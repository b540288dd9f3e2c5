//! An allocator that wipes what is freed.
//!
//! Content, names and credentials pass through buffers of the SDK, of TLS and of the runtime that know nothing of
//! [`super::PlainBuf`]. This is for them: whatever was on the heap is overwritten when it is freed, so it does not wait
//! there for the next who reads uninitialised memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// The system's allocator, with wiping.
#[derive(Debug, Clone, Copy)]
pub struct WipingHeap;

// SAFETY: every request goes to the system's allocator as it is, and memory is written to only between the caller's
// last use and its release. `realloc` keeps the contract of `GlobalAlloc` by the means of the other methods.
unsafe impl GlobalAlloc for WipingHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller hands over `layout.size()` bytes, and no code uses them afterwards. The barrier is given
        // the address alone, behind which the compiler must believe the bytes to be read: without it, writing to what
        // is freed next would be left out.
        unsafe {
            ptr::write_bytes(place, 0, layout.size());
            zeroize::optimization_barrier(&place);
            System.dealloc(place, layout);
        }
    }

    /// Never in place: the system's own would leave the old place behind as it was.
    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that this size and the old alignment make a layout, that both places are valid
        // for the smaller of both sizes, and they cannot overlap.
        unsafe {
            let new = self.alloc(Layout::from_size_align_unchecked(new_bytes, layout.align()));
            if !new.is_null() {
                ptr::copy_nonoverlapping(place, new, layout.size().min(new_bytes));
                self.dealloc(place, layout);
            }
            new
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_survives_growing_and_shrinking() {
        let layout = Layout::from_size_align(100, 8).unwrap();
        // SAFETY: each place is used within its size, and released once with its layout.
        unsafe {
            let place = WipingHeap.alloc(layout);
            place.write_bytes(7, 100);
            let grown = WipingHeap.realloc(place, layout, 10_000);
            assert_eq!(std::slice::from_raw_parts(grown, 100), [7; 100]);
            let layout = Layout::from_size_align(10_000, 8).unwrap();
            let shrunk = WipingHeap.realloc(grown, layout, 50);
            assert_eq!(std::slice::from_raw_parts(shrunk, 50), [7; 50]);
            WipingHeap.dealloc(shrunk, Layout::from_size_align(50, 8).unwrap());
        }
    }

    const BYTES: usize = 1000;

    /// What lies at an address of this process, as the kernel reads it, who does not ask whether it is ours. On the
    /// stack, as the heap would give out the very place that is looked at.
    fn bytes_at(address: usize) -> [u8; BYTES] {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0xff; BYTES];
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut bytes, address as u64).unwrap();
        bytes
    }

    /// The beginning of a free place is the allocator's own, and this thread's places are given to no other.
    const OF_THE_ALLOCATOR_BYTES: usize = 32;

    #[test]
    fn what_is_freed_is_wiped_and_so_is_the_place_that_something_has_grown_out_of() {
        let layout = Layout::from_size_align(BYTES, 8).unwrap();
        let wiped = |address| bytes_at(address)[OF_THE_ALLOCATOR_BYTES..].iter().all(|byte| *byte == 0);
        // SAFETY: each place is used within its size, and released once with its layout.
        unsafe {
            let place = WipingHeap.alloc(layout);
            place.write_bytes(7, BYTES);
            let address = place.addr();
            assert!(bytes_at(address) == [7; BYTES], "it can be seen while it is there");
            let grown = WipingHeap.realloc(place, layout, 10 * BYTES);
            assert_ne!(grown.addr(), address);
            assert!(wiped(address), "the old place");
            let address = grown.addr();
            WipingHeap.dealloc(grown, Layout::from_size_align(10 * BYTES, 8).unwrap());
            assert!(wiped(address), "the new place");
        }
    }
}
