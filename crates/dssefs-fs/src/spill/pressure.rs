//! Making room when memory is used up.
//!
//! A caller that needs memory searches for it in its own thread, while it holds the lock of no buffer. So it may wait
//! for the lock of any buffer, one at a time, and no two searches can wait for each other.

use std::cmp::Reverse;
use std::sync::Arc;

use super::Error;
use super::contents::{Contents, Eviction};
use super::disk::beside_other_tasks;
use super::registry::Core;

/// What a search frees at least, if it can, so that small writes do not search each time: 16 blocks, some 0.6 ms of
/// sealing.
const RELIEF_BYTES_MIN: u64 = 1 << 20;

/// Frees memory for `needed_bytes` on behalf of `own`. Success means that some was freed, or can be now: try again.
///
/// # Errors
/// [`Error::Busy`] when only the end of a snapshot, or of another call, can free memory. [`Error::NoSpace`] when there
/// is no snapshot to wait for and the disk takes no more. Others when the disk fails.
pub(super) fn relieve(own: &Arc<Core>, needed_bytes: u64) -> Result<(), Error> {
    beside_other_tasks(|| search(own, needed_bytes))
}

fn search(own: &Arc<Core>, needed_bytes: u64) -> Result<(), Error> {
    own.resources.starve();
    let ended = own.resources.snapshots_ended();
    let cores = fullest_first(own);
    let wanted_bytes = needed_bytes.max(RELIEF_BYTES_MIN.min(own.resources.write_bytes_max() / 2));
    if drop_uploaded_memory(&cores, Eviction::First, wanted_bytes) > 0 {
        return Ok(());
    }
    match seal_oldest(&cores, wanted_bytes) {
        Ok(freed_bytes) if freed_bytes > 0 => Ok(()),
        Ok(_) => Err(Error::Busy),
        Err(Error::NoSpace) => make_room_on_disk(own, &cores, wanted_bytes, ended),
        Err(error) => Err(error),
    }
}

/// The buffers in the order in which they give memory: those that hold the most first, and of two alike our own.
fn fullest_first(own: &Arc<Core>) -> Vec<Arc<Core>> {
    let mut cores = own.all();
    cores.sort_by_cached_key(|core| Reverse((core.memory_bytes(), Arc::ptr_eq(core, own))));
    cores
}

fn drop_uploaded_memory(cores: &[Arc<Core>], eviction: Eviction, wanted_bytes: u64) -> u64 {
    gather_uploaded(cores, wanted_bytes, |contents, wanted| contents.drop_uploaded_memory(eviction, wanted))
}

fn drop_uploaded_disk(cores: &[Arc<Core>], eviction: Eviction, wanted_bytes: u64) -> u64 {
    gather_uploaded(cores, wanted_bytes, |contents, wanted| contents.drop_uploaded_disk(eviction, wanted))
}

fn gather_uploaded(cores: &[Arc<Core>], wanted_bytes: u64, drop: impl Fn(&mut Contents, u64) -> u64) -> u64 {
    gather(cores, wanted_bytes, |core, wanted| {
        core.relieve_with(|contents| if contents.has_uploaded() { drop(contents, wanted) } else { 0 })
    })
}

fn seal_oldest(cores: &[Arc<Core>], wanted_bytes: u64) -> Result<u64, Error> {
    let (mut failure, mut disk_is_full, mut no_more_files) = (None, false, false);
    let freed_bytes = gather(cores, wanted_bytes, |core, wanted| {
        if disk_is_full || core.memory_bytes() == 0 {
            return 0;
        }
        core.relieve_with(|contents| {
            if no_more_files && contents.file().is_none() {
                return 0;
            }
            contents.seal_oldest(&core.resources, wanted).unwrap_or_else(|error| {
                if matches!(error, Error::NoSpace) {
                    // Without a descriptor for one more file, those that have theirs can still give memory.
                    no_more_files = contents.file().is_none();
                    disk_is_full = !no_more_files;
                }
                if !matches!(failure, Some(Error::NoSpace)) {
                    failure = Some(error);
                }
                0
            })
        })
    });
    match failure {
        Some(error) if freed_bytes == 0 => Err(error),
        _ => Ok(freed_bytes),
    }
}

/// The disk is full: first what is in S3 goes from it, then from memory and disk what is in S3 and likely to be needed
/// again, then older contents of blocks that are in memory again. A snapshot that ended during the search (`ended` was
/// the count before it) may have left memory that the search had passed by: its notice is on the way, so that is not
/// the end.
fn make_room_on_disk(own: &Arc<Core>, cores: &[Arc<Core>], wanted_bytes: u64, ended: u64) -> Result<(), Error> {
    let is_room_made = drop_uploaded_disk(cores, Eviction::First, wanted_bytes) > 0
        || drop_uploaded_memory(cores, Eviction::Last, wanted_bytes) > 0
        || drop_uploaded_disk(cores, Eviction::Last, wanted_bytes) > 0
        || cores.iter().any(|core| core.relieve_with(Contents::drop_older_on_disk));
    if is_room_made {
        return Ok(());
    }
    if own.resources.has_snapshots() || own.resources.snapshots_ended() != ended {
        Err(Error::Busy)
    } else {
        Err(Error::NoSpace)
    }
}

/// Goes from buffer to buffer until enough is freed.
fn gather(cores: &[Arc<Core>], wanted_bytes: u64, mut free: impl FnMut(&Core, u64) -> u64) -> u64 {
    let mut freed_bytes = 0;
    for core in cores {
        if freed_bytes >= wanted_bytes {
            break;
        }
        freed_bytes += free(core, wanted_bytes - freed_bytes);
    }
    freed_bytes
}
