//! Copies inside the bucket, made by the store: renames, changes of metadata, re-encryption.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{Gateway, OtherCopy, Upload, Verified, Write};
use crate::object::{ByteRange, Crc64, Key};
use crate::s3::ambiguous_write::AmbiguousWrite;
use crate::s3::aws::AttemptLog;
use crate::s3::error::{Error, Kind};
use crate::s3::metrics::Operation;
use crate::s3::request::{Condition, NewObject, Part, Source, Stored};

/// CopyObject takes sources of up to 5 GiB ("Copying, moving, and renaming objects", S3 User Guide).
const COPY_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;
/// Parts of this length keep each request under a minute; larger objects have longer parts.
const PART_BYTES_MIN: u64 = 512 * 1024 * 1024;
/// "Amazon S3 multipart upload limits", S3 User Guide.
const PARTS_MAX: u64 = 10_000;
const PARTS_AT_ONCE_MAX: usize = 8;

impl Gateway {
    /// Copies one version of an object to `new.key`, which may be the source's own key. User metadata, content type,
    /// content headers and storage class are those of `new`; tags are the source's unless `new` has its own, and
    /// annotations are the source's; the copy is under DSSE-KMS whatever the source is.
    ///
    /// If an answer was lost, the gateway looks for the copy as [`Gateway::find`] does. For a store that refuses
    /// conditions of copies, it looks whether the condition holds first.
    ///
    /// # Errors
    /// As S3 answers. [`PreconditionFailed`](crate::s3::Kind::PreconditionFailed) when the source is another version
    /// now, or when `condition` is not met. After [`Mismatch`](crate::s3::Kind::Mismatch) the copy was deleted again. A
    /// copy in place stays in a bucket that keeps no versions, because its content exists nowhere else.
    pub async fn copy(
        self: &Arc<Self>,
        source: &Source,
        new: &NewObject,
        condition: &Condition,
    ) -> Result<Verified<Stored>, Error> {
        match self.copy_under(source, new, condition).await {
            // A store without conditional copies. The log has named it at the mount.
            Err(error) if error.kind == Kind::Unsupported => {
                self.look_whether_it_holds(&new.key, condition).await?;
                self.copy_under(source, new, &Condition::LOOKED_UP).await
            }
            answer => answer,
        }
    }

    async fn look_whether_it_holds(&self, key: &Key, condition: &Condition) -> Result<(), Error> {
        let now = self.etag(key).await?;
        match condition {
            Condition::Absent if now.is_none() => Ok(()),
            Condition::Matches(etag) if now.as_ref() == Some(etag) => Ok(()),
            Condition::Any(_) => Ok(()),
            Condition::Absent | Condition::Matches(_) => {
                Err(self.failure(Kind::PreconditionFailed, Operation::HeadObject, key).into())
            }
        }
    }

    async fn copy_under(
        self: &Arc<Self>,
        source: &Source,
        new: &NewObject,
        condition: &Condition,
    ) -> Result<Verified<Stored>, Error> {
        if source.size > COPY_BYTES_MAX {
            return self.copy_in_parts(source, new, condition).await;
        }
        let (new, attempts) = (&self.stamped(new), AttemptLog::default());
        let answer = self.store.copy(self.policy(), source, new, condition, &attempts).await;
        let attempt = || AmbiguousWrite { object: new.clone(), size: source.size, upload: None };
        let other_copy = OtherCopy::of_copy(&source.key, &new.key);
        let write = Write { operation: Operation::CopyObject, key: &new.key, other_copy };
        self.settle(&write, answer, &attempts, attempt).await
    }

    /// Copies one version of an object to `to` with its metadata, content headers and tags. The caller gives the
    /// storage class (listings have it). One HEAD of the source before: a copy has a commit id of its own, so the store
    /// cannot carry the metadata over. A store without conditional copies is refused: renames of directories need them.
    ///
    /// # Errors
    /// As [`Gateway::copy`].
    pub async fn duplicate(
        self: &Arc<Self>,
        source: &Source,
        to: &Key,
        storage_class: Option<String>,
        condition: &Condition,
    ) -> Result<Verified<Stored>, Error> {
        let new = self.described_as(source, NewObject { storage_class, ..NewObject::at(to.clone()) }).await?;
        self.copy_under(source, &new, condition).await
    }

