//! Verbs that read objects.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, EncodingType};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::watch::StoreTime;
use super::{Store, facts, observed};
use crate::object::{ByteRange, COMMIT_NAME, CommitId, Crc64, ETag, Key, ObjectMeta, Version};
use crate::policy::Evidence;
use crate::s3::error::{Error, Failure, Kind};
use crate::s3::metrics::Operation;
use crate::s3::payload::{Checksum, decode_crc32c, decode_sha1};
use crate::s3::request::{Head, ListPage, ListRequest, Listed};

/// The longest continuation token that is sent back, in bytes. S3's have some hundred; other stores put a key into
/// theirs.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// The longest ETag that a listing may have, in bytes: S3's have 38 at most, and each is kept with its name.
const ETAG_BYTES_MAX: usize = 1 << 10;

/// An answer to GetObject before its body was read.
pub(in crate::s3) struct Answer {
    pub(in crate::s3) head: Head,
    /// What the body is; None for an object without content.
    pub(in crate::s3) range: Option<ByteRange>,
    pub(in crate::s3) body: ByteStream,
}

/// Reads the fields that HeadObject and GetObject have in common.
macro_rules! head {
    ($store:expr, $operation:expr, $evidence:expr, $key:expr, $answer:expr, $size:expr) => {
        Head {
            meta: ObjectMeta {
                size: $size,
                version: $store.version($operation, $key, $answer.e_tag(), $answer.version_id())?,
                last_modified: time($answer.last_modified()),
                storage_class: $answer.storage_class().map_or("STANDARD", |class| class.as_str()).to_owned(),
                content_type: $answer.content_type().map(str::to_owned),
                content_headers: [
                    ("cache-control", $answer.cache_control()),
                    ("content-disposition", $answer.content_disposition()),
                    ("content-encoding", $answer.content_encoding()),
                    ("content-language", $answer.content_language()),
                    ("expires", $answer.expires_string()),
                    ("x-amz-website-redirect-location", $answer.website_redirect_location()),
                ]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
                .collect(),
                tag_count: $answer.tag_count().and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
                user: $answer
                    .metadata()
                    .into_iter()
                    .flatten()
                    .filter(|(name, _)| *name != COMMIT_NAME)
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect(),
                commit: $answer.metadata().and_then(|all| CommitId::new(all.get(COMMIT_NAME)?)),
            },
            encryption: observed(facts!($answer, $answer.sse_customer_algorithm()), $evidence, $answer.request_id()),
        }
    };
}

impl Store {
    pub(in crate::s3) async fn list(&self, wanted: &ListRequest<'_>) -> Result<ListPage, Error> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(self.bucket.as_str())
            .prefix(wanted.prefix)
            .set_delimiter(wanted.delimiter.then(|| "/".to_owned()))
            .set_start_after(wanted.start_after.map(str::to_owned))
            .set_continuation_token(wanted.continuation.map(str::to_owned))
            .max_keys(i32::from(wanted.entries_max))
            // XML cannot carry every character that a key may have.
            .encoding_type(EncodingType::Url)
            .send();
        // A failure names what was listed, where that is a key.
        let listed = Key::new(wanted.prefix).ok();
        let answer = self.ask(Operation::ListObjectsV2, listed.as_ref(), request).await?;
        self.page(wanted, &answer)
    }

    /// A plain HEAD: in checksum mode it would need kms:Decrypt.
    pub(in crate::s3) async fn head(&self, key: &Key) -> Result<Head, Error> {
        let request = self.client.head_object().bucket(self.bucket.as_str()).key(key.as_str()).send();
        let answer = self.ask(Operation::HeadObject, Some(key), request).await?;
        let size = self.length(Operation::HeadObject, key, answer.content_length())?;
        Ok(head!(self, Operation::HeadObject, Evidence::Head, key, answer, size))
    }

    /// A plain HEAD, and the age of the object by the store's own clock; None if the store sends no time.
    pub(in crate::s3) async fn head_with_age(&self, key: &Key) -> Result<(Head, Option<Duration>), Error> {
        let time = StoreTime::default();
        let request = self.client.head_object().bucket(self.bucket.as_str()).key(key.as_str());
        let request = request.customize().interceptor(time.clone());
        let answer = self.ask(Operation::HeadObject, Some(key), request.send()).await?;
        let size = self.length(Operation::HeadObject, key, answer.content_length())?;
        let head = head!(self, Operation::HeadObject, Evidence::Head, key, answer, size);
        let age = time.first().map(|now| now.duration_since(head.meta.last_modified).unwrap_or_default());
        Ok((head, age))
    }

