//! Read-modify-write: reads the bytes of the base that a part or a small file needs beside the changes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::{RwLockReadGuard, RwLockWriteGuard};
use tokio::time::Instant;

use crate::spill;
use dssefs_s3::object::ByteRange;

use super::early_upload::EarlyUpload;
use super::{Base, Error, Writer};

/// Gaps nearer to each other than this are read by one GET, in bytes: each GET is a call to KMS.
const JOIN_BYTES_MAX: u64 = 1024 * 1024;

/// The right to take room for bytes of an object, until they are sent and released. Commits that have found room share
/// it. A commit that has found none takes it alone, so that half-read parts do not block each other.
#[expect(dead_code, reason = "the guards are held, not read")]
pub(super) enum Filling<'a> {
    /// Nothing was missing.
    Nothing,
    Beside(RwLockReadGuard<'a, ()>),
    Alone(RwLockWriteGuard<'a, ()>),
}

impl Writer {
    /// The object under the changes, if some of its bytes are still part of the file and not written over.
    #[must_use]
    pub fn needed_base(&self) -> Option<Base> {
        let state = self.state();
        state.base.clone().filter(|_| !state.written.contains(0..state.base_len))
    }

    /// Takes all bytes of the object under the changes onto this host, because the object is about to be deleted while
    /// programs have the file open.
    ///
    /// # Errors
    /// The bytes cannot be read or kept; nothing is changed then.
    pub async fn materialize_base(self: &Arc<Self>) -> Result<(), Error> {
        self.materialize_base_if(|_| true).await
    }

    /// The same, if the object is `wanted`.
    pub(super) async fn materialize_base_if(self: &Arc<Self>, wanted: impl Fn(&Base) -> bool) -> Result<(), Error> {
        loop {
            // 1. Parts that are in an upload only would be lost with the object under them. What is promised is stored.
            if self.has_evicted() {
                if self.promised().is_none() {
                    return Err(self.in_upload());
                }
                self.save().await?;
            }
            // 2. End an upload that copies from the base, which is about to go.
            if self.copies_from(&wanted) {
                self.leave_early_upload().await?;
            }
            // 3. Keep commits away, which would drop what is read here. Begin again if the upload has changed since.
            let _turn = self.turn.lock().await;
            let (base, base_len) = {
                let state = self.state();
                let copies = |early_upload: &EarlyUpload| {
                    early_upload.layout.copied() > 0 && state.base.as_ref().is_some_and(&wanted)
                };
                let stands =
                    |early_upload: &EarlyUpload| !copies(early_upload) && early_upload.keep_all_whole(&self.buffer);
                if !state.early_upload.as_ref().is_none_or(stands) {
                    continue;
                }
                (state.base.clone(), state.base_len)
            };
            if !base.as_ref().is_some_and(&wanted) {
                return Ok(());
            }
            // 4. Read the bytes.
            let present = self.make_present(0..base_len, base.as_ref(), base_len).await;
            present.inspect_err(|_| self.release(&(0..base_len)))?;
            // 5. The bytes no longer depend on the base.
            let mut state = self.state();
            // They are changes now: the buffer has the only copy that the file may count on.
            let taken = 0..state.base_len;
            state.written.insert(taken);
            state.base = None;
            state.base_len = 0;
            if state.is_dirty() {
                // The journal's entry counts on the object, and is no longer enough.
                state.changes += 1;
            }
            return Ok(());
        }
    }

    /// Whether an upload under way is to have bytes of the object, which is `wanted`.
    fn copies_from(&self, wanted: impl Fn(&Base) -> bool) -> bool {
        let state = self.state();
        state.early_upload.as_ref().is_some_and(|early_upload| early_upload.layout.copied() > 0)
            && state.base.as_ref().is_some_and(wanted)
    }

    /// Makes all of `range` present, as [`Writer::make_present`] does, for a part that frees its room by
    /// [`Writer::release`].
    ///
    /// Where there is no room beside the parts of other commits, it waits for them, as a write does.
    pub(super) async fn fill(
        &self,
        range: &Range<u64>,
        base: Option<&Base>,
        base_len: u64,
    ) -> Result<Filling<'_>, Error> {
        // 1. Nothing to read: no right is needed.
        let from_base = base.map_or(0..0, |_| range.start..range.end.min(base_len).max(range.start));
        if self.buffer.contains(from_base) {
            self.make_present(range.clone(), base, base_len).await?;
            return Ok(Filling::Nothing);
        }
        // 2. Beside other commits, unless one of them has the right alone.
        let deadline = Instant::now() + self.engine.settings.wait_max;
        let beside = match self.engine.fills.try_read() {
            Ok(beside) => beside,
            Err(_) => {
                let _blocked = self.engine.blocked();
                self.wait_for(self.engine.fills.read(), deadline).await?
            }
        };
        match self.make_present(range.clone(), base, base_len).await {
            Err(Error::Spill(spill::Error::NoSpace)) => {}
            outcome => return outcome.map(|()| Filling::Beside(beside)),
        }
        // 3. No room: release what was read, wait for the others, and read it alone.
        drop(beside);
        self.release(range);
        let alone = {
            let _blocked = self.engine.blocked();
            self.wait_for(self.engine.fills.write(), deadline).await?
        };
        self.make_present_when(true, range.clone(), base, base_len).boxed().await?;
        Ok(Filling::Alone(alone))
    }

    /// Makes all of `range` present in the buffer: bytes of `base` are read, what was never written becomes zeros.
    pub(super) async fn make_present(
        &self,
        range: Range<u64>,
        base: Option<&Base>,
        base_len: u64,
    ) -> Result<(), Error> {
        // Boxed, because the types of all requests below are more than the compiler follows at once.
        self.make_present_when(false, range, base, base_len).boxed().await
    }

    /// The same, with the right to fill `alone`, which can wait for room as long as other commits may give some back.
    async fn make_present_when(
        &self,
        alone: bool,
        range: Range<u64>,
        base: Option<&Base>,
        base_len: u64,
    ) -> Result<(), Error> {
        // Bytes that the base has as well may be dropped under pressure, which the filling itself can cause.
        self.buffer.unmark_uploaded(range.clone());
        if let Some(base) = base {
            let from_base = range.start..range.end.min(base_len).max(range.start);
            for span in joined(self.buffer.present().gaps(from_base)) {
                self.fetch(alone, base, span).await?;
            }
        }
        let holes: Vec<_> = self.buffer.present().gaps(range).collect();
        for hole in holes {
            self.with_room_after(|| alone && self.others_give_room(), || self.fill_hole(&hole)).await??;
        }
        Ok(())
    }

    /// Drops the bytes of `range` that the buffer has only because a part needed them. The base has them too, or they
    /// are holes. Otherwise a commit of a few scattered bytes would need room for all that lies between them.
    pub(super) fn release(&self, range: &Range<u64>) {
        let state = self.state();
        state.written.gaps(range.clone()).for_each(|filled| self.buffer.discard(filled));
    }

    /// Makes a hole read as zeros. Bytes that a program wrote and the buffer lacks are no hole but a loss, which must
    /// never be stored as zeros.
    fn fill_hole(&self, hole: &Range<u64>) -> Result<Result<(), Error>, spill::Error> {
        let state = self.state();
        // A program may have written into it meanwhile.
        let holes: Vec<_> = self.buffer.present().gaps(hole.clone()).collect();
        for hole in holes {
            if state.written.intersection(hole.clone()).next().is_some() {
                return Ok(Err(Error::Incomplete { start: hole.start, end: hole.end }));
            }
            self.buffer.zero(hole)?;
        }
        Ok(Ok(()))
    }

    /// Reads `span` of `base`. A body that breaks is asked for again from where it broke.
    async fn fetch(&self, alone: bool, base: &Base, span: Range<u64>) -> Result<(), Error> {
        let gateway = &self.engine.gateway;
        let (mut at, mut tries) = (span.start, gateway.body_retries());
        while let Some(range) = ByteRange::new(at, span.end) {
            let mut download = gateway.get(&base.key, Some(&base.version), Some(range)).await?;
            while let Some(chunk) = download.next().await {
                match chunk {
                    Ok(chunk) => {
                        self.with_room_after(|| alone && self.others_give_room(), || self.absorb(at, &chunk)).await?;
                        at += chunk.len() as u64;
                        tries.brought(chunk.len() as u64);
                    }
                    Err(error) if tries.again(&error).await => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Keeps what the buffer lacks of `chunk`. Under the writer's mutex, so that a program's write in between wins.
    fn absorb(&self, offset: u64, chunk: &Bytes) -> Result<(), spill::Error> {
        let state = self.state();
        let end = (offset + chunk.len() as u64).min(state.base_len);
        let gaps: Vec<_> = self.buffer.present().gaps(offset..end.max(offset)).collect();
        for gap in gaps {
            let bytes = usize::try_from(gap.start - offset).ok().zip(usize::try_from(gap.end - offset).ok());
            let (from, to) = bytes.expect("a gap lies within the chunk, whose length is a usize");
            self.buffer.write(gap.start, &chunk[from..to])?;
        }
        Ok(())
    }
}

/// Joins gaps that are near each other.
fn joined(gaps: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut spans: Vec<Range<u64>> = Vec::new();
    for gap in gaps {
        match spans.last_mut() {
            Some(last) if gap.start - last.end <= JOIN_BYTES_MAX => last.end = gap.end,
            _ => spans.push(gap),
        }
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_gaps_are_read_together() {
        let spans = joined([0..1, 5..9, 3 * JOIN_BYTES_MAX..3 * JOIN_BYTES_MAX + 1].into_iter());
        assert_eq!(spans, [0..9, 3 * JOIN_BYTES_MAX..3 * JOIN_BYTES_MAX + 1]);
    }

    struct Nowhere;

    impl super::super::Destination for Nowhere {
        fn commit_target(&self) -> super::super::CommitTarget {
            super::super::CommitTarget::Removed
        }

        fn committed(&self, _: &dssefs_s3::object::Key, _: dssefs_s3::s3::Head) {}
    }

    /// A part is filled to be sent again. What counts as uploaded of it may be in an upload that is gone.
    #[tokio::test]
    async fn what_is_uploaded_of_a_part_stays_here_while_the_part_is_filled() {
        use dssefs_s3::s3::{AccessKey, Connection, Gateway, load_as};
        const MIB: u64 = 1 << 20;
        const MEMORY: u64 = 32 * MIB;
        let connection = Connection {
            region: Some("us-east-1".into()),
            endpoint_url: Some("http://127.0.0.1:9".into()),
            ..Connection::default()
        };
        let config = load_as(&connection, AccessKey { id: "id".into(), secret: "secret".into() }).await.unwrap();
        let bucket = dssefs_s3::object::Bucket::new("data").unwrap();
        let gateway = Arc::new(Gateway::new(&config, &connection, bucket, Default::default()));
        let limits = spill::Limits { memory_bytes_max: MEMORY, spill_bytes_max: 0 };
        let pool = spill::Pool::new(&std::env::temp_dir(), limits).unwrap();
        let engine = super::super::Engine::new(gateway, pool, super::super::Settings::for_memory(MEMORY, None));
        let writer = Writer::new(&engine, None, 16 * MIB, true, Box::new(Nowhere));
        for offset in (0..8 * MIB).step_by(1 << 20) {
            writer.buffer.write(offset, &vec![7; 1 << 20]).unwrap();
        }
        let snapshot = writer.buffer.snapshot(0..8 * MIB).unwrap();
        writer.buffer.mark_uploaded(&snapshot, spill::Eviction::First);
        drop(snapshot);
        writer.make_present(0..16 * MIB, None, 0).await.unwrap();
        let other = engine.pool.buffer();
        let pressed = (0..MEMORY).step_by(1 << 20).try_for_each(|offset| other.write(offset, &vec![1; 1 << 20]));
        assert!(matches!(pressed, Err(spill::Error::NoSpace)), "there is no room left to take");
        assert!(writer.buffer.contains(0..16 * MIB));
    }
}
