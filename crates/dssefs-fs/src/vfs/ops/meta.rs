//! Lookups, attributes, and the size of the whole.

use std::sync::Arc;
use std::time::SystemTime;

use crate::namespace::{self, Attributes, Change, Ino, Node, Privileges, Timestamp};
use crate::write;
use dssefs_s3::object::{Key, Name};
use dssefs_s3::s3::FailedWrite;

use crate::vfs::file::{File, has_content};
use crate::vfs::{Error, Fh, Vfs};

/// A new time of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// The time at which the call is carried out.
    Now,
    /// This time.
    To(Timestamp),
}

/// What a program wants changed; what is None stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of last access.
    pub atime: Option<TimeChange>,
    /// Time of last change of content.
    pub mtime: Option<TimeChange>,
    /// The handle it was asked through, which will be flushed later.
    pub fh: Option<Fh>,
    /// What a change of the length, owner or group does beside that.
    pub privileges: Privileges,
}

/// What df shows: a bucket has no size, so it is a round number with room for everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Bytes of one block.
    pub block_bytes: u32,
    /// Blocks in all, and free.
    pub blocks: u64,
    /// Files in all, and free.
    pub files: u64,
    /// The longest name in bytes.
    pub name_bytes_max: u32,
}

impl Vfs {
    /// Finds a name, and gives the kernel one reference to what it found.
    ///
    /// # Errors
    /// There is no such name, or the store cannot be asked.
    pub async fn lookup(&self, parent: Ino, name: &Name) -> Result<Node, Error> {
        let mut node = self.namespace.lookup(parent, name).await?;
        if let Some(attributes) = self.files.find(node.ino).and_then(|file| file.changed_attributes()) {
            node.attributes = attributes;
        }
        Ok(node)
    }