    /// A HEAD in checksum mode, and the object's checksums of the algorithms that the daemon sends. One KMS call.
    pub(in crate::s3) async fn head_with_checksums(&self, key: &Key) -> Result<(Head, Vec<Checksum>), Error> {
        let request = self
            .client
            .head_object()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .checksum_mode(ChecksumMode::Enabled)
            .send();
        let answer = self.ask(Operation::HeadObject, Some(key), request).await?;
        let size = self.length(Operation::HeadObject, key, answer.content_length())?;
        let crc64 = answer.checksum_crc64_nvme().and_then(Crc64::from_base64).map(Checksum::Crc64);
        let sha1 = answer.checksum_sha1().and_then(decode_sha1).map(Checksum::Sha1);
        let crc32c = answer.checksum_crc32_c().and_then(decode_crc32c).map(Checksum::Crc32c);
        let checksums = crc64.into_iter().chain(sha1).chain(crc32c).collect();
        Ok((head!(self, Operation::HeadObject, Evidence::Head, key, answer, size), checksums))
    }

    pub(in crate::s3) async fn get(
        &self,
        key: &Key,
        pin: Option<&Version>,
        range: Option<ByteRange>,
    ) -> Result<Answer, Error> {
        let client = if range.is_some() { &self.ranged } else { &self.client };
        let request = client
            .get_object()
            .bucket(self.bucket.as_str())
            .key(key.as_str())
            .set_if_match(pin.map(|version| version.etag.as_str().to_owned()))
            .set_version_id(pin.and_then(|version| version.id.as_ref()).map(|id| id.as_str().to_owned()))
            .set_range(range.map(ByteRange::header))
            .send();
        let answer = self.ask(Operation::GetObject, Some(key), request).await?;
        let answer = self.answer(key, range, answer)?;
        match pin {
            // The reader must not mix two versions if a store ignores the condition.
            Some(pin) if pin.etag != answer.head.meta.version.etag => Err(self.another_version(key, &answer)),
            _ => Ok(answer),
        }
    }

    fn another_version(&self, key: &Key, answer: &Answer) -> Error {
        let failure = Failure::new(Kind::PreconditionFailed, Operation::GetObject, &self.bucket, Some(key));
        let request_id = answer.head.encryption.request_id.clone();
        Failure { request_id, ..failure }.because("the answer is for another version").into()
    }

    /// The tags in the form of `x-amz-tagging`; None when there are none.
    pub(in crate::s3) async fn tags(&self, key: &Key, version: Option<&Version>) -> Result<Option<String>, Error> {
        let id = version.and_then(|version| version.id.as_ref()).map(|id| id.as_str().to_owned());
        let request =
            self.client.get_object_tagging().bucket(self.bucket.as_str()).key(key.as_str()).set_version_id(id).send();
        let answer = self.ask(Operation::GetObjectTagging, Some(key), request).await?;
        let pairs: Vec<String> =
            answer.tag_set().iter().map(|tag| format!("{}={}", escape(tag.key()), escape(tag.value()))).collect();
        Ok((!pairs.is_empty()).then(|| pairs.join("&")))
    }

    /// The page of a listing, if it fits the request: callers rely on the prefix of each key, and on an end.
    fn page(&self, wanted: &ListRequest<'_>, answer: &ListObjectsV2Output) -> Result<ListPage, Error> {
        let incomplete = |what| self.protocol(Operation::ListObjectsV2, None, format!("the listing has {what}"));
        let escaped = answer.encoding_type() == Some(&EncodingType::Url);
        let text = |raw: Option<&str>| {
            let raw = raw.unwrap_or_default();
            let plain = if escaped { unescape(raw) } else { Some(raw.to_owned()) };
            plain
                .ok_or_else(|| self.protocol(Operation::ListObjectsV2, None, "the listing has a key that is not UTF-8"))
        };
        let listed = |object: &aws_sdk_s3::types::Object| {
            Ok(Listed {
                key: text(object.key())?,
                size: object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                etag: object.e_tag().map(ETag::new).ok_or_else(|| incomplete("an object without an ETag"))?,
                last_modified: time(object.last_modified()),
                storage_class: object.storage_class().map_or("STANDARD", |class| class.as_str()).to_owned(),
                has_crc32c: object.checksum_algorithm().contains(&ChecksumAlgorithm::Crc32C),
                has_sha1: object.checksum_algorithm().contains(&ChecksumAlgorithm::Sha1),
            })
        };
        let objects = answer.contents().iter().map(listed).collect::<Result<Vec<_>, Error>>()?;
        let prefixes = answer.common_prefixes().iter().map(|prefix| text(prefix.prefix()));
        let prefixes = prefixes.collect::<Result<Vec<_>, _>>()?;
        let next = next_page(answer, wanted.continuation).map_err(incomplete)?;
        // S3 may give fewer keys than it is asked for, never more (ListObjectsV2, S3 API reference, "max-keys").
        if objects.len().max(prefixes.len()) > usize::from(wanted.entries_max) {
            return Err(incomplete("more keys than requested"));
        }
        if next.as_ref().is_some_and(|token| token.len() > TOKEN_BYTES_MAX) {
            return Err(incomplete("a continuation token of more than 16 KiB"));
        }
        if objects.iter().any(|object| object.etag.as_str().len() > ETAG_BYTES_MAX) {
            return Err(incomplete("an ETag of more than 1 KiB"));
        }
        if objects.iter().map(|object| &object.key).chain(&prefixes).any(|key| !key.starts_with(wanted.prefix)) {
            return Err(incomplete("a key outside the requested prefix"));
        }
        Ok(ListPage { objects, prefixes, next })
    }

