//! Arbitration between renames of directories that overlap, by the journals in the bucket.
//!
//! A mount that begins a move, or takes one over, first writes its journal and then looks for others. So at least one
//! of two moves that overlap sees the other, and gives way. Of interrupted moves all but one give way. Moves whose
//! copies all stand come first, then the names of the journals decide. So there is no deadlock.
//!
//! An attacker may put any number of objects of any size where the journals are. So each look has a limit. The mount
//! remembers a version of an object that is no journal, and does not look at it again. A move gives way to a young
//! journal that this mount cannot prove. That costs time, but the mount deletes nothing because of such a journal.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::super::error::Error;
use super::super::progress::Progress;
use super::DirectoryRenames;
use super::PAGE_ENTRIES_MAX;
use super::authenticator::NoKey;
use super::found::{Proved, Unreadable};
use super::intent::{Heading, JOURNAL_PREFIX, Phase};
use super::intent_log::Journal;
use dssefs_s3::object::{ETag, Key, Prefix};
use dssefs_s3::s3::{Kind, ListRequest, Listed};

/// How often a mount reads a journal that its owner keeps writing meanwhile.
const READS_MAX: usize = 3;
/// Objects that are listed at each look, and remembered where they are no journals.
const LISTED_MAX: usize = 10_000;
/// Objects that are read at each look.
const READ_MAX: usize = 1_000;
/// Of them at the same time.
const READ_AT_ONCE_MAX: usize = 16;
/// Journals below a directory that is to be moved.
const NESTED_MAX: usize = 1_000;

/// One journal of a mount of this source.
pub(super) struct Seen {
    pub(super) proved: Proved,
    /// Whether its owner may be at work.
    pub(super) living: bool,
}

/// What was found under a journal's name.
pub(super) enum Look {
    /// Nothing any more.
    Gone,
    /// Another version with each look, so its owner is at work.
    Changing,
    /// An object that no mount of this source has written.
    Strange(Unreadable),
    /// A journal that this mount cannot prove.
    Unproved {
        heading: Box<Heading>,
        /// Whether it was written within `rename_lease`.
        young: bool,
        error: NoKey,
    },
    Journal(Box<Seen>),
}

/// The objects below the journals' prefix that are worth a look.
pub(super) struct Journals {
    pub(super) objects: Vec<Listed>,
    /// Whether there are more than may be looked at.
    pub(super) more: bool,
}

impl Seen {
    pub(super) fn heading(&self) -> &Heading {
        self.proved.heading()
    }

    /// Whether this move is settled before the one whose journal is `key`, when both were left in the middle.
    fn comes_before(&self, key: &Key, heading: &Heading) -> bool {
        let rank = |phase: Phase, key: &Key| (phase == Phase::Copying, key.as_str().to_owned());
        rank(self.heading().phase, &self.proved.key) < rank(heading.phase, key)
    }
}

impl DirectoryRenames {
    /// The objects below the journals' prefix, without those that were found to be no journals. One LIST when there are
    /// few.
    pub(super) async fn journals(&self) -> Result<Journals, Error> {
        let prefix = Prefix::new(&format!("{}{JOURNAL_PREFIX}", self.settings.prefix.as_str()))?;
        let (mut objects, mut next, mut progress) = (Vec::new(), None, Progress::default());
        loop {
            let (prefix, continuation) = (prefix.as_str(), next.as_deref());
            let entries_max = PAGE_ENTRIES_MAX;
            let request = ListRequest { prefix, delimiter: false, start_after: None, continuation, entries_max };
            let page = self.gateway.list(&request).await?;
            progress.page(prefix, !page.objects.is_empty())?;
            objects.extend(page.objects);
            next = page.next;
            if next.is_none() || objects.len() >= LISTED_MAX {
                break;
            }
        }
        let mut more = next.is_some() || objects.len() > LISTED_MAX;
        objects.truncate(LISTED_MAX);
        {
            let mut strange = self.strange();
            let is_known = |listed: &Listed| strange.get(&listed.key) == Some(&listed.etag);
            let known = objects.extract_if(.., |listed| is_known(listed));
            let known = known.map(|listed| (listed.key, listed.etag)).collect();
            *strange = known;
        }
        more |= objects.len() > READ_MAX;
        objects.truncate(READ_MAX);
        Ok(Journals { objects, more })
    }

    /// Objects that have names of journals and are none, by key: the version that was looked at.
    pub(super) fn strange(&self) -> MutexGuard<'_, BTreeMap<String, ETag>> {
        self.strange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at each of `objects`, which have names of this mount's journals. Remembers those that are no journals.
    pub(super) async fn look_at_each(&self, objects: Vec<Listed>) -> Result<Vec<(Key, Look)>, Error> {
        let look = async |listed: Listed| {
            // A key of the store is one of 1 to 1,024 bytes.
            let Ok(key) = Key::new(&listed.key) else { return Ok(None) };
            let look = self.look_at(&key, &self.settings.prefix).await?;
            if matches!(look, Look::Strange(_)) {
                self.strange().insert(listed.key, listed.etag);
            }
            Ok::<_, Error>(Some((key, look)))
        };
        let looks: Vec<_> = stream::iter(objects).map(look).buffered(READ_AT_ONCE_MAX).try_collect().await?;
        Ok(looks.into_iter().flatten().collect())
    }

