//! The extended attributes `user.*` that programs set: kept with the object, as `namespace::xattr` says.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::namespace::xattr::{self, Edit, Expect, is_reported};
use crate::namespace::{self, Ino};
use dssefs_s3::object::UserMetadata;

use super::xattr::{USER, is_report};
use crate::vfs::file::{File, has_content};
use crate::vfs::{Error, Vfs};

impl Vfs {
    /// Sets an attribute. It is in the store when this returns; of a file with changes it joins their commit.
    ///
    /// One under which the mount reports is taken and ignored: programs that copy a file with its attributes would
    /// fail or complain otherwise. What the mount reports stays what it is.
    ///
    /// # Errors
    /// The name is ours or none that can be kept, the attribute is there or not there as `expect` forbids, it has no
    /// room, or the store refused.
    pub async fn set_attribute(&self, ino: Ino, name: &[u8], value: &[u8], expect: Expect) -> Result<(), Error> {
        if name == crate::vfs::RETRY_ATTRIBUTE.as_bytes() {
            return self.retry_unsaved(ino);
        }
        if is_report(name) {
            if expect == Expect::Absent {
                return Err(namespace::Error::from(xattr::Error::Exists).into());
            }
            self.note_ignored_report();
            return Ok(());
        }
        let (name, value) = (own_name(name)?.to_vec(), value.to_vec());
        self.edit(ino, Edit::Set { name, value, expect }).await
    }

    /// Removes an attribute, likewise. One under which the mount reports stays: a program that makes a copy like its
    /// source removes what the source does not have.
    ///
    /// # Errors
    /// As [`Vfs::set_attribute`].
    pub async fn remove_attribute(&self, ino: Ino, name: &[u8]) -> Result<(), Error> {
        if is_report(name) {
            self.note_ignored_report();
            return Ok(());
        }
        self.edit(ino, Edit::Remove { name: own_name(name)?.to_vec() }).await
    }

    fn note_ignored_report(&self) {
        self.ignored_report.call_once(|| {
            tracing::info!(
                "a program has set or removed attributes user.dsse.*, as programs do that copy attributes; \
                 the mount ignores that here and from now on, because these attributes report what the store says"
            );
        });
    }

    pub(in crate::vfs) async fn user_names(&self, ino: Ino) -> Result<BTreeSet<Vec<u8>>, Error> {
        // With `--attributes listing`, `ls -l` must not cost a HEAD for each file here either.
        if self.files.find(ino).is_none() && self.namespace.is_only_listed(ino) {
            return Ok(BTreeSet::new());
        }
        Ok(xattr::names(&self.user_metadata(ino).await?))
    }

    pub(in crate::vfs) async fn user_attribute(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, Error> {
        xattr::value(&self.user_metadata(ino).await?, name).ok_or(Error::NoAttribute)
    }

    /// What a program sees: with changes that are not in the store yet.
    async fn user_metadata(&self, ino: Ino) -> Result<UserMetadata, Error> {
        if let Some(user) = self.files.find(ino).and_then(|file| file.changed_user()) {
            return Ok(user);
        }
        match self.namespace.head(ino).await {
            Ok(head) => Ok(head.meta.user.clone()),
            // A directory without a marker has none, and neither has what is gone.
            Err(namespace::Error::NotFound) => Ok(UserMetadata::new()),
            Err(error) => Err(error.into()),
        }
    }

    async fn edit(&self, ino: Ino, edit: Edit) -> Result<(), Error> {
        let _subtree = self.namespace.lock_shared(ino).await;
        if !has_content(self.attributes(ino).await?.kind) {
            self.refuse_to_rewrite_name(ino).await?;
            self.namespace.set_xattr(ino, &edit).await?;
            return Ok(());
        }
        let file = self.enter(ino).await?;
        let outcome = match self.refuse_to_rewrite(&file).await {
            Ok(()) => self.edit_file(&file, &edit).await,
            Err(refused) => Err(refused),
        };
        self.leave(&file).await;
        outcome
    }

    async fn edit_file(&self, file: &Arc<File>, edit: &Edit) -> Result<(), Error> {
        let _turn = file.turn.lock().await;
        self.refuse_lost(file)?;
        self.release_copies(file).await?;
        if file.changed_user().is_none() {
            match self.namespace.set_xattr(file.ino, edit).await {
                Ok(Some(_)) => {
                    self.repin(file);
                    return Ok(());
                }
                Ok(None) => {}
                Err(error) => {
                    self.note_ambiguous_copy(file, &error).await;
                    return Err(error.into());
                }
            }
        }
        file.edit_user(edit)?;
        if let Some(writer) = file.writer() {
            writer.touch();
        }
        self.keep_attributes(file).await
    }
}

/// What follows `user.` in the name of an attribute that programs may set.
fn own_name(name: &[u8]) -> Result<&[u8], Error> {
    let alias = name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case(b"s3."));
    match name.strip_prefix(USER) {
        Some(name) if is_reported(name) => Err(Error::ReadOnlyAttribute),
        None if alias => Err(Error::ReadOnlyAttribute),
        Some([]) => Err(Error::Invalid("an extended attribute needs a name after `user.`")),
        Some(name) => Ok(name),
        // ACLs and capabilities among them: what is not enforced must not look as if it were kept.
        None => Err(Error::Unsupported("setting an extended attribute outside of user.*")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_users_can_be_set() {
        assert_eq!(own_name(b"user.a").unwrap(), b"a");
        for name in [
            "user.dsse.verdict",
            "user.dsse.made-up",
            "user.DSSE.verdict",
            "user.Dsse.x",
            "user.dssE.",
            "s3.etag",
            "S3.etag",
        ] {
            assert!(matches!(own_name(name.as_bytes()), Err(Error::ReadOnlyAttribute)), "{name}");
        }
        for other in ["dsse", "dssefs.x"] {
            assert_eq!(own_name(&[USER, other.as_bytes()].concat()).unwrap(), other.as_bytes(), "another word");
        }
        assert!(matches!(own_name(b"user."), Err(Error::Invalid(_))));
        for name in ["system.posix_acl_access", "security.capability", "trusted.x", "user", "mine"] {
            assert!(matches!(own_name(name.as_bytes()), Err(Error::Unsupported(_))), "{name}");
        }
    }
}
