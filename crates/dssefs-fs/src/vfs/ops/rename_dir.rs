//! The rename of a directory, with the files below it that programs have open.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use crate::namespace::{self, Ino, Kind, Node};
use dssefs_s3::object::Name;

use crate::vfs::file::File;
use crate::vfs::{Error, RenameMode, Vfs};

/// Files below the directory that are committed at the same time.
const COMMITS_MAX: usize = 8;

impl Vfs {
    /// Moves a directory. While that lasts, programs that change something below it wait, and those that read go on.
    ///
    /// # Errors
    /// As the kernel knows them, and the store's: see
    /// [`Namespace::move_directory`](namespace::Namespace::move_directory).
    pub(in crate::vfs) async fn rename_directory(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
        moved: &Node,
        target: Option<&Node>,
    ) -> Result<(), Error> {
        // 1. Refuse what the kernel's rules refuse. This call holds a shared lock of the target's parent: with the
        //    directory locked, the questions of step 1 would wait for themselves.
        let no_replace = mode == RenameMode::NoReplace;
        if let Some(target) = target {
            if no_replace {
                return Err(namespace::Error::Exists.into());
            }
            if target.ino == moved.ino {
                return Ok(());
            }
            if target.attributes.kind != Kind::Directory {
                return Err(namespace::Error::NotADirectory.into());
            }
        }
        if self.namespace.is_below(to.0, moved.ino) {
            return Err(namespace::Error::IntoItself.into());
        }
        if target.is_some_and(|target| self.namespace.is_below(from.0, target.ino)) {
            return Err(namespace::Error::NotEmpty.into());
        }
        // 2. Lock the directory, and bring what is bound to the old name into order below it.
        let exclusive = self.namespace.lock_exclusive(moved.ino, target.map(|target| target.ino)).await;
        self.settle_below(moved.ino).await?;
        self.settle_for_good(None).await?;
        self.release_copies_below(moved.ino).await?;
        self.refuse_to_rewrite_below(moved.ino).await?;
        // 3. Move it: from here on the new name shows it.
        let (moving, exclusive) = self.namespace.move_directory(from, to, no_replace, exclusive).await?;
        self.repin_below(moved.ino).await;
        // 4. Let programs go on, and delete the objects of the old name.
        drop(exclusive);
        Ok(self.namespace.finish_move(moving).await?)
    }

    /// Makes files safe whose changes are bound to an object or an upload under the old name, or kept by the journal
    /// under it. Any other that never was in the store only changes its name.
    async fn settle_below(&self, directory: Ino) -> Result<(), Error> {
        let files = self.files_below(directory).into_iter().filter(|file| {
            let is_kept = file.state().kept.is_some();
            file.is_dirty() && (is_kept || file.is_bound())
        });
        let commits = files.map(|file| async move { self.commit(&file).await });
        let outcomes: Vec<Result<(), Error>> = stream::iter(commits).buffer_unordered(COMMITS_MAX).collect().await;
        outcomes.into_iter().collect()
    }

    /// Open files are those of the new name from now on, before a program can change them again.
    async fn repin_below(&self, directory: Ino) {
        for file in self.files_below(directory) {
            let _turn = file.turn.lock().await;
            self.repin(&file);
        }
    }

    fn files_below(&self, directory: Ino) -> Vec<Arc<File>> {
        self.files.standing(|ino| self.namespace.is_below(ino, directory))
    }
}
