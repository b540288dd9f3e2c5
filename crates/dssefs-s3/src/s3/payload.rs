//! Sends content to the store.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use sha1::{Digest, Sha1};

use super::liveness::StoreLiveness;
use crate::object::Crc64;

/// Bodies up to this many bytes are collected and sent from memory: one piece is cheaper than a stream.
const COLLECTED_BYTES_MAX: u64 = 64 * 1024;

/// The checksum that S3 compares with the content and keeps with the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-64/NVME, which S3 computes of everything by itself.
    Crc64(Crc64),
    /// CRC-32C. Listings name the algorithm, so it marks an object as the content of a file.
    Crc32c([u8; 4]),
    /// SHA-1, which links and special files have.
    Sha1([u8; 20]),
}

/// The longest target that Linux takes, in bytes (`PATH_MAX` without its NUL, limits.h). Only an object up to this
/// length can be a symbolic link.
pub const TARGET_BYTES_MAX: u64 = 4095;

/// The body of a link or a special file, sent with its SHA-1: any algorithm but the one that marks files.
#[derive(Clone, Debug)]
pub struct WithSha1(pub Bytes);

/// Content that can be sent more than once, because requests are retried.
///
/// `chunks` runs on the tasks that serve the network. It may read the page cache and decrypt; it must not wait.
pub trait Payload: Send + Sync + 'static {
    /// How many bytes there are.
    fn len(&self) -> u64;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The CRC-64/NVME of the whole.
    ///
    /// # Errors
    /// The content cannot be read.
    fn crc64(&self) -> io::Result<Crc64>;

    /// The checksum to send and to keep with the whole.
    ///
    /// # Errors
    /// The content cannot be read.
    fn kept_checksum(&self) -> io::Result<Checksum> {
        self.crc64().map(Checksum::Crc64)
    }

    /// The content from its beginning, in pieces whose lengths add up to [`Payload::len`].
    fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync>;
}

impl Payload for Bytes {
    fn len(&self) -> u64 {
        Bytes::len(self) as u64
    }

    fn crc64(&self) -> io::Result<Crc64> {
        Ok(Crc64::of(self))
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync> {
        Box::new(std::iter::once(Ok(self.clone())))
    }
}

impl Payload for WithSha1 {
    fn len(&self) -> u64 {
        Payload::len(&self.0)
    }

    fn crc64(&self) -> io::Result<Crc64> {
        self.0.crc64()
    }

    fn kept_checksum(&self) -> io::Result<Checksum> {
        Ok(Checksum::Sha1(Sha1::digest(&self.0).into()))
    }

    fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync> {
        self.0.chunks()
    }
}

impl Checksum {
    /// The text of `x-amz-checksum-crc64nvme`, if it is one.
    pub(super) fn crc64_text(self) -> Option<String> {
        match self {
            Checksum::Crc64(crc64) => Some(crc64.to_base64()),
            Checksum::Crc32c(_) | Checksum::Sha1(_) => None,
        }
    }

    /// The text of `x-amz-checksum-crc32c`, if it is one.
    pub(super) fn crc32c_text(self) -> Option<String> {
        match self {
            Checksum::Crc32c(crc32c) => Some(base64_simd::STANDARD.encode_to_string(crc32c)),
            Checksum::Crc64(_) | Checksum::Sha1(_) => None,
        }
    }

    /// The text of `x-amz-checksum-sha1`, if it is one.
    pub(super) fn sha1_text(self) -> Option<String> {
        match self {
            Checksum::Sha1(sha1) => Some(base64_simd::STANDARD.encode_to_string(sha1)),
            Checksum::Crc64(_) | Checksum::Crc32c(_) => None,
        }
    }
}

/// The body of one request, and the failure to read it, if any: the SDK reports only that the body broke.
pub(super) struct Outgoing {
    pub(super) stream: ByteStream,
    /// With its header set the SDK neither hashes the body nor frames it as aws-chunked.
    pub(super) checksum: Checksum,
    pub(super) broken: Broken,
}

/// Why a body could not be read, if so.
#[derive(Clone, Default)]
pub(super) struct Broken(Arc<Mutex<Option<io::Error>>>);

impl Broken {
    pub(super) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, error: io::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

impl Outgoing {
    /// The whole content of an object. A file that is no longer than the target of a link may be gets a CRC-32C in
    /// place of the CRC-64, so that a listing proves that it is no link: nothing that writes links sends that
    /// algorithm.
    pub(super) fn whole(
        payload: &Arc<dyn Payload>,
        in_memory: bool,
        liveness: &Arc<StoreLiveness>,
    ) -> io::Result<Outgoing> {
        let outgoing = Outgoing::new(payload, in_memory, liveness)?;
        match (outgoing.checksum, outgoing.stream.bytes()) {
            (Checksum::Crc64(crc64), Some(content)) if payload.len() <= TARGET_BYTES_MAX => {
                let checksum = mark_of_file(content, crc64)?;
                Ok(Outgoing { checksum, ..outgoing })
            }
            _ => Ok(outgoing),
        }
    }

