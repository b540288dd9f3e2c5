//! Randomness: getrandom(2), through ring, which waits until the system's generator is seeded. With the feature `fips`,
//! the DRBG of the FIPS module (SP 800-90A), which seeds itself.

#[cfg(feature = "fips")]
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
#[cfg(not(feature = "fips"))]
use ring::rand::{SecureRandom, SystemRandom};

use super::Error;

/// Fills `bytes` from a draw of its own.
pub(super) fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    SystemRandom::new().fill(bytes).map_err(|_| Error::NoRandomness)
}

/// A name that nothing else has: 16 random bytes in hexadecimal.
///
/// # Errors
/// [`Error::NoRandomness`].
pub fn unique_name() -> Result<String, Error> {
    let mut bytes = [0; 16];
    fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