    /// The kernel gives references back.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.namespace.forget(ino, count);
    }

    /// What stat(2) says.
    ///
    /// # Errors
    /// The file is gone, or the store cannot be asked.
    pub async fn attributes(&self, ino: Ino) -> Result<Attributes, Error> {
        if let Some(file) = self.files.find(ino) {
            let unlinked = file.state().unlinked;
            if unlinked {
                return Ok(Attributes { nlink: 0, ..file.attributes() });
            }
            if let Some(attributes) = file.changed_attributes() {
                return Ok(attributes);
            }
        }
        Ok(self.namespace.attributes(ino).await?)
    }

    /// chmod, chown, utimens, truncate. A file with changes carries them in its next commit; any other is changed in
    /// the store at once.
    ///
    /// # Errors
    /// As the parts of it: nothing is reported as done that the store has not taken or will not take with the next
    /// commit.
    pub async fn set_attributes(&self, ino: Ino, change: SetAttributes) -> Result<Attributes, Error> {
        let _subtree = self.namespace.lock_shared(ino).await;
        if let Some(size) = change.size {
            self.truncate(ino, size, &change).await?;
        }
        let now = Timestamp::from(SystemTime::now());
        let time = |time: TimeChange| match time {
            TimeChange::Now => now,
            TimeChange::To(time) => time,
        };
        let wanted = Change {
            mode: change.mode,
            uid: change.uid,
            gid: change.gid,
            mtime: change.mtime.map(time),
            atime: change.atime.map(time),
            privileges: change.privileges,
        };
        if wanted.is_empty() { self.attributes(ino).await } else { self.change(ino, &wanted, now).await }
    }

    /// The last requests of a mount: directories keep the times that they have here.
    pub async fn store_directory_times(&self) {
        self.namespace.store_directory_times().await;
    }

    /// What df shows.
    #[must_use]
    pub fn statfs(&self) -> Statfs {
        const BLOCK_BYTES: u32 = 64 * 1024;
        const PIB: u64 = 1 << 50;
        Statfs {
            block_bytes: BLOCK_BYTES,
            blocks: PIB / u64::from(BLOCK_BYTES),
            files: 1_000_000_000,
            name_bytes_max: 255,
        }
    }

    /// Cuts or lengthens a file. Asked by path and not through a handle, no flush will follow, so it is made safe here.
    async fn truncate(&self, ino: Ino, size: u64, change: &SetAttributes) -> Result<(), Error> {
        if change.fh.is_none() {
            // Nothing may be changed here of a version that another host has replaced: no handle could save the rest.
            self.namespace.expire(ino);
        }
        let file = self.enter_current(ino).await?;
        let outcome = self.truncate_file(&file, size, change).await;
        self.leave(&file).await;
        outcome
    }

    async fn truncate_file(&self, file: &Arc<File>, size: u64, change: &SetAttributes) -> Result<(), Error> {
        if size > 0 {
            self.refuse_to_rewrite(file).await?;
        }
        // What another program is writing is published by its own close, and the new length with it.
        let is_being_written = file.state().users > 1 && file.writer().is_some_and(|writer| writer.has_unpromised());
        self.resize(file, size, change.privileges).await?;
        match change.fh {
            Some(fh) => self.handles.file(fh)?.note_change(),
            None if is_being_written => {}
            None => self.commit(file).await?,
        }
        Ok(())
    }

    /// After a call that could have changed content and did not: Linux takes the set-user-id bits away then too.
    pub(in crate::vfs) async fn lose_privileges(&self, file: &File, privileges: Privileges) -> Result<(), Error> {
        let before = file.attributes();
        let mode = privileges.after_write(before.mode, before.gid);
        if mode == before.mode {
            return Ok(());
        }
        let change = Change { mode: Some(mode), ..Change::default() };
        self.change(file.ino, &change, SystemTime::now().into()).await.map(drop)
    }

    async fn change(&self, ino: Ino, change: &Change, now: Timestamp) -> Result<Attributes, Error> {
        if !has_content(self.attributes(ino).await?.kind) {
            self.refuse_to_rewrite_name(ino).await?;
            return Ok(self.namespace.set_attributes(ino, change).await?);
        }
        let file = self.enter(ino).await?;
        let outcome = match self.refuse_to_rewrite(&file).await {
            Ok(()) => self.change_file(&file, change, now).await,
            Err(refused) => Err(refused),
        };
        self.leave(&file).await;
        outcome
    }

    async fn change_file(&self, file: &Arc<File>, change: &Change, now: Timestamp) -> Result<Attributes, Error> {
        let _turn = file.turn.lock().await;
        self.refuse_lost(file)?;
        let writer = file.writer().filter(|_| file.is_changing());
        if writer.is_some() || file.state().unlinked {
            file.change_attributes(|attributes| change.applied(attributes, now));
            if let Some(writer) = writer {
                writer.touch();
            }
            self.keep_attributes(file).await?;
            return Ok(file.attributes());
        }
        self.release_copies(file).await?;
        let changed = self.namespace.set_attributes(file.ino, change).await;
        let attributes = match changed {
            Err(error) => {
                self.note_ambiguous_copy(file, &error).await;
                return Err(error.into());
            }
            Ok(attributes) => attributes,
        };
        self.repin(file);
        Ok(attributes)
    }

    /// A call by name that changes attributes is for the object that has the name: the kernel looks it up again.
    pub(in crate::vfs) fn refuse_lost(&self, file: &File) -> Result<(), Error> {
        if self.namespace.is_lost(file.ino) { Err(Error::Stale) } else { Ok(()) }
    }

    /// What a failed commit tells of names: another writer has that of the file, or of what it is a copy of.
    pub(in crate::vfs) fn learn_from(&self, file: &File, error: &Error) {
        if error.is_lost_race() {
            self.namespace.lose(file.ino);
        }
        if let Error::Write(write::Error::SourceGone { source_key, .. }) = error
            && let Ok(source) = Key::new(source_key.clone())
        {
            self.namespace.expire_key(&source);
        }
    }

    /// A copy of the file onto itself that may have been made although it failed is no other writer's object to who has
    /// the file open.
    pub(in crate::vfs) async fn note_ambiguous_copy(&self, file: &Arc<File>, error: &namespace::Error) {
        let namespace::Error::Store(error) = error else { return };
        let FailedWrite::Unknown(attempt) = error.failed_write() else { return };
        if file.state().source.is_none() {
            return;
        }
        match self.writer_parts().writer_of(file).await {
            Ok(writer) => writer.note_ambiguous_copy(attempt),
            Err(error) => tracing::warn!(%error, "programs that have the file open may have to open it again"),
        }
    }

    /// After this mount has replaced the object of `file` by a copy: its handles read that from now on. No request.
    pub(in crate::vfs) fn repin(&self, file: &File) {
        // A file that is not open shows nothing yet; opening it looks at the object.
        let Some(source) = file.state().source.clone() else { return };
        // If another host has put its object there meanwhile, the handles keep the version that they have.
        if let Some((key, head, attributes)) = self.namespace.own_copy(file.ino, &source.version) {
            self.pages.are_now(file.ino, &head.meta.version);
            file.replaced((*head).clone(), &key, attributes);
        }
    }

    /// The file of `ino` with one more user, showing the version that is in the store now.
    async fn enter_current(&self, ino: Ino) -> Result<Arc<File>, Error> {
        let file = self.enter(ino).await?;
        match self.pin(&file).await {
            Ok(_) => Ok(file),
            Err(error) => {
                self.leave(&file).await;
                Err(error)
            }
        }
    }
}