    /// Compares the answer with the request: refuses a store that ignores the range or returns another one.
    fn answer(&self, key: &Key, asked: Option<ByteRange>, mut answer: GetObjectOutput) -> Result<Answer, Error> {
        const GET: Operation = Operation::GetObject;
        let length = self.length(GET, key, answer.content_length())?;
        let (range, size) = match asked {
            None => (ByteRange::new(0, length), length),
            Some(asked) => {
                let (given, size) = answer
                    .content_range()
                    .and_then(content_range)
                    .filter(|(given, size)| given.start() == asked.start() && given.end() == asked.end().min(*size))
                    .filter(|(given, _)| given.len() == length)
                    .ok_or_else(|| self.protocol(GET, Some(key), "the answer is not the requested range"))?;
                (Some(given), size)
            }
        };
        let body = std::mem::take(&mut answer.body);
        Ok(Answer { head: head!(self, GET, Evidence::Get, key, answer, size), range, body })
    }

    fn length(&self, operation: Operation, key: &Key, length: Option<i64>) -> Result<u64, Error> {
        length
            .and_then(|bytes| u64::try_from(bytes).ok())
            .ok_or_else(|| self.protocol(operation, Some(key), "the answer has no length"))
    }
}

/// The token for the next page; None at the end. The store must say that it is the end, or half a listing would pass
/// for the whole.
fn next_page(answer: &ListObjectsV2Output, asked: Option<&str>) -> Result<Option<String>, &'static str> {
    match answer.next_continuation_token() {
        None if answer.is_truncated() == Some(true) => Err("more pages, and does not say how to ask for them"),
        Some(next) if Some(next) == asked => Err("itself as its next page, so that it would never end"),
        next => Ok(next.map(str::to_owned)),
    }
}

/// `bytes 0-9/100` (RFC 9110, 14.4) as the range and the whole length.
fn content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let range = ByteRange::new(first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?)?;
    let size: u64 = size.parse().ok()?;
    (range.end() <= size).then_some((range, size))
}

/// S3 escapes listings as forms are: a space is a plus sign.
fn unescape(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    Some(percent_decode_str(&spaced).decode_utf8().ok()?.into_owned())
}

fn escape(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, NON_ALPHANUMERIC)
}

/// The epoch stands for a time that the store left out or that this host cannot express.
fn time(time: Option<&DateTime>) -> SystemTime {
    time.and_then(|time| SystemTime::try_from(*time).ok()).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_and_nonsense_is_refused() {
        assert_eq!(content_range("bytes 5-9/100"), Some((ByteRange::new(5, 10).unwrap(), 100)));
        assert_eq!(content_range("bytes 0-0/1"), Some((ByteRange::new(0, 1).unwrap(), 1)));
        for text in [
            "bytes */100",
            "bytes 9-5/100",
            "bytes 0-100/100",
            "bytes 0-9/*",
            "0-9/100",
            "",
            "bytes 0-18446744073709551615/1",
        ] {
            assert_eq!(content_range(text), None, "{text}");
        }
    }

    #[test]
    fn a_listing_that_is_cut_short_is_not_taken_for_the_whole() {
        let page = |truncated: Option<bool>, next: Option<&str>| {
            ListObjectsV2Output::builder()
                .set_is_truncated(truncated)
                .set_next_continuation_token(next.map(str::to_owned))
                .build()
        };
        assert_eq!(next_page(&page(Some(false), None), None), Ok(None));
        assert_eq!(next_page(&page(None, None), Some("a")), Ok(None));
        assert_eq!(next_page(&page(Some(true), Some("b")), Some("a")), Ok(Some("b".to_owned())));
        assert!(next_page(&page(Some(true), None), None).unwrap_err().contains("more pages"));
        assert!(next_page(&page(Some(true), Some("a")), Some("a")).unwrap_err().contains("never end"));
    }

    #[test]
    fn listed_keys_are_unescaped_as_forms_are() {
        assert_eq!(unescape("a+b%2Bc/%C3%A9%01").as_deref(), Some("a b+c/é\u{1}"));
        assert_eq!(unescape("%FF"), None);
    }
}
