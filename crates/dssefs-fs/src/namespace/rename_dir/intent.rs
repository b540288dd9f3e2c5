//! The content of a journal: what is moved where, how far the move came, and which process does it. Pure.
//!
//! The heading describes the move. The objects are those that were copied when the text was written, by their path
//! below the two prefixes, with the ETags of the source and of its copy. In the phase `copying` there may be more
//! copies than the journal names; in `deleting` it names them all.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::super::error::Error;
use super::form::FormError;
use super::owner::Owner;
use dssefs_s3::object::{ETag, NameError, Prefix};

/// Where the journals of moves are, below the mount's prefix.
pub(super) const JOURNAL_PREFIX: &str = ".dssefs/rename/";

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

/// One move, without its objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heading {
    pub(super) phase: Phase,
    from: String,
    to: String,
    /// Whether the target was there before, as an empty directory.
    pub(super) replaces: bool,
    /// When the move began, by the store's clock, in seconds since 1970.
    begun: u64,
    pub(super) owner: Owner,
}

/// One move with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intent {
    pub(super) heading: Heading,
    pub(super) objects: BTreeMap<String, Copied>,
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

impl Heading {
    /// A move by this process that begins at `now`.
    pub(super) fn new(from: &Prefix, to: &Prefix, replaces: bool, now: SystemTime) -> Result<Heading, Error> {
        if overlap(from.as_str(), to.as_str()) {
            return Err(Error::IntoItself);
        }
        let (from, to) = (from.as_str().to_owned(), to.as_str().to_owned());
        Ok(Heading { phase: Phase::Copying, from, to, replaces, begun: seconds(now), owner: Owner::this() })
    }

    /// Whether it stays within the mount at `root`. A mount acts on nothing outside of itself.
    ///
    /// # Errors
    /// [`FormError::Elsewhere`] and [`FormError::Nested`].
    pub(super) fn require_within(&self, root: &Prefix) -> Result<(), FormError> {
        for prefix in [&self.from, &self.to] {
            let below = prefix.strip_prefix(root.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('/'));
            if !below || checked(prefix).is_err() {
                return Err(FormError::Elsewhere(prefix.clone()));
            }
        }
        if overlap(&self.from, &self.to) { Err(FormError::Nested) } else { Ok(()) }
    }

    /// Whether the two moves have a directory in common, or one of either lies in one of the other.
    pub(super) fn overlaps(&self, other: &Heading) -> bool {
        [&self.from, &self.to].into_iter().any(|mine| overlap(mine, &other.from) || overlap(mine, &other.to))
    }

    pub(super) fn begun(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.begun)).unwrap_or(UNIX_EPOCH)
    }

    /// The directory that is moved.
    ///
    /// # Errors
    /// None for what was found to be within the mount.
    pub fn from(&self) -> Result<Prefix, NameError> {
        checked(&self.from)
    }

    /// Its new prefix.
    ///
    /// # Errors
    /// None for what was found to be within the mount.
    pub fn to(&self) -> Result<Prefix, NameError> {
        checked(&self.to)
    }
}

impl Intent {
    /// A move without copies so far.
    pub(super) fn new(heading: Heading) -> Intent {
        Intent { heading, objects: BTreeMap::new() }
    }

    /// The objects, as a journal has them.
    #[must_use]
    pub fn objects_text(&self) -> Vec<u8> {
        serde_json::to_vec(&self.objects).expect("its keys are texts, and so are its values")
    }

    /// The directory that is moved.
    ///
    /// # Errors
    /// As [`Heading::from`].
    pub fn from(&self) -> Result<Prefix, NameError> {
        self.heading.from()
    }

    /// What it becomes.
    ///
    /// # Errors
    /// As [`Heading::to`].
    pub fn to(&self) -> Result<Prefix, NameError> {
        self.heading.to()
    }
}

/// Seconds since 1970; none before.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn checked(prefix: &str) -> Result<Prefix, NameError> {
    Prefix::new(prefix)
}

fn overlap(a: &str, b: &str) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn intent(from: &str, to: &str) -> Intent {
        let (from, to, owner) = (from.into(), to.into(), Owner::default());
        let heading = Heading { phase: Phase::Deleting, from, to, replaces: false, begun: 1_800_000_000, owner };
        let objects = BTreeMap::from([("x/y".into(), Copied::new(&ETag::new("e1"), &ETag::new("e2")))]);
        Intent { heading, objects }
    }

    fn prefix(text: &str) -> Prefix {
        Prefix::new(text).unwrap()
    }

    #[test]
    fn a_journal_that_reaches_outside_of_the_mount_is_refused() {
        let refused = |from: &str, to: &str| intent(from, to).heading.require_within(&prefix("team")).unwrap_err();
        assert!(matches!(refused("other/a/", "team/b/"), FormError::Elsewhere(_)));
        assert!(matches!(refused("team/a/", "b/"), FormError::Elsewhere(_)));
        assert!(matches!(refused("team/", "team/b/"), FormError::Elsewhere(_)));
        assert!(matches!(refused("team/a", "team/b/"), FormError::Elsewhere(_)));
        assert!(matches!(refused("team/../a/", "team/b/"), FormError::Elsewhere(_)));
        assert!(matches!(refused("team/a/", "team/a/b/"), FormError::Nested));
        intent("team/a/", "team/b/").heading.require_within(&prefix("team")).unwrap();
    }

    #[test]
    fn moves_overlap_where_they_share_a_directory_or_one_lies_in_another() {
        let move_of_a = intent("a/", "b/").heading;
        let overlaps = |from: &str, to: &str| {
            let other = intent(from, to).heading;
            assert_eq!(move_of_a.overlaps(&other), other.overlaps(&move_of_a));
            move_of_a.overlaps(&other)
        };
        assert!(overlaps("a/", "b/") && overlaps("b/", "a/") && overlaps("a/", "c/") && overlaps("c/", "b/"));
        assert!(overlaps("a/x/", "c/") && overlaps("c/", "b/x/"));
        assert!(!overlaps("c/", "d/") && !overlaps("ab/", "ba/"));
    }
}
