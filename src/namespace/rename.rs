//! rename of files: a copy by the store, then a delete.

use std::sync::Arc;
use std::time::SystemTime;

use super::Namespace;
use super::directory::is_taken;
use super::error::Error;
use super::file::is_in_store;
use super::node::{Ino, Timestamp};
use super::posix;
use crate::object::{Key, Name, Version};
use crate::s3::{Condition, Head};

/// What a rename did.
#[derive(Clone, Debug)]
pub struct Renamed {
    /// The node that has the new name now; it kept its number.
    pub moved: Ino,
    /// Its object under the new key. None for a file that is not in the store yet. A dirty file's next commit replaces this one.
    pub object: Option<Arc<Head>>,
    /// The node that had the new name before.
    pub replaced: Option<Ino>,
    /// The object that is still under the new key, because the moved file is not in the store yet: its commit replaces this one.
    pub replaced_version: Option<Version>,
}

/// The two ends of a rename, as the table knows them.
struct Plan {
    source: Ino,
    target: Option<Ino>,
    from: Key,
    to: Key,
    object: Option<Arc<Head>>,
    in_store: bool,
    time: Timestamp,
}

impl Namespace {
    /// Renames a file: one copy that carries everything over, then one DELETE. A file that is not in the store yet only changes its
    /// name. The caller has looked both names up before.
    ///
    /// The name moves between the copy and the delete, so that a reader always finds one of both. When the delete fails, both
    /// names are in the store, and the error says so.
    ///
    /// # Errors
    /// [`Error::Exists`] when `no_replace` and the name is taken; [`Error::IsADirectory`] when a directory has it,
    /// also when the source is one, which [`Namespace::move_directory`] moves; [`Error::NotFound`], [`Error::Name`],
    /// [`Error::Reserved`], and the store's.
    pub async fn rename(
        self: &Arc<Self>,
        from: (Ino, &Name),
        to: (Ino, &Name),
        no_replace: bool,
    ) -> Result<Renamed, Error> {
        let source = self.at_hand(from.0, from.1).await?;
        let _turn = self.turns.take(source).await;
        let mut plan = self.plan(source, from, to)?;
        if plan.target == Some(source) {
            return if no_replace { Err(Error::Exists) } else { Ok(unmoved(source, plan.object)) };
        }
        if no_replace && plan.target.is_some() {
            return Err(Error::Exists);
        }
        if plan.in_store {
            plan.object = Some(self.copy_to(&plan, no_replace).await?);
        }
        let renamed = self.move_name(&plan, from, to)?;
        if plan.in_store {
            self.delete_source(&plan, from).await?;
        }
        self.keep_alive(from.0).await;
        Ok(renamed)
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
        self.settings.refuse_reserved(to.0, to.1)?;
        let (from, to) = (table.prefix(from.0)?.file(from.1)?, table.prefix(to.0)?.file(to.1)?);
        let (object, in_store) = (entry.object.clone(), is_in_store(entry));
        Ok(Plan { source, target, from, to, object, in_store, time: SystemTime::now().into() })
    }

    async fn copy_to(self: &Arc<Self>, plan: &Plan, no_replace: bool) -> Result<Arc<Head>, Error> {
        // Of a dirty file, the version that its changes are based on.
        let head = self.head(plan.source).await?;
        let condition = if no_replace { Condition::Absent } else { Condition::None };
        let user = posix::with_ctime(head.meta.user.clone(), plan.time);
        let copied = self.copy(&plan.from, &head, &plan.to, user, &condition).await;
        let new = copied.map_err(|error| if no_replace && is_taken(&error) { Error::Exists } else { error })?;
        self.note_copy(plan.source, &head.meta.version.etag, &new.meta.version.etag);
        Ok(new)
    }

    fn move_name(&self, plan: &Plan, from: (Ino, &Name), to: (Ino, &Name)) -> Result<Renamed, Error> {
        let (now, time) = (self.now(), plan.time);
        let mut table = self.table();
        let replaced_object = plan.target.and_then(|ino| table.entry(ino).ok()?.object.clone());
        if let Some(target) = plan.target {
            table.detach(target);
        }
        table.relocate(plan.source, to.0, to.1)?;
        table.moments.remove(from.0, from.1);
        let entry = table.change(plan.source)?;
        entry.attributes.ctime = time;
        if plan.in_store {
            (entry.object, entry.listed, entry.seen) = (plan.object.clone(), None, Some(now));
        }
        table.touch(from.0, time);
        table.touch(to.0, time);
        let replaced_version = replaced_object.filter(|_| !plan.in_store).map(|head| head.meta.version.clone());
        let object = plan.object.clone();
        Ok(Renamed { moved: plan.source, object, replaced: plan.target, replaced_version })
    }

    async fn delete_source(&self, plan: &Plan, from: (Ino, &Name)) -> Result<(), Error> {
        let deleted = self.gateway.delete(&plan.from).await;
        let mut table = self.table();
        match deleted {
            Ok(()) => table.moments.remove(from.0, from.1),
            // The old name is still in the store; the next listing shows it again.
            Err(_) => table.directory_mut(from.0)?.listed = None,
        }
        Ok(deleted?)
    }
}

fn unmoved(source: Ino, object: Option<Arc<Head>>) -> Renamed {
    Renamed { moved: source, object, replaced: None, replaced_version: None }
}
