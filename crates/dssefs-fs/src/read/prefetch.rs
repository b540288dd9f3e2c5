//! Turns the pattern of a program's reads into the ranges to ask for. Pure.
//!
//! A read at the start of an object, or after a jump, asks for about as much as the program did. When the reads go on
//! from there, ranges double from one to the next, up to 32 MiB, and several of them are under way ahead of the
//! program: one connection to S3 carries about 90 MB/s. From the start of an object the first step leads straight to 8
//! MiB, as most programs that open a file read all of it. After a jump each step only doubles, as most programs jump
//! again.
//!
//! The kernel sends several reads at a time, and out of order. So a read near the expected place continues the run.

use std::ops::Range;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// An object of this many bytes or fewer is fetched whole, by one GET, whose checksum then proves it.
pub const WHOLE_BYTES_MAX: u64 = MIB;
/// The smallest range that is worth a request, and a call of KMS, of its own.
pub const RANGE_BYTES_MIN: u64 = 128 * KIB;
/// The largest range.
pub const RANGE_BYTES_MAX: u64 = 32 * MIB;
/// How far ahead of the program bytes are asked for at most.
pub const AHEAD_BYTES_MAX: u64 = 4 * RANGE_BYTES_MAX;
/// How many ranges that the program has not come to yet may be asked for.
pub const AHEAD_RANGES_MAX: usize = 4;
/// How far a read may lie before the expected place and still continue the run; so much is kept behind the program.
pub const BEHIND_BYTES: u64 = MIB;

/// The first range of a run.
const FIRST_BYTES_MAX: u64 = MIB;
/// The second range of a run that began at the start of the object.
const STREAM_BYTES: u64 = 8 * MIB;
/// How far a read may lie beyond the expected place and still continue the run, beside what is asked for already.
const SKIP_BYTES: u64 = MIB;

/// The pattern of one reader's reads so far.
#[derive(Clone, Debug)]
pub struct Pattern {
    size: u64,
    /// One past the last byte that the program asked for in this run; none before the first read.
    cursor: Option<u64>,
    /// Whether the run began with the object, so that it is most probably read to its end.
    stream: bool,
    /// When the cursor comes here, the run grows.
    grow_at: u64,
    range_bytes: u64,
    ahead_bytes: u64,
}

/// What to ask for, beside what is asked for already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Missing bytes are asked for from here: the read's own start, except where a read before it is most probably on
    /// its way.
    pub from: u64,
    /// Missing bytes are asked for up to here.
    pub reach: u64,
    /// Further ranges are asked for until they cover the bytes before this.
    pub ahead: u64,
    /// The length of those ranges.
    pub range_bytes: u64,
}

impl Pattern {
    /// No reads so far, of an object of `size` bytes.
    #[must_use]
    pub fn new(size: u64) -> Pattern {
        Pattern { size, cursor: None, stream: false, grow_at: 0, range_bytes: 0, ahead_bytes: 0 }
    }

    /// Takes note of a read of `wanted`, which is not empty and within the object. `frontier` gives, for an
    /// offset, how far the bytes from there on are asked for already.
    pub fn read(&mut self, wanted: &Range<u64>, frontier: impl Fn(u64) -> u64) -> Plan {
        match self.cursor {
            Some(cursor) if is_near(cursor, frontier(cursor), wanted.start) => {
                let cursor = cursor.max(wanted.end);
                self.cursor = Some(cursor);
                if cursor >= self.grow_at {
                    self.grow(cursor, frontier(cursor));
                }
            }
            _ => self.begin(wanted),
        }
        self.plan(wanted)
    }

    /// Whether the last read began a new run: what was asked for ahead of the one before is of no use any more.
    #[must_use]
    pub fn jumped(&self) -> bool {
        self.ahead_bytes == 0
    }

    fn begin(&mut self, wanted: &Range<u64>) {
        let asked = wanted.end - wanted.start;
        // The kernel may send one of the next reads of a file before the first.
        self.stream = self.cursor.is_none() && wanted.start < FIRST_BYTES_MAX / 2;
        self.range_bytes = if self.stream { FIRST_BYTES_MAX } else { asked.clamp(RANGE_BYTES_MIN, FIRST_BYTES_MAX) };
        self.ahead_bytes = 0;
        self.cursor = Some(wanted.end);
        self.grow_at = wanted.start.saturating_add(self.range_bytes / 2);
    }

