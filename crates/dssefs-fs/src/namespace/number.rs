//! Inode numbers that stay over remounts: each follows from the key of its node.
//!
//! Backups and rsync take a file with another number for another file and read it again. So the number of a node is a
//! hash of the key under which the mount first meets it. If a node of this mount has that number already, the new node
//! gets another one: for instance, a renamed file keeps its number, and its old name may be used again. The hash is
//! plain, so a user who can choose keys can make two of them meet. That costs the second one its stable number and
//! nothing else.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::node::Ino;

/// The numbers of files that are open or unsaved. Such a file may outlive its node in the table, and its number must
/// not be given to another one meanwhile.
#[derive(Debug, Default)]
pub struct NumbersInUse(Mutex<HashSet<Ino>>);

impl NumbersInUse {
    /// Keeps `ino` from being given out.
    pub fn hold(&self, ino: Ino) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(ino);
    }

    /// Ends what [`NumbersInUse::hold`] began.
    pub fn release(&self, ino: Ino) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&ino);
    }

    pub(super) fn contains(&self, ino: Ino) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&ino)
    }
}

/// The number of the node at `key`, and the next ones to try while `is_taken` says that another node has it.
pub(super) fn free_number(key: &str, is_taken: impl Fn(Ino) -> bool) -> Ino {
    let mut attempt = 0;
    loop {
        let ino = number(key, attempt);
        // 0 is no number, and 1 is the root's.
        if ino > Ino::ROOT && !is_taken(ino) {
            return ino;
        }
        attempt += 1;
    }
}

/// FNV-1a over `key`, with an offset for each attempt, and the finalizer of MurmurHash3, which spreads what differs in
/// few bits. The result has 63 bits, because some programs read inode numbers as signed. It must not change from
/// version to version.
fn number(key: &str, attempt: u64) -> Ino {
    const OFFSET: u64 = 0xCBF2_9CE4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01B3;
    let seed = OFFSET ^ attempt.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let hash = key.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xFF51_AFD7_ED55_8CCD);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xC4CE_B9FE_1A85_EC53);
    Ino((hash ^ (hash >> 33)) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Backups of mounts by earlier versions know these numbers.
    #[test]
    fn numbers_do_not_change_from_version_to_version() {
        let numbers = ["a", "a/", "d/file", "d/fil\u{e9}"].map(|key| number(key, 0).0);
        let first = [
            4_706_636_184_713_914_157,
            4_336_823_422_151_880_111,
            2_155_817_108_828_163_441,
            7_498_019_740_411_825_919,
        ];
        assert_eq!(numbers, first);
    }

    #[test]
    fn a_number_that_is_taken_gives_way_to_the_next() {
        let first = free_number("d/file", |_| false);
        let second = free_number("d/file", |ino| ino == first);
        let third = free_number("d/file", |ino| ino == first || ino == second);
        assert!(first != second && second != third && third != first);
        assert_eq!(first, free_number("d/file", |_| false));
    }

    #[test]
    fn a_hundred_thousand_keys_have_as_many_numbers() {
        let numbers: HashSet<Ino> = (0..100_000).map(|n| number(&format!("directory/file-{n:06}"), 0)).collect();
        assert_eq!(numbers.len(), 100_000);
        assert!(numbers.iter().all(|ino| i64::try_from(ino.0).is_ok()));
    }
}