    /// `in_memory`: collect the body whatever its length, so that the SDK can sign its digest. `liveness` is informed
    /// of each chunk that the network takes.
    pub(super) fn new(
        payload: &Arc<dyn Payload>,
        in_memory: bool,
        liveness: &Arc<StoreLiveness>,
    ) -> io::Result<Outgoing> {
        let checksum = payload.kept_checksum()?;
        let broken = Broken::default();
        let body = if in_memory || payload.len() <= COLLECTED_BYTES_MAX {
            SdkBody::from(collect(&**payload)?)
        } else {
            let (payload, broken, liveness) = (Arc::clone(payload), broken.clone(), Arc::clone(liveness));
            SdkBody::retryable(move || {
                SdkBody::from_body_1_x(Chunks::new(&*payload, broken.clone(), Arc::clone(&liveness)))
            })
        };
        Ok(Outgoing { stream: ByteStream::new(body), checksum, broken })
    }
}

/// The CRC-32C of `content`, if that has the checksum `crc64`. Bytes that memory or disk have changed since a program
/// wrote them have not, and must not get a checksum that S3 would find right.
fn mark_of_file(content: &[u8], crc64: Crc64) -> io::Result<Checksum> {
    let crc32c = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, content);
    if Crc64::of(content) != crc64 {
        let damaged = "the content is not what was written: memory or disk of this host have changed it";
        return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
    }
    let [_, _, _, _, mark @ ..] = crc32c.to_be_bytes();
    Ok(Checksum::Crc32c(mark))
}

/// The CRC-32C in `x-amz-checksum-crc32c`; None for anything else.
pub(super) fn decode_crc32c(text: &str) -> Option<[u8; 4]> {
    base64_simd::STANDARD.decode_to_vec(text).ok()?.try_into().ok()
}

/// The SHA-1 in `x-amz-checksum-sha1`; None for anything else.
pub(super) fn decode_sha1(text: &str) -> Option<[u8; 20]> {
    base64_simd::STANDARD.decode_to_vec(text).ok()?.try_into().ok()
}

fn collect(payload: &dyn Payload) -> io::Result<Bytes> {
    let length = usize::try_from(payload.len()).map_err(io::Error::other)?;
    let mut chunks = payload.chunks();
    let first = chunks.next().transpose()?.unwrap_or_default();
    if first.len() == length {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(length);
    whole.extend_from_slice(&first);
    for chunk in chunks {
        whole.extend_from_slice(&chunk?);
    }
    if whole.len() == length { Ok(whole.freeze()) } else { Err(wrong_length()) }
}

fn wrong_length() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the content to send has another length than announced")
}

/// A payload as an HTTP body: one chunk is one frame, and the length is known beforehand.
struct Chunks {
    chunks: Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync>,
    left: u64,
    broken: Broken,
    liveness: Arc<StoreLiveness>,
}

impl Chunks {
    fn new(payload: &dyn Payload, broken: Broken, liveness: Arc<StoreLiveness>) -> Chunks {
        Chunks { chunks: payload.chunks(), left: payload.len(), broken, liveness }
    }