    fn grow(&mut self, cursor: u64, frontier: u64) {
        let grown = if self.stream { (2 * self.range_bytes).max(STREAM_BYTES) } else { 2 * self.range_bytes };
        self.ahead_bytes = grown.max(2 * self.ahead_bytes).min(AHEAD_BYTES_MAX);
        self.range_bytes = grown.min(RANGE_BYTES_MAX);
        // The next step is due when the program comes to what is asked for now.
        self.grow_at = frontier.max(cursor + 1);
    }

    fn plan(&self, wanted: &Range<u64>) -> Plan {
        let reach = wanted.end.max(wanted.start.saturating_add(self.range_bytes));
        let from = if self.stream && self.jumped() { 0 } else { wanted.start };
        let ahead = self.cursor.unwrap_or(0).saturating_add(self.ahead_bytes);
        Plan { from, reach: clip(reach, self.size), ahead: ahead.min(self.size), range_bytes: self.range_bytes }
    }
}

/// Whether a read at `start` continues a run whose program is at `cursor` and whose bytes are asked for up to
/// `frontier`: what is on its way already may be skipped to, for the store need not be asked again.
fn is_near(cursor: u64, frontier: u64, start: u64) -> bool {
    (cursor.saturating_sub(BEHIND_BYTES)..=frontier.saturating_add(SKIP_BYTES)).contains(&start)
}

