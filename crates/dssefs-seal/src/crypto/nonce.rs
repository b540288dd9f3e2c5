//! Nonces by the deterministic construction of SP 800-38D, 8.2.1: a fixed field of 32 bits and a counter of 64 bits.
//! Where a library insists on drawing them itself (8.2.2), they are only counted here.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Error;

/// Bytes of a nonce: the 96 bits that GCM takes without hashing them.
pub const NONCE_BYTES: usize = 12;

/// A number used once. It can be neither copied nor cloned, comes only from the counter of a key, and is moved into the
/// seal that uses it up.
pub struct Nonce([u8; NONCE_BYTES]);

/// How often a key may seal under nonces drawn at random (SP 800-38D, 8.3).
#[cfg(feature = "fips")]
const RANDOM_NONCES_MAX: u64 = 1 << 32;

impl Nonce {
    pub(super) fn bytes(&self) -> &[u8; NONCE_BYTES] {
        &self.0
    }
}

/// The source of one key's nonces.
pub struct NonceCounter {
    field: [u8; 4],
    next: AtomicU64,
}

impl NonceCounter {
    /// Starts at zero. Sound only for a key that has never sealed: one that was drawn for this counter, or of a test.
    pub(super) const fn new(field: [u8; 4]) -> Self {
        NonceCounter { field, next: AtomicU64::new(0) }
    }

    /// Gives the nonce of a published test vector next. Its key is published too, so it protects nothing.
    pub(super) fn of_a_published_vector(nonce: [u8; NONCE_BYTES]) -> Self {
        let [field @ .., c0, c1, c2, c3, c4, c5, c6, c7] = nonce;
        NonceCounter { field, next: AtomicU64::new(u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7])) }
    }

    /// The next nonce, and its counter, which the block carries so that it can be opened.
    pub(super) fn draw(&self) -> Result<(u64, Nonce), Error> {
        let drawn = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| next.checked_add(1));
        let counter = drawn.map_err(|_| Error::NoncesExhausted)?;
        Ok((counter, Nonce(self.seen(counter))))
    }

    /// Counts a seal whose nonce the library draws.
    #[cfg(feature = "fips")]
    pub(super) fn count_random(&self) -> Result<(), Error> {
        let more = |sealed: u64| (sealed < RANDOM_NONCES_MAX).then_some(sealed + 1);
        let counted = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.map(drop).map_err(|_| Error::NoncesExhausted)
    }

    /// The bytes of a nonce that has been used, to open what it sealed.
    pub(super) fn seen(&self, counter: u64) -> [u8; NONCE_BYTES] {
        let mut bytes = [0; NONCE_BYTES];
        bytes[..4].copy_from_slice(&self.field);
        bytes[4..].copy_from_slice(&counter.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_threads_draw_the_same_nonce() {
        let nonces = NonceCounter::new(*b"test");
        let draw = || (0..1000).map(|_| nonces.draw().unwrap().0).collect::<Vec<_>>();
        let mut drawn = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(draw)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        drawn.sort_unstable();
        assert_eq!(drawn, (0..8000).collect::<Vec<_>>());
    }

    #[test]
    fn a_nonce_is_the_fixed_field_and_the_counter() {
        let nonces = NonceCounter::new(*b"test");
        nonces.next.store(0x0102_0304_0506_0708, Ordering::Relaxed);
        let (counter, nonce) = nonces.draw().unwrap();
        assert_eq!(nonce.bytes(), b"test\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(nonces.seen(counter), *nonce.bytes());
    }

    #[test]
    fn an_exhausted_counter_refuses_for_ever() {
        let nonces = NonceCounter::new(*b"test");
        nonces.next.store(u64::MAX - 1, Ordering::Relaxed);
        assert_eq!(nonces.draw().unwrap().0, u64::MAX - 1);
        for _ in 0..3 {
            assert!(matches!(nonces.draw(), Err(Error::NoncesExhausted)));
        }
    }

    #[test]
    #[cfg(feature = "fips")]
    fn a_key_seals_under_random_nonces_as_often_as_the_standard_allows() {
        let nonces = NonceCounter::new(*b"test");
        nonces.next.store(RANDOM_NONCES_MAX - 1, Ordering::Relaxed);
        nonces.count_random().unwrap();
        for _ in 0..3 {
            assert!(matches!(nonces.count_random(), Err(Error::NoncesExhausted)));
        }
    }
}
