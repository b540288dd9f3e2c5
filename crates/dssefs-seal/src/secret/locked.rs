//! Pages for secrets, cut into slots.
//!
//! `RLIMIT_MEMLOCK` is 8 MiB by default and counts whole pages, so a page for each key would end at 2,048 keys. Slots
//! of one size share a chunk of pages instead, and a chunk stays mapped for the life of the process: the next secret
//! takes the slot.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::OutOfMemory;
use super::mapping::{self, Tally};

/// Bytes of one mapping: a whole number of pages on every page size that Linux has on x86-64 and most that it has
/// elsewhere.
const CHUNK_BYTES: usize = 64 * 1024;

/// The smallest slot: one cache line, so that two secrets never share one.
const SLOT_BYTES_MIN: usize = 64;

/// The largest slot, and with it the largest secret.
const SLOT_BYTES_MAX: usize = 4096;

/// Stack below the maker or the user of a secret that may have held copies of it. ring's and aes-gcm's expanded keys
/// are below 2 KiB each.
const STACK_WIPED_BYTES: usize = 16 * 1024;

static ARENA: Mutex<Arena> = Mutex::new(Arena::new());

/// A value in locked, undumpable memory that is wiped when it is dropped. It never moves.
pub struct Locked<T> {
    slot: Slot,
    value: PhantomData<T>,
}

// SAFETY: a `Locked` owns its value alone, as a `Box` does: it may go where the value may go.
unsafe impl<T: Send> Send for Locked<T> {}
// SAFETY: a shared `Locked` gives out shared references to its value only, as a `Box` does.
unsafe impl<T: Sync> Sync for Locked<T> {}

impl<T> Locked<T> {
    /// Keeps the value that `make` returns.
    ///
    /// The value passes over the stack once; that part of the stack is wiped before this returns.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the system maps no more pages. Pages that it maps but refuses to lock are used, and counted
    /// in [`super::protection`]: the caller decides whether that is good enough.
    pub fn new(make: impl FnOnce() -> T) -> Result<Self, OutOfMemory> {
        const { assert!(size_of::<T>() <= SLOT_BYTES_MAX && align_of::<T>() <= SLOT_BYTES_MIN) };
        let slot = arena().take(Self::SLOT_BYTES)?;
        // SAFETY: the slot is ours, large enough and aligned: both were asserted above, and slots are aligned to their
        // size.
        unsafe { fill(slot.place.cast(), make) };
        zeroize::zeroize_stack::<STACK_WIPED_BYTES>();
        Ok(Locked { slot, value: PhantomData })
    }

    const SLOT_BYTES: usize = {
        let bytes = size_of::<T>().next_power_of_two();
        if bytes < SLOT_BYTES_MIN { SLOT_BYTES_MIN } else { bytes }
    };
}

impl<T> Deref for Locked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `new` put a value there, and only `drop` takes it away.
        unsafe { self.slot.place.cast().as_ref() }
    }
}

impl<T> DerefMut for Locked<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as for `deref`, and `&mut self` proves that no other code looks.
        unsafe { self.slot.place.cast().as_mut() }
    }
}

impl<T> Drop for Locked<T> {
    fn drop(&mut self) {
        // SAFETY: the value is there and is not used again: the slot goes back next, even if the value's drop panics.
        unsafe { ptr::drop_in_place(self.slot.place.cast::<T>().as_ptr()) };
    }
}

/// Does `work` on a part of the stack that is wiped before this returns, so that no copies of secrets stay there that a
/// library has made: stacks are neither locked nor out of dumps.
pub fn on_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    zeroize::zeroize_stack::<STACK_WIPED_BYTES>();
    done
}

/// Never inlined, for the reason of [`fill`].
#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Apart from `Locked::new` and never inlined, so that its copies of the value lie in the part of the stack that is
/// wiped.
///
/// # Safety
/// `place` must be valid for writing a `T`.
#[inline(never)]
unsafe fn fill<T>(place: NonNull<T>, make: impl FnOnce() -> T) {
    // SAFETY: the caller's promise.
    unsafe { place.write(make()) };
}

/// A piece of a chunk that one secret has for itself. Wiped and given back on drop.
struct Slot {
    place: NonNull<u8>,
    bytes: usize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        // SAFETY: `bytes` bytes from here are mapped for ever and belong to this slot, in which no value lives any
        // more.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.place.as_ptr(), self.bytes) };
        memory.fill(0);
        zeroize::optimization_barrier(memory);
        arena().give_back(self.place, self.bytes);
    }
}

fn arena() -> MutexGuard<'static, Arena> {
    // A list of free slots is whole after each of its operations, so a panic elsewhere cannot have broken it.
    ARENA.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All chunks of the process.
struct Arena {
    /// Free slots by their size in bytes.
    free: BTreeMap<usize, Vec<NonNull<u8>>>,
    tally: Tally,
    /// The log has the first refusal; the tally has all.
    told: bool,
}

// SAFETY: the addresses are of mapped memory that belongs to no thread.
unsafe impl Send for Arena {}

impl Arena {
    const fn new() -> Self {
        Arena { free: BTreeMap::new(), tally: Tally::NONE, told: false }
    }

