//! The file: block `i` lies at `i` times the bytes of a slot.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::crypto::{self, BlockId, Envelope, OVERHEAD_BYTES, SealedBlock};
use crate::secret::PlainBuf;

use super::table::{Claim, Stored, Table};
use super::{ByteBudget, Charge, Error};

/// What a file system gives out at a time. A slot is a multiple of it, so that a discarded block returns all of its
/// space.
const PAGE_BYTES: usize = 4096;

/// A file of sealed blocks without a name, under keys that exist only as long as this value.
///
/// Any number of threads may use it. Two changes of one block wait for each other, everything else goes on side by
/// side.
pub struct SealedFile {
    file: File,
    envelope: Envelope,
    table: Table,
    budget: Arc<ByteBudget>,
    block_bytes: usize,
}

impl SealedFile {
    /// A new file in `directory`, readable by this user only and without a name (`O_TMPFILE`, or unlinked at once),
    /// with new keys. Blocks have up to `block_bytes` of plaintext. What they take of the disk is charged to `budget`.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Directory`], [`Error::Crypto`].
    pub fn create(directory: &Path, block_bytes: usize, budget: Arc<ByteBudget>) -> Result<Self, Error> {
        let file = nameless_file(directory).map_err(|source| match creation_error(source) {
            Error::Io(source) => Error::Directory { directory: directory.to_owned(), source },
            full => full,
        })?;
        let envelope = Envelope::generate().map_err(Error::Crypto)?;
        Ok(SealedFile { file, envelope, table: Table::default(), budget, block_bytes })
    }

