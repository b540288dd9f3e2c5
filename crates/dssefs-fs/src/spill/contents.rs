//! What a buffer holds, under its lock: blocks, which bytes of them count, and which of those are in S3 as well.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use dssefs_seal::sealed::{Charge, SealedFile};
use dssefs_seal::secret::PlainBuf;

use super::block::{
    self, Block, Content, Edit, InMemory, OnDisk, blocks_of, capacity_for, offsets_of, part_of, parts_of,
};
use super::resources::Resources;
use super::snapshot::{Piece, Source};
use super::{BLOCK_BYTES, Error, RangeSet, crc};

/// When uploaded bytes leave this host for others that need the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// Before anything is sealed onto the disk.
    First,
    /// Where the disk has no room for them: they are likely to be read or changed again.
    Last,
}

/// The content of one file. A byte that is present and lies in no block, or beyond the length of its block, is zero.
#[derive(Default)]
pub(super) struct Contents {
    present: RangeSet,
    /// The part of `present` that is in S3 too. It may be dropped.
    uploaded: RangeSet,
    /// The part of it that is dropped only where the disk has no room for it.
    wanted: RangeSet,
    blocks: BTreeMap<u64, Block>,
    /// The blocks in memory, least recently changed first: turn to index.
    turns: BTreeMap<u64, u64>,
    turn_next: u64,
    /// Made when the first block is sealed.
    file: Option<Arc<SealedFile>>,
    memory_bytes: u64,
}

impl Contents {
    pub(super) fn present(&self) -> &RangeSet {
        &self.present
    }

