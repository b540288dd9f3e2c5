//! All files that are open or unsaved.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::namespace::{Ino, NumbersInUse};

use super::file::File;

/// The open and unsaved files of a mount, by inode.
pub(crate) struct Files(Mutex<Table>);

struct Table {
    files: HashMap<Ino, Arc<File>>,
    /// Held for each of them: the number of a file whose node is gone must not become that of another file.
    numbers: Arc<NumbersInUse>,
    /// Those among them that have been copies of other objects since they came in. Each commit asks for them, and a
    /// search through all pending files would be too slow.
    copies: HashSet<Ino>,
}

impl Files {
    pub(crate) fn new(numbers: Arc<NumbersInUse>) -> Files {
        Files(Mutex::new(Table { files: HashMap::new(), numbers, copies: HashSet::new() }))
    }

    pub(crate) fn find(&self, ino: Ino) -> Option<Arc<File>> {
        self.map(|table| table.files.get(&ino).cloned())
    }

    /// The file of `ino`, made by `make` if there is none, with one more user.
    pub(crate) fn enter(&self, ino: Ino, make: impl FnOnce() -> File) -> Arc<File> {
        self.map(|table| {
            table.numbers.hold(ino);
            let file = Arc::clone(table.files.entry(ino).or_insert_with(|| Arc::new(make())));
            file.state().users += 1;
            file
        })
    }

    /// The file of `ino` with one more user, if it is open or unsaved.
    pub(crate) fn enter_existing(&self, ino: Ino) -> Option<Arc<File>> {
        self.map(|table| {
            let file = Arc::clone(table.files.get(&ino)?);
            file.state().users += 1;
            Some(file)
        })
    }

    /// One user less; a file without users and without unsaved changes is forgotten.
    pub(crate) fn leave(&self, file: &Arc<File>) {
        self.map(|table| {
            file.state().users -= 1;
            table.forget_idle(file);
        });
    }

    /// Forgets a file without users, after its changes were saved or given up.
    pub(crate) fn forget(&self, file: &Arc<File>) {
        self.map(|table| table.forget_idle(file));
    }

    /// All files with changes that the store does not have.
    pub(crate) fn unsaved(&self) -> Vec<Arc<File>> {
        self.all().into_iter().filter(|file| file.is_dirty()).collect()
    }

    /// Notes that an open file has become a copy of another object.
    pub(crate) fn note_copy(&self, file: &File) {
        self.map(|table| table.copies.insert(file.ino));
    }

    /// The files with changes that may be copies of other objects.
    pub(crate) fn unsaved_copies(&self) -> Vec<Arc<File>> {
        let copies = |table: &mut Table| table.copies.iter().filter_map(|ino| table.files.get(ino)).cloned().collect();
        let copies: Vec<Arc<File>> = self.map(copies);
        copies.into_iter().filter(|file| file.is_dirty()).collect()
    }

    /// All files that are open or unsaved.
    pub(crate) fn all(&self) -> Vec<Arc<File>> {
        self.map(|table| table.files.values().cloned().collect())
    }

    /// All files that are open or unsaved and stand where `stands` says.
    pub(crate) fn standing(&self, stands: impl Fn(Ino) -> bool) -> Vec<Arc<File>> {
        self.all().into_iter().filter(|file| stands(file.ino)).collect()
    }

    fn map<T>(&self, apply: impl FnOnce(&mut Table) -> T) -> T {
        apply(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Table {
    fn forget_idle(&mut self, file: &Arc<File>) {
        // The task that saved it may come here when the file was forgotten long ago, and another one of its inode is in
        // use.
        let is_known = self.files.get(&file.ino).is_some_and(|known| Arc::ptr_eq(known, file));
        if is_known && file.state().users == 0 && !file.is_dirty() {
            self.files.remove(&file.ino);
            self.copies.remove(&file.ino);
            self.numbers.release(file.ino);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgetting_an_old_file_late_keeps_the_new_one_of_its_inode() {
        let files = Files::new(Arc::default());
        let enter = || files.enter(Ino::ROOT, || File::empty(Ino::ROOT));
        let old = enter();
        files.leave(&old);
        let new = enter();
        files.forget(&old);
        assert!(files.find(Ino::ROOT).is_some_and(|found| Arc::ptr_eq(&found, &new)));
        files.leave(&new);
        assert!(files.find(Ino::ROOT).is_none());
    }
}
