//! Streams between the network and the storage.
//!
//! On the way in, a blocking thread hashes and writes one batch while the next one arrives. On the way out, the next
//! chunk is read while the last one is sent. Memory per request is two batches, whatever the size of
//! the object.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use s3s::dto::StreamingBlob;
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Result, StdError};
use tokio::task::{JoinHandle, spawn_blocking};

use super::checksum::{Algorithm, DigestWriter, Digests};
use super::errors::{incomplete_body, internal, of_body};
use crate::storage::{Body, BodyReader, BodyWriter, Bucket, Version};

/// A batch is handed to the disk when it holds as much. Bodies below it never leave the async thread.
const BATCH_BYTES: usize = 512 * 1024;
/// What is read from the disk at once.
const CHUNK_BYTES_MAX: u64 = 512 * 1024;
/// What of a refused upload is read and thrown away, so that the client gets to see the refusal.
const DRAIN_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Where the bytes of an upload go.
struct Sink {
    writer: BodyWriter,
    digests: DigestWriter,
}

impl Sink {
    fn write(mut self: Box<Self>, batch: &[Bytes]) -> io::Result<Box<Sink>> {
        for bytes in batch {
            self.digests.update(bytes);
            self.writer.write(bytes)?;
        }
        Ok(self)
    }
}

/// The sink is here, or away on a blocking thread with a batch.
enum Place {
    Here(Box<Sink>),
    Away(JoinHandle<io::Result<Box<Sink>>>),
}

impl Place {
    async fn fetch(self) -> S3Result<Box<Sink>> {
        match self {
            Place::Here(sink) => Ok(sink),
            Place::Away(writing) => writing.await.map_err(io::Error::other).and_then(|sink| sink).map_err(internal),
        }
    }
}

/// Stores a body and computes its digests. `length_bytes` is what the client announced: any other number is
/// IncompleteBody.
pub(super) async fn receive(
    bucket: &Bucket,
    body: &mut StreamingBlob,
    length_bytes: u64,
    algorithm: Algorithm,
    with_md5: bool,
) -> S3Result<(Body, Digests)> {
    let writer = bucket.writer().map_err(internal)?;
    let mut place = Place::Here(Box::new(Sink { writer, digests: DigestWriter::new(algorithm, with_md5) }));
    let mut batch: Vec<Bytes> = Vec::new();
    let mut batch_bytes = 0;
    while let Some(bytes) = body.next().await {
        let bytes = bytes.map_err(|error| of_body(&error))?;
        batch_bytes += bytes.len();
        batch.push(bytes);
        if batch_bytes >= BATCH_BYTES {
            let (sink, full) = (place.fetch().await?, std::mem::take(&mut batch));
            batch_bytes = 0;
            place = Place::Away(spawn_blocking(move || sink.write(&full)));
        }
    }
    let sink = *place.fetch().await?.write(&batch).map_err(internal)?;
    let body = sink.writer.finish();
    if body.length() == length_bytes { Ok((body, sink.digests.finish())) } else { Err(incomplete_body()) }
}

/// Reads the rest of a refused upload, within bounds: a client that is still sending may miss an answer that comes too
/// early.
pub(super) async fn drain(body: &mut StreamingBlob) {
    let mut drained_bytes = 0;
    while drained_bytes < DRAIN_BYTES_MAX {
        match body.next().await {
            Some(Ok(bytes)) => drained_bytes += bytes.len(),
            Some(Err(_)) | None => return,
        }
    }
}

/// Computes the digests of bytes that are stored already.
pub(super) async fn digest(mut reader: BodyReader, algorithm: Algorithm, with_md5: bool) -> S3Result<Digests> {
    let work = move || {
        let mut digests = DigestWriter::new(algorithm, with_md5);
        while reader.remaining() > 0 {
            digests.update(&reader.read(CHUNK_BYTES_MAX)?);
        }
        Ok(digests.finish())
    };
    spawn_blocking(work).await.map_err(io::Error::other).and_then(|digests| digests).map_err(internal)
}

/// Copies bytes of a stored body into `target`, on a blocking thread: there may be 10,000 files to link, or bytes to
/// move.
pub(super) async fn copy(
    target: &Arc<Bucket>,
    source: &Arc<Bucket>,
    body: &Arc<Body>,
    range: Range<u64>,
) -> S3Result<Body> {
    let (target, source, body) = (Arc::clone(target), Arc::clone(source), Arc::clone(body));
    let work = move || target.copy(&source, &body, range);
    spawn_blocking(work).await.map_err(io::Error::other).and_then(|copied| copied).map_err(internal)
}

/// The bytes `range` of an object as the body of an answer. The stream holds the version, so that its files stay until
/// it ends.
pub(super) fn send(bucket: &Bucket, version: &Arc<Version>, body: &Body, range: Range<u64>) -> S3Result<StreamingBlob> {
    let mut reader = bucket.reader(body, range);
    let remaining = reader.remaining();
    // A small object is read at once: a hop to another thread would take longer.
    let state = if remaining <= CHUNK_BYTES_MAX {
        let chunk = reader.read(CHUNK_BYTES_MAX).map_err(internal)?;
        Outgoing::Ready(reader, chunk)
    } else {
        Outgoing::ahead(reader)
    };
    Ok(StreamingBlob::new(BodyStream { _version: Arc::clone(version), state, remaining }))
}

struct BodyStream {
    _version: Arc<Version>,
    state: Outgoing,
    remaining: u64,
}

enum Outgoing {
    Ready(BodyReader, Vec<u8>),
    Reading(JoinHandle<io::Result<(BodyReader, Vec<u8>)>>),
    Ended,
}

impl Outgoing {
    fn ahead(mut reader: BodyReader) -> Outgoing {
        if reader.remaining() == 0 {
            return Outgoing::Ended;
        }
        Outgoing::Reading(spawn_blocking(move || reader.read(CHUNK_BYTES_MAX).map(|chunk| (reader, chunk))))
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let (reader, chunk) = match std::mem::replace(self, Outgoing::Ended) {
            Outgoing::Ended => return Poll::Ready(Ok(Vec::new())),
            Outgoing::Ready(reader, chunk) => (reader, chunk),
            Outgoing::Reading(mut reading) => match Pin::new(&mut reading).poll(cx) {
                Poll::Pending => {
                    *self = Outgoing::Reading(reading);
                    return Poll::Pending;
                }
                Poll::Ready(result) => result.map_err(io::Error::other)??,
            },
        };
        *self = Outgoing::ahead(reader);
        Poll::Ready(Ok(chunk))
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match std::task::ready!(self.state.poll_chunk(cx)) {
            Ok(chunk) if chunk.is_empty() => Poll::Ready(None),
            Ok(chunk) => {
                self.remaining -= chunk.len() as u64;
                Poll::Ready(Some(Ok(Bytes::from(chunk))))
            }
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }
}

impl ByteStream for BodyStream {
    fn remaining_length(&self) -> RemainingLength {
        usize::try_from(self.remaining).map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}
