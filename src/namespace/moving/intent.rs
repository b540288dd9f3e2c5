//! The journal's text: what is moved where, how far it came, and by whom. Pure.
//!
//! JSON, version 1:
//!
//! ```json
//! {"version":1,"phase":"copying","from":"team/a/","to":"team/b/","replaces":false,
//!  "owner":{"host":"h","machine":"...","boot":"...","numbering":"pid:[4026531836]","process":7,"started":99},
//!  "objects":{"x/y":{"source":"\"e1\"","copy":"\"e2\""}}}
//! ```
//!
//! `objects` has what was copied when the text was written, by the path below the two prefixes: the ETag of the source, and of its
//! copy. While `copying` it may be behind what was done; in `deleting` it is complete.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::owner::Owner;
use crate::object::{ETag, NameError, Prefix};

/// The name in the mount's root that is kept for the journal.
pub(super) const RESERVED_NAME: &str = ".dssefs";
/// Where the journals of moves are, below the mount's prefix.
pub(super) const JOURNAL_PREFIX: &str = ".dssefs/rename/";
/// The form that is written and read here.
const VERSION: u32 = 1;

/// How far a move came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    /// No source was touched yet: it can be undone.
    Copying,
    /// All copies stand: it can only be finished.
    Deleting,
}

/// One object that was copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Copied {
    source: String,
    copy: String,
}

/// One move, as its journal in the bucket tells it. Anybody who may write to the bucket can make one, so nothing of it is believed before
/// [`Intent::parse`] has taken it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    version: u32,
    pub(super) phase: Phase,
    from: String,
    to: String,
    /// Whether the target was there before, as an empty directory.
    pub(super) replaces: bool,
    pub(super) owner: Owner,
    pub(super) objects: BTreeMap<String, Copied>,
}

/// Why a text is no journal that can be acted on.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// Not JSON, or other fields.
    #[error("it is not the JSON that is expected: {0}")]
    Form(#[from] serde_json::Error),
    /// Made by another version.
    #[error("it is of version {0}, and this program knows version {VERSION}; mount with the program that wrote it")]
    Version(u32),
    /// It reaches out of the mount.
    #[error("it names {0:?}, which is no directory below the mount's own")]
    Elsewhere(String),
    /// A directory cannot be moved into itself.
    #[error("one of its two directories lies in the other")]
    Nested,
}

impl Copied {
    pub(super) fn new(source: &ETag, copy: &ETag) -> Copied {
        Copied { source: source.as_str().to_owned(), copy: copy.as_str().to_owned() }
    }

    pub(super) fn source(&self) -> ETag {
        ETag::new(&self.source)
    }

    pub(super) fn copy(&self) -> ETag {
        ETag::new(&self.copy)
    }
}

impl Intent {
    /// A move by this process that is about to begin.
    pub(super) fn new(from: &Prefix, to: &Prefix, replaces: bool) -> Result<Intent, Error> {
        if overlap(from.as_str(), to.as_str()) {
            return Err(Error::IntoItself);
        }
        let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
        let (phase, owner) = (Phase::Copying, Owner::this());
        Ok(Intent { version: VERSION, phase, from, to, replaces, owner, objects: BTreeMap::new() })
    }

    /// Reads a journal of the mount at `root`. What it says is believed only within that: a mount acts on nothing outside of itself.
    ///
    /// # Errors
    /// [`IntentError`] says why nothing is done about it.
    pub fn parse(text: &[u8], root: &Prefix) -> Result<Intent, IntentError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(text)?;
        if version != VERSION {
            return Err(IntentError::Version(version));
        }
        let intent: Intent = serde_json::from_slice(text)?;
        for prefix in [&intent.from, &intent.to] {
            let below = prefix.strip_prefix(root.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('/'));
            if !below || checked(prefix).is_err() {
                return Err(IntentError::Elsewhere(prefix.clone()));
            }
        }
        if overlap(&intent.from, &intent.to) { Err(IntentError::Nested) } else { Ok(intent) }
    }

    /// Whether the two moves have a directory in common, or one of either lies in one of the other.
    pub(super) fn overlaps(&self, other: &Intent) -> bool {
        [&self.from, &self.to].into_iter().any(|mine| overlap(mine, &other.from) || overlap(mine, &other.to))
    }

    /// The JSON, as `docs/FORMAT.md` has it.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("its keys are texts and its values have no form that JSON lacks")
    }

    /// The directory that is moved.
    ///
    /// # Errors
    /// None for what [`Intent::parse`] has taken.
    pub fn from(&self) -> Result<Prefix, NameError> {
        checked(&self.from)
    }

    /// What it becomes.
    ///
    /// # Errors
    /// None for what [`Intent::parse`] has taken.
    pub fn to(&self) -> Result<Prefix, NameError> {
        checked(&self.to)
    }
}

