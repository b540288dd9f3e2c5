//! How answers of the store change the table. Each rule compares an answer with what this mount knows better.

use std::sync::Arc;

use super::entry::SeenVersion;
use super::error::Error;
use super::node::{Attributes, Ino};
use super::reserved::is_shadowed;
use super::table::Table;
use super::{Settings, When};
use dssefs_s3::object::Name;
use dssefs_s3::s3::Head;

/// The types of directories: s3fs's and the S3 console's, and that of older tools.
const PLAIN_MARKER_TYPES: [&str; 2] = ["application/x-directory", "httpd/unix-directory"];

/// What an answer about a name meets in the table.
pub(super) enum Standing {
    /// The node changed here after the question: the answer is older.
    Newer(Ino),
    /// The name was removed here after the question.
    Removed,
    /// A node to compare with.
    Known(Ino),
    /// Nothing.
    Free,
}

/// What a listing says of the marker of a directory.
#[derive(Clone, Debug)]
pub(super) enum Marker {
    /// There is none.
    Absent,
    /// It is this version.
    Version(SeenVersion),
}

impl Table {
    pub(super) fn standing(&self, parent: Ino, name: &Name, asked: u64) -> Result<Standing, Error> {
        let Some(ino) = self.child(parent, name)? else {
            let removed = self.change_clock.removed_since(parent, name, asked);
            return Ok(if removed { Standing::Removed } else { Standing::Free });
        };
        let entry = self.entry(ino)?;
        Ok(if entry.local || entry.changed > asked { Standing::Newer(ino) } else { Standing::Known(ino) })
    }

    /// HEAD has shown the object `name`. The node that has the name now.
    pub(super) fn file_seen(
        &mut self,
        parent: Ino,
        name: &Name,
        head: &Arc<Head>,
        when: When,
        settings: &Settings,
    ) -> Result<Ino, Error> {
        if is_plain_marker(head) && !is_shadowed(name) {
            return self.plain_marker_seen(parent, name, head, when, settings);
        }
        match self.standing(parent, name, when.asked)? {
            Standing::Newer(ino) => return Ok(ino),
            Standing::Removed => return Err(Error::NotFound),
            Standing::Known(ino) if !self.entry(ino)?.is_directory() => return self.renewed(ino, head, when, settings),
            Standing::Known(ino) => self.detach(ino),
            Standing::Free => {}
        }
        let ino = self.insert(parent, name, settings.known(head, false))?;
        self.know(ino, head, when)?;
        Ok(ino)
    }

    /// HEAD has shown an object `name` that says it is a directory.
    pub(super) fn plain_marker_seen(
        &mut self,
        parent: Ino,
        name: &Name,
        head: &Arc<Head>,
        when: When,
        settings: &Settings,
    ) -> Result<Ino, Error> {
        let ino = self.directory_seen(parent, name, when, settings.known(head, true))?;
        let entry = self.entry_mut(ino)?;
        if entry.is_directory() {
            entry.plain_marker = Some(Arc::clone(head));
        }
        Ok(ino)
    }

    /// A listing has shown the directory `name`. The node that has the name now.
    pub(super) fn directory_seen(
        &mut self,
        parent: Ino,
        name: &Name,
        when: When,
        implicit: Attributes,
    ) -> Result<Ino, Error> {
        let ino = match self.standing(parent, name, when.asked)? {
            Standing::Newer(ino) => return Ok(ino),
            Standing::Removed => return Err(Error::NotFound),
            Standing::Known(ino) if self.entry(ino)?.is_directory() => ino,
            Standing::Known(ino) => {
                self.detach(ino);
                self.insert(parent, name, implicit)?
            }
            Standing::Free => self.insert(parent, name, implicit)?,
        };
        let entry = self.entry_mut(ino)?;
        entry.seen = entry.seen.max(Some(when.at));
        Ok(ino)
    }

    /// A listing of the directory `ino` began with its marker, or without.
    pub(super) fn marker_seen(
        &mut self,
        ino: Ino,
        marker: &Marker,
        when: When,
        implicit: Attributes,
    ) -> Result<(), Error> {
        // No listing shows the object that has the attributes of a bucket's root.
        if self.entry(ino)?.changed > when.asked || self.is_bucket_root(ino) {
            return Ok(());
        }
        match marker {
            Marker::Absent => self.marker_missing(ino, when, implicit),
            Marker::Version(seen) => {
                let entry = self.entry_mut(ino)?;
                let same = entry.is_as_listed(seen);
                if !same {
                    entry.object = None;
                }
                let directory = self.directory_mut(ino)?;
                directory.marker = Some(true);
                directory.marker_checked = if same { directory.marker_checked.max(Some(when.at)) } else { None };
                Ok(())
            }
        }
    }

    /// The store has nothing under `name`. [`Error::NotFound`], unless this mount knows better.
    pub(super) fn nothing_seen(&mut self, parent: Ino, name: &Name, when: When) -> Result<Ino, Error> {
        match self.standing(parent, name, when.asked)? {
            Standing::Newer(ino) => return Ok(ino),
            Standing::Known(ino) if self.holds_local(ino) => return Ok(ino),
            Standing::Known(ino) => self.detach(ino),
            Standing::Removed | Standing::Free => {}
        }
        Err(Error::NotFound)
    }

    /// HEAD or GET has shown the object behind `ino`. The facts to go on with: newer own ones, where there are.
    pub(super) fn facts_seen(
        &mut self,
        ino: Ino,
        head: &Arc<Head>,
        when: When,
        settings: &Settings,
    ) -> Result<Arc<Head>, Error> {
        let entry = self.entry(ino)?;
        if entry.changed > when.asked || entry.local || !entry.has_name() {
            return entry.object.clone().ok_or(Error::NotFound);
        }
        if entry.is_directory() {
            self.marker_known(ino, head, when, settings)?;
        } else if is_plain_marker(head)
            && let Some((parent, name)) = entry.place().cloned()
        {
            self.plain_marker_seen(parent, &name, head, when, settings)?;
            return Err(Error::Stale);
        } else if self.renewed(ino, head, when, settings)? != ino {
            return Err(Error::Stale);
        }
        Ok(Arc::clone(head))
    }

