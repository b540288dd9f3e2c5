//! rename of files: a copy by the store, then a delete.

use std::sync::Arc;
use std::time::SystemTime;

use super::Namespace;
use super::error::Error;
use super::file::is_in_store;
use super::node::{Ino, Timestamp};
use super::posix;
use super::reserved::refuse_reserved;
use dssefs_s3::object::{ETag, Key, Name};
use dssefs_s3::s3::{Condition, Head};

/// The two ends of a rename, as the table knows them.
struct Plan {
    source: Ino,
    target: Option<Ino>,
    from: Key,
    to: Key,
    in_store: bool,
    time: Timestamp,
}

impl Namespace {
    /// Renames a file: one copy that carries everything over, then one DELETE. A file that is not in the store yet only
    /// changes its name. The caller has looked both names up before.
    ///
    /// The name moves between the copy and the delete, so that a reader always finds one of both. When the delete
    /// fails, both names are in the store, and the error says so. What another host puts under the old key in between
    /// stays there.
    ///
    /// # Errors
    /// [`Error::Exists`] when `no_replace` and the name is taken; [`Error::IsADirectory`] when a directory has it,
    /// also when the source is one, which [`Namespace::move_directory`] moves; [`Error::NotFound`], [`Error::Name`],
    /// [`Error::Reserved`], and the store's.
    pub async fn rename(self: &Arc<Self>, from: (Ino, &Name), to: (Ino, &Name), no_replace: bool) -> Result<(), Error> {
        let source = self.at_hand(from.0, from.1).await?;
        let _guard = self.inode_locks.lock(source).await;
        let plan = self.plan(source, from, to)?;
        if plan.target == Some(source) {
            return if no_replace { Err(Error::Exists) } else { Ok(()) };
        }
        if no_replace && plan.target.is_some() {
            return Err(Error::Exists);
        }
        if plan.in_store {
            let copied = self.copy_to(&plan, no_replace).await;
            let is_taken = |error| if no_replace { self.exists_if_taken(to.0, error) } else { error };
            let (copied, object) = copied.map_err(is_taken)?;
            self.move_name(&plan, from, to, Some(object))?;
            self.delete_source(&plan.from, &copied, from).await?;
        } else {
            self.move_name(&plan, from, to, None)?;
        }
        self.keep_alive(from.0).await;
        Ok(())
    }

    fn plan(&self, source: Ino, from: (Ino, &Name), to: (Ino, &Name)) -> Result<Plan, Error> {
        let table = self.table();
        let target = table.child(to.0, to.1)?;
        let entry = table.entry(source)?;
        if target.is_some_and(|ino| table.entry(ino).is_ok_and(super::entry::Entry::is_directory))
            && !entry.is_directory()
        {
            return Err(Error::IsADirectory);
        }
        if entry.is_directory() {
            return Err(Error::IsADirectory);
        }
        refuse_reserved(to.1)?;
        let (from, to) = (table.prefix(from.0)?.file(from.1)?, table.prefix(to.0)?.file(to.1)?);
        let in_store = is_in_store(entry);
        Ok(Plan { source, target, from, to, in_store, time: SystemTime::now().into() })
    }

    /// The version that was copied, and the copy.
    async fn copy_to(self: &Arc<Self>, plan: &Plan, no_replace: bool) -> Result<(ETag, Arc<Head>), Error> {
        // Of a dirty file, the version that its changes are based on.
        let head = self.facts_to_carry(plan.source).await?;
        let condition = if no_replace { Condition::Absent } else { Condition::None };
        let user = posix::with_ctime(head.meta.user.clone(), plan.time);
        let copied = self.copy(&plan.from, &head, &plan.to, user, &condition).await;
        let copied = copied.inspect_err(|error| _ = self.learn_from(plan.source, error));
        let new = copied?;
        self.note_copy(plan.source, &head.meta.version.etag, &new.meta.version.etag);
        Ok((head.meta.version.etag.clone(), new))
    }

    /// `object` is what the file is under its new key; none when it is not in the store.
    fn move_name(
        &self,
        plan: &Plan,
        from: (Ino, &Name),
        to: (Ino, &Name),
        object: Option<Arc<Head>>,
    ) -> Result<(), Error> {
        let (now, time) = (self.now(), plan.time);
        let mut table = self.table();
        if let Some(target) = plan.target {
            table.detach(target);
        }
        table.relocate(plan.source, to.0, to.1)?;
        table.change_clock.remove(from.0, from.1);
        let entry = table.change(plan.source)?;
        entry.attributes.ctime = time;
        if object.is_some() {
            (entry.object, entry.listed, entry.seen) = (object, None, Some(now));
        }
        table.touch(from.0, time);
        table.touch(to.0, time);
        Ok(())
    }

    /// Deletes the source if it still is the version that was `copied`.
    async fn delete_source(&self, key: &Key, copied: &ETag, from: (Ino, &Name)) -> Result<(), Error> {
        let deleted = match self.settings.conditional {
            true => self.gateway.delete_version(key, copied).await,
            false => self.gateway.delete(key).await.map(|()| true),
        };
        if matches!(deleted, Ok(false)) {
            tracing::warn!(
                %key,
                "another host has changed the file while it was renamed; \
                 the file stays under its old name as well: compare both, and delete the one that is not needed"
            );
        }
        let mut table = self.table();
        match deleted {
            Ok(true) => table.change_clock.remove(from.0, from.1),
            // The old name is in the store; the next listing shows it again.
            Ok(false) | Err(_) => table.directory_mut(from.0)?.listed = None,
        }
        Ok(deleted.map(drop)?)
    }
}
