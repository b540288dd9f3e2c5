//! Records: what one sealed block of a segment says.

use dssefs_seal::secret::PlainBuf;

use super::EntryId;

/// One record in plaintext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record<'a> {
    /// An entry begins; the writer of the journal gives its meaning. Complete, it settles the one that it replaces.
    Begin { entry: EntryId, replaces: Option<EntryId>, description: &'a [u8] },
    /// Bytes of its content, in any order.
    Content { entry: EntryId, offset: u64, bytes: &'a [u8] },
    /// The entry is complete, with so many bytes of content.
    End { entry: EntryId, content_bytes: u64 },
    /// The entry is no longer needed.
    Settled { entry: EntryId },
    /// The first record of a segment: the older segments that exist, and where each ends.
    Older { segments: &'a [u8] },
    /// A segment is about to be removed, because all of its entries are settled.
    Reclaimed { segment: u32 },
}

/// In the place of an entry: none.
const NOTHING: [u8; 8] = [0xFF; 8];

const BEGIN: u8 = 1;
const CONTENT: u8 = 2;
const END: u8 = 3;
const SETTLED: u8 = 4;
const OLDER: u8 = 5;
const RECLAIMED: u8 = 6;

/// Bytes of one segment in [`Record::Older`].
const OLDER_BYTES: usize = 12;

impl<'a> Record<'a> {
    pub(super) fn encode(&self) -> PlainBuf {
        match *self {
            Record::Begin { entry, replaces, description } => {
                let replaces = replaces.map_or(NOTHING, EntryId::to_bytes);
                joined(BEGIN, &[&entry.to_bytes(), &replaces, description])
            }
            Record::Content { entry, offset, bytes } => {
                joined(CONTENT, &[&entry.to_bytes(), &offset.to_be_bytes(), bytes])
            }
            Record::End { entry, content_bytes } => joined(END, &[&entry.to_bytes(), &content_bytes.to_be_bytes()]),
            Record::Settled { entry } => joined(SETTLED, &[&entry.to_bytes()]),
            Record::Older { segments } => joined(OLDER, &[segments]),
            Record::Reclaimed { segment } => joined(RECLAIMED, &[&segment.to_be_bytes()]),
        }
    }

    /// Whether this record leads to room on the disk.
    pub(super) fn gives_room_back(&self) -> bool {
        matches!(self, Record::Settled { .. } | Record::Reclaimed { .. })
    }

    /// None for what no version of this code has written.
    pub(super) fn decode(plain: &'a [u8]) -> Option<Record<'a>> {
        let (kind, rest) = plain.split_first()?;
        Some(match *kind {
            BEGIN => {
                let (entry, rest) = entry(rest)?;
                let (replaces, description) = rest.split_first_chunk()?;
                let replaces = (*replaces != NOTHING).then(|| EntryId::from_bytes(*replaces));
                Record::Begin { entry, replaces, description }
            }
            CONTENT => {
                let (entry, rest) = entry(rest)?;
                let (offset, bytes) = rest.split_first_chunk()?;
                Record::Content { entry, offset: u64::from_be_bytes(*offset), bytes }
            }
            END => {
                let (entry, rest) = entry(rest)?;
                Record::End { entry, content_bytes: u64::from_be_bytes(rest.try_into().ok()?) }
            }
            SETTLED => {
                let (entry, rest) = entry(rest)?;
                rest.is_empty().then_some(Record::Settled { entry })?
            }
            OLDER => (rest.len() % OLDER_BYTES == 0).then_some(Record::Older { segments: rest })?,
            RECLAIMED => Record::Reclaimed { segment: u32::from_be_bytes(rest.try_into().ok()?) },
            _ => return None,
        })
    }
}

/// Segments, each by its number and the number that follows that of its last record, as [`Record::Older`] carries them.
pub(super) fn encode_segments(segments: impl Iterator<Item = (u32, u64)>) -> Vec<u8> {
    segments.flat_map(|(number, end)| [&number.to_be_bytes()[..], &end.to_be_bytes()].concat()).collect()
}

/// The way back.
pub(super) fn decode_segments(bytes: &[u8]) -> impl Iterator<Item = (u32, u64)> {
    let segments = bytes.as_chunks::<OLDER_BYTES>().0.iter();
    segments.map(|segment| {
        let (number, end) = segment.split_at(4);
        let number = u32::from_be_bytes(number.try_into().expect("the first four bytes"));
        (number, u64::from_be_bytes(end.try_into().expect("the other eight")))
    })
}

fn entry(bytes: &[u8]) -> Option<(EntryId, &[u8])> {
    let (entry, rest) = bytes.split_first_chunk()?;
    Some((EntryId::from_bytes(*entry), rest))
}

fn joined(kind: u8, parts: &[&[u8]]) -> PlainBuf {
    let bytes = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut plain = PlainBuf::with_capacity(bytes);
    plain.write_at(0, &[kind]);
    for part in parts {
        plain.write_at(plain.len(), part);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_reads_as_what_was_written() {
        let entry = EntryId::from_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let segments = encode_segments([(3, 9), (70_000, u64::MAX)].into_iter());
        for record in [
            Record::Begin { entry, replaces: None, description: b"{}" },
            Record::Begin { entry, replaces: Some(EntryId::from_bytes([9; 8])), description: b"" },
            Record::Content { entry, offset: 1 << 40, bytes: b"" },
            Record::End { entry, content_bytes: 7 },
            Record::Settled { entry },
            Record::Older { segments: &segments },
            Record::Reclaimed { segment: 9 },
        ] {
            assert_eq!(Record::decode(record.encode().as_slice()), Some(record));
        }
        assert_eq!(decode_segments(&segments).collect::<Vec<_>>(), [(3, 9), (70_000, u64::MAX)]);
    }

    #[test]
    fn what_is_cut_or_unknown_is_no_record() {
        let entry = EntryId::from_bytes([0; 8]);
        let end = Record::End { entry, content_bytes: 7 }.encode();
        for length in 0..end.len() {
            assert_eq!(Record::decode(&end.as_slice()[..length]), None, "{length}");
        }
        assert_eq!(Record::decode(&[99, 0]), None);
    }

    #[test]
    fn a_record_with_bytes_too_many_or_too_few_is_none() {
        let entry = EntryId::from_bytes([0; 8]);
        let segments = encode_segments([(1, 2)].into_iter());
        for record in [
            Record::End { entry, content_bytes: 7 },
            Record::Settled { entry },
            Record::Older { segments: &segments },
            Record::Reclaimed { segment: 9 },
        ] {
            let bytes = record.encode().as_slice().to_vec();
            assert_eq!(Record::decode(&[&bytes[..], &[0]].concat()), None, "{record:?}");
            assert_eq!(Record::decode(&bytes[..bytes.len() - 1]), None, "{record:?}");
        }
        let begin = Record::Begin { entry, replaces: None, description: b"" }.encode();
        assert_eq!(Record::decode(&begin.as_slice()[..begin.len() - 1]), None);
        assert_eq!(Record::decode(&[]), None);
    }

    #[test]
    fn only_what_ends_an_entry_or_a_segment_gives_room_back() {
        let entry = EntryId::from_bytes([0; 8]);
        assert!(Record::Settled { entry }.gives_room_back() && Record::Reclaimed { segment: 1 }.gives_room_back());
        let kept = [Record::End { entry, content_bytes: 0 }, Record::Older { segments: &[] }];
        assert!(kept.iter().all(|record| !record.gives_room_back()));
    }
}
