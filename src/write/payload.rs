//! A snapshot of the spill as a body for the store.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::s3::Payload;
use crate::spill::Snapshot;

/// Sends a snapshot chunk by chunk; sealed blocks are opened as they are sent, so a part never stands in memory whole.
pub(crate) struct SnapshotPayload(pub(crate) Arc<Snapshot>);

impl Payload for SnapshotPayload {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn crc64(&self) -> io::Result<u64> {
        self.0.crc64().map_err(io::Error::other)
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync> {
        Box::new(self.0.chunks().map(|chunk| chunk.map_err(io::Error::other)))
    }
}
