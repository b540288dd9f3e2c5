//! The name of a bucket.

use std::fmt;

/// The name of a general purpose bucket, or the ARN of an access point on one.
///
/// Rule: "General purpose bucket naming rules" of the S3 User Guide: 3 to 63 of `a-z`, `0-9`, `.` and `-`, beginning and
/// ending with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket(String);

/// Why a text is not the name of a bucket that can hold DSSE-KMS objects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// S3 Express directory buckets know SSE-S3 and SSE-KMS only.
    #[error("{0} is a directory bucket: S3 Express does not support DSSE-KMS; use a general purpose bucket")]
    Directory(String),
    /// The answers of an Object Lambda access point are made by a function, so its headers prove nothing.
    #[error(
        "{0} is an Object Lambda access point: what it says of encryption is the function's claim, not S3's; \
         use the bucket or an ordinary access point"
    )]
    ObjectLambda(String),
    /// The text breaks the naming rules.
    #[error(
        "{0:?} is not a bucket name: use 3 to 63 of a-z, 0-9, '.' and '-', beginning and ending with a letter or digit"
    )]
    Invalid(String),
}

impl Bucket {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`BucketError`] says what is wrong and what to use instead.
    pub fn new(text: &str) -> Result<Bucket, BucketError> {
        if text.starts_with("arn:") {
            return Self::from_arn(text);
        }
        if text.ends_with("--x-s3") {
            return Err(BucketError::Directory(text.to_owned()));
        }
        if text.ends_with("--ol-s3") {
            return Err(BucketError::ObjectLambda(text.to_owned()));
        }
        let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
        let bytes = text.as_bytes();
        let valid = (3..=63).contains(&bytes.len())
            && edge(bytes.first())
            && edge(bytes.last())
            && bytes.iter().copied().all(inner)
            && !text.contains("..");
        if valid { Ok(Bucket(text.to_owned())) } else { Err(BucketError::Invalid(text.to_owned())) }
    }

    fn from_arn(text: &str) -> Result<Bucket, BucketError> {
        let mut fields = text.splitn(6, ':').skip(2);
        match (fields.next(), fields.nth(2)) {
            (Some("s3-object-lambda"), _) => Err(BucketError::ObjectLambda(text.to_owned())),
            (Some("s3express"), _) => Err(BucketError::Directory(text.to_owned())),
            (Some("s3"), Some(resource)) if resource.strip_prefix("accesspoint/").is_some_and(|n| !n.is_empty()) => {
                Ok(Bucket(text.to_owned()))
            }
            _ => Err(BucketError::Invalid(text.to_owned())),
        }
    }

    /// The text as S3 takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_and_access_points_are_taken() {
        for name in ["abc", "my-bucket.logs", "1-2", "arn:aws:s3:eu-west-1:111122223333:accesspoint/data"] {
            assert_eq!(Bucket::new(name).map(|b| b.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn what_cannot_hold_dsse_objects_is_refused_with_its_reason() {
        assert!(matches!(Bucket::new("b--use1-az4--x-s3"), Err(BucketError::Directory(_))));
        let lambda = "arn:aws:s3-object-lambda:us-east-1:111122223333:accesspoint/x";
        assert!(matches!(Bucket::new(lambda), Err(BucketError::ObjectLambda(_))));
        for name in ["", "ab", "Abc", "-ab", "ab-", "a..b", "a_b", "a/b", "arn:aws:s3:::bucket", &"a".repeat(64)] {
            assert_eq!(Bucket::new(name), Err(BucketError::Invalid(name.to_owned())));
        }
    }
}
