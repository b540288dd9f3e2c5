//! Ranges of bytes.

use std::ops::Range;

/// A half-open, non-empty range of bytes of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The range from `start` up to, not including, `end`; none when that is empty.
    #[must_use]
    pub fn new(start: u64, end: u64) -> Option<ByteRange> {
        (start < end).then_some(ByteRange { start, end })
    }

    /// The first byte.
    #[must_use]
    pub fn start(self) -> u64 {
        self.start
    }

    /// One past the last byte.
    #[must_use]
    pub fn end(self) -> u64 {
        self.end
    }

    /// How many bytes; never zero.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a ByteRange is never empty")]
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// The value of the `Range` and `x-amz-copy-source-range` headers (RFC 9110, 14.1.2: both ends inclusive).
    #[must_use]
    pub fn header(self) -> String {
        format!("bytes={}-{}", self.start, self.end - 1)
    }

    /// As the standard library's range.
    #[must_use]
    pub fn as_range(self) -> Range<u64> {
        self.start..self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_counts_both_ends() {
        assert_eq!(ByteRange::new(0, 1).unwrap().header(), "bytes=0-0");
        assert_eq!(ByteRange::new(5, 10).unwrap().header(), "bytes=5-9");
        assert_eq!(ByteRange::new(5, 5), None);
    }
}
