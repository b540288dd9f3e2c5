//! Randomness: getrandom(2), through ring, which waits until the system's generator is seeded.

use ring::rand::{SecureRandom, SystemRandom};

use super::Error;

/// Fills `bytes` from a draw of its own.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    SystemRandom::new().fill(bytes).map_err(|_| Error::NoRandomness)
}