    fn advance(&mut self) -> Option<io::Result<Bytes>> {
        self.liveness.took();
        let chunk = match self.chunks.next() {
            None if self.left == 0 => return None,
            None => Err(wrong_length()),
            Some(chunk) => chunk,
        };
        Some(chunk.and_then(|bytes| {
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(wrong_length)?;
            Ok(bytes)
        }))
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        Poll::Ready(match self.advance() {
            None => None,
            Some(Ok(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Err(error)) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.broken.set(error);
                Some(Err(copy))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn liveness() -> Arc<StoreLiveness> {
        Arc::new(StoreLiveness::new())
    }

    /// Chunks that claim to be `length` bytes; an `Err` chunk fails.
    struct Script {
        length: u64,
        chunks: Vec<Result<&'static [u8], &'static str>>,
    }

    impl Payload for Script {
        fn len(&self) -> u64 {
            self.length
        }

        fn crc64(&self) -> io::Result<Crc64> {
            Ok(Crc64::EMPTY)
        }

        fn chunks(&self) -> Box<dyn Iterator<Item = io::Result<Bytes>> + Send + Sync> {
            let chunks = self.chunks.clone();
            Box::new(chunks.into_iter().map(|chunk| chunk.map(Bytes::from_static).map_err(io::Error::other)))
        }
    }

    #[tokio::test]
    async fn a_long_body_is_streamed_whole_and_again_for_a_retry() {
        let content = Bytes::from(vec![7; 200_000]);
        let payload: Arc<dyn Payload> = Arc::new(content.clone());
        let outgoing = Outgoing::new(&payload, false, &liveness()).unwrap();
        assert_eq!(outgoing.stream.bytes(), None);
        assert_eq!(outgoing.stream.size_hint(), (200_000, Some(200_000)));
        let body = outgoing.stream.into_inner();
        let again = body.try_clone().unwrap();
        for body in [body, again] {
            assert_eq!(ByteStream::new(body).collect().await.unwrap().into_bytes(), content);
        }
        assert!(outgoing.broken.take().is_none());
    }

    #[test]
    fn a_short_body_and_a_signed_one_are_sent_from_memory() {
        let short: Arc<dyn Payload> = Arc::new(Script { length: 4, chunks: vec![Ok(b"ab"), Ok(b"cd")] });
        assert_eq!(Outgoing::new(&short, false, &liveness()).unwrap().stream.bytes(), Some(&b"abcd"[..]));
        let long: Arc<dyn Payload> = Arc::new(Bytes::from(vec![1; 100_000]));
        assert_eq!(Outgoing::new(&long, true, &liveness()).unwrap().stream.bytes().map(<[u8]>::len), Some(100_000));
    }

    #[tokio::test]
    async fn a_body_that_breaks_is_an_error_and_its_reason_is_kept() {
        let script = Script { length: 9, chunks: vec![Ok(b"abc"), Err("bad block")] };
        let broken = Broken::default();
        let result = Chunks::new(&script, broken.clone(), liveness()).collect().await;
        assert_eq!(result.unwrap_err().to_string(), "bad block");
        assert_eq!(broken.take().unwrap().to_string(), "bad block");
    }

    #[tokio::test]
    async fn a_body_of_another_length_than_announced_is_never_sent_as_if_whole() {
        for chunks in [vec![Ok(&b"abc"[..])], vec![Ok(&b"abcdef"[..])]] {
            let script = Script { length: 5, chunks };
            assert!(Chunks::new(&script, Broken::default(), liveness()).collect().await.is_err());
            assert!(collect(&script).is_err());
        }
    }

    #[test]
    fn short_files_are_marked_and_longer_ones_are_not() {
        // CRC-32/ISCSI of "123456789": catalogue of parametrised CRC algorithms.
        let short: Arc<dyn Payload> = Arc::new(Bytes::from_static(b"123456789"));
        let checksum = Outgoing::whole(&short, false, &liveness()).unwrap().checksum;
        assert_eq!(checksum, Checksum::Crc32c([0xe3, 0x06, 0x92, 0x83]));
        assert_eq!(checksum.crc32c_text().as_deref().and_then(decode_crc32c), Some([0xe3, 0x06, 0x92, 0x83]));
        for (length, is_marked) in [(0, true), (4095, true), (4096, false)] {
            let payload: Arc<dyn Payload> = Arc::new(Bytes::from(vec![7; length]));
            let checksum = Outgoing::whole(&payload, false, &liveness()).unwrap().checksum;
            assert_eq!(checksum.crc32c_text().is_some(), is_marked, "{length}");
            assert_eq!(checksum.crc64_text().is_some(), !is_marked, "{length}");
        }
        let link: Arc<dyn Payload> = Arc::new(WithSha1(Bytes::from_static(b"abc")));
        assert!(Outgoing::whole(&link, false, &liveness()).unwrap().checksum.sha1_text().is_some());
    }

    #[test]
    fn changed_content_gets_no_mark() {
        let changed: Arc<dyn Payload> = Arc::new(Script { length: 3, chunks: vec![Ok(b"abc")] });
        let error = Outgoing::whole(&changed, false, &liveness()).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn marked_content_is_sent_with_its_sha1_and_no_crc() {
        // FIPS 180-4's example "abc".
        let checksum = WithSha1(Bytes::from_static(b"abc")).kept_checksum().unwrap();
        let text = checksum.sha1_text().unwrap();
        assert_eq!((text.as_str(), checksum.crc64_text()), ("qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", None));
        assert_eq!(decode_sha1(&text).map(Checksum::Sha1), Some(checksum));
        let plain = Bytes::from_static(b"abc").kept_checksum().unwrap();
        assert_eq!((plain.sha1_text(), plain.crc64_text().is_some()), (None, true));
    }
}
