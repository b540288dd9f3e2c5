//! The name of a bucket.

use std::fmt;

/// The name of a general purpose bucket, or the ARN of an access point on one.
///
/// Rule: "General purpose bucket naming rules" of the S3 User Guide: 3 to 63 of `a-z`, `0-9`, `.` and `-`, beginning
/// and ending with a letter or digit. Buckets that were made in us-east-1 before March 2018, and those of other stores,
/// may have up to 255 of `A-Z`, `a-z`, `0-9`, `.`, `-` and `_`; such a name cannot be a host's
/// name (see [`Bucket::needs_path_style`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bucket(String);

/// Why a text is not the name of a bucket that can hold DSSE-KMS objects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BucketError {
    /// S3 Express directory buckets know SSE-S3 and SSE-KMS only.
    #[error("{0} is a directory bucket: S3 Express does not support DSSE-KMS; use a general purpose bucket")]
    Directory(String),
    /// A function makes the answers of an Object Lambda access point, so their headers prove nothing.
    #[error(
        "{0} is an Object Lambda access point: what it says of encryption is the function's claim, not S3's; \
         use the bucket or an ordinary access point"
    )]
    ObjectLambda(String),
    /// S3 on Outposts encrypts with SSE-S3 and SSE-C.
    #[error("{0:?} is on an Outpost: S3 on Outposts does not support DSSE-KMS; use a general purpose bucket")]
    Outposts(String),
    /// Tables are not objects.
    #[error("{0:?} is a table bucket, which holds tables and no files; use a general purpose bucket")]
    Table(String),
    /// Its requests need signatures of their own (SigV4A), and its name stands for several buckets.
    #[error(
        "{0:?} is a Multi-Region Access Point, which stands for several buckets; give the bucket, or an access point \
         in one Region"
    )]
    MultiRegion(String),
    /// The ARN of the bucket itself.
    #[error("{arn:?} is the ARN of a bucket; give the bucket's name, {name:?}")]
    Arn {
        /// As given.
        arn: String,
        /// The bucket that it names.
        name: String,
    },
    /// Another ARN.
    #[error(
        "{0:?} names no bucket; give a bucket's name, or an access point as arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME"
    )]
    OtherArn(String),
    /// The text breaks the naming rules.
    #[error(
        "{0:?} is not a bucket name: use 3 to 63 of a-z, 0-9, '.' and '-', beginning and ending with a letter or digit \
         (with --endpoint-url or --force-path-style also 2 to 255 of letters, digits, '.', '-' and '_')"
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
        // The naming rules reserve these suffixes for other kinds of buckets and access points.
        let owned = || text.to_owned();
        match text.rsplit_once("--").map(|(_, suffix)| suffix) {
            Some("x-s3") => return Err(BucketError::Directory(owned())),
            Some("ol-s3") => return Err(BucketError::ObjectLambda(owned())),
            Some("op-s3") => return Err(BucketError::Outposts(owned())),
            Some("table-s3") => return Err(BucketError::Table(owned())),
            _ => {}
        }
        if is_host_name(text) || is_old_name(text) {
            Ok(Bucket(text.to_owned()))
        } else {
            Err(BucketError::Invalid(text.to_owned()))
        }
    }

    fn from_arn(text: &str) -> Result<Bucket, BucketError> {
        let owned = || text.to_owned();
        let fields: Vec<&str> = text.splitn(6, ':').collect();
        let [_, _, service, region, account, resource] = fields.as_slice() else {
            return Err(BucketError::OtherArn(owned()));
        };
        let point = resource.strip_prefix("accesspoint/").or_else(|| resource.strip_prefix("accesspoint:"));
        match (*service, point) {
            ("s3-object-lambda", _) => Err(BucketError::ObjectLambda(owned())),
            ("s3express", _) => Err(BucketError::Directory(owned())),
            ("s3-outposts", _) => Err(BucketError::Outposts(owned())),
            ("s3tables", _) => Err(BucketError::Table(owned())),
            ("s3", Some(name)) if region.is_empty() || name.ends_with(".mrap") => {
                Err(BucketError::MultiRegion(owned()))
            }
            ("s3", Some(name)) if is_point(name) && is_account(account) => Ok(Bucket(owned())),
            ("s3", None) if region.is_empty() && account.is_empty() && !resource.is_empty() => {
                Err(BucketError::Arn { arn: owned(), name: (*resource).to_owned() })
            }
            _ => Err(BucketError::OtherArn(owned())),
        }
    }

    /// Whether the name cannot be a host's name, so that URLs must have it in their path.
    #[must_use]
    pub fn needs_path_style(&self) -> bool {
        !self.0.starts_with("arn:") && !is_host_name(&self.0)
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

fn is_host_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let bytes = text.as_bytes();
    (3..=63).contains(&bytes.len())
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().copied().all(inner)
        && !text.contains("..")
}

