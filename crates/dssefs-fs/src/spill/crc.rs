//! CRC64NVME, the checksum that S3 keeps for a whole object whatever its parts were.

use std::sync::LazyLock;

use crc_fast::CrcAlgorithm::Crc64Nvme;
use crc_fast::{Digest, checksum_combine, crc64_nvme};

use super::BLOCK_BYTES;

/// The checksum of no bytes.
pub(super) const EMPTY: u64 = 0;

/// The checksum of `bytes`.
pub(super) fn of(bytes: &[u8]) -> u64 {
    crc64_nvme(bytes)
}

/// The checksum of a text whose beginning has the checksum `crc`, followed by `bytes`. The beginning is not read again.
pub(super) fn extend(crc: u64, bytes: &[u8]) -> u64 {
    // The checksum is the register with all bits inverted (NVM Command Set Specification 1.0, section 5.2.1.3.4).
    let mut digest = Digest::new_with_init_state(Crc64Nvme, !crc);
    digest.update(bytes);
    digest.finalize()
}

/// The checksum of a text whose beginning has the checksum `crc`, followed by `len` bytes with the checksum `next`.
pub(super) fn append(crc: u64, next: u64, len: u64) -> u64 {
    match len {
        0 => crc,
        WHOLE_BLOCK => past_a_block(crc) ^ next,
        _ => checksum_combine(Crc64Nvme, crc, next, len),
    }
}

/// The checksum of `len` zeros, in some tens of steps.
pub(super) fn of_zeros(len: u64) -> u64 {
    match len {
        0 => EMPTY,
        1 => of(&[0]),
        _ => {
            let half = of_zeros(len / 2);
            let even = checksum_combine(Crc64Nvme, half, half, len / 2);
            if len.is_multiple_of(2) { even } else { checksum_combine(Crc64Nvme, even, of(&[0]), 1) }
        }
    }
}

const WHOLE_BLOCK: u64 = BLOCK_BYTES as u64;

/// What combining does to the first checksum when a whole block follows, as an affine map over GF(2): an image for each
/// bit, and that of zero. Combining in general squares twenty matrices, which takes longer than opening the block
/// would.
static PAST_A_BLOCK: LazyLock<([u64; 64], u64)> = LazyLock::new(|| {
    let of_zero = checksum_combine(Crc64Nvme, 0, 0, WHOLE_BLOCK);
    let of_bit = |bit: usize| checksum_combine(Crc64Nvme, 1 << bit, 0, WHOLE_BLOCK) ^ of_zero;
    (std::array::from_fn(of_bit), of_zero)
});

fn past_a_block(crc: u64) -> u64 {
    let (of_bits, of_zero) = &*PAST_A_BLOCK;
    let set_bits = (0..64).filter(|bit| crc >> bit & 1 == 1);
    set_bits.fold(*of_zero, |image, bit| image ^ of_bits[bit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_nvme_specification() {
        // NVM Command Set Specification 1.0, section 5.2.1.3.4: the check value of "123456789".
        assert_eq!(of(b"123456789"), 0xAE8B_1486_0A79_9888);
        assert_eq!(of(b""), EMPTY);
    }

    #[test]
    fn appending_is_the_checksum_of_the_concatenation() {
        let text: Vec<u8> = (0..3 * BLOCK_BYTES + 77).map(|at| (at * 31 + (at >> 9)) as u8).collect();
        for first in [0, 1, 1000, BLOCK_BYTES, 2 * BLOCK_BYTES + 5] {
            for next in [0, 1, 4097, BLOCK_BYTES - 1, BLOCK_BYTES] {
                let (head, tail) = text[..first + next].split_at(first);
                assert_eq!(append(of(head), of(tail), next as u64), of(&text[..first + next]), "{first} {next}");
                assert_eq!(extend(of(head), tail), of(&text[..first + next]), "{first} {next}");
            }
        }
    }

    #[test]
    fn zeros_are_counted_without_being_made() {
        for len in [0, 1, 2, 3, 4096, 65_535, 1_000_001] {
            assert_eq!(of_zeros(len as u64), of(&vec![0; len]), "{len}");
        }
        let (half, whole) = (of_zeros(1 << 40), of_zeros(1 << 41));
        assert_eq!(append(half, half, 1 << 40), whole);
    }
}
