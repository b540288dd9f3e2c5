//! Reads the content of an object from the store.

use std::sync::Arc;

use aws_sdk_s3::error::DisplayErrorContext;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use crate::object::{Bucket, ByteRange, Key};
use crate::s3::aws::{Answer, of_broken_body};
use crate::s3::error::{Error, Failure, Kind};
use crate::s3::metrics::{Operation, StoreCounters};
use crate::s3::request::Head;

/// The most memory that is reserved for content before it arrives, in bytes.
const AT_ONCE_BYTES_MAX: usize = 64 << 10;

/// An object, or a range of it, that is being read.
///
/// The caller gets the last chunk only after the body has ended as announced and, for a whole object with a checksum,
/// after the checksum was verified. So a caller that has all bytes has the right ones.
pub struct Download {
    /// The facts of the object; the size is that of the whole object.
    pub head: Head,
    /// Which bytes these are; None for an object without content.
    pub range: Option<ByteRange>,
    body: ByteStream,
    left: u64,
    bucket: Bucket,
    key: Key,
    counters: Arc<StoreCounters>,
}

impl Download {
    pub(super) fn new(bucket: &Bucket, key: &Key, counters: Arc<StoreCounters>, answer: Answer) -> Download {
        let Answer { head, range, body } = answer;
        let left = range.map_or(0, ByteRange::len);
        Download { head, range, body, left, bucket: bucket.clone(), key: key.clone(), counters }
    }

