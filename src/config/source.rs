//! `BUCKET[/PREFIX]`, the one text that names what is mounted.

use std::fmt;

use dssefs_s3::object::{Bucket, BucketError, NameError, Prefix};

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The bucket.
    pub bucket: Bucket,
    /// What the keys below the mount begin with.
    pub prefix: Prefix,
}

/// Why a text names nothing that can be mounted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A URL.
    #[error(
        "{0:?} is a URL; give the bucket's name, as BUCKET[/PREFIX] or s3://BUCKET[/PREFIX], \
         and the address of a store that is not \
         AWS as --endpoint-url"
    )]
    Url(String),
    /// The part before the first slash.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// The part after it.
    #[error("the prefix {0:?} cannot be a path ({1}); mount the bucket without it, or name a path of ordinary names")]
    Prefix(String, #[source] NameError),
}

impl Source {
    /// Reads `BUCKET`, `BUCKET/PREFIX`, either with `s3://` before it, or the ARN of an access point in the bucket's
    /// place.
    ///
    /// # Errors
    /// [`SourceError`] says what is wrong and what to do.
    pub fn parse(text: &str) -> Result<Source, SourceError> {
        let text = text.strip_prefix("s3://").unwrap_or(text);
        let scheme = text.split_once("://").map(|(scheme, _)| scheme);
        if scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric())) {
            return Err(SourceError::Url(without_secrets(text)));
        }
        let (bucket, prefix) = split(text);
        let prefix = Prefix::new(prefix).map_err(|error| SourceError::Prefix(prefix.to_owned(), error))?;
        Ok(Source { bucket: Bucket::new(bucket)?, prefix })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix.as_str();
        write!(f, "s3://{}", self.bucket)?;
        if prefix.is_empty() { Ok(()) } else { write!(f, "/{}", prefix.trim_end_matches('/')) }
    }
}

/// A URL without its query, which in one that is signed is a key to the object, and without user and password.
fn without_secrets(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// The ARN of an access point has a slash of its own, before the access point's name.
fn split(text: &str) -> (&str, &str) {
    let own_slashes = usize::from(text.starts_with("arn:"));
    match text.match_indices('/').nth(own_slashes) {
        Some((at, _)) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, String) {
        let source = Source::parse(text).unwrap();
        (source.bucket.to_string(), source.prefix.to_string())
    }

    #[test]
    fn a_bucket_may_be_followed_by_a_prefix() {
        assert_eq!(parts("data"), ("data".into(), String::new()));
        assert_eq!(parts("data/"), ("data".into(), String::new()));
        assert_eq!(parts("data/a/b"), ("data".into(), "a/b/".into()));
        assert_eq!(parts("s3://data/a/"), ("data".into(), "a/".into()));
        let arn = "arn:aws:s3:eu-west-1:111122223333:accesspoint/one";
        assert_eq!(parts(&format!("{arn}/x")), (arn.into(), "x/".into()));
    }

    #[test]
    fn the_source_is_shown_as_a_url() {
        assert_eq!(Source::parse("data/a/b/").unwrap().to_string(), "s3://data/a/b");
        assert_eq!(Source::parse("data").unwrap().to_string(), "s3://data");
    }

    #[test]
    fn a_url_is_refused_without_repeating_its_signature() {
        for url in [
            "https://data.s3.eu-west-1.amazonaws.com/p",
            "https://s3.eu-west-1.amazonaws.com/data/p?X-Amz-Signature=secret",
            "http://someone:secret@127.0.0.1:9000/data",
            "S3://data",
            "gs://data",
        ] {
            let error = Source::parse(url).unwrap_err();
            assert!(matches!(error, SourceError::Url(_)) && !error.to_string().contains("secret"), "{error}");
        }
        assert!(matches!(Source::parse("arn:aws:s3:::data/p"), Err(SourceError::Bucket(BucketError::Arn { .. }))));
    }

    #[test]
    fn bad_buckets_and_prefixes_are_told_apart() {
        assert!(matches!(Source::parse("-o/x"), Err(SourceError::Bucket(_))));
        assert!(matches!(Source::parse("data//x"), Err(SourceError::Prefix(..))));
        assert!(matches!(Source::parse("data/../x"), Err(SourceError::Prefix(..))));
    }
}