    /// `new` with the metadata of `source`.
    async fn described_as(&self, source: &Source, new: NewObject) -> Result<NewObject, Error> {
        let meta = self.head(&source.key).await?.meta;
        if meta.version.etag != source.version.etag {
            let failure = self.failure(Kind::PreconditionFailed, Operation::HeadObject, &source.key);
            return Err(failure.because("the object is another version now").into());
        }
        let (user, content_type, content_headers) = (meta.user, meta.content_type, meta.content_headers);
        Ok(NewObject { user, content_type, content_headers, ..new })
    }

    /// A multipart copy carries nothing over, so this fetches tags and annotations and sends them again. A copy in
    /// place of an object with annotations is refused: nothing else would have them while they are sent.
    async fn copy_in_parts(
        self: &Arc<Self>,
        source: &Source,
        new: &NewObject,
        condition: &Condition,
    ) -> Result<Verified<Stored>, Error> {
        let mut new = new.clone();
        if new.tags.is_none() {
            new.tags = self.store.tags(&source.key, Some(&source.version)).await?;
        }
        let annotations = self.annotations(&source.key).await?;
        if source.key == new.key && !annotations.is_empty() {
            let refused = self.failure(Kind::TooLarge, Operation::ListObjectAnnotations, &source.key);
            return Err(refused.because("S3 copies annotations of objects of up to 5 GiB only").into());
        }
        let upload = self.start_upload(&new).await?;
        let parts = match copy_parts(&upload, source).await {
            Ok(parts) => parts,
            Err(error) => {
                upload.abandon().await;
                return Err(error);
            }
        };
        let crc64 = combined(&parts);
        let other_copy = OtherCopy::of_copy(&source.key, &new.key);
        match upload.complete(parts, source.size, crc64, condition, other_copy).await {
            Ok(stored) => {
                let to = (&new.key, &stored.version.etag);
                self.copy_annotations(annotations.iter(), &source.key, to, |_, _| Ok(())).await?;
                Ok(stored)
            }
            Err(unfinished) => {
                if let Some(upload) = unfinished.upload {
                    upload.abandon().await;
                }
                Err(unfinished.error)
            }
        }
    }
}

async fn copy_parts(upload: &Upload, source: &Source) -> Result<Vec<Part>, Error> {
    let copies =
        ranges(source.size).into_iter().zip(1..).map(|(range, number)| upload.copy_part(number, source, range));
    let mut parts: Vec<Part> = stream::iter(copies).buffer_unordered(PARTS_AT_ONCE_MAX).try_collect().await?;
    parts.sort_by_key(|part| part.number);
    Ok(parts)
}

/// Cuts an object into at most 10,000 ranges of equal length; the last one may be shorter.
fn ranges(size: u64) -> Vec<ByteRange> {
    let length = PART_BYTES_MIN.max(size.div_ceil(PARTS_MAX));
    let cut = |number| ByteRange::new(number * length, size.min((number + 1) * length));
    (0..size.div_ceil(length)).filter_map(cut).collect()
}

/// The CRC-64/NVME of the whole, if that of each part is known.
fn combined(parts: &[Part]) -> Option<Crc64> {
    let (first, rest) = parts.split_first()?;
    rest.iter().try_fold(first.crc64?, |crc64, part| Some(crc64.followed_by(part.crc64?, part.size)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ETag;

    #[test]
    fn ranges_cover_the_object_once_and_never_exceed_the_limits() {
        const GIB: u64 = 1 << 30;
        for size in [1, PART_BYTES_MIN, PART_BYTES_MIN + 1, 5 * GIB + 1, 48 * 1024 * GIB, 48 * 1024 * GIB + 12_345] {
            let ranges = ranges(size);
            assert!(ranges.len() as u64 <= PARTS_MAX, "{size}");
            assert_eq!(ranges.first().map(|range| range.start()), Some(0));
            assert_eq!(ranges.last().map(|range| range.end()), Some(size));
            assert!(ranges.windows(2).all(|pair| pair[0].end() == pair[1].start()), "{size}");
            assert!(ranges.iter().all(|range| range.len() <= COPY_BYTES_MAX), "{size}");
        }
    }

    #[test]
    fn the_checksum_of_the_whole_comes_from_those_of_its_parts() {
        let crc64 = Crc64::of;
        let part = |number, bytes: &[u8]| Part {
            number,
            etag: ETag::new("e"),
            size: bytes.len() as u64,
            crc64: Some(crc64(bytes)),
        };
        let mut parts = vec![part(1, b"1234"), part(2, b"56"), part(3, b"789")];
        assert_eq!(combined(&parts), Some(crc64(b"123456789")));
        parts[1].crc64 = None;
        assert_eq!(combined(&parts), None);
        assert_eq!(combined(&[]), None);
    }
}
