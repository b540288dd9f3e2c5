//! The encryption context.

use std::collections::BTreeMap;

/// Name and value pairs that KMS binds to each data key as additional authenticated data, and writes to CloudTrail. S3
/// adds the pair `aws:s3:arn`. The context is not secret, and answers to GET and HEAD do not have it ("Encryption
/// context", S3 User Guide).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionContext(BTreeMap<String, String>);

/// The longest header value that carries a context, in bytes: a quarter of the 8 KB that S3 allows for all headers of a
/// PUT.
const HEADER_BYTES_MAX: usize = 2048;

/// The pair that S3 adds. Its value is not compared: through an access point it names another resource than the
/// request.
const DEFAULT_PAIR: &str = "aws:s3:arn";

/// Why some pairs cannot be an encryption context.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContextError {
    /// No `=`, or nothing before it.
    #[error("{0:?} is not a pair of an encryption context; write NAME=VALUE")]
    NotAPair(String),
    /// The same name twice.
    #[error("the encryption context names {0:?} twice; give each name once")]
    Twice(String),
    /// `aws:` is S3's own.
    #[error("{0:?} begins with aws:, which is reserved: S3 itself adds aws:s3:arn; choose another name")]
    Reserved(String),
    /// Over 2,048 bytes.
    #[error(
        "the encryption context takes {0} bytes as a header, and at most {HEADER_BYTES_MAX} fit; use shorter pairs"
    )]
    TooLong(usize),
}

impl EncryptionContext {
    /// Checks pairs of the form `NAME=VALUE`.
    ///
    /// # Errors
    /// [`ContextError`] names the pair and what to do.
    pub fn parse<S: AsRef<str>>(pairs: &[S]) -> Result<EncryptionContext, ContextError> {
        let mut context = BTreeMap::new();
        for pair in pairs {
            let pair = pair.as_ref();
            let (name, value) = pair
                .split_once('=')
                .filter(|(n, _)| !n.is_empty())
                .ok_or_else(|| ContextError::NotAPair(pair.to_owned()))?;
            if name.starts_with("aws:") {
                return Err(ContextError::Reserved(name.to_owned()));
            }
            if context.insert(name.to_owned(), value.to_owned()).is_some() {
                return Err(ContextError::Twice(name.to_owned()));
            }
        }
        let context = EncryptionContext(context);
        match context.header().map_or(0, |header| header.len()) {
            bytes if bytes > HEADER_BYTES_MAX => Err(ContextError::TooLong(bytes)),
            _ => Ok(context),
        }
    }

    /// The value of `x-amz-server-side-encryption-context`: Base64 of the UTF-8 JSON object; none for an empty context.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| base64_simd::STANDARD.encode_to_string(self.json().as_bytes()))
    }

    /// The context in the header of an answer, without the pair that S3 adds. None if the header is not Base64 of a
    /// JSON object whose values are texts.
    #[must_use]
    pub fn answered(header: &str) -> Option<EncryptionContext> {
        let json = base64_simd::STANDARD.decode_to_vec(header).ok()?;
        let mut pairs: BTreeMap<String, String> = serde_json::from_slice(&json).ok()?;
        pairs.remove(DEFAULT_PAIR);
        Some(EncryptionContext(pairs))
    }

    /// The pairs as one JSON object, names in order.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::Value::from_iter(self.0.clone()).to_string()
    }

    /// The pairs, names in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether there is no pair.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_become_base64_of_json() {
        let context = EncryptionContext::parse(&["project=x", "a=b=c"]).unwrap();
        assert_eq!(context.json(), r#"{"a":"b=c","project":"x"}"#);
        assert_eq!(context.header().as_deref(), Some("eyJhIjoiYj1jIiwicHJvamVjdCI6IngifQ=="));
        assert_eq!(EncryptionContext::default().header(), None);
    }

    #[test]
    fn a_context_is_read_from_an_answer_in_any_order_and_without_the_pair_that_s3_adds() {
        let asked = EncryptionContext::parse(&["project=x", "a=b"]).unwrap();
        let answered = |json: &str| EncryptionContext::answered(&base64_simd::STANDARD.encode_to_string(json));
        for json in [
            r#"{"project":"x","a":"b"}"#,
            r#" { "a" : "b", "project" : "x" } "#,
            r#"{"aws:s3:arn":"arn:aws:s3:::data/k","a":"b","project":"x"}"#,
        ] {
            assert_eq!(answered(json), Some(asked.clone()), "{json}");
        }
        for json in [r#"{"a":"b"}"#, "{}", r#"{"a":"b","project":"x","more":"y"}"#, r#"{"a":"b","project":"X"}"#] {
            assert_ne!(answered(json).unwrap(), asked, "{json}");
        }
        for json in ["", "[]", "null", r#"{"a":1}"#, r#"{"a":"b""#] {
            assert_eq!(answered(json), None, "{json}");
        }
        assert_eq!(EncryptionContext::answered("no base64!"), None);
    }

    #[test]
    fn bad_pairs_are_named() {
        assert_eq!(EncryptionContext::parse(&["x"]), Err(ContextError::NotAPair("x".into())));
        assert_eq!(EncryptionContext::parse(&["=x"]), Err(ContextError::NotAPair("=x".into())));
        assert_eq!(EncryptionContext::parse(&["a=1", "a=2"]), Err(ContextError::Twice("a".into())));
        assert_eq!(EncryptionContext::parse(&["aws:s3:arn=x"]), Err(ContextError::Reserved("aws:s3:arn".into())));
        assert!(matches!(
            EncryptionContext::parse(&[format!("a={}", "x".repeat(2000))]),
            Err(ContextError::TooLong(_))
        ));
    }

    #[test]
    fn a_context_may_fill_its_header_to_the_last_byte() {
        // `{"a":"..."}` has 8 bytes beside the value, and Base64 makes 4 bytes of 3.
        let of = |bytes: usize| EncryptionContext::parse(&[format!("a={}", "x".repeat(bytes - 8))]);
        let most = HEADER_BYTES_MAX / 4 * 3;
        assert_eq!(of(most).unwrap().header().map(|header| header.len()), Some(HEADER_BYTES_MAX));
        assert_eq!(of(most + 1), Err(ContextError::TooLong(HEADER_BYTES_MAX + 4)));
    }

    #[test]
    fn only_names_that_begin_with_the_whole_of_the_reserved_prefix_are_reserved() {
        let context = EncryptionContext::parse(&["aws=1", "awsome:x=2", "AWS:x=3", "x=aws:4"]).unwrap();
        assert_eq!(context.pairs().count(), 4);
        assert_eq!(EncryptionContext::parse(&["aws:=1"]), Err(ContextError::Reserved("aws:".into())));
        assert!(!context.is_empty() && EncryptionContext::default().is_empty());
    }

    #[test]
    fn a_name_may_have_an_empty_value() {
        let context = EncryptionContext::parse(&["a="]).unwrap();
        assert_eq!(context.pairs().collect::<Vec<_>>(), [("a", "")]);
        assert_eq!(EncryptionContext::parse(&["="]), Err(ContextError::NotAPair("=".into())));
    }
}