    /// Memory charged to the blocks, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    pub(super) fn file(&self) -> Option<&Arc<SealedFile>> {
        self.file.as_ref()
    }

    /// Memory that an edit of `range` will take, in bytes: never less, sometimes more, because a snapshot may end
    /// meanwhile.
    pub(super) fn memory_needed(&self, range: Range<u64>, edit: Edit<'_>) -> u64 {
        let parts = self.parts_edited(range, edit).into_iter();
        parts.map(|(index, part)| self.block_memory_needed(index, &part, edit) as u64).sum()
    }

    /// Edits `range`, which becomes present. All or nothing: what can fail comes first.
    pub(super) fn edit(&mut self, range: Range<u64>, edit: Edit<'_>, mut memory: Charge) -> Result<(), Error> {
        let parts = self.parts_edited(range.clone(), edit);
        let mut opened = self.open_what_stays(&parts, edit)?;
        let mut data = if let Edit::Write(data) = edit { data } else { &[] };
        for (index, part) in parts {
            let edit = match edit {
                Edit::Zero => Edit::Zero,
                Edit::Write(_) => Edit::Write(data.split_off(..part.len()).expect("the data is as long as its range")),
            };
            self.edit_block(index, &part, edit, opened.remove(&index), &mut memory);
        }
        self.unmark_uploaded(range.clone());
        self.present.insert(range);
        Ok(())
    }

    /// Drops `range`: it is absent afterwards.
    pub(super) fn discard(&mut self, range: Range<u64>) {
        self.present.remove(range.clone());
        self.unmark_uploaded(range.clone());
        if self.present.is_empty() {
            return self.forget_all();
        }
        for index in self.blocks_touching(range.clone()) {
            if self.present_in(index).next().is_none() {
                self.drop_block(index);
            } else {
                self.cut_block(index, &range);
            }
        }
    }

    /// The content of `range` at this moment.
    pub(super) fn pieces(&self, range: Range<u64>) -> Result<Vec<Piece>, Error> {
        if !self.present.contains(range.clone()) {
            return Err(Error::Absent { range });
        }
        let mut pieces = Vec::new();
        let mut from = range.start;
        for index in self.blocks_touching(range.clone()) {
            let block = offsets_of(index, &(0..BLOCK_BYTES));
            pieces.extend(Piece::zeros(from..block.start));
            from = block.end.min(range.end);
            pieces.extend(self.pieces_of_block(index, range.start.max(block.start)..from));
        }
        pieces.extend(Piece::zeros(from..range.end));
        Ok(pieces)
    }

    /// The bytes of `pieces`, which begin at `offset`, are in S3. Those that did not change since count as uploaded.
    pub(super) fn mark_uploaded(&mut self, mut offset: u64, pieces: &[Piece], eviction: Eviction) {
        for piece in pieces {
            let range = offset..offset + piece.len;
            offset = range.end;
            if self.is_unchanged(piece, &range) && self.present.contains(range.clone()) {
                if eviction == Eviction::Last {
                    self.wanted.insert(range.clone());
                }
                self.uploaded.insert(range);
            }
        }
    }

    /// What counts as uploaded in `range` does so no more.
    pub(super) fn unmark_uploaded(&mut self, range: Range<u64>) {
        self.uploaded.remove(range.clone());
        self.wanted.remove(range);
    }

    /// The first bytes that are present, up to the end of their block; or, of zeros that lie in no block, up to the
    /// next block. With them, whether they lie in one.
    pub(super) fn first_run(&self) -> Option<(Range<u64>, bool)> {
        let first = self.present.iter().next()?;
        let index = first.start / BLOCK_BYTES as u64;
        let next = self.blocks.range(index..).next().map(|(index, _)| *index);
        let end = next.map_or(u64::MAX, |next| {
            let block = offsets_of(next, &(0..BLOCK_BYTES));
            if next == index { block.end } else { block.start }
        });
        Some((first.start..first.end.min(end), next == Some(index)))
    }

    /// Whether there is something that may be dropped.
    pub(super) fn has_uploaded(&self) -> bool {
        !self.uploaded.is_empty()
    }

    /// Drops uploaded blocks from memory, and returns the bytes freed: at least `wanted_bytes`, or all that there are
    /// for this `eviction`.
    pub(super) fn drop_uploaded_memory(&mut self, eviction: Eviction, wanted_bytes: u64) -> u64 {
        let in_memory = self.turns.values().filter_map(|index| Some((*index, self.blocks.get(index)?)));
        let unshared = in_memory.filter_map(|(index, block)| match block {
            Block::Memory(block) if Arc::strong_count(&block.content) == 1 => {
                Some((index, block.content.charge.bytes()))
            }
            _ => None,
        });
        let (dropped, freed_bytes) = self.uploaded_among(unshared, eviction, wanted_bytes);
        self.drop_all(dropped);
        freed_bytes
    }

    /// Drops uploaded blocks from the disk, and returns the bytes freed: at least `wanted_bytes`, or all that there are
    /// for this `eviction`.
    pub(super) fn drop_uploaded_disk(&mut self, eviction: Eviction, wanted_bytes: u64) -> u64 {
        let sealed = self.blocks.iter().filter_map(|(index, block)| match block {
            Block::Sealed(block) => Some((*index, block.len as u64)),
            Block::Memory(_) => None,
        });
        let (dropped, freed_bytes) = self.uploaded_among(sealed, eviction, wanted_bytes);
        self.drop_all(dropped);
        freed_bytes
    }

    /// Gives back the disk below blocks that are in memory again. A snapshot that still reads the older content there
    /// is superseded.
    pub(super) fn drop_older_on_disk(&mut self) -> bool {
        let mut dropped = false;
        for (index, block) in &mut self.blocks {
            if let (Block::Memory(InMemory { older_on_disk: older @ true, .. }), Some(file)) = (block, &self.file) {
                file.discard(*index);
                (*older, dropped) = (false, true);
            }
        }
        dropped
    }

    /// Moves blocks from memory to the disk, least recently changed first, and returns the memory freed: at least
    /// `wanted_bytes`, or all that no snapshot shares. An error after the first block is not reported: that memory was
    /// freed.
    pub(super) fn seal_oldest(&mut self, resources: &Resources, wanted_bytes: u64) -> Result<u64, Error> {
        let (mut freed_bytes, mut turn) = (0, 0);
        while freed_bytes < wanted_bytes
            && let Some((oldest, index)) = self.turns.range(turn..).next().map(|(turn, index)| (*turn, *index))
        {
            turn = oldest + 1;
            match self.seal_block(index, resources) {
                Ok(bytes) => freed_bytes += bytes,
                Err(_) if freed_bytes > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(freed_bytes)
    }

    /// The blocks that an edit has to look at. Zeros concern only blocks that exist: a hole of a terabyte costs
    /// nothing.
    fn parts_edited(&self, range: Range<u64>, edit: Edit<'_>) -> Vec<(u64, Range<usize>)> {
        match edit {
            Edit::Write(_) => parts_of(range).collect(),
            Edit::Zero => {
                let blocks = self.blocks_touching(range.clone()).into_iter();
                blocks.map(|index| (index, part_of(index, &range))).collect()
            }
        }
    }

    fn block_memory_needed(&self, index: u64, part: &Range<usize>, edit: Edit<'_>) -> usize {
        let Some(block) = self.blocks.get(&index) else {
            return if let Edit::Write(_) = edit { capacity_for(part.end) } else { 0 };
        };
        if matches!(edit, Edit::Zero) && (part.start >= block.len() || !self.has_others(index, part)) {
            return 0;
        }
        let capacity_bytes = capacity_for(edit.len_after(block.len(), part));
        match block {
            Block::Memory(block) if Arc::strong_count(&block.content) == 1 => {
                capacity_bytes.saturating_sub(block.content.charge.bytes() as usize)
            }
            _ => capacity_bytes,
        }
    }

    /// Opens the sealed blocks that the edit changes only in part. There are two at most: the first and the last.
    fn open_what_stays(&self, parts: &[(u64, Range<usize>)], edit: Edit<'_>) -> Result<BTreeMap<u64, PlainBuf>, Error> {
        let mut opened = BTreeMap::new();
        for (index, part) in parts {
            if let (Some(Block::Sealed(block)), Some(file)) = (self.blocks.get(index), &self.file)
                && self.has_others(*index, part)
                && (matches!(edit, Edit::Write(_)) || part.start < block.len)
            {
                let mut plain = PlainBuf::with_capacity(capacity_for(edit.len_after(block.len, part)));
                block::open(file, *index, *block, &mut plain)?;
                opened.insert(*index, plain);
            }
        }
        Ok(opened)
    }

    /// Cannot fail: a sealed block that is changed in part is in `opened`, and `memory` holds what
    /// [`Contents::memory_needed`] said.
    fn edit_block(
        &mut self,
        index: u64,
        part: &Range<usize>,
        edit: Edit<'_>,
        opened: Option<PlainBuf>,
        memory: &mut Charge,
    ) {
        let stays = self.has_others(index, part);
        if matches!(edit, Edit::Zero) {
            match self.blocks.get(&index) {
                Some(_) if !stays => return self.drop_block(index),
                Some(block) if part.start < block.len() => {}
                _ => return,
            }
        }
        let (mut content, older_on_disk) = match self.take_block(index) {
            Some(Block::Memory(block)) => (own(block.content, part, edit, stays, memory), block.older_on_disk),
            Some(Block::Sealed(block)) => (fresh(opened, block.len, part, edit, stays, memory), true),
            None => (fresh(None, 0, part, edit, false, memory), false),
        };
        content.edit(edit, part);
        self.put_in_memory(index, content, older_on_disk);
    }

    /// Whether bytes of this block are present outside of `part`.
    fn has_others(&self, index: u64, part: &Range<usize>) -> bool {
        let part = offsets_of(index, part);
        self.present_in(index).any(|present| present.start < part.start || present.end > part.end)
    }

    fn present_in(&self, index: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        self.present.intersection(offsets_of(index, &(0..BLOCK_BYTES)))
    }

    fn blocks_touching(&self, range: Range<u64>) -> Vec<u64> {
        self.blocks.range(blocks_of(&range)).map(|(index, _)| *index).collect()
    }

    /// Wipes what `range` takes off the end of a block in memory.
    fn cut_block(&mut self, index: u64, range: &Range<u64>) {
        let block_range = offsets_of(index, &(0..BLOCK_BYTES));
        let start = range.start.saturating_sub(block_range.start) as usize;
        if range.end >= block_range.end
            && let Some(Block::Memory(block)) = self.blocks.get_mut(&index)
            && let Some(content) = Arc::get_mut(&mut block.content)
        {
            content.cut(start);
        }
    }

    fn pieces_of_block(&self, index: u64, range: Range<u64>) -> Vec<Piece> {
        let Some(block) = self.blocks.get(&index) else { return Vec::new() };
        let start = (range.start - index * BLOCK_BYTES as u64) as usize;
        let data_end = range.end.min(offsets_of(index, &(0..block.len())).end).max(range.start);
        let source = match (block, &self.file) {
            (Block::Memory(block), _) => Source::Memory { content: Arc::clone(&block.content), index, start },
            (Block::Sealed(block), Some(file)) => {
                Source::Sealed { file: Arc::clone(file), index, block: *block, start }
            }
            (Block::Sealed(_), None) => unreachable!("a sealed block lies in a file"),
        };
        let data = Piece { len: data_end - range.start, source };
        [Some(data).filter(|data| data.len > 0), Piece::zeros(data_end..range.end)].into_iter().flatten().collect()
    }

    fn is_unchanged(&self, piece: &Piece, range: &Range<u64>) -> bool {
        let index = range.start / BLOCK_BYTES as u64;
        match (&piece.source, self.blocks.get(&index)) {
            (Source::Memory { content, .. }, Some(Block::Memory(now))) => Arc::ptr_eq(content, &now.content),
            (Source::Sealed { file, block, .. }, Some(Block::Sealed(now))) => {
                block == now && self.file.as_ref().is_some_and(|now| Arc::ptr_eq(file, now))
            }
            (Source::Zeros, _) => self.reads_as_zeros(range.clone()),
            _ => false,
        }
    }

    fn reads_as_zeros(&self, range: Range<u64>) -> bool {
        let data = |index: u64| self.blocks.get(&index).map_or(0, Block::len);
        self.blocks_touching(range.clone())
            .into_iter()
            .all(|index| offsets_of(index, &(0..data(index))).end <= range.start)
    }

    /// From blocks and their cost, those whose present bytes are all uploaded, until their cost is enough.
    fn uploaded_among(
        &self,
        blocks: impl Iterator<Item = (u64, u64)>,
        eviction: Eviction,
        wanted_bytes: u64,
    ) -> (Vec<u64>, u64) {
        let (mut found, mut found_bytes) = (Vec::new(), 0);
        for (index, bytes) in blocks.filter(|(index, _)| self.may_be_dropped(*index, eviction)) {
            found.push(index);
            found_bytes += bytes;
            if found_bytes >= wanted_bytes {
                break;
            }
        }
        (found, found_bytes)
    }

    fn drop_all(&mut self, indices: Vec<u64>) {
        for index in indices {
            let range = offsets_of(index, &(0..BLOCK_BYTES));
            self.present.remove(range.clone());
            self.unmark_uploaded(range);
            self.drop_block(index);
        }
    }

    fn may_be_dropped(&self, index: u64, eviction: Eviction) -> bool {
        let is_uploaded = self.present_in(index).all(|present| self.uploaded.contains(present));
        let is_wanted = || self.wanted.intersection(offsets_of(index, &(0..BLOCK_BYTES))).next().is_some();
        is_uploaded && (eviction == Eviction::Last || !is_wanted())
    }

    /// Seals one block, and returns the memory that this freed: nothing if a snapshot shares it.
    fn seal_block(&mut self, index: u64, resources: &Resources) -> Result<u64, Error> {
        let Some(Block::Memory(block)) = self.blocks.get(&index) else { return Ok(0) };
        if Arc::strong_count(&block.content) > 1 {
            return Ok(0);
        }
        let content = Arc::clone(&block.content);
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(Arc::new(resources.sealed_file()?))),
        };
        let (plain, freed_bytes) = (content.plain(), content.charge.bytes());
        let sealed = OnDisk { generation: file.seal(index, plain)?, len: plain.len(), crc: content.crc() };
        self.take_block(index);
        self.blocks.insert(index, Block::Sealed(sealed));
        Ok(freed_bytes)
    }

    fn put_in_memory(&mut self, index: u64, content: Content, older_on_disk: bool) {
        self.memory_bytes += content.charge.bytes();
        self.turn_next += 1;
        self.turns.insert(self.turn_next, index);
        let block = InMemory { content: Arc::new(content), turn: self.turn_next, older_on_disk };
        self.blocks.insert(index, Block::Memory(block));
    }

    /// Takes a block out. What it has on the disk stays there.
    fn take_block(&mut self, index: u64) -> Option<Block> {
        let block = self.blocks.remove(&index);
        if let Some(Block::Memory(block)) = &block {
            self.turns.remove(&block.turn);
            self.memory_bytes -= block.content.charge.bytes();
        }
        block
    }

    /// Drops a block from memory and from the disk.
    fn drop_block(&mut self, index: u64) {
        self.take_block(index);
        if let Some(file) = &self.file {
            file.discard(index);
        }
    }

    /// Nothing is present: the sealed file goes as a whole, with its keys.
    fn forget_all(&mut self) {
        *self = Contents { turn_next: self.turn_next, ..Contents::default() };
    }
}