fn checked(prefix: &str) -> Result<Prefix, NameError> {
    Prefix::new(prefix)
}

fn overlap(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        Prefix::new(text).unwrap()
    }

    fn intent(from: &str, to: &str) -> Intent {
        Intent {
            version: 1,
            phase: Phase::Deleting,
            from: from.into(),
            to: to.into(),
            replaces: false,
            owner: Owner::default(),
            objects: BTreeMap::from([("x/y".into(), Copied::new(&ETag::new("e1"), &ETag::new("e2")))]),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = intent("team/a/", "team/b/");
        let read = Intent::parse(&written.text(), &prefix("team")).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.objects["x/y"].source(), ETag::new("e1"));
    }

    #[test]
    fn the_text_is_the_documented_one() {
        let text = String::from_utf8(intent("a/", "b/").text()).unwrap();
        let owner = r#"{"host":"","boot":"","numbering":"","process":0,"started":0}"#;
        let objects = r#"{"x/y":{"source":"\"e1\"","copy":"\"e2\""}}"#;
        let start = r#"{"version":1,"phase":"deleting","from":"a/","to":"b/","replaces":false"#;
        assert_eq!(text, format!(r#"{start},"owner":{owner},"objects":{objects}}}"#));
    }

    #[test]
    fn the_machine_is_written_where_it_is_known_and_journals_without_it_are_read() {
        let text = String::from_utf8(intent("a/", "b/").text()).unwrap();
        let named = text.replace(r#""host":"","#, r#""host":"","machine":"m","#);
        assert_ne!(named, text);
        let read = |text: &str| Intent::parse(text.as_bytes(), &Prefix::root()).unwrap();
        assert_eq!(String::from_utf8(read(&named).text()).unwrap(), named);
        assert_eq!(String::from_utf8(read(&text).text()).unwrap(), text);
    }

    #[test]
    fn a_journal_that_reaches_outside_of_the_mount_is_refused() {
        let refused = |from: &str, to: &str| Intent::parse(&intent(from, to).text(), &prefix("team")).unwrap_err();
        assert!(matches!(refused("other/a/", "team/b/"), IntentError::Elsewhere(_)));
        assert!(matches!(refused("team/a/", "b/"), IntentError::Elsewhere(_)));
        assert!(matches!(refused("team/", "team/b/"), IntentError::Elsewhere(_)));
        assert!(matches!(refused("team/a", "team/b/"), IntentError::Elsewhere(_)));
        assert!(matches!(refused("team/../a/", "team/b/"), IntentError::Elsewhere(_)));
        assert!(matches!(refused("team/a/", "team/a/b/"), IntentError::Nested));
    }

    #[test]
    fn moves_overlap_where_they_share_a_directory_or_one_lies_in_another() {
        let move_of_a = intent("a/", "b/");
        let overlaps = |from: &str, to: &str| {
            let other = intent(from, to);
            assert_eq!(move_of_a.overlaps(&other), other.overlaps(&move_of_a));
            move_of_a.overlaps(&other)
        };
        assert!(overlaps("a/", "b/") && overlaps("b/", "a/") && overlaps("a/", "c/") && overlaps("c/", "b/"));
        assert!(overlaps("a/x/", "c/") && overlaps("c/", "b/x/"));
        assert!(!overlaps("c/", "d/") && !overlaps("ab/", "ba/"));
    }

    #[test]
    fn another_version_is_left_alone() {
        let text = br#"{"version":2,"anything":[]}"#;
        assert!(matches!(Intent::parse(text, &Prefix::root()), Err(IntentError::Version(2))));
        assert!(matches!(Intent::parse(b"{", &Prefix::root()), Err(IntentError::Form(_))));
    }
}
