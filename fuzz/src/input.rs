//! Bytes taken apart into decisions.

use std::collections::BTreeMap;

use tempfile::TempDir;

/// A directory for one run: in memory where there is such a place, as no disk has to keep it.
pub fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The rest of an input. It never runs out: what is missing is zero, or empty.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Input(bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let wide = usize::from(self.byte()) << 8 | usize::from(self.byte());
        wide.checked_rem(end).unwrap_or(0)
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes up to the next NUL, which is left out.
    pub fn text(&mut self) -> &'a [u8] {
        let taken = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        self.take(taken.len() + 1);
        taken
    }

    pub fn rest(&mut self) -> &'a [u8] {
        self.take(self.0.len())
    }

    /// User metadata: names and values, each ended by NUL, up to an empty name. As S3 gives them: UTF-8, and names in
    /// lower case.
    pub fn metadata(&mut self) -> BTreeMap<String, String> {
        let mut user = BTreeMap::new();
        while !self.is_empty() {
            let name = String::from_utf8_lossy(self.text()).to_lowercase();
            if name.is_empty() {
                break;
            }
            user.insert(name, String::from_utf8_lossy(self.text()).into_owned());
        }
        user
    }
}
