//! Keys, prefixes, and the names that are one component of them.

use std::fmt;

/// The longest key that S3 keeps, in bytes of UTF-8 ("Naming Amazon S3 objects", S3 User Guide).
const KEY_BYTES_MAX: usize = 1024;
/// The longest name that Linux takes, in bytes (`NAME_MAX`, limits.h).
const NAME_BYTES_MAX: usize = 255;

/// The name that mounts keep for themselves in every directory: `rename/` below it has the journals of renames, and
/// `held/` the bytes of removed files that programs still have open.
pub const RESERVED_NAME: &str = ".dssefs";

/// The name, in each directory, of the object that has the key of that directory without its slash: key `a` beside keys
/// `a/...` is `a/.dssefs-file`. The directory would hide it otherwise.
pub const SHADOWED_NAME: &str = ".dssefs-file";

/// The key of an object: 1 to 1,024 bytes of UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Why a text is not a key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No bytes at all.
    #[error("an object's key cannot be empty")]
    Empty,
    /// More than 1,024.
    #[error("the key has {0} bytes and S3 keeps at most {KEY_BYTES_MAX}; use shorter names or fewer levels")]
    TooLong(usize),
}

impl Key {
    /// Checks `text`.
    ///
    /// # Errors
    /// An empty text, and one over 1,024 bytes.
    pub fn new(text: impl Into<String>) -> Result<Key, KeyError> {
        let text = text.into();
        match text.len() {
            0 => Err(KeyError::Empty),
            1..=KEY_BYTES_MAX => Ok(Key(text)),
            bytes => Err(KeyError::TooLong(bytes)),
        }
    }

    /// The text as S3 takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the key of a directory marker: it ends with `/`.
    #[must_use]
    pub fn is_marker(&self) -> bool {
        self.0.ends_with('/')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the keys of a directory begin with: empty, or a text that ends with `/`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix that all keys have.
    #[must_use]
    pub fn root() -> Prefix {
        Prefix(String::new())
    }

    /// The prefix of the directory `path`, with or without its closing slash; an empty path is the whole bucket.
    ///
    /// # Errors
    /// A component that cannot be a name, or a path too long for a key.
    pub fn new(path: &str) -> Result<Prefix, NameError> {
        let mut prefix = Prefix::root();
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.is_empty() {
            return Ok(prefix);
        }
        for component in path.split('/') {
            prefix = prefix.directory(&Name::new(component)?)?;
        }
        Ok(prefix)
    }

    /// The prefix of the directory `name` in this one.
    ///
    /// # Errors
    /// [`NameError::PathTooLong`].
    pub fn directory(&self, name: &Name) -> Result<Prefix, NameError> {
        let text = format!("{}{}/", self.0, name.0);
        if text.len() > KEY_BYTES_MAX { Err(NameError::PathTooLong(text.len())) } else { Ok(Prefix(text)) }
    }

    /// The key of the file `name` in this directory. [`SHADOWED_NAME`] is that of the directory itself, without its
    /// slash.
    ///
    /// # Errors
    /// [`NameError::PathTooLong`].
    pub fn file(&self, name: &Name) -> Result<Key, NameError> {
        let text = match self.0.strip_suffix('/') {
            Some(directory) if name.0.as_ref() == SHADOWED_NAME => directory.to_owned(),
            _ => format!("{}{}", self.0, name.0),
        };
        let bytes = text.len();
        Key::new(text).map_err(|_| NameError::PathTooLong(bytes))
    }

    /// The key of this directory's marker; none for the root.
    #[must_use]
    pub fn marker(&self) -> Option<Key> {
        Key::new(self.0.clone()).ok()
    }

    /// The text as S3 takes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One component of a path: 1 to 255 bytes of UTF-8 without `/` and NUL, and neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<str>);

/// Why something cannot be a name, or a path of names.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Empty, `.`, `..`, or with a `/` or NUL in it.
    #[error("{0:?} cannot be a file name: it is empty, '.' or '..', or has '/' or NUL in it")]
    Invalid(String),
    /// S3's keys are UTF-8.
    #[error("the file name is not UTF-8, which S3's keys must be")]
    NotUtf8,
    /// More than 255.
    #[error("the file name has {0} bytes and Linux takes at most {NAME_BYTES_MAX}")]
    TooLong(usize),
    /// The whole key would be more than 1,024.
    #[error("the path has {0} bytes below the bucket and S3 keeps at most {KEY_BYTES_MAX}")]
    PathTooLong(usize),
}

impl Name {
    /// [`SHADOWED_NAME`].
    #[must_use]
    pub fn shadowed() -> Name {
        Name(SHADOWED_NAME.into())
    }

    /// Checks `text`.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub fn new(text: &str) -> Result<Name, NameError> {
        if text.len() > NAME_BYTES_MAX {
            return Err(NameError::TooLong(text.len()));
        }
        if matches!(text, "" | "." | "..") || text.contains(['/', '\0']) {
            return Err(NameError::Invalid(text.to_owned()));
        }
        Ok(Name(text.into()))
    }

    /// Checks the bytes that the kernel gave.
    ///
    /// # Errors
    /// As [`Name::new`], and [`NameError::NotUtf8`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Name, NameError> {
        Name::new(str::from_utf8(bytes).map_err(|_| NameError::NotUtf8)?)
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_names_becomes_a_prefix_and_a_key() {
        let prefix = Prefix::new("a/b/").unwrap();
        assert_eq!(prefix.as_str(), "a/b/");
        assert_eq!(prefix.file(&Name::new("c").unwrap()).unwrap().as_str(), "a/b/c");
        assert_eq!(prefix.file(&Name::new(SHADOWED_NAME).unwrap()).unwrap().as_str(), "a/b");
        assert_eq!(prefix.marker().unwrap().as_str(), "a/b/");
        assert_eq!(Prefix::new("").unwrap().marker(), None);
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        for text in ["", ".", "..", "a/b", "a\0b"] {
            assert_eq!(Name::new(text), Err(NameError::Invalid(text.to_owned())));
        }
        assert_eq!(Name::new(&"x".repeat(256)), Err(NameError::TooLong(256)));
        assert_eq!(Name::from_bytes(b"\xff"), Err(NameError::NotUtf8));
        assert!(Prefix::new("a//b").is_err());
    }

    #[test]
    fn the_longest_key_is_a_limit_of_the_whole_path() {
        let name = Name::new(&"n".repeat(255)).unwrap();
        let deep = (0..4).try_fold(Prefix::root(), |p, _| p.directory(&name));
        let deep = deep.unwrap();
        assert_eq!(deep.as_str().len(), 1024);
        assert_eq!(deep.file(&Name::new("x").unwrap()), Err(NameError::PathTooLong(1025)));
    }
}