/// In a path `.` and `..` mean something else, and a leading `-` looks like an option.
fn is_old_name(text: &str) -> bool {
    (2..=255).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        && text.bytes().any(|b| b.is_ascii_alphanumeric())
        && !text.starts_with(['.', '-'])
}

fn is_point(name: &str) -> bool {
    (3..=50).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_and_access_points_are_taken() {
        for name in ["abc", "my-bucket.logs", "1-2", "arn:aws:s3:eu-west-1:111122223333:accesspoint/data"] {
            assert_eq!(Bucket::new(name).map(|b| (b.to_string(), b.needs_path_style())), Ok((name.to_owned(), false)));
        }
    }

    #[test]
    fn what_cannot_hold_dsse_objects_is_refused_with_its_reason() {
        assert!(matches!(Bucket::new("b--use1-az4--x-s3"), Err(BucketError::Directory(_))));
        let lambda = "arn:aws:s3-object-lambda:us-east-1:111122223333:accesspoint/x";
        assert!(matches!(Bucket::new(lambda), Err(BucketError::ObjectLambda(_))));
        for name in ["", "a", "a b", "a/b", "-ab", "..", "...", ".ab", "__", "b\u{e9}", "a\nb", &"a".repeat(256)] {
            assert_eq!(Bucket::new(name), Err(BucketError::Invalid(name.to_owned())));
        }
    }

    #[test]
    fn names_of_old_buckets_and_of_other_stores_stand_in_the_path() {
        for name in ["ab", "Abc", "a_b", "ab-", "a..b", "My_Bucket.2", &"a".repeat(64), &"A".repeat(255)] {
            assert_eq!(Bucket::new(name).map(|bucket| bucket.needs_path_style()), Ok(true), "{name}");
        }
    }

    #[test]
    fn arns_of_other_things_say_what_to_give() {
        let refused = |text: &str| Bucket::new(text).unwrap_err();
        let arn = "arn:aws:s3:::data";
        assert!(refused(arn).to_string().ends_with("give the bucket's name, \"data\""));
        assert!(matches!(refused("arn:aws:s3:::data/prefix"), BucketError::Arn { .. }));
        assert!(matches!(refused("arn:aws:s3::111122223333:accesspoint/m1abc.mrap"), BucketError::MultiRegion(_)));
        assert!(matches!(refused("arn:aws:s3::111122223333:accesspoint:m1abc.mrap"), BucketError::MultiRegion(_)));
        let outpost = "arn:aws:s3-outposts:us-west-2:111122223333:outpost/op-1/accesspoint/x";
        assert!(matches!(refused(outpost), BucketError::Outposts(_)));
        assert!(matches!(refused("x--op-s3"), BucketError::Outposts(_)));
        assert!(matches!(refused("x--table-s3"), BucketError::Table(_)));
        for text in [
            "arn:",
            "arn:aws:kms:eu-west-1:111122223333:key/a",
            "arn:aws:s3:eu-west-1::accesspoint/data",
            "arn:aws:s3:::",
        ] {
            assert!(matches!(refused(text), BucketError::OtherArn(_)), "{text}");
        }
    }
}
