//! What an object carries beside its content, as it is just before a commit replaces the object: tags, user metadata,
//! content headers, mode and owner.
//!
//! A commit sends all of this again, so it must not send what was true when the file was opened. Tags change without a
//! trace in the ETag and in Last-Modified, so no listing shows them. So each commit that replaces an object asks: one
//! HEAD, which needs no KMS call, and GetObjectTagging where HEAD counts tags. A new file asks nothing. What programs
//! of this mount have set since the file was opened wins over what others have set.
//!
//! Annotations leave no trace in HEAD either, and no write carries them. ListObjectAnnotations asks for them beside the
//! HEAD. If there are some, they wait in a held object until the new version is there to take them.

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
        // Kept already, if an earlier commit has failed.
        let is_kept = file.state().annotations.as_ref().is_some_and(|kept| *kept.of() == source.version.etag);
        let annotations = async { if is_kept { Ok(Vec::new()) } else { self.gateway.annotations(&source.key).await } };
        let (head, annotations) = tokio::join!(self.gateway.head(&source.key), annotations);
        let head = match head {
            Ok(head) if head.meta.version.etag == source.version.etag => head,
            Ok(_) => return Ok(()),
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            Err(error) => return Err(write::Error::from(error).into()),
        };
        let tags = match head.meta.tag_count {
            0 => None,
            _ => self.gateway.tags(&source.key).await.map_err(write::Error::from)?,
        };
        file.state().redescribe(&head, tags.clone(), |head| self.namespace.settled(head));
        self.keep_annotations(file, &source, annotations.map_err(write::Error::from)?, tags).await
    }

    async fn keep_annotations(
        &self,
        file: &File,
        source: &Source,
        names: Vec<String>,
        tags: Option<String>,
    ) -> Result<(), Error> {
        if names.is_empty() {
            return Ok(());
        }
        let of = (&source.key, &source.version.etag);
        let kept = self.gateway.keep_annotations(names, of, self.namespace.prefix(), tags).await;
        let kept = kept.map_err(write::Error::from)?;
        let outdated = file.state().annotations.replace(kept);
        if let Some(outdated) = outdated {
            self.gateway.release_annotations(&outdated).await;
        }
        Ok(())
    }

    /// After a commit: gives the annotations of the object that it has replaced to the new one. They stay held while
    /// it is unknown whether there is a new one.
    pub(super) async fn settle_annotations(&self, file: &File, outcome: &Result<(), Error>) {
        let is_settled = outcome.as_ref().map_or_else(Error::is_lost_race, |()| true);
        let (kept, now) = {
            let mut state = file.state();
            let Some(kept) = state.annotations.take_if(|_| is_settled) else { return };
            let is_named = outcome.is_ok() && !state.unlinked;
            let now = state.source.clone().filter(|source| is_named && source.version.etag != *kept.of());
            (kept, now)
        };
        let Some(now) = now else { return self.gateway.release_annotations(&kept).await };
        if let Err(error) = self.gateway.put_annotations_back(&kept, &now.key, &now.version).await {
            let remedy = error.remedy();
            tracing::error!(
                key = %now.key, held = %kept.held(), %error, remedy,
                "the new object does not have the annotations of the old one yet; they are held, and the next mount \
                 on this host puts them back"
            );
        }
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
