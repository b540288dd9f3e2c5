//! What an object carries beside its content, as it is just before a commit replaces the object: tags, user metadata,
//! content headers, mode and owner.
//!
//! A commit sends all of this again, so it must not send what was true when the file was opened. Tags change without a
//! trace in the ETag and in Last-Modified, so no listing shows them. So each commit that replaces an object asks: one
//! HEAD, which needs no KMS call, and GetObjectTagging where HEAD counts tags. A new file asks nothing. What programs
//! of this mount have set since the file was opened wins over what others have set.

use std::collections::BTreeSet;

use crate::namespace::Attributes;
use crate::write;
use dssefs_s3::object::{ObjectMeta, UserMetadata};
use dssefs_s3::s3::{Head, Kind, Source};

use super::file::{File, FileState};
use super::{Error, Vfs};

impl Vfs {
    /// Before a commit of `file`: takes over what others have changed of the description of the object that it
    /// replaces. If the object is another version by now, the commit's condition tells.
    ///
    /// # Errors
    /// The store cannot be asked. The changes are kept, and the next commit asks again.
    pub(super) async fn renew_description(&self, file: &File) -> Result<(), Error> {
        let Some(source) = file.state().described_source() else { return Ok(()) };
        let head = match self.gateway.head(&source.key).await {
            Ok(head) if head.meta.version.etag == source.version.etag => head,
            Ok(_) => return Ok(()),
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            Err(error) => return Err(write::Error::from(error).into()),
        };
        let tags = match head.meta.tag_count {
            0 => None,
            _ => self.gateway.tags(&source.key).await.map_err(write::Error::from)?,
        };
        file.state().redescribe(&head, tags, |head| self.namespace.settled(head));
        Ok(())
    }
}

impl FileState {
    /// The object whose description the next commit sends again. None for a new file, for a file without a name, and
    /// for a copy of another object, which has the description of that one.
    fn described_source(&self) -> Option<Source> {
        self.source.clone().filter(|_| self.head.is_some() && self.carried.is_none() && !self.unlinked)
    }

    fn redescribe(&mut self, head: &Head, tags: Option<String>, settled: impl Fn(&Head) -> Attributes) {
        let Some(known) = self.head.take() else { return };
        self.tags = tags;
        self.attributes = merged(self.attributes, settled(&known), settled(head));
        self.user = self.user.take().map(|user| merged_user(&user, &known.meta.user, &head.meta.user));
        // The version and what is known of its encryption stay: both are of the content.
        let meta = ObjectMeta { version: known.meta.version, ..head.meta.clone() };
        self.head = Some(Head { meta, encryption: known.encryption });
    }
}

/// `ours`, with what `theirs` has changed since both were as `before`.
fn merged(ours: Attributes, before: Attributes, theirs: Attributes) -> Attributes {
    fn either<T: PartialEq>(ours: T, before: &T, theirs: T) -> T {
        if ours == *before { theirs } else { ours }
    }
    Attributes {
        mode: either(ours.mode, &before.mode, theirs.mode),
        uid: either(ours.uid, &before.uid, theirs.uid),
        gid: either(ours.gid, &before.gid, theirs.gid),
        mtime: either(ours.mtime, &before.mtime, theirs.mtime),
        atime: either(ours.atime, &before.atime, theirs.atime),
        ctime: either(ours.ctime, &before.ctime, theirs.ctime),
        ..ours
    }
}

/// The same of user metadata, name by name.
fn merged_user(ours: &UserMetadata, before: &UserMetadata, theirs: &UserMetadata) -> UserMetadata {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let value = |name: &String| {
        let (ours, before, theirs) = (ours.get(name), before.get(name), theirs.get(name));
        if ours == before { theirs } else { ours }.cloned()
    };
    names.into_iter().filter_map(|name| Some((name.clone(), value(name)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Ino;

    #[test]
    fn what_was_set_here_wins_and_what_others_set_is_kept() {
        let before = File::empty(Ino::ROOT).attributes();
        let ours = Attributes { mode: 0o700, size: 9, ..before };
        let theirs = Attributes { mode: 0o600, uid: 5, ..before };
        let merged = merged(ours, before, theirs);
        assert_eq!((merged.mode, merged.uid, merged.gid, merged.size), (0o700, 5, before.gid, 9));
    }

    #[test]
    fn user_metadata_is_merged_name_by_name() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<UserMetadata>()
        };
        let before = map(&[("same", "0"), ("ours", "0"), ("theirs", "0"), ("both", "0"), ("gone", "0"), ("cut", "0")]);
        let ours = map(&[("same", "0"), ("ours", "1"), ("theirs", "0"), ("both", "1"), ("gone", "0"), ("new", "1")]);
        let theirs = map(&[("same", "0"), ("ours", "0"), ("theirs", "2"), ("both", "2"), ("cut", "0"), ("more", "2")]);
        let expected = [("same", "0"), ("ours", "1"), ("theirs", "2"), ("both", "1"), ("new", "1"), ("more", "2")];
        assert_eq!(merged_user(&ours, &before, &theirs), map(&expected));
    }
}
