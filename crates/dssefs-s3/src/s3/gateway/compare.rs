//! Proof that one object is a copy of another.

use bytes::Bytes;

use super::{Download, Gateway};
use crate::object::{Key, ObjectMeta};
use crate::policy::Verdict;
use crate::s3::error::{Error, Kind};
use crate::s3::payload::Checksum;
use crate::s3::request::Head;

/// The largest object, in bytes, whose copies [`Gateway::verify_copy_bytewise`] reads: the start of a mount waits for
/// it.
const PROOF_BYTES_MAX: u64 = 1024 * 1024 * 1024;

impl Gateway {
    /// The facts of both objects if `copy` is proved to be a DSSE-KMS copy of `original` under the mount's key: it has
    /// the same metadata and the same content, byte by byte. ETags and commit ids prove nothing, because each copy has
    /// its own. Checksums prove only that two contents differ: an attacker who may have written `copy` can make another
    /// content with the same CRC. An object of more than 1 GiB is never proved. Two KMS calls, and two to read.
    ///
    /// # Errors
    /// As S3 answers. A missing object is no error: the answer is None.
    pub async fn verify_copy_bytewise(&self, original: &Key, copy: &Key) -> Result<Option<(Head, Head)>, Error> {
        let (a, b) = tokio::join!(self.head_with_checksums(original), self.head_with_checksums(copy));
        let (Some((a, a_sums)), Some((b, b_sums))) = (optional(a)?, optional(b)?) else { return Ok(None) };
        let is_compliant = self.judge(&b.encryption.facts) == Verdict::Compliant;
        if !is_compliant || a.meta.size > PROOF_BYTES_MAX || !described_alike(&a.meta, &b.meta) {
            return Ok(None);
        }
        let may_equal = a.meta.size == 0 || same_checksums(&a_sums, &b_sums) != Some(false);
        let same = may_equal && (a.meta.size == 0 || self.same_bytes((original, &a), (copy, &b)).await?);
        Ok(same.then_some((a, b)))
    }

    async fn same_bytes(&self, a: (&Key, &Head), b: (&Key, &Head)) -> Result<bool, Error> {
        let mut a = self.get(a.0, Some(&a.1.meta.version), None).await?;
        let mut b = self.get(b.0, Some(&b.1.meta.version), None).await?;
        let (mut left, mut right) = (Bytes::new(), Bytes::new());
        loop {
            if left.is_empty() {
                left = chunk(&mut a).await?;
            }
            if right.is_empty() {
                right = chunk(&mut b).await?;
            }
            let length = left.len().min(right.len());
            if left.split_to(length) != right.split_to(length) {
                return Ok(false);
            }
            if length == 0 {
                return Ok(left.is_empty() && right.is_empty());
            }
        }
    }
}

/// None if the two have no checksum of the same algorithm.
fn same_checksums(a: &[Checksum], b: &[Checksum]) -> Option<bool> {
    let comparable = |a: &Checksum, b: &Checksum| std::mem::discriminant(a) == std::mem::discriminant(b);
    let compared = a.iter().filter_map(|a| b.iter().find(|b| comparable(a, b)).map(|b| a == b));
    compared.reduce(|all, one| all && one)
}

fn described_alike(a: &ObjectMeta, b: &ObjectMeta) -> bool {
    a.size == b.size
        && a.user == b.user
        && a.content_type == b.content_type
        && a.content_headers == b.content_headers
        && a.tag_count == b.tag_count
}

/// The next bytes, none at the end.
async fn chunk(download: &mut Download) -> Result<Bytes, Error> {
    Ok(download.next().await.transpose()?.unwrap_or_default())
}

/// None for an object that does not exist, which is no failure here.
fn optional<T>(answer: Result<T, Error>) -> Result<Option<T>, Error> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind == Kind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