    fn take(&mut self, slot_bytes: usize) -> Result<Slot, OutOfMemory> {
        if self.free.get(&slot_bytes).is_none_or(Vec::is_empty) {
            self.add_chunk(slot_bytes)?;
        }
        let place = self.free.get_mut(&slot_bytes).and_then(Vec::pop);
        Ok(Slot { place: place.expect("a chunk with at least 16 slots was just added"), bytes: slot_bytes })
    }

    fn give_back(&mut self, place: NonNull<u8>, slot_bytes: usize) {
        self.free.entry(slot_bytes).or_default().push(place);
    }

    fn add_chunk(&mut self, slot_bytes: usize) -> Result<(), OutOfMemory> {
        let chunk = mapping::map(CHUNK_BYTES).map_err(OutOfMemory)?;
        let outcome = mapping::protect(chunk, CHUNK_BYTES, true);
        self.tally.add(CHUNK_BYTES, &outcome);
        if let (Err(error), false) = (outcome, self.told) {
            self.told = true;
            // Nothing that logs takes a slot, so the lock that is held here is not asked for.
            tracing::warn!(
                %error,
                "memory for keys cannot be locked, and new keys may be swapped out; \
                 raise the limit of locked memory (`ulimit -l`, LimitMEMLOCK)"
            );
        }
        for offset in (0..CHUNK_BYTES).step_by(slot_bytes) {
            // SAFETY: the offset lies within the chunk.
            self.give_back(unsafe { chunk.add(offset) }, slot_bytes);
        }
        Ok(())
    }
}

/// The caller tells of a refusal, so that the log has it once.
pub(super) fn refusal_is_told() {
    arena().told = true;
}

/// How the memory for keys is protected.
pub(super) fn tally() -> Tally {
    arena().tally
}

#[cfg(test)]
mod tests {
    use super::super::mapping::tests::vm_flags_of;
    use super::*;

    #[test]
    fn a_dropped_secret_leaves_only_zeros() {
        let secret = Locked::new(|| [0xA5_u8; 3000]).unwrap();
        let place = secret.slot.place.cast::<[u8; 3000]>();
        drop(secret);
        // SAFETY: chunks stay mapped; no other test takes a slot of this size (4,096 bytes).
        assert_eq!(unsafe { place.read_volatile() }, [0; 3000]);
    }

    #[test]
    fn a_panicking_maker_gives_its_slot_back() {
        let made = std::panic::catch_unwind(|| Locked::<[u64; 40]>::new(|| panic!("no key today")));
        assert!(made.is_err());
        let free = arena().free.get(&512).map(Vec::len);
        assert_eq!(free, Some(CHUNK_BYTES / 512));
    }

    #[test]
    fn the_kernel_confirms_all_three_protections() {
        let secret = Locked::new(|| [1_u8; 32]).unwrap();
        let flags = vm_flags_of(secret.slot.place.as_ptr() as usize);
        for wanted in ["lo", "dd", "wf"] {
            assert!(flags.iter().any(|flag| flag == wanted), "{wanted} is missing in {flags:?}");
        }
        assert_eq!(tally().unprotected_bytes, 0);
    }

    /// Set for the process in which the test takes its limit away: it must be another one, because it could not undo
    /// this.
    const CHILD: &str = "DSSEFS_TEST_LOCKED_CHILD";

    #[test]
    fn keys_beyond_the_limit_of_locked_memory_are_counted_and_warned_of_once() {
        if std::env::var_os(CHILD).is_none() {
            let name = "secret::locked::tests::keys_beyond_the_limit_of_locked_memory_are_counted_and_warned_of_once";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}");
            assert_eq!(said.matches("memory for keys cannot be locked").count(), 1, "{said}");
            assert!(said.contains("WARN") && said.contains("ulimit -l"), "{said}");
            return;
        }
        use rustix::process::{Resource, Rlimit, setrlimit};
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        // Root may lock without a limit by a capability.
        let held = capabilities(None).unwrap();
        set_capabilities(None, rustix::thread::CapabilitySets { effective: CapabilitySet::empty(), ..held }).unwrap();
        let some = Some(2 * CHUNK_BYTES as u64);
        setrlimit(Resource::Memlock, Rlimit { current: some, maximum: some }).unwrap();
        let log = tracing_subscriber::fmt().with_ansi(false).finish();
        let keys = tracing::subscriber::with_default(log, || {
            let make = |_| Locked::new(|| [7_u8; 2048]).unwrap();
            (0..6 * CHUNK_BYTES / 2048).map(make).collect::<Vec<_>>()
        });
        let told = tally();
        assert_eq!(told.protected_bytes + told.unprotected_bytes, 6 * CHUNK_BYTES as u64);
        assert!(told.protected_bytes <= 2 * CHUNK_BYTES as u64 && told.protected_bytes > 0, "{told:?}");
        assert!(matches!(told.refusal_errno, Some(libc::ENOMEM | libc::EAGAIN)), "{told:?}");
        assert!(keys.iter().all(|key| **key == [7; 2048]), "they are usable");
    }

    #[test]
    fn ten_thousand_keys_fit_in_the_default_limit_of_locked_memory() {
        let before = tally().protected_bytes;
        let keys: Vec<_> = (0..10_000).map(|n| Locked::new(|| [n as u8; 32]).unwrap()).collect();
        assert!(tally().protected_bytes - before <= 2 << 20);
        assert!(keys.iter().enumerate().all(|(n, key)| **key == [n as u8; 32]));
    }
}
