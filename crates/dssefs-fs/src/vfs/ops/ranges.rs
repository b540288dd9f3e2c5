//! Calls on ranges of a file: copying them within the store, allocating and zeroing them, and finding holes.

use std::ops::Range;
use std::sync::Arc;

use crate::namespace::{Ino, Privileges};
use crate::write::Writer;
use dssefs_s3::object::Key;
use dssefs_s3::s3::Source;

use crate::vfs::file::{Carried, File};
use crate::vfs::{Error, Fh, Vfs};

/// What fallocate(2) is asked to do with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// Let the file reach to the range's end (mode 0).
    Grow,
    /// Set space aside, and leave the file as it is (FALLOC_FL_KEEP_SIZE).
    Reserve,
    /// Make what the file has of the range read as zeros (FALLOC_FL_PUNCH_HOLE or FALLOC_FL_ZERO_RANGE, with
    /// FALLOC_FL_KEEP_SIZE).
    Clear,
    /// The same, and let the file reach to the range's end (FALLOC_FL_ZERO_RANGE).
    ClearAndGrow,
}

/// What lseek(2) looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// SEEK_DATA.
    Data,
    /// SEEK_HOLE.
    Hole,
}

impl Vfs {
    /// copy_file_range(2), for what the store can do: notes that `length` bytes at `offset` of one file are those of
    /// another, at the same offset, and returns how many they are, up to the source's end. The store copies them when
    /// the target is committed.
    ///
    /// With the first byte go the content type, content headers, tags, storage class and user metadata of the source.
    ///
    /// # Errors
    /// [`Error::Unsupported`], upon which the kernel copies by reading and writing, when the source has changes that
    /// are not stored, or the target is not empty and not a copy of the same object up to `offset`.
    pub async fn copy_range(
        &self,
        from: (Fh, u64),
        to: (Fh, u64),
        length: u64,
        privileges: Privileges,
    ) -> Result<u64, Error> {
        const ONLY_BY_READING: Error = Error::Unsupported("copying this range within the store");
        let (source, target) = (self.handles.file(from.0)?, self.handles.file(to.0)?);
        if !target.writes {
            return Err(Error::NotOpenForWriting);
        }
        if Arc::ptr_eq(&source.file, &target.file) || from.1 != to.1 {
            return Err(ONLY_BY_READING);
        }
        let _subtree = self.namespace.lock_shared_both(source.file.ino, target.file.ino).await;
        // No call of this mount replaces the source's object meanwhile.
        let _turn = source.file.turn.lock().await;
        let origin = source.file.stored().ok_or(ONLY_BY_READING)?;
        self.refuse_noncompliant(&source.file)?;
        let range = from.1..from.1.saturating_add(length).min(origin.size);
        if range.is_empty() {
            return Ok(0);
        }
        if !self.clone_range(&source.file, &target.file, &origin, range.clone(), privileges).await? {
            return Err(ONLY_BY_READING);
        }
        target.note_change();
        Ok(range.end - range.start)
    }

    async fn clone_range(
        &self,
        source: &File,
        target: &Arc<File>,
        origin: &Source,
        range: Range<u64>,
        privileges: Privileges,
    ) -> Result<bool, Error> {
        let writer = self.writer_parts().writer_of(target).await?;
        let carried = if range.start == 0 { Some(self.carried(source, origin).await?) } else { None };
        let taken = || {
            if let Some(carried) = carried {
                target.state().carried = Some(carried);
            }
        };
        // Before it becomes a copy: no call may replace its source in between.
        self.files.note_copy(target);
        let adopted = async { Ok(writer.adopt(origin, range, taken).await) };
        self.change_content(target, privileges, adopted).await
    }

    /// What a copy of `origin` takes over. One request when it has tags.
    async fn carried(&self, source: &File, origin: &Source) -> Result<Carried, Error> {
        let meta = source.state().head.as_ref().map(|head| head.meta.clone()).ok_or(Error::Stale)?;
        let tags = if meta.tag_count > 0 { self.gateway.tags(&origin.key).await? } else { None };
        Ok(Carried { meta, tags })
    }

