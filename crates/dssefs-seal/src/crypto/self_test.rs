//! Known answers, and each library against the other.

use crate::secret::Key;

use super::nonce::NonceCounter;
use super::{Error, Inner, Layer, NonceSource, Outer, Tag};

/// Checks both libraries on this machine: the published vectors, what each makes of the other's seal, and that a
/// changed text is refused. Takes well below a millisecond, so that it can run at every start. A FIPS module has passed
/// its own tests before, or it would have ended the process; here it must be in FIPS mode.
///
/// # Errors
/// [`Error::SelfTest`] names what is wrong. Nothing may be sealed after that.
pub fn self_test() -> Result<(), Error> {
    #[cfg(feature = "fips")]
    super::outer::require_fips_mode()?;
    for vector in VECTORS {
        known_answer::<Inner>("inner", vector)?;
        known_answer::<Outer>("outer", vector)?;
    }
    for len in CROSS_CHECKED_LENGTHS {
        opens_what_the_other_sealed::<Inner, Outer>("outer", len)?;
        opens_what_the_other_sealed::<Outer, Inner>("inner", len)?;
    }
    Ok(())
}

/// Short of, at and beyond the widths at which the libraries change from one inner loop to the next, up to a whole
/// block.
const CROSS_CHECKED_LENGTHS: [usize; 6] = [1, 16, 257, 1024, 4099, 64 * 1024];

/// A case of "The Galois/Counter Mode of Operation" (McGrew and Viega, 2005), appendix B, which NIST took over.
struct Vector {
    key: [u8; 32],
    nonce: [u8; 12],
    aad: &'static [u8],
    plain: &'static [u8],
    sealed: &'static [u8],
    tag: Tag,
}

/// Test cases 13 to 16: those with keys of 256 bits and nonces of 96.
const VECTORS: &[Vector] = &[
    Vector {
        key: [0; 32],
        nonce: [0; 12],
        aad: &[],
        plain: &[],
        sealed: &[],
        tag: hex("530f8afbc74536b9a963b4f1c4cb738b"),
    },
    Vector {
        key: [0; 32],
        nonce: [0; 12],
        aad: &[],
        plain: &[0; 16],
        sealed: &hex::<16>("cea7403d4d606b6e074ec5d3baf39d18"),
        tag: hex("d0d1c8a799996bf0265b98b5d48ab919"),
    },
    Vector {
        key: KEY_15,
        nonce: hex("cafebabefacedbaddecaf888"),
        aad: &[],
        plain: &PLAIN_15,
        sealed: &SEALED_15,
        tag: hex("b094dac5d93471bdec1a502270e3cc6c"),
    },
    Vector {
        key: KEY_15,
        nonce: hex("cafebabefacedbaddecaf888"),
        aad: &hex::<20>("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        plain: PLAIN_15.split_at(60).0,
        sealed: SEALED_15.split_at(60).0,
        tag: hex("76fc6ece0f4e1768cddf8853bb2d551b"),
    },
];

const KEY_15: [u8; 32] = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");

const PLAIN_15: [u8; 64] = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72\
     1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255");

const SEALED_15: [u8; 64] = hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa\
     8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad");

fn known_answer<L: Layer>(layer: &'static str, vector: &Vector) -> Result<(), Error> {
    let cipher = L::expand(&key_of(vector.key)?);
    if L::NONCES == NonceSource::Counter {
        let mut text = vector.plain.to_vec();
        let nonces = NonceCounter::of_a_published_vector(vector.nonce);
        let (_, tag) = L::seal_in_place(&cipher, &nonces, vector.aad, &mut text)?;
        expect(layer, "known answer", text == vector.sealed && tag == vector.tag)?;
    }
    let mut text = [vector.sealed, &vector.tag].concat();
    let opened = L::open_in_place(&cipher, vector.nonce, vector.aad, &mut text);
    expect(layer, "opening a known answer", opened.is_ok() && text.starts_with(vector.plain))
}

fn opens_what_the_other_sealed<Other: Layer, L: Layer>(layer: &'static str, len: usize) -> Result<(), Error> {
    let (key, aad) = (key_of(KEY_15)?, [0xC3; 48]);
    let plain: Vec<u8> = (0..len).map(|at| (at ^ (at >> 8)) as u8).collect();
    let mut sealed = plain.clone();
    let nonces = NonceCounter::new([0x5A; 4]);
    let (nonce, tag) = Other::seal_in_place(&Other::expand(&key), &nonces, &aad, &mut sealed)?;
    sealed.extend_from_slice(&tag);
    let cipher = L::expand(&key);
    let mut text = sealed.clone();
    let opened = L::open_in_place(&cipher, nonce, &aad, &mut text);
    expect(layer, "opening what the other library sealed", opened.is_ok() && text.starts_with(&plain))?;
    sealed[len / 2] ^= 1;
    let opened = L::open_in_place(&cipher, nonce, &aad, &mut sealed);
    expect(layer, "refusing a changed text", opened.is_err())
}

fn key_of(published: [u8; 32]) -> Result<Key, Error> {
    Key::fill_with(|bytes| {
        *bytes = published;
        Ok(())
    })
}

fn expect(layer: &'static str, check: &'static str, passed: bool) -> Result<(), Error> {
    if passed { Ok(()) } else { Err(Error::SelfTest { layer, check }) }
}

const fn hex<const N: usize>(digits: &str) -> [u8; N] {
    let digits = digits.as_bytes();
    assert!(digits.len() == 2 * N);
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        bytes[at] = nibble(digits[2 * at]) << 4 | nibble(digits[2 * at + 1]);
        at += 1;
    }
    bytes
}

const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => panic!("not a hexadecimal digit"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_libraries_pass() {
        self_test().unwrap();
    }

    #[test]
    fn a_wrong_answer_is_noticed() {
        let wrong = Vector { tag: [0; 16], ..VECTORS[1] };
        let found = known_answer::<Outer>("outer", &wrong);
        assert!(matches!(found, Err(Error::SelfTest { layer: "outer", .. })));
    }

    #[test]
    fn the_libraries_agree_on_every_length_up_to_a_page_and_around_larger_powers_of_two() {
        let around = |power: usize| [power - 1, power, power + 1];
        for len in (1..4097).step_by(13).chain((13..21).flat_map(|n| around(1 << n))) {
            opens_what_the_other_sealed::<Inner, Outer>("outer", len).unwrap();
            opens_what_the_other_sealed::<Outer, Inner>("inner", len).unwrap();
        }
    }
}
