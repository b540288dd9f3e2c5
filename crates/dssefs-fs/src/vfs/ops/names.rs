//! Making, removing and moving names, and listing them.

use std::sync::{Arc, PoisonError};

use crate::namespace::{Ino, Kind, Node, Snapshot};
use dssefs_s3::object::Name;
use dssefs_s3::s3::Source;

use crate::vfs::file::{File, has_content};
use crate::vfs::{Error, Fh, Vfs};

/// What the kernel asks of a rename beside moving the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// An existing target is replaced.
    Replace,
    /// An existing target is an error.
    NoReplace,
}

impl Vfs {
    /// Makes a directory: its marker stands in the store when this returns.
    ///
    /// # Errors
    /// The name is taken or cannot be kept, or the store refused.
    pub async fn mkdir(&self, parent: Ino, name: &Name, mode: u32, uid: u32, gid: u32) -> Result<Node, Error> {
        let _subtree = self.namespace.lock_shared(parent).await;
        let (mode, gid) = match self.namespace.inherited_group(parent) {
            Some(inherited) => (mode | 0o2000, inherited),
            None => (mode, gid),
        };
        Ok(self.namespace.mkdir(parent, name, mode, uid, gid).await?)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// It is not empty, not a directory, not there, or the store refused.
    pub async fn rmdir(&self, parent: Ino, name: &Name) -> Result<(), Error> {
        let node = self.namespace.lookup(parent, name).await?;
        let outcome = {
            // The directory as well: a rename of it that failed may not be undone yet.
            let _subtree = self.namespace.lock_shared_both(parent, node.ino).await;
            self.namespace.rmdir(parent, name).await
        };
        self.namespace.forget(node.ino, 1);
        Ok(outcome?)
    }

    /// Removes a file's name. Programs that have it open go on reading and writing it.
    ///
    /// # Errors
    /// It is not there or a directory, the store refused, or the bytes that open handles still need cannot be kept
    /// here.
    pub async fn unlink(&self, parent: Ino, name: &Name) -> Result<(), Error> {
        let _subtree = self.namespace.lock_shared(parent).await;
        let node = self.namespace.lookup(parent, name).await?;
        let outcome = self.unlink_node(parent, name, &node).await;
        self.namespace.forget(node.ino, 1);
        outcome
    }

    async fn unlink_node(&self, parent: Ino, name: &Name, node: &Node) -> Result<(), Error> {
        if !has_content(node.attributes.kind) {
            self.namespace.unlink(parent, name).await?;
            return Ok(());
        }
        let file = self.enter(node.ino).await?;
        let outcome = self.unlink_open(parent, name, &file).await;
        self.leave(&file).await;
        outcome
    }

    async fn unlink_open(&self, parent: Ino, name: &Name, file: &Arc<File>) -> Result<(), Error> {
        let _turn = file.turn.lock().await;
        let object = self.namespace.key(file.ino);
        self.part_with_name(file).await?;
        let outcome = self.namespace.unlink(parent, name).await;
        file.state().unlinked = outcome.is_ok();
        outcome?;
        file.stand_on_held();
        self.let_go_of_removed(file, object.as_ref()).await
    }

    /// Keeps the bytes that open handles need, and lets no commit of the file happen any more: one that came after the
    /// removal of the name would bring it back.
    async fn part_with_name(&self, file: &Arc<File>) -> Result<(), Error> {
        if let Some(writer) = file.writer() {
            // An object whose answer was lost has to go with the name.
            writer.resolve_ambiguous_commits().await?;
        }
        self.release_copies(file).await?;
        self.keep_for_handles(file).await?;
        self.settle_for_good(Some(file)).await?;
        file.state().unlinked = true;
        if let Some(writer) = file.writer() {
            writer.commits_settled().await;
        }
        Ok(())
    }

    /// Moves a name: that of a file, or that of a directory with all that is below it.
    ///
    /// # Errors
    /// As unlink and create together; nothing is lost when it fails half-way: the object stands under its old name or
    /// under both.
    pub async fn rename(&self, from: (Ino, &Name), to: (Ino, &Name), mode: RenameMode) -> Result<(), Error> {
        let _subtree = self.namespace.lock_shared_both(from.0, to.0).await;
        let moved = self.namespace.lookup(from.0, from.1).await?;
        let target = match self.namespace.lookup(to.0, to.1).await {
            Ok(node) => Some(node),
            Err(crate::namespace::Error::NotFound) => None,
            Err(error) => {
                self.namespace.forget(moved.ino, 1);
                return Err(error.into());
            }
        };
        let outcome = if moved.attributes.kind == Kind::Directory {
            self.rename_directory(from, to, mode, &moved, target.as_ref()).await
        } else if let Err(refused) = self.refuse_to_move(&moved).await {
            Err(refused)
        } else {
            self.rename_nodes(from, to, mode, &moved, target.as_ref()).await
        };
        for node in [Some(moved), target].into_iter().flatten() {
            self.namespace.forget(node.ino, 1);
        }
        outcome
    }

    async fn refuse_to_move(&self, moved: &Node) -> Result<(), Error> {
        match self.files.find(moved.ino) {
            Some(file) => self.refuse_to_rewrite(&file).await,
            None => self.refuse_to_rewrite_name(moved.ino).await,
        }
    }

    async fn rename_nodes(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
        moved: &Node,
        target: Option<&Node>,
    ) -> Result<(), Error> {
        let moved_file = self.enter_node(moved).await?;
        let target_file = match target.filter(|target| target.ino != moved.ino) {
            Some(target) => self.enter_node(target).await,
            None => Ok(None),
        };
        let outcome = match &target_file {
            Ok(target_file) => {
                let files = (moved_file.as_ref(), target_file.as_ref());
                self.rename_files(from, to, mode, files, target.is_some()).await
            }
            Err(_) => Ok(()),
        };
        let entered = [moved_file, target_file.as_ref().ok().cloned().flatten()];
        for file in entered.into_iter().flatten() {
            self.leave(&file).await;
        }
        target_file.map(drop).and(outcome)
    }

    async fn enter_node(&self, node: &Node) -> Result<Option<Arc<File>>, Error> {
        if has_content(node.attributes.kind) { self.enter(node.ino).await.map(Some) } else { Ok(None) }
    }

    async fn rename_files(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
        (moved, target): (Option<&Arc<File>>, Option<&Arc<File>>),
        target_exists: bool,
    ) -> Result<(), Error> {
        // 1. Close the moved file to writes, which could begin an upload under the old name, and settle what is bound
        //    to that name.
        let _closed = match moved {
            Some(file) => Some(self.namespace.lock_exclusive(file.ino, None).await),
            None => None,
        };
        if let Some(file) = moved {
            self.settle_before_rename(file, target_exists).await?;
            self.settle_for_good(Some(file)).await?;
        }
        // 2. Take the turn of both files.
        let _moved_turn = match moved {
            Some(file) => Some(file.turn.lock().await),
            None => None,
        };
        let _target_turn = match target {
            Some(file) => Some(file.turn.lock().await),
            None => None,
        };
        if let Some(file) = moved {
            self.release_copies(file).await?;
        }
        // 3. Keep what handles of the target need. This is the last of what may fail before the name moves: a target
        //    that stays must not be taken for one that is gone.
        if let Some(file) = target.filter(|_| mode == RenameMode::Replace) {
            self.part_with_name(file).await?;
        }
        // 4. Move the name.
        let before = moved.and_then(|file| self.namespace.key(file.ino));
        let replaced = target.and_then(|file| self.namespace.key(file.ino));
        let outcome = self.namespace.rename(from, to, mode == RenameMode::NoReplace).await;
        let has_moved = outcome.is_ok() || before != moved.and_then(|file| self.namespace.key(file.ino));
        // 5. The target has lost its name, the moved file goes on under its new one.
        let mut let_go = Ok(());
        if let Some(file) = target {
            // Also where the copy has replaced it, and the file could not be deleted under its old name.
            let is_replaced = self.namespace.key(file.ino).is_none();
            file.state().unlinked = is_replaced;
            if is_replaced {
                file.stand_on_held();
                let_go = self.let_go_of_removed(file, replaced.as_ref()).await;
            }
        }
        if let Some(file) = moved.filter(|file| has_moved && file.state().head.is_some()) {
            self.repin(file);
        }
        if let Some(file) = moved.filter(|_| has_moved) {
            self.keep_under_new_name(file).await?;
        }
        outcome?;
        let_go
    }

    /// A file that never was in the store and has no upload under way can simply take a free name, and what the journal
    /// keeps of it goes with it. Any other is made safe under the old name first, because its object or its upload is
    /// bound to that, because what it replaces is in the store, or because the journal would have too much to seal
    /// again.
    async fn settle_before_rename(&self, file: &Arc<File>, target_exists: bool) -> Result<(), Error> {
        let stays = file.is_bound() || target_exists || !file.goes_with_its_name();
        if stays { self.commit(file).await } else { Ok(()) }
    }

    /// Keeps what open handles need of the object that `file` is about to lose: as a copy within the store, and on this
    /// host where the store refuses the copy. Sends nothing when no handle is open, or when a version stays readable by
    /// its id.
    async fn keep_for_handles(&self, file: &Arc<File>) -> Result<(), Error> {
        let is_open = file.state().users > 1;
        if !is_open {
            return Ok(());
        }
        // Parts that were sent ahead are readable only as an object.
        if let Some(writer) = file.writer().filter(|writer| writer.is_streaming()) {
            writer.commit().await?;
        }
        let Some(key) = self.namespace.key(file.ino) else { return Ok(()) };
        let Some(needed) = file.needed_of(&key) else { return Ok(()) };
        // No handle may read what the mount refuses to serve, and a copy would look compliant.
        if self.refuse_noncompliant(file).is_err() {
            return Ok(());
        }
        match self.hold(file, &needed).await {
            Err(error) if !error.is_of_a_version() => {
                tracing::warn!(
                    %key, %error, remedy = error.remedy(),
                    "the store did not copy a file that programs have open and that is about to be removed; \
                     the mount reads all of it instead"
                );
                let writer = self.writer_parts().writer_of(file).await?;
                Ok(writer.materialize_base().await?)
            }
            outcome => outcome,
        }
    }

    async fn hold(&self, file: &Arc<File>, needed: &Source) -> Result<(), Error> {
        let earlier = file.state().held.take();
        let held = match earlier {
            // An earlier removal of the name failed.
            Some(earlier) if earlier.of == needed.version => earlier,
            earlier => {
                if let Some(earlier) = earlier {
                    self.namespace.release(&earlier).await;
                }
                self.namespace.hold(needed).await?
            }
        };
        file.state().held = Some(held);
        Ok(())
    }

    /// The directory that a directory is in; the root is in itself.
    #[must_use]
    pub fn parent(&self, ino: Ino) -> Ino {
        self.namespace.parent(ino)
    }

    /// Opens a directory for the user `uid`; it is read when its first entry is asked for.
    ///
    /// # Errors
    /// [`Error::TooManyOpen`].
    pub fn open_directory(&self, ino: Ino, uid: u32) -> Result<Fh, Error> {
        self.handles.add_directory(ino, uid)
    }

    /// The entries of an open directory, `.` and `..` not among them. They stay the same until `rewind`.
    ///
    /// # Errors
    /// It is gone, the store cannot be asked, or the names would take more memory than they may.
    pub async fn entries(&self, fh: Fh, rewind: bool) -> Result<Arc<Snapshot>, Error> {
        let open = self.handles.directory(fh)?;
        let known = open.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known.filter(|_| !rewind) {
            Some(entries) => Ok(entries),
            None => {
                let entries = self.namespace.list(open.ino).await?;
                self.handles.keep_entries(&open, &entries)?;
                Ok(entries)
            }
        }
    }

    /// The last reference to a directory's handle is gone.
    pub fn release_directory(&self, fh: Fh) {
        self.handles.remove_directory(fh);
    }
}
