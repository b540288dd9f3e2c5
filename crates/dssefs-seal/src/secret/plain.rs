//! File content in memory.

use std::fmt;

use bytes::Bytes;

use super::pages::Pages;

/// A growable buffer of plaintext, in pages that are locked as far as the limit allows, left out of core dumps, and
/// wiped before they are used again.
///
/// It grows only when it is told to, because its capacity is what a memory budget is charged for.
pub struct PlainBuf {
    /// Initialised throughout; bytes beyond `len` are zeros.
    pages: Pages,
    len: usize,
    capacity: usize,
}

impl Default for PlainBuf {
    /// An empty buffer without room.
    fn default() -> Self {
        PlainBuf::with_capacity(0)
    }
}

impl PlainBuf {
    /// An empty buffer with room for `capacity_bytes`. It takes at least a page.
    pub fn with_capacity(capacity_bytes: usize) -> Self {
        PlainBuf { pages: Pages::new(capacity_bytes), len: 0, capacity: capacity_bytes }
    }

    /// A copy of `data`.
    pub fn copy_of(data: &[u8]) -> Self {
        let mut copy = PlainBuf::with_capacity(data.len());
        copy.write_at(0, data);
        copy
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no bytes are held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that fit without [`PlainBuf::grow`].
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The content.
    pub fn as_slice(&self) -> &[u8] {
        &self.room()[..self.len]
    }

    /// The content, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.room_mut()[..len]
    }

    /// Makes room for `capacity_bytes` in all. The content moves, and its old place is wiped.
    pub fn grow(&mut self, capacity_bytes: usize) {
        if capacity_bytes > self.capacity() {
            let mut larger = PlainBuf::with_capacity(capacity_bytes);
            larger.write_at(0, self.as_slice());
            *self = larger;
        }
    }

    /// Puts `data` at `offset`, over what is there and beyond the end. A gap between the end and `offset` becomes
    /// zeros.
    ///
    /// # Panics
    /// When the data ends beyond the capacity: the caller has forgotten to [`PlainBuf::grow`].
    pub fn write_at(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        assert!(end <= self.capacity(), "a plaintext buffer grows only when it is told to");
        self.room_mut()[offset..end].copy_from_slice(data);
        self.len = self.len.max(end);
    }

    /// Sets the length: zeros come in, or bytes at the end go away and are wiped.
    ///
    /// # Panics
    /// When `len` is beyond the capacity.
    pub fn resize(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a plaintext buffer grows only when it is told to");
        if len < self.len {
            wipe(&mut self.as_mut_slice()[len..]);
        }
        self.len = len;
    }

    fn room(&self) -> &[u8] {
        // SAFETY: the pages are this buffer's alone, have at least this capacity, and are initialised.
        unsafe { std::slice::from_raw_parts(self.pages.place().as_ptr(), self.capacity) }
    }

    fn room_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `room`, and `&mut self` proves that no other code looks.
        unsafe { std::slice::from_raw_parts_mut(self.pages.place().as_ptr(), self.capacity) }
    }
}

impl Drop for PlainBuf {
    fn drop(&mut self) {
        wipe(self.as_mut_slice());
    }
}

impl AsRef<[u8]> for PlainBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
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

/// Overwrites with zeros at the speed of memset: the barrier keeps the compiler from leaving it out, without the
/// byte-by-byte volatile writes of `Zeroize`, which would cost as much as a cipher.
fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    zeroize::optimization_barrier(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_cut_off_are_wiped() {
        let mut buf = PlainBuf::with_capacity(100);
        buf.write_at(0, &[7; 100]);
        buf.resize(40);
        assert_eq!(buf.room(), [vec![7; 40], vec![0; 60]].concat());
    }

    #[test]
    fn the_wipe_reaches_every_byte() {
        let mut bytes = vec![0xFF; 70_001];
        wipe(&mut bytes);
        assert!(bytes.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn zeros_come_in_where_content_was_cut_off() {
        let mut buf = PlainBuf::copy_of(&[9; 10]);
        buf.resize(2);
        buf.resize(6);
        assert_eq!(buf.as_slice(), [9, 9, 0, 0, 0, 0]);
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

    /// Set for the process that runs one test alone. Other tests would take the places that the test looks at.
    const CHILD: &str = "DSSEFS_TEST_PLAIN_CHILD";
    const BYTES: usize = 3000;

    /// Whether only zeros lie at an address of this process. The kernel reads them: the place is no longer ours.
    fn is_wiped(address: usize) -> bool {
        use std::os::unix::fs::FileExt;
        let mut bytes = [0xFF; BYTES];
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        memory.read_exact_at(&mut bytes, address as u64).unwrap();
        bytes == [0; BYTES]
    }

    #[test]
    fn a_dropped_buffer_leaves_only_zeros() {
        if std::env::var_os(CHILD).is_none() {
            let name = "secret::plain::tests::a_dropped_buffer_leaves_only_zeros";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
            return;
        }
        let address = |bytes: &[u8]| bytes.as_ptr().addr();
        let mut buf = PlainBuf::copy_of(&[0xA5; BYTES]);
        let first = address(buf.as_slice());
        assert!(!is_wiped(first), "content can be seen while it is there");
        buf.grow(3 * BYTES);
        let second = address(buf.as_slice());
        assert_ne!(first, second);
        assert!(is_wiped(first), "the place that it has grown out of");
        assert!(!is_wiped(second));
        drop(buf);
        assert!(is_wiped(second), "the place that was dropped");

        let shared = Bytes::from(PlainBuf::copy_of(&[0xA5; BYTES]));
        let (place, slice) = (address(&shared), shared.slice(..1));
        drop(shared);
        assert!(!is_wiped(place), "a slice needs it still");
        drop(slice);
        assert!(is_wiped(place), "the last slice is gone");
    }
}
