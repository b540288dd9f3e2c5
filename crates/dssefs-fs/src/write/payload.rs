//! A snapshot of the spill as a body for the store.

use std::io;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::spill::{self, Snapshot};
use dssefs_s3::object::Crc64;
use dssefs_s3::s3::Payload;

/// Sends a snapshot chunk by chunk; sealed blocks are opened as they are sent, so a part never stands in memory whole.
pub(crate) struct SnapshotPayload {
    snapshot: Arc<Snapshot>,
    /// Taken once: the writer asks for it and the request does, and each time it would be a pass over the whole part.
    crc64: OnceLock<Crc64>,
}

impl SnapshotPayload {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> SnapshotPayload {
        SnapshotPayload { snapshot, crc64: OnceLock::new() }
    }

    /// The CRC-64/NVME of the whole.
    ///
    /// # Errors
    /// As [`Snapshot::crc64`].
    pub(crate) fn checksum(&self) -> Result<Crc64, spill::Error> {
        if let Some(crc64) = self.crc64.get() {
            return Ok(*crc64);
        }
        let crc64 = Crc64::from_value(self.snapshot.crc64()?);
        Ok(*self.crc64.get_or_init(|| crc64))
    }
}

impl Payload for SnapshotPayload {
    fn len(&self) -> u64 {
        self.snapshot.len()
    }

    fn crc64(&self) -> io::Result<Crc64> {
        self.checksum().map_err(io::Error::other)
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync> {
        Box::new(self.snapshot.chunks().map(|chunk| chunk.map_err(io::Error::other)))
    }
}
