//! An entry on its way into the journal.

use super::super::Error;
use super::super::record::Record;
use super::{End, EntryId, Journal};

/// An entry that is being written. It counts once it is finished; dropped before, it never was.
pub struct Draft<'a> {
    pub(super) journal: &'a Journal,
    pub(super) entry: EntryId,
    pub(super) replaces: Option<EntryId>,
    pub(super) content_bytes: u64,
    /// Where it begins, once it does, and how many records it has.
    pub(super) begin: Option<End>,
    pub(super) records: u64,
    pub(super) finished: bool,
}

impl Draft<'_> {
    /// Adds content: any ranges that do not overlap, in any order, each of at most 16 MiB less a few bytes.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the entry is lost then.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.content_bytes += bytes.len() as u64;
        self.append(&Record::Content { entry: self.entry, offset, bytes }).map(drop)
    }

    /// Returns when the entry stands on the disk.
    ///
    /// # Errors
    /// As [`Journal::draft`]; the entry is lost then.
    pub fn finish(mut self) -> Result<EntryId, Error> {
        let place = self.append(&Record::End { entry: self.entry, content_bytes: self.content_bytes })?;
        {
            let mut log = self.journal.log();
            let segment = log.segment;
            let span = log.live.get_mut(&self.entry).expect("a draft is live until it is settled");
            *span = *span.start()..=segment;
            // If the sync fails, the entry may stand nevertheless. `sync_settled` then syncs before a file's name goes.
            log.settled = log.appended;
        }
        self.journal.sync()?;
        self.finished = true;
        if let Some(replaced) = self.replaces {
            let begun = self.begin.map_or(place.segment, |begin| begin.segment);
            self.journal.log().bury(replaced, begun..=place.segment);
            self.journal.tidy();
        }
        Ok(self.entry)
    }

    pub(super) fn append(&mut self, record: &Record<'_>) -> Result<End, Error> {
        let before = self.journal.append(record)?;
        if self.begin.is_none() {
            self.begin = Some(before);
            // The segment that it was drafted in may have been full: from here on it is known where the entry begins.
            self.journal.log().live.insert(self.entry, before.segment..=u32::MAX);
        }
        self.records += 1;
        Ok(before)
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        {
            let mut log = self.journal.log();
            log.live.remove(&self.entry);
            // A full disk is most often filled by the very entry that it has no room for.
            let end_of = |begin: &End| begin.record_next + begin.cut_off + self.records;
            let alone = |begin: &End| log.segment == begin.segment && log.record_next == end_of(begin);
            if let Some(begin) = self.begin.filter(alone) {
                let spare_bytes = log.spare_bytes();
                log.cut(begin, spare_bytes);
            }
        }
        self.journal.tidy();
    }
}
