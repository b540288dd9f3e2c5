//! Pages from the kernel, protected one by one, and the count of those that are not.

use std::io;
use std::ptr::{self, NonNull};

/// Bytes of mapped memory, in whole pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Locked against swapping, left out of core dumps and wiped in a forked child.
    pub protected_bytes: u64,
    /// In use although one of the three was refused, most often because `RLIMIT_MEMLOCK` is too small.
    pub unprotected_bytes: u64,
    /// The errno of the last refusal.
    pub refusal_errno: Option<i32>,
}

impl Tally {
    pub(super) const NONE: Tally = Tally { protected_bytes: 0, unprotected_bytes: 0, refusal_errno: None };

    /// Counts a mapping, and returns whether it is protected.
    pub(super) fn add(&mut self, bytes: usize, outcome: &io::Result<()>) -> bool {
        match outcome {
            Ok(()) => self.protected_bytes += bytes as u64,
            Err(refusal) => {
                self.unprotected_bytes += bytes as u64;
                self.refusal_errno = refusal.raw_os_error();
            }
        }
        outcome.is_ok()
    }

    /// A mapping that [`Tally::add`] counted is gone.
    pub(super) fn remove(&mut self, bytes: usize, protected: bool) {
        *(if protected { &mut self.protected_bytes } else { &mut self.unprotected_bytes }) -= bytes as u64;
    }
}

/// Maps `bytes` of zeros that nothing else shares.
pub(super) fn map(bytes: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that exists.
    let address = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mmap returned the null page"))
}

/// Gives a mapping back.
///
/// # Safety
/// `place` and `bytes` are those of one [`map`], and no code uses its memory afterwards.
pub(super) unsafe fn unmap(place: NonNull<u8>, bytes: usize) {
    // SAFETY: the caller's promise. It fails only for what is no mapping, or when the kernel has no memory to split
    // one, and this one is whole.
    unsafe { libc::munmap(place.as_ptr().cast(), bytes) };
}

/// Asks for all three protections, so that a refused one does not cost the others, and returns the first refusal.
/// Without `lock` the locking counts as refused for want of room.
pub(super) fn protect(place: NonNull<u8>, bytes: usize, lock: bool) -> io::Result<()> {
    let address = place.as_ptr().cast();
    // SAFETY: the range is one mapping of ours; neither of the two calls changes what it contains now.
    let advised = unsafe {
        [libc::madvise(address, bytes, libc::MADV_DONTDUMP), libc::madvise(address, bytes, libc::MADV_WIPEONFORK)]
    };
    if advised != [0; 2] {
        return Err(io::Error::last_os_error());
    }
    if !lock {
        return Err(io::Error::from_raw_os_error(libc::ENOMEM));
    }
    // SAFETY: as above. Pages are locked as they are touched, so a mapping that is little used costs little.
    let locked = unsafe { libc::mlock2(address, bytes, libc::MLOCK_ONFAULT as libc::c_uint) };
    if locked == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Locks so many bytes as [`protect`] does, and gives them back.
pub(super) fn try_to_lock(bytes: usize) -> io::Result<()> {
    let place = map(bytes)?;
    let outcome = protect(place, bytes, true);
    // SAFETY: one whole mapping of ours; nothing of it was handed out.
    unsafe { unmap(place, bytes) };
    outcome
}

#[cfg(test)]
pub(super) mod tests {
    /// The `VmFlags` line (proc_pid_smaps(5)) of the mapping that holds `address`.
    pub(in super::super) fn vm_flags_of(address: usize) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in smaps.lines() {
            if let Some((start, end)) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')) {
                let bounds = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16));
                inside = matches!(bounds, (Ok(start), Ok(end)) if (start..end).contains(&address));
            }
            if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_whitespace().map(str::to_owned).collect();
            }
        }
        panic!("no mapping holds {address:#x}");
    }
}