#[cfg(test)]
impl Contents {
    pub(super) fn damage(&mut self, offset: u64) {
        let (index, at) = (offset / BLOCK_BYTES as u64, offset as usize % BLOCK_BYTES);
        let Some(Block::Memory(block)) = self.blocks.get_mut(&index) else { panic!("block {index} is not in memory") };
        Arc::get_mut(&mut block.content).expect("no snapshot shares it").damage(at);
    }
}

/// The content as one that may be changed and has room for the edit: the same when no snapshot shares it, else a copy
/// of what stays.
fn own(content: Arc<Content>, part: &Range<usize>, edit: Edit<'_>, stays: bool, memory: &mut Charge) -> Content {
    let capacity_bytes = |content: &Content| capacity_for(edit.len_after(content.plain().len(), part));
    match Arc::try_unwrap(content) {
        Ok(mut content) => {
            let more = (capacity_bytes(&content) as u64).saturating_sub(content.charge.bytes());
            content.charge.merge(memory.split(more));
            content.grow(content.charge.bytes() as usize);
            content
        }
        Err(shared) => {
            let mut plain = PlainBuf::with_capacity(capacity_bytes(&shared));
            let charge = memory.split(capacity_bytes(&shared) as u64);
            if !stays {
                return Content::new(plain, crc::EMPTY, charge);
            }
            plain.write_at(0, shared.plain());
            Content::new(plain, shared.crc(), charge)
        }
    }
}

/// New content with room for the edit, from a sealed block of `len` bytes if any.
fn fresh(
    opened: Option<PlainBuf>,
    len: usize,
    part: &Range<usize>,
    edit: Edit<'_>,
    stays: bool,
    memory: &mut Charge,
) -> Content {
    debug_assert_eq!(opened.is_some(), stays, "a sealed block that is changed in part was opened before");
    let capacity_bytes = capacity_for(edit.len_after(len, part));
    let charge = memory.split(capacity_bytes as u64);
    match opened {
        // It was opened under the checksum that it was sealed with.
        Some(plain) => {
            let crc = crc::of(plain.as_slice());
            Content::new(plain, crc, charge)
        }
        None => Content::new(PlainBuf::with_capacity(capacity_bytes), crc::EMPTY, charge),
    }
}
