//! The Content-Type of new files. Browsers, caches and other programs that read the bucket go by it; a mount does not.

use std::path::Path;

use dssefs_s3::object::Key;
use dssefs_s3::s3::UNKNOWN_TYPE;

/// The longest value, in bytes. Registered types have 127 and 127 at most (RFC 6838, 4.2); parameters follow.
const BYTES_MAX: usize = 512;

/// The Content-Type of a file that this mount makes. What an object has already stays, whatever its name becomes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ContentType {
    /// By the extension of the name; [`UNKNOWN_TYPE`] where that says nothing.
    #[default]
    Guess,
    /// This value.
    Always(String),
}

/// A text that is no Content-Type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write guess, or a media type such as application/octet-stream, of at most {BYTES_MAX} bytes")]
pub struct ContentTypeError;

impl ContentType {
    /// The word `guess`, or a media type (RFC 9110, 8.3).
    ///
    /// # Errors
    /// The text is neither.
    pub fn parse(text: &str) -> Result<ContentType, ContentTypeError> {
        if text == "guess" {
            return Ok(ContentType::Guess);
        }
        let essence = text.split(';').next().unwrap_or_default().trim_end();
        let is_token = |part: &str| !part.is_empty() && part.bytes().all(is_token_byte);
        let is_type = essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype));
        let is_value = text.len() <= BYTES_MAX && text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if is_type && is_value { Ok(ContentType::Always(text.trim_end().to_owned())) } else { Err(ContentTypeError) }
    }

    /// What a new object at `key` gets.
    #[must_use]
    pub fn of(&self, key: &Key) -> String {
        let guessed = || mime_guess::from_path(Path::new(key.as_str())).first_raw().unwrap_or(UNKNOWN_TYPE);
        match self {
            ContentType::Guess => guessed().to_owned(),
            ContentType::Always(value) => value.clone(),
        }
    }
}

/// `tchar` (RFC 9110, 5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_guessed_by_the_extension_of_the_name_alone() {
        let of = |key: &str| ContentType::Guess.of(&Key::new(key).unwrap());
        assert_eq!((of("a/Report.PDF"), of("site/index.html")), ("application/pdf".to_owned(), "text/html".to_owned()));
        for unknown in ["plain", "a.html/plain", ".html", "x.nosuchextension", "ends."] {
            assert_eq!(of(unknown), UNKNOWN_TYPE, "{unknown}");
        }
        assert_eq!(ContentType::Always("text/plain".into()).of(&Key::new("a.html").unwrap()), "text/plain");
    }

    #[test]
    fn only_a_media_type_is_taken() {
        assert_eq!(ContentType::parse("guess"), Ok(ContentType::Guess));
        let typed = "text/plain; charset=utf-8";
        assert_eq!(ContentType::parse(typed), Ok(ContentType::Always(typed.to_owned())));
        let long = format!("a/{}", "b".repeat(BYTES_MAX));
        for bad in ["", "text", "/", "a/", "/b", "a b/c", "a/b\r\nx-amz-acl: y", "a/\u{f6}", "Guess", long.as_str()] {
            assert_eq!(ContentType::parse(bad), Err(ContentTypeError), "{bad:?}");
        }
    }
}