    /// Seals `plain` as the new content of `block`, and returns the generation that opens it.
    ///
    /// When this fails, the old content stays valid, with one exception: a disk that fails in the middle of overwriting
    /// a block that was sealed before leaves that block without content. The caller still has the plaintext, and
    /// must keep it until this has succeeded. A full disk is found out before anything is overwritten, on every file
    /// system that allocates when it is asked to (not on btrfs with copy on write).
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Io`], [`Error::Crypto`].
    pub fn seal(&self, block: u64, plain: &[u8]) -> Result<u64, Error> {
        if plain.len() > self.block_bytes {
            return Err(Error::Crypto(crypto::Error::TooLong { bytes: plain.len() }));
        }
        let offset = self.offset_of(block)?;
        let claim = self.table.claim(block);
        let growth = self.charge_growth(offset, claim.charged_bytes(), plain.len() + OVERHEAD_BYTES)?;
        let generation = claim.next_generation();
        let sealed = self.envelope.seal(BlockId { index: block, generation }, plain).map_err(Error::Crypto)?;
        claim.overwrite(growth);
        if let Err(error) = self.file.write_all_at(sealed.as_bytes(), offset) {
            self.give_back(&claim, offset);
            return Err(disk_error(error));
        }
        claim.store(Stored { generation, sealed_bytes: sealed.as_bytes().len() });
        Ok(generation)
    }

    /// Opens `block` into `plain`, provided that `generation` is still its newest.
    ///
    /// # Errors
    /// [`Error::Superseded`] when the block was sealed again or discarded, [`Error::Tampered`], [`Error::Io`].
    pub fn open(&self, block: u64, generation: u64, plain: &mut PlainBuf) -> Result<(), Error> {
        let stored = self.table.stored(block).filter(|stored| stored.generation == generation);
        let stored = stored.ok_or(Error::Superseded { block })?;
        let opened = self.read_and_open(block, stored, plain);
        // What was overwritten between the look at the table and the end of the reading is not tampered with.
        if opened.is_err() && self.table.stored(block) != Some(stored) {
            return Err(Error::Superseded { block });
        }
        opened
    }

    /// Drops the content of `block` and gives its space back to the disk and to the budget. A file system that cannot
    /// punch holes keeps both until the place is sealed again or the file ends.
    pub fn discard(&self, block: u64) {
        let Ok(offset) = self.offset_of(block) else { return };
        let claim = self.table.claim(block);
        if claim.charged_bytes() > 0 {
            claim.forget();
            self.give_back(&claim, offset);
        }
    }

    /// Gives the space of a block without content back, to the disk and to the budget.
    fn give_back(&self, claim: &Claim<'_>, offset: u64) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fallocate(&self.file, hole, offset, claim.charged_bytes()) {
            Ok(()) => drop(claim.release()),
            Err(error) => tracing::debug!(%error, offset, "a discarded block keeps its place on the disk"),
        }
    }

    /// Blocks that take space on the disk.
    pub fn blocks(&self) -> usize {
        self.table.len()
    }

    /// Charges what the place of a block has to grow by. A place that has content is made longer before it is
    /// overwritten.
    fn charge_growth(&self, offset: u64, charged_bytes: u64, sealed_bytes: usize) -> Result<Charge, Error> {
        let needed_bytes = sealed_bytes.next_multiple_of(PAGE_BYTES) as u64;
        let growth_bytes = needed_bytes.saturating_sub(charged_bytes);
        let growth = self.budget.charge(growth_bytes).ok_or(Error::NoSpace)?;
        if charged_bytes > 0 && growth_bytes > 0 {
            let end = offset + charged_bytes;
            match fallocate(&self.file, FallocateFlags::empty(), end, growth_bytes) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(errno) => return Err(disk_error(errno.into())),
            }
        }
        Ok(growth)
    }

    fn read_and_open(&self, block: u64, stored: Stored, plain: &mut PlainBuf) -> Result<(), Error> {
        let mut bytes = vec![0; stored.sealed_bytes];
        self.file.read_exact_at(&mut bytes, self.offset_of(block)?).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::Tampered { block },
            _ => Error::Io(error),
        })?;
        let id = BlockId { index: block, generation: stored.generation };
        let opened = self.envelope.open(id, SealedBlock::claimed(bytes), plain);
        opened.map_err(|_| Error::Tampered { block })
    }

    fn offset_of(&self, block: u64) -> Result<u64, Error> {
        let slot_bytes = (self.block_bytes + OVERHEAD_BYTES).next_multiple_of(PAGE_BYTES) as u64;
        let offset = block.checked_mul(slot_bytes).filter(|offset| *offset < i64::MAX as u64 - slot_bytes);
        offset.ok_or_else(|| Error::Io(io::ErrorKind::FileTooLarge.into()))
    }
}

/// Without a name from the start, or unlinked at once where the file system cannot do that (the errors are those of
/// open(2), `O_TMPFILE`). Made with its mode, which the sandbox lets no call change, and which `tempfile` leaves to the
/// umask where there is no name.
fn nameless_file(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let nameless = options.read(true).write(true).custom_flags(libc::O_TMPFILE).mode(0o600).open(directory);
    nameless.or_else(|error| match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            tempfile::NamedTempFile::new_in(directory).map(tempfile::NamedTempFile::into_file)
        }
        _ => Err(error),
    })
}

/// With all descriptors in use, the disk has room that this process cannot have.
fn creation_error(error: io::Error) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE) => {
            tracing::warn!(
                %error,
                "a file's changes cannot leave memory; raise the number of open files (LimitNOFILE, ulimit -n)"
            );
            Error::NoSpace
        }
        _ => disk_error(error),
    }
}

fn disk_error(error: io::Error) -> Error {
    match error.kind() {
        // The last is a limit of this process, RLIMIT_FSIZE.
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Error::NoSpace,
        _ => Error::Io(error),
    }
}

#[cfg(any(test, feature = "testing"))]
impl SealedFile {
    /// The file as an attacker with the disk sees it.
    pub fn disk(&self) -> &File {
        &self.file
    }

    /// Where a block lies on the disk, in bytes from the start of the file.
    ///
    /// # Panics
    /// The block lies beyond the largest file.
    #[must_use]
    pub fn place_on_disk(&self, block: u64) -> u64 {
        self.offset_of(block).expect("a test names a block of the file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const BLOCK_BYTES: usize = 16 * 1024;
    const SLOT_BYTES: u64 = 20 * 1024;

    fn file_with(bytes_max: u64) -> (SealedFile, Arc<ByteBudget>) {
        let budget = ByteBudget::new(bytes_max);
        let file = SealedFile::create(&std::env::temp_dir(), BLOCK_BYTES, Arc::clone(&budget)).unwrap();
        (file, budget)
    }

    fn file() -> SealedFile {
        file_with(1 << 30).0
    }

    fn open(file: &SealedFile, block: u64, generation: u64) -> Result<Vec<u8>, Error> {
        let mut plain = PlainBuf::default();
        file.open(block, generation, &mut plain).map(|()| plain.as_slice().to_vec())
    }

    fn slot(file: &SealedFile, block: u64) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK_BYTES + OVERHEAD_BYTES];
        file.disk().read_exact_at(&mut bytes, file.place_on_disk(block)).unwrap();
        bytes
    }

    #[test]
    fn blocks_come_back_in_any_order() {
        let file = file();
        let generations: Vec<_> = (0..20).rev().map(|n| (n, file.seal(n, &[n as u8; 100]).unwrap())).collect();
        for (block, generation) in generations {
            assert_eq!(open(&file, block, generation).unwrap(), [block as u8; 100]);
        }
        assert_eq!(file.blocks(), 20);
    }

    #[test]
    fn the_file_has_no_name_and_belongs_to_this_user_alone() {
        let metadata = file().disk().metadata().unwrap();
        assert_eq!((metadata.nlink(), metadata.mode() & 0o777), (0, 0o600));
    }

    #[test]
    fn an_older_generation_is_superseded_even_when_it_is_put_back_on_the_disk() {
        let file = file();
        let old = file.seal(0, &[1; BLOCK_BYTES]).unwrap();
        let old_bytes = slot(&file, 0);
        let new = file.seal(0, &[2; BLOCK_BYTES]).unwrap();
        assert!(matches!(open(&file, 0, old), Err(Error::Superseded { block: 0 })));
        file.disk().write_all_at(&old_bytes, 0).unwrap();
        assert!(matches!(open(&file, 0, new), Err(Error::Tampered { block: 0 })));
        assert!(matches!(open(&file, 0, old), Err(Error::Superseded { block: 0 })));
    }

    #[test]
    fn a_changed_swapped_zeroed_or_cut_block_is_refused() {
        let file = file();
        let generations = [0, 1, 2, 3, 4].map(|n| file.seal(n, &[n as u8; BLOCK_BYTES]).unwrap());
        let (first, second) = (slot(&file, 0), slot(&file, 1));
        file.disk().write_all_at(&second, 0).unwrap();
        file.disk().write_all_at(&first, SLOT_BYTES).unwrap();
        file.disk().write_all_at(&[0; BLOCK_BYTES], 2 * SLOT_BYTES).unwrap();
        file.disk().write_all_at(b"!", 3 * SLOT_BYTES + 5000).unwrap();
        file.disk().set_len(4 * SLOT_BYTES + 100).unwrap();
        for (block, generation) in (0..).zip(generations) {
            let refused = open(&file, block, generation);
            assert!(matches!(refused, Err(Error::Tampered { block: at }) if at == block), "block {block}");
        }
    }

    #[test]
    fn a_block_of_another_file_is_refused() {
        let (one, other) = (file(), file());
        let generation = one.seal(0, &[1; BLOCK_BYTES]).unwrap();
        assert_eq!(generation, other.seal(0, &[1; BLOCK_BYTES]).unwrap());
        one.disk().write_all_at(&slot(&other, 0), 0).unwrap();
        assert!(matches!(open(&one, 0, generation), Err(Error::Tampered { .. })));
    }

    #[test]
    fn the_budget_counts_pages_and_a_full_one_leaves_the_old_content() {
        let (file, budget) = file_with(3 * PAGE_BYTES as u64);
        let old = file.seal(0, &[7; 100]).unwrap();
        assert_eq!(budget.used_bytes(), 4096);
        assert!(matches!(file.seal(0, &[8; BLOCK_BYTES]), Err(Error::NoSpace)));
        assert!(matches!(file.seal(1, &[8; BLOCK_BYTES]), Err(Error::NoSpace)));
        assert_eq!(open(&file, 0, old).unwrap(), [7; 100]);
        assert_eq!((budget.used_bytes(), file.blocks()), (4096, 1));
        file.seal(0, &[8; 2 * PAGE_BYTES]).unwrap();
        assert_eq!(budget.used_bytes(), 3 * 4096);
    }

    #[test]
    fn a_discarded_block_gives_back_disk_and_budget() {
        let (file, budget) = file_with(1 << 20);
        let generation = file.seal(1, &[7; BLOCK_BYTES]).unwrap();
        file.seal(0, &[7; BLOCK_BYTES]).unwrap();
        file.disk().sync_all().unwrap();
        let blocks_before = file.disk().metadata().unwrap().blocks();
        file.discard(1);
        file.discard(1);
        assert!(matches!(open(&file, 1, generation), Err(Error::Superseded { block: 1 })));
        assert_eq!((budget.used_bytes(), file.blocks()), (SLOT_BYTES, 1));
        assert!(file.disk().metadata().unwrap().blocks() < blocks_before);
        drop(file);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_disk_that_fails_while_it_overwrites_loses_the_block_but_not_the_file() {
        let (mut file, budget) = file_with(1 << 20);
        let kept = file.seal(0, b"kept").unwrap();
        let old = file.seal(1, &[1; 100]).unwrap();
        let writable = file.file.try_clone().unwrap();
        file.file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writable))).unwrap();
        assert!(matches!(file.seal(1, &[2; 100]), Err(Error::Io(_))));
        assert_eq!(budget.used_bytes(), 2 * 4096, "a disk that cannot be written cannot be given anything back either");
        assert!(matches!(open(&file, 1, old), Err(Error::Superseded { block: 1 })));
        file.file = writable;
        assert_eq!(open(&file, 0, kept).unwrap(), b"kept");
        let new = file.seal(1, &[2; 100]).unwrap();
        assert_eq!((open(&file, 1, new).unwrap(), budget.used_bytes()), (vec![2; 100], 2 * 4096));
    }

    #[test]
    fn readers_and_writers_of_one_block_see_whole_generations_or_superseded() {
        let file = file();
        let newest = std::sync::atomic::AtomicU64::new(file.seal(0, &[0; BLOCK_BYTES]).unwrap());
        let load = || newest.load(std::sync::atomic::Ordering::SeqCst);
        std::thread::scope(|scope| {
            for writer in 0..2_u8 {
                let (file, newest) = (&file, &newest);
                scope.spawn(move || {
                    for round in 0..200_u8 {
                        let generation = file.seal(0, &[round ^ (writer << 7); BLOCK_BYTES]).unwrap();
                        newest.store(generation, std::sync::atomic::Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..400 {
                match open(&file, 0, load()) {
                    Ok(plain) => assert!(plain.iter().all(|byte| *byte == plain[0])),
                    Err(error) => assert!(matches!(error, Error::Superseded { .. }), "{error}"),
                }
            }
        });
    }

    #[test]
    fn no_plaintext_reaches_the_disk() {
        let file = file();
        let marker = b"marker of plaintext";
        file.seal(0, &marker.repeat(500)).unwrap();
        let mut bytes = vec![0; file.disk().metadata().unwrap().len() as usize];
        file.disk().read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.len() > 9500);
        assert!(!bytes.windows(marker.len()).any(|window| window == marker));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = SealedFile::create(Path::new("/no/such"), 1, ByteBudget::new(0)).err().unwrap();
        assert!(error.to_string().contains("/no/such"), "{error}");
    }

    #[test]
    fn a_block_that_is_longer_than_its_slot_is_refused_and_touches_nothing() {
        let file = file();
        let next = file.seal(1, &[1; BLOCK_BYTES]).unwrap();
        let refused = file.seal(0, &[0; BLOCK_BYTES + 1]);
        assert!(matches!(refused, Err(Error::Crypto(crypto::Error::TooLong { bytes })) if bytes == BLOCK_BYTES + 1));
        assert_eq!(open(&file, 1, next).unwrap(), [1; BLOCK_BYTES]);
        assert_eq!(file.blocks(), 1);
    }

    #[test]
    fn a_block_whose_offset_no_file_can_have_is_refused() {
        let file = file();
        let last = (i64::MAX as u64 - SLOT_BYTES - 1) / SLOT_BYTES;
        assert_eq!(file.offset_of(last).unwrap(), last * SLOT_BYTES);
        for block in [last + 1, i64::MAX as u64 / SLOT_BYTES + 1, u64::MAX / SLOT_BYTES + 1, u64::MAX] {
            let refused = file.offset_of(block);
            assert!(
                matches!(&refused, Err(Error::Io(error)) if error.kind() == io::ErrorKind::FileTooLarge),
                "{block}"
            );
        }
    }
}