    /// Reads the journal at `key` of a mount of `root`, and finds out whether its owner may be at work. The owner is
    /// not when its process is known to be gone, or when the journal was not written for `rename_lease` by the store's
    /// clock.
    pub(super) async fn look_at(&self, key: &Key, root: &Prefix) -> Result<Look, Error> {
        for _ in 0..READS_MAX {
            let (head, age) = match self.gateway.head_with_age(key).await {
                Ok(answer) => answer,
                Err(error) if error.kind == Kind::NotFound => return Ok(Look::Gone),
                Err(error) => return Err(error.into()),
            };
            let lease = self.settings.rename_lease;
            return Ok(match self.prove(key, &head, root).await {
                Ok(proved) => {
                    let living = age.is_none_or(|age| age <= lease) && !proved.heading().owner.is_gone();
                    Look::Journal(Box::new(Seen { proved, living }))
                }
                Err(Unreadable::Store(error)) if matches!(error.kind, Kind::NotFound | Kind::PreconditionFailed) => {
                    continue;
                }
                Err(Unreadable::Store(error)) => return Err(error.into()),
                Err(Unreadable::Unproved { heading, error }) if !matches!(error, NoKey::Forged(_)) => {
                    Look::Unproved { heading, young: age.is_some_and(|age| age <= lease), error }
                }
                Err(error) => Look::Strange(error),
            });
        }
        Ok(Look::Changing)
    }

    /// For a move that has just begun: [`Error::BeingRenamed`] when any other move overlaps it, also an interrupted
    /// one.
    pub(super) async fn give_way_to_all(&self, journal: &Journal) -> Result<(), Error> {
        let heading = journal.intent().heading.clone();
        self.give_way(journal.key(), &heading, |_| true).await
    }

    /// For a move that is to be undone or finished: [`Error::BeingRenamed`] while one overlaps it that is under way, or
    /// is to be settled first.
    pub(super) async fn give_way_to_first(&self, key: &Key, heading: &Heading) -> Result<(), Error> {
        self.give_way(key, heading, |other| other.living || other.comes_before(key, heading)).await
    }

    /// One LIST; for each other journal a HEAD and a GET.
    async fn give_way(&self, key: &Key, heading: &Heading, first: impl Fn(&Seen) -> bool) -> Result<(), Error> {
        let mut objects = self.journals().await?.objects;
        objects.retain(|listed| listed.key != key.as_str());
        let in_the_way = |look: &Look| match look {
            Look::Gone | Look::Strange(_) => false,
            Look::Changing => true,
            Look::Unproved { heading: other, young, .. } => *young && other.overlaps(heading),
            Look::Journal(seen) => seen.heading().overlaps(heading) && first(seen),
        };
        let looks = self.look_at_each(objects).await?;
        if looks.iter().any(|(_, look)| in_the_way(look)) { Err(Error::BeingRenamed) } else { Ok(()) }
    }

    /// Refuses to move a directory when another mount, whose root is below it, is renaming something: the other journal
    /// would be of no use under another name. An object that only has the name of a journal moves along.
    pub(super) async fn require_no_journal_below(&self, from: &Prefix, found: &[Listed]) -> Result<(), Error> {
        let nested: Vec<(Key, Prefix)> =
            found.iter().filter_map(|object| journal_below(from, &object.key)).take(NESTED_MAX + 1).collect();
        if nested.len() > NESTED_MAX {
            tracing::warn!(
                %from,
                "more than {NESTED_MAX} objects below this directory have names of journals of renames; \
                 delete those below {JOURNAL_PREFIX} that no mount needs"
            );
            return Err(Error::BeingRenamed);
        }
        let look = async |(key, root): &(Key, Prefix)| Ok::<_, Error>((key.clone(), self.look_at(key, root).await?));
        let looks: Vec<_> = stream::iter(&nested).map(look).buffered(READ_AT_ONCE_MAX).try_collect().await?;
        let in_the_way = |look: &Look| match look {
            Look::Gone | Look::Strange(_) => false,
            Look::Changing | Look::Journal(_) => true,
            Look::Unproved { young, .. } => *young,
        };
        match looks.iter().find(|(_, look)| in_the_way(look)) {
            None => Ok(()),
            Some((journal, _)) => {
                tracing::warn!(
                    %from,
                    %journal,
                    "another mount is renaming something below this directory, or was interrupted in a rename; \
                     mount that prefix to finish or undo the rename"
                );
                Err(Error::BeingRenamed)
            }
        }
    }
}

/// The journal that `key` may be, of a mount of a directory in `from`, or of `from` itself.
fn journal_below(from: &Prefix, key: &str) -> Option<(Key, Prefix)> {
    let below = key.strip_prefix(from.as_str())?;
    let at = match below.find(&format!("/{JOURNAL_PREFIX}")) {
        _ if below.starts_with(JOURNAL_PREFIX) => 0,
        Some(slash) => slash + 1,
        None => return None,
    };
    let root = Prefix::new(&key[..from.as_str().len() + at]).ok()?;
    Some((Key::new(key).ok()?, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_belongs_to_the_directory_above_the_reserved_name() {
        let root_of = |key: &str| journal_below(&Prefix::new("a").unwrap(), key).map(|(_, root)| root.to_string());
        assert_eq!(root_of("a/.dssefs/rename/1").as_deref(), Some("a/"));
        assert_eq!(root_of("a/b/c/.dssefs/rename/1").as_deref(), Some("a/b/c/"));
        for other in ["a/b/x.dssefs/rename/1", "a/.dssefs/other", "b/.dssefs/rename/1", "a/b//.dssefs/rename/1"] {
            assert_eq!(root_of(other), None, "{other}");
        }
    }
}