    /// The next chunk, as long as the network delivered it; None at the end, and after an error.
    ///
    /// # Errors
    /// [`Kind::Integrity`] when the content does not match the store's checksum, or is longer than announced;
    /// [`Kind::Unreachable`] when it ends too early; [`Kind::Timeout`] when no bytes arrive.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        if self.left == 0 {
            return None;
        }
        let chunk = self.receive().await;
        match &chunk {
            Ok(bytes) => StoreCounters::add(&self.counters.bytes_received, bytes.len() as u64),
            Err(_) => self.left = 0,
        }
        Some(chunk)
    }

    /// The rest of the content, if it has at most `bytes_max` bytes.
    ///
    /// # Errors
    /// [`Kind::Protocol`] when the answer is longer, before a byte of it is read; and as [`Download::next`].
    pub async fn collect(mut self, bytes_max: u64) -> Result<Bytes, Error> {
        if self.left > bytes_max {
            let message = format!("the answer has {} bytes, and the daemon expected at most {bytes_max}", self.left);
            return Err(self.failure(Kind::Protocol, &message).into());
        }
        let expected = usize::try_from(self.left).unwrap_or(usize::MAX);
        // A long announcement alone must not take memory.
        let mut content = BytesMut::with_capacity(expected.min(AT_ONCE_BYTES_MAX));
        while let Some(chunk) = self.next().await {
            content.extend_from_slice(&chunk?);
        }
        Ok(content.freeze())
    }

    async fn receive(&mut self) -> Result<Bytes, Error> {
        let chunk = loop {
            match self.body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => break bytes,
                Some(Err(error)) => return Err(self.broken(error)),
                None => return Err(self.failure(Kind::Unreachable, "the body ended too early").into()),
            }
        };
        self.left = self.left.checked_sub(chunk.len() as u64).ok_or_else(|| self.too_long())?;
        if self.left == 0 {
            self.finish().await?;
        }
        Ok(chunk)
    }

    /// The SDK compares the checksum when the body has ended, and not before.
    async fn finish(&mut self) -> Result<(), Error> {
        loop {
            match self.body.next().await {
                None => return Ok(()),
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(_)) => return Err(self.too_long()),
                Some(Err(error)) => return Err(self.broken(error)),
            }
        }
    }

    fn too_long(&self) -> Error {
        self.failure(Kind::Integrity, "the body is longer than announced").into()
    }

    fn broken(&self, error: aws_sdk_s3::primitives::ByteStreamError) -> Error {
        let failure = self.failure(of_broken_body(&error), &DisplayErrorContext(&error).to_string());
        failure.from_source(error).into()
    }

    fn failure(&self, kind: Kind, message: &str) -> Failure {
        let failure = Failure::new(kind, Operation::GetObject, &self.bucket, Some(&self.key)).because(message);
        Failure { request_id: self.head.encryption.request_id.clone(), ..failure }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::SystemTime;

    use aws_sdk_s3::primitives::SdkBody;
    use http_body::{Body, Frame};

    use super::*;
    use crate::object::{ETag, ObjectMeta, UserMetadata, Version};
    use crate::policy::{Evidence, Facts, Observation};

    /// A body that yields what the script says.
    struct Script(Vec<Result<&'static str, &'static str>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            let next = if self.0.is_empty() { None } else { Some(self.0.remove(0)) };
            Poll::Ready(next.map(|chunk| chunk.map(|text| Frame::data(Bytes::from(text))).map_err(io::Error::other)))
        }
    }

    fn download(size: u64, script: Vec<Result<&'static str, &'static str>>) -> Download {
        let meta = ObjectMeta {
            size,
            version: Version { etag: ETag::new("e"), id: None },
            last_modified: SystemTime::UNIX_EPOCH,
            storage_class: "STANDARD".into(),
            content_type: None,
            content_headers: [].into(),
            tag_count: 0,
            user: UserMetadata::new(),
            commit: None,
        };
        let encryption = Observation {
            facts: Facts::unknown(),
            evidence: Evidence::Get,
            verified_at: SystemTime::UNIX_EPOCH,
            request_id: None,
        };
        let body = ByteStream::new(SdkBody::from_body_1_x(Script(script)));
        let answer = Answer { head: Head { meta, encryption }, range: ByteRange::new(0, size), body };
        Download::new(&Bucket::new("data").unwrap(), &Key::new("k").unwrap(), Arc::default(), answer)
    }

    async fn read(mut download: Download) -> (String, Option<Kind>) {
        let mut content = String::new();
        while let Some(chunk) = download.next().await {
            match chunk {
                Ok(bytes) => content.push_str(str::from_utf8(&bytes).unwrap()),
                Err(error) => {
                    assert!(download.next().await.is_none(), "nothing follows an error");
                    return (content, Some(error.kind));
                }
            }
        }
        (content, None)
    }

    #[tokio::test]
    async fn a_body_as_announced_is_handed_out_whole() {
        assert_eq!(read(download(4, vec![Ok("ab"), Ok(""), Ok("cd")])).await, ("abcd".into(), None));
        assert_eq!(read(download(0, vec![])).await, (String::new(), None));
    }

    #[tokio::test]
    async fn content_longer_than_the_caller_can_hold_is_refused_unread() {
        let collected = download(4, vec![Ok("ab"), Ok("cd")]).collect(4).await.unwrap();
        assert_eq!(collected, "abcd");
        let error = download(5, vec![Err("nothing is read")]).collect(4).await.unwrap_err();
        assert_eq!(error.kind, Kind::Protocol, "{error}");
    }

    #[tokio::test]
    async fn too_few_bytes_are_an_error() {
        assert_eq!(read(download(4, vec![Ok("ab")])).await, ("ab".into(), Some(Kind::Unreachable)));
        assert_eq!(read(download(4, vec![])).await, (String::new(), Some(Kind::Unreachable)));
    }

    #[tokio::test]
    async fn the_last_bytes_are_kept_back_until_the_end_is_right() {
        assert_eq!(read(download(4, vec![Ok("ab"), Ok("cde")])).await, ("ab".into(), Some(Kind::Integrity)));
        assert_eq!(read(download(4, vec![Ok("ab"), Ok("cd"), Ok("e")])).await, ("ab".into(), Some(Kind::Integrity)));
        let wrong = vec![Ok("ab"), Ok("cd"), Err("body checksum mismatch. expected x but it was y")];
        assert_eq!(read(download(4, wrong)).await, ("ab".into(), Some(Kind::Integrity)));
    }
}