/// `end`, or the end of an object of `size` bytes where no more than [`RANGE_BYTES_MIN`] would be left behind `end`.
#[must_use]
pub fn clip(end: u64, size: u64) -> u64 {
    if end.saturating_add(RANGE_BYTES_MIN) >= size { size } else { end }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that answers at once: the ranges asked for, as the reader would ask for them.
    struct Run {
        pattern: Pattern,
        size: u64,
        asked: Vec<Range<u64>>,
    }

    impl Run {
        fn new(size: u64) -> Run {
            Run { pattern: Pattern::new(size), size, asked: Vec::new() }
        }

        fn frontier(asked: &[Range<u64>], from: u64) -> u64 {
            let mut at = from;
            while let Some(range) = asked.iter().find(|range| range.contains(&at)) {
                at = range.end;
            }
            at
        }

        fn read(&mut self, offset: u64, len: u64) {
            let wanted = offset..(offset + len).min(self.size);
            let asked = self.asked.clone();
            let plan = self.pattern.read(&wanted, |from| Self::frontier(&asked, from));
            let from = Self::frontier(&self.asked, plan.from);
            if from < wanted.end {
                self.asked.push(from..plan.reach.max(wanted.end));
            }
            while let from = Self::frontier(&self.asked, wanted.end)
                && from < plan.ahead
            {
                self.asked.push(from..clip(from + plan.range_bytes, self.size));
            }
        }

        fn bytes(&self) -> u64 {
            self.asked.iter().map(|range| range.end - range.start).sum()
        }
    }

    #[test]
    fn a_sequential_read_of_64_mib_takes_5_requests() {
        let mut run = Run::new(64 * MIB);
        (0..512).for_each(|block| run.read(block * 128 * KIB, 128 * KIB));
        let starts: Vec<u64> = run.asked.iter().map(|range| range.start / MIB).collect();
        assert_eq!(starts, [0, 1, 9, 25, 57]);
        assert_eq!(run.bytes(), 64 * MIB);
    }

    #[test]
    fn a_sequential_read_of_10_gib_takes_a_request_for_each_32_mib() {
        let mut run = Run::new(10 * 1024 * MIB);
        (0..10 * 1024).for_each(|block| run.read(block * MIB, MIB));
        assert_eq!(run.bytes(), 10 * 1024 * MIB);
        assert!(run.asked.len() <= 320 + 4, "{}", run.asked.len());
    }

    #[test]
    fn the_first_read_fetches_no_more_than_a_mebibyte() {
        let mut run = Run::new(1024 * MIB);
        run.read(0, 4096);
        assert_eq!(run.asked.as_slice(), std::slice::from_ref(&(0..MIB)));
    }

    #[test]
    fn random_reads_fetch_little_more_than_they_want() {
        for len in [4 * KIB, 128 * KIB, MIB] {
            let mut run = Run::new(1024 * MIB);
            let places = [700, 3, 512, 90, 1000, 250, 400, 20];
            places.iter().for_each(|place| run.read(place * MIB + 5000, len));
            assert_eq!(run.asked.len(), places.len());
            assert_eq!(run.bytes(), places.len() as u64 * len.max(128 * KIB), "{len}");
        }
    }

    #[test]
    fn a_run_after_a_jump_grows_by_doubling() {
        let mut run = Run::new(1024 * MIB);
        (0..16).for_each(|block| run.read(500 * MIB + block * 128 * KIB, 128 * KIB));
        let lengths: Vec<u64> = run.asked.iter().map(|range| (range.end - range.start) / (128 * KIB)).collect();
        assert!(lengths.windows(2).all(|pair| (pair[0]..=2 * pair[0]).contains(&pair[1])), "{lengths:?}");
        assert!(run.bytes() <= 8 * MIB);
    }

    #[test]
    fn reads_out_of_order_and_small_skips_continue_the_run() {
        let mut run = Run::new(64 * MIB);
        for pair in 0..256 {
            run.read((2 * pair + 1) * 128 * KIB, 128 * KIB);
            run.read(2 * pair * 128 * KIB, 128 * KIB);
        }
        assert!(run.asked.len() <= 7, "{:?}", run.asked);
        let mut skipping = Run::new(64 * MIB);
        (0..64).for_each(|block| skipping.read(block * MIB, 64 * KIB));
        assert!(skipping.asked.len() <= 6, "{:?}", skipping.asked);
    }

    #[test]
    fn nothing_beyond_the_end_and_nothing_twice_for_any_size_and_length() {
        for size in (1..40).map(|step| step * 700_001) {
            for len in [4096, 100_000, 1_000_000, 5_000_000] {
                let mut run = Run::new(size);
                (0..size.div_ceil(len)).for_each(|block| run.read(block * len, len));
                assert_eq!(run.bytes(), size, "size {size}, reads of {len}");
                assert!(run.asked.iter().all(|range| range.start < range.end && range.end <= size));
            }
        }
    }

    #[test]
    fn what_is_asked_for_ahead_is_bounded() {
        let mut run = Run::new(1024 * 1024 * MIB);
        for block in 0..4096 {
            run.read(block * MIB, MIB);
            let ahead = Run::frontier(&run.asked, block * MIB) - block * MIB;
            assert!(ahead <= AHEAD_BYTES_MAX + RANGE_BYTES_MAX + MIB, "{ahead}");
        }
    }

    #[test]
    fn a_rest_of_the_smallest_range_or_less_is_fetched_along() {
        let size = 10 * MIB;
        assert_eq!(clip(size - RANGE_BYTES_MIN, size), size);
        assert_eq!(clip(size - RANGE_BYTES_MIN - 1, size), size - RANGE_BYTES_MIN - 1);
        assert_eq!((clip(size, size), clip(u64::MAX, size)), (size, size));
    }

    #[test]
    fn a_run_goes_on_from_a_mebibyte_behind_to_one_beyond() {
        let jumped = |start: u64| {
            let mut pattern = Pattern::new(1024 * MIB);
            let mut read = |at: u64| pattern.read(&(at..at + 1), |from| from.max(110 * MIB));
            read(100 * MIB - RANGE_BYTES_MIN);
            read(100 * MIB);
            // The run has grown, so only a jump ends its reading ahead. The program is at 100 MiB and a byte.
            assert!(!pattern.jumped());
            pattern.read(&(start..start + 1), |from| from.max(110 * MIB));
            pattern.jumped()
        };
        let (behind, beyond) = (100 * MIB + 1 - BEHIND_BYTES, 110 * MIB + SKIP_BYTES);
        assert_eq!([behind - 1, behind, beyond, beyond + 1].map(jumped), [true, false, false, true]);
    }
}