    /// Before this mount replaces or removes the object of `file`: unsaved files that are copies of it take in their
    /// bytes. The caller holds the file's turn, so that no more of them come.
    pub(in crate::vfs) async fn release_copies(&self, file: &Arc<File>) -> Result<(), Error> {
        let Some(key) = self.namespace.key(file.ino) else { return Ok(()) };
        let others = self.files.unsaved_copies().into_iter().filter(|copy| !Arc::ptr_eq(copy, file));
        self.release_from(others, |base| *base == key).await
    }

    /// The same for all objects below a directory that is about to be moved.
    pub(in crate::vfs) async fn release_copies_below(&self, directory: Ino) -> Result<(), Error> {
        let Some(marker) = self.namespace.key(directory) else { return Ok(()) };
        let files = self.files.unsaved_copies().into_iter();
        self.release_from(files, |base| base.as_str().starts_with(marker.as_str())).await
    }

    /// fallocate(2). S3 has no space to set aside, so that beside the file's length only zeroing changes anything.
    ///
    /// # Errors
    /// The handle is not for writing, the file would be too large, or see [`Writer::zero`].
    pub async fn allocate(
        &self,
        fh: Fh,
        range: Range<u64>,
        what: Allocation,
        privileges: Privileges,
    ) -> Result<(), Error> {
        let open = self.handles.file(fh)?;
        if !open.writes {
            return Err(Error::NotOpenForWriting);
        }
        if range.is_empty() {
            return Err(Error::Invalid("a range to allocate has at least one byte"));
        }
        let _subtree = self.namespace.lock_shared(open.file.ino).await;
        let writer = self.writer_parts().writer_of(&open.file).await?;
        let within = range.start..range.end.min(writer.size());
        let file = &open.file;
        match what {
            Allocation::Reserve => {
                Writer::check_size(range.end)?;
                return self.lose_privileges(file, privileges).await;
            }
            Allocation::Grow if range.end <= writer.size() => return self.lose_privileges(file, privileges).await,
            Allocation::Clear if within.is_empty() => return self.lose_privileges(file, privileges).await,
            Allocation::Grow => self.change_content(file, privileges, writer.grow(range.end)).await?,
            Allocation::Clear => self.change_content(file, privileges, writer.zero(within)).await?,
            Allocation::ClearAndGrow => self.change_content(file, privileges, writer.zero(range)).await?,
        }
        open.note_change();
        Ok(())
    }

    async fn release_from(
        &self,
        copies: impl Iterator<Item = Arc<File>>,
        goes: impl Fn(&Key) -> bool,
    ) -> Result<(), Error> {
        for copy in copies {
            if let Some(writer) = copy.writer() {
                Box::pin(writer.let_go_of(&goes)).await?;
                self.keep_again(&copy).await?;
            }
        }
        Ok(())
    }

    /// lseek(2) for data and holes. Holes are the ranges of a changed file that were never written; a stored object is
    /// data to its end.
    ///
    /// While a handle exists that can map the file for writing, all of it is data: a mapping's pages reach this program
    /// only later.
    ///
    /// # Errors
    /// [`Error::PastEnd`] when there is no data, or no file, from `offset` on.
    pub fn seek(&self, fh: Fh, offset: u64, sought: Sought) -> Result<u64, Error> {
        let open = self.handles.file(fh)?;
        let size = open.file.attributes().size;
        if offset >= size {
            return Err(Error::PastEnd);
        }
        let writer = open.file.writer().filter(|writer| writer.is_dirty() && !self.handles.can_map(&open.file));
        let holes = writer.map(|writer| writer.holes(offset..size)).unwrap_or_default();
        match sought {
            Sought::Data => data_from(offset, holes.first(), size).ok_or(Error::PastEnd),
            Sought::Hole => Ok(holes.first().map_or(size, |hole| hole.start)),
        }
    }
}

/// The first byte of data from `offset` on, where `hole` is the first hole from there on.
fn data_from(offset: u64, hole: Option<&Range<u64>>, size: u64) -> Option<u64> {
    let data = hole.filter(|hole| hole.start == offset).map_or(offset, |hole| hole.end);
    (data < size).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_begins_behind_the_hole_at_hand() {
        assert_eq!(data_from(5, None, 10), Some(5));
        assert_eq!(data_from(5, Some(&(5..8)), 10), Some(8));
        assert_eq!(data_from(5, Some(&(6..10)), 10), Some(5));
        assert_eq!(data_from(5, Some(&(5..10)), 10), None);
    }
}
