//! File content in memory.

use std::fmt;

use bytes::Bytes;

/// A growable buffer of plaintext. Every byte that it held is overwritten before the memory goes back to the allocator.
///
/// It grows only when it is told to, because its capacity is what a memory budget is charged for.
#[derive(Default)]
pub struct PlainBuf {
    /// Never reallocates by itself: every append is preceded by a check of the capacity. Bytes beyond its length hold no plaintext.
    bytes: Vec<u8>,
}

impl PlainBuf {
    /// An empty buffer with room for `capacity_bytes`.
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        PlainBuf { bytes: Vec::with_capacity(capacity_bytes) }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[u8]) -> Self {
        PlainBuf { bytes: data.to_vec() }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no bytes are held.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes that fit without [`PlainBuf::grow`].
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// The content.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes
    }

    /// The content, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Makes room for `capacity_bytes` in all. The content moves, and its old place is wiped.
    pub fn grow(&mut self, capacity_bytes: usize) {
        if capacity_bytes > self.capacity() {
            let mut larger = PlainBuf::with_capacity(capacity_bytes);
            larger.bytes.extend_from_slice(&self.bytes);
            *self = larger;
        }
    }

    /// Puts `data` at `offset`, over what is there and beyond the end. A gap between the end and `offset` becomes zeros.
    ///
    /// # Panics
    /// When the data ends beyond the capacity: the caller has forgotten to [`PlainBuf::grow`].
    pub fn write_at(&mut self, offset: usize, data: &[u8]) {
        assert!(offset + data.len() <= self.capacity(), "a plaintext buffer grows only when it is told to");
        if offset > self.len() {
            self.bytes.resize(offset, 0);
        }
        let overlap = data.len().min(self.len() - offset);
        self.bytes[offset..offset + overlap].copy_from_slice(&data[..overlap]);
        self.bytes.extend_from_slice(&data[overlap..]);
    }

    /// Sets the length: zeros come in, or bytes at the end go away and are wiped.
    ///
    /// # Panics
    /// When `len` is beyond the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a plaintext buffer grows only when it is told to");
        if len < self.len() {
            wipe(&mut self.bytes[len..]);
        }
        self.bytes.resize(len, 0);
    }
}

impl Drop for PlainBuf {
    fn drop(&mut self) {
        wipe(&mut self.bytes);
    }
}

impl AsRef<[u8]> for PlainBuf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<PlainBuf> for Bytes {
    /// Without a copy. The buffer is wiped when the last clone and the last slice of it are gone.
    fn from(buf: PlainBuf) -> Bytes {
        Bytes::from_owner(buf)
    }
}

impl fmt::Debug for PlainBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainBuf({} bytes)", self.len())
    }
}

/// Overwrites with zeros at the speed of memset: the barrier keeps the compiler from leaving it out, without the byte-by-byte
/// volatile writes of `Zeroize`, which would cost as much as a cipher.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    zeroize::optimization_barrier(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in the first `len` bytes of the buffer's memory, beyond its length too.
    fn memory(buf: &PlainBuf, len: usize) -> Vec<u8> {
        assert!(len <= buf.capacity());
        // SAFETY: within one allocation, and every caller has initialised these bytes.
        unsafe { std::slice::from_raw_parts(buf.bytes.as_ptr(), len) }.to_vec()
    }

    #[test]
    fn bytes_that_are_cut_off_are_wiped() {
        let mut buf = PlainBuf::with_capacity(100);
        buf.write_at(0, &[7; 100]);
        buf.resize(40);
        assert_eq!(memory(&buf, 100), [vec![7; 40], vec![0; 60]].concat());
    }

    #[test]
    fn the_wipe_reaches_every_byte() {
        let mut bytes = vec![0xFF; 70_001];
        wipe(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn growing_keeps_the_content_and_never_shrinks() {
        let mut buf = PlainBuf::with_capacity(10);
        buf.write_at(0, b"0123456789");
        buf.grow(5);
        assert_eq!(buf.capacity(), 10);
        buf.grow(20);
        assert_eq!((buf.as_slice(), buf.capacity()), (&b"0123456789"[..], 20));
    }

    #[test]
    fn a_write_overlaps_extends_and_fills_gaps_with_zeros() {
        let mut buf = PlainBuf::with_capacity(12);
        buf.write_at(2, b"cd");
        buf.write_at(3, b"DEF");
        buf.write_at(8, b"ij");
        assert_eq!(buf.as_slice(), b"\0\0cDEF\0\0ij");
    }

    #[test]
    #[should_panic(expected = "grows only when it is told to")]
    fn a_write_beyond_the_capacity_is_a_bug_and_not_a_reallocation() {
        PlainBuf::with_capacity(4).write_at(0, b"12345");
    }

    #[test]
    fn shared_bytes_are_the_same_memory_and_nothing_is_printed() {
        let mut buf = PlainBuf::with_capacity(6);
        buf.write_at(0, b"secret");
        let place = buf.as_slice().as_ptr();
        assert_eq!(format!("{buf:?}"), "PlainBuf(6 bytes)");
        let bytes = Bytes::from(buf);
        assert_eq!((bytes.as_ptr(), &bytes[..]), (place, &b"secret"[..]));
    }
}
