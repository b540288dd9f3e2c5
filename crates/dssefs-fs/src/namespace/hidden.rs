//! Which keys a mount hides because they cannot be names: counted and named, for a person who misses an object.

use super::error::Error;
use super::progress::Progress;
use super::reserved::{is_reserved, is_shadowed};
use dssefs_s3::object::{Name, Prefix};
use dssefs_s3::s3::{Gateway, ListRequest};

/// How many keys are named; the rest is counted.
const NAMED_MAX: usize = 10;

/// What a look at the keys below a prefix found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HiddenKeys {
    /// How many keys a mount of the prefix hides.
    pub count: u64,
    /// The first ten of them, in the order of UTF-8 bytes, with the prefix.
    pub first: Vec<String>,
    /// How many keys were looked at.
    pub looked_at: u64,
    /// Whether there are keys behind those.
    pub more: bool,
}

impl HiddenKeys {
    /// Looks at the keys below `prefix`, at `keys_max` or up to 999 more: one LIST for each 1,000.
    ///
    /// # Errors
    /// [`Error::EndlessListing`], and the store's.
    pub async fn find(gateway: &Gateway, prefix: &Prefix, keys_max: u64) -> Result<HiddenKeys, Error> {
        let (mut found, mut next, mut progress) = (HiddenKeys::default(), None::<String>, Progress::default());
        loop {
            let (text, continuation) = (prefix.as_str(), next.as_deref());
            let request =
                ListRequest { prefix: text, delimiter: false, start_after: None, continuation, entries_max: 1000 };
            let page = gateway.list(&request).await?;
            progress.page(text, !page.objects.is_empty())?;
            page.objects.into_iter().for_each(|object| found.look_at(prefix, object.key));
            next = page.next;
            found.more = next.is_some();
            if !found.more || found.looked_at >= keys_max {
                return Ok(found);
            }
        }
    }

    fn look_at(&mut self, prefix: &Prefix, key: String) {
        self.looked_at += 1;
        if is_hidden(prefix, &key) {
            self.count += 1;
            if self.first.len() < NAMED_MAX {
                self.first.push(key);
            }
        }
    }
}

/// Whether a mount of `prefix` has no path for `key`. The mount's own directory in its root is not one that it hides
/// from its user.
fn is_hidden(prefix: &Prefix, key: &str) -> bool {
    let Some(path) = key.strip_prefix(prefix.as_str()) else { return true };
    if path.is_empty() {
        return false;
    }
    has_no_path(path, 1)
}

/// Whether a directory below a mount's root hides the key of which `path` is the part behind the directory's prefix.
pub(super) fn is_pathless(path: &str) -> bool {
    has_no_path(path, 0)
}

/// The reserved name counts as hidden from the level `reserved_from` of `path` on.
fn has_no_path(path: &str, reserved_from: usize) -> bool {
    // A marker ends with the slash of its directory.
    let names = path.strip_suffix('/').unwrap_or(path).split('/').map(Name::new);
    names.enumerate().any(|(level, name)| match name {
        Ok(name) => is_shadowed(&name) || (level >= reserved_from && is_reserved(&name)),
        Err(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_a_path_are_hidden() {
        let root = Prefix::root();
        let long = |bytes| format!("d/{}", "n".repeat(bytes));
        for key in ["a//b", "/a", "/", "d//", "a/./b", "../a", ".", "a/..", "a\0", "d/.dssefs/x", "d/.dssefs"] {
            assert!(is_hidden(&root, key), "{key:?}");
        }
        for key in ["a", "d/", "d/a", "d/e/", "...", "a\n", ".dssefs/renames/x", "d/.DSSEFS", ".dssefsx"] {
            assert!(!is_hidden(&root, key), "{key:?}");
        }
        assert!(is_hidden(&root, &long(256)) && !is_hidden(&root, &long(255)));
    }

    #[test]
    fn only_what_is_below_the_prefix_counts() {
        let prefix = Prefix::new("p").unwrap();
        assert!(!is_hidden(&prefix, "p/"), "the marker of the prefix");
        assert!(!is_hidden(&prefix, "p/a") && !is_hidden(&prefix, "p/.dssefs/x"));
        assert!(is_hidden(&prefix, "p//") && is_hidden(&prefix, "p/d/.dssefs/x"));
    }

    #[test]
    fn a_directory_hides_the_reserved_name_and_what_cannot_be_a_path() {
        for path in ["/x", "./y", "a/../b", ".dssefs/x", ".dssefs", "a\0"] {
            assert!(is_pathless(path), "{path:?}");
        }
        assert!(!is_pathless("a") && !is_pathless("a/b/") && !is_pathless(".dssefsx"));
    }

    #[test]
    fn ten_hidden_keys_are_named_and_all_counted() {
        let mut found = HiddenKeys::default();
        (0..12).for_each(|n| found.look_at(&Prefix::root(), format!("{n:02}//")));
        found.look_at(&Prefix::root(), "fine".to_owned());
        assert_eq!((found.count, found.looked_at, found.first.len()), (12, 13, 10));
        assert_eq!(found.first.last().unwrap(), "09//");
    }
}