    /// HEAD has shown that the object behind `ino` is gone. Directories live on without a marker.
    pub(super) fn facts_missing(&mut self, ino: Ino, when: When, settings: &Settings) -> Result<(), Error> {
        let entry = self.entry(ino)?;
        if entry.changed > when.asked || entry.local {
            return Ok(());
        }
        if entry.is_directory() {
            return self.marker_missing(ino, when, settings.implicit_directory());
        }
        self.detach(ino);
        Ok(())
    }

    /// The node for the version of `head`: the same while no open file could mix two versions, else a new one.
    fn renewed(&mut self, ino: Ino, head: &Arc<Head>, when: When, settings: &Settings) -> Result<Ino, Error> {
        let attributes = settings.known(head, false);
        let entry = self.entry(ino)?;
        let same = entry.etag() == Some(&head.meta.version.etag);
        let other_kind = entry.attributes.kind != attributes.kind && entry.kernel > 0;
        let is_own = !same && entry.own_copy.as_ref().is_some_and(|copy| copy.is(head));
        if (!same && !is_own && entry.open > 0) || other_kind {
            return self.replaced(ino, attributes, |table, new| table.know(new, head, when));
        }
        let entry = self.entry_mut(ino)?;
        if is_own {
            entry.own_copy_made(&head.meta.version.etag);
        }
        entry.attributes = attributes;
        self.know(ino, head, when)?;
        Ok(ino)
    }

    /// A listing has shown the version `seen` of the file `ino`.
    pub(super) fn version_listed(
        &mut self,
        ino: Ino,
        seen: &SeenVersion,
        attributes: Attributes,
        when: When,
    ) -> Result<Ino, Error> {
        let entry = self.entry(ino)?;
        if entry.etag() != Some(&seen.etag) && entry.own_copy.is_some() {
            // A listing does not tell whose object it is. HEAD does.
            return Ok(ino);
        }
        if entry.etag() != Some(&seen.etag) && entry.open > 0 {
            return self.replaced(ino, attributes, |table, new| table.know_listed(new, seen, attributes, when));
        }
        self.know_listed(ino, seen, attributes, when)?;
        Ok(ino)
    }

    /// Notes a version that a listing has shown, and drops facts of another one, or of another description.
    pub(super) fn know_listed(
        &mut self,
        ino: Ino,
        seen: &SeenVersion,
        attributes: Attributes,
        when: When,
    ) -> Result<(), Error> {
        let entry = self.entry_mut(ino)?;
        if !entry.is_as_listed(seen) {
            (entry.object, entry.listed, entry.attributes) = (None, Some(seen.etag.clone()), attributes);
        }
        entry.seen = entry.seen.max(Some(when.at));
        Ok(())
    }

    /// A new number for the name of `ino`, whose open files keep the old one.
    pub(super) fn replaced(
        &mut self,
        ino: Ino,
        attributes: Attributes,
        know: impl FnOnce(&mut Table, Ino) -> Result<(), Error>,
    ) -> Result<Ino, Error> {
        let (parent, name) = self.entry(ino)?.place().cloned().ok_or(Error::NotFound)?;
        let listed = self.directory(parent)?.listed;
        self.lose(ino)?;
        // Nothing is missing in it: the name goes over.
        self.directory_mut(parent)?.listed = listed;
        let new = self.insert(parent, &name, attributes)?;
        know(self, new)?;
        Ok(new)
    }

    fn know(&mut self, ino: Ino, head: &Arc<Head>, when: When) -> Result<(), Error> {
        let entry = self.entry_mut(ino)?;
        (entry.object, entry.listed) = (Some(Arc::clone(head)), None);
        entry.seen = entry.seen.max(Some(when.at));
        Ok(())
    }

    fn marker_known(&mut self, ino: Ino, head: &Arc<Head>, when: When, settings: &Settings) -> Result<(), Error> {
        let mut attributes = settings.known(head, true);
        let directory = self.directory_mut(ino)?;
        directory.marker = Some(true);
        directory.marker_checked = directory.marker_checked.max(Some(when.at));
        if let Some(touched) = directory.touched {
            (attributes.mtime, attributes.ctime) = (attributes.mtime.max(touched), attributes.ctime.max(touched));
        }
        if let Some(renamed) = directory.renamed {
            attributes.ctime = attributes.ctime.max(renamed);
        }
        let entry = self.entry_mut(ino)?;
        (entry.attributes, entry.object) = (attributes, Some(Arc::clone(head)));
        Ok(())
    }

    fn marker_missing(&mut self, ino: Ino, when: When, implicit: Attributes) -> Result<(), Error> {
        let directory = self.directory_mut(ino)?;
        directory.marker = Some(false);
        directory.marker_checked = directory.marker_checked.max(Some(when.at));
        let entry = self.entry_mut(ino)?;
        if entry.object.take().is_some() {
            entry.attributes = implicit;
        }
        Ok(())
    }
}

/// Whether an object without a slash at the end of its key is a directory, as s3fs takes it: older tools made such
/// markers. One with content is a file, so that its content can be read.
pub(super) fn is_plain_marker(head: &Head) -> bool {
    let content_type = head.meta.content_type.as_deref().unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    head.meta.size == 0 && PLAIN_MARKER_TYPES.iter().any(|known| essence.eq_ignore_ascii_case(known))
}
