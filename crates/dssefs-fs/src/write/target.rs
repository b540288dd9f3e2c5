//! Where the changes of a file are to be stored.

use dssefs_s3::s3::NewObject;

/// What the object is to be called and to carry when it is committed.
#[derive(Clone, Debug)]
pub struct Target {
    /// Key, metadata, content headers, storage class and tags.
    pub object: NewObject,
    /// Whether all of the metadata has to be exact. Otherwise the times in it merely follow the writes, and an upload
    /// that was begun with earlier times is good enough.
    pub exact: bool,
}

/// The names under which times stand in user metadata (the form of s3fs, which geesefs and rclone read).
const TIMES: [&str; 3] = ["mtime", "atime", "ctime"];

impl Target {
    /// Whether an upload that was begun for this target needs no correction to be what is `wanted` now.
    pub(crate) fn is_good_enough_for(&self, wanted: &Target) -> bool {
        if wanted.exact {
            return self.object == wanted.object;
        }
        let timeless = |target: &Target| {
            let mut object = target.object.clone();
            object.user.retain(|name, _| !TIMES.contains(&name.as_str()));
            object
        };
        timeless(self) == timeless(wanted)
    }
}

/// What is to become of a file's changes.
#[derive(Clone, Debug)]
pub enum CommitTarget {
    /// They belong into this object.
    Object(Target),
    /// Its name was removed: they are never stored.
    Removed,
    /// Another writer has taken or removed its name, so there is no place to store them.
    Lost,
}
