//! From a name to its node.

use std::sync::Arc;

use futures_util::{FutureExt, future};

use super::error::Error;
use super::listing::{Extent, seen_version};
use super::node::{Ino, Node};
use super::observe::{Marker, is_plain_marker};
use super::reserved::{is_absent, is_shadowed};
use super::{Namespace, Question, is_not_found};
use dssefs_s3::object::{Key, Name, Prefix};
use dssefs_s3::s3::{self, Head};

/// How often a lookup starts again when its node is evicted before the kernel refers to it.
const ATTEMPTS_MAX: usize = 4;
/// After so many questions a whole listing is cheaper than one HEAD and one LIST for each further name.
const QUESTIONS_BEFORE_LISTING: u32 = 2;

/// What is known of a name without asking.
enum Known {
    Here(Ino),
    Absent,
    /// Ask for this name.
    Ask,
    /// Ask for all names of the directory: many are wanted.
    List,
}

/// What the store has below a directory's prefix, by the first key there.
enum Below {
    Nothing,
    Something(Marker),
}

impl Namespace {
    /// The node of `name`, with one more reference of the kernel.
    ///
    /// Served from a listing or node that is fresh; else one HEAD of the key and one LIST below it at the same time. A
    /// directory wins over a file of the same name.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotADirectory`], and the store's.
    pub async fn lookup(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Node, Error> {
        for _ in 0..ATTEMPTS_MAX {
            let ino = self.resolve(parent, name).await?;
            if self.settings.is_full() {
                self.fetch_ahead(parent, name);
            }
            self.know_attributes(ino).await?;
            let mut table = self.table();
            // The facts may have shown another version, whose node has the name now.
            if let Some(ino) = table.child(parent, name)? {
                return table.refer(ino);
            }
        }
        Err(Error::NotFound)
    }

    /// The node of `name`, without a reference.
    pub(super) async fn resolve(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Ino, Error> {
        match self.known(parent, name)? {
            Known::Here(ino) => Ok(ino),
            Known::Absent => Err(Error::NotFound),
            Known::Ask => self.ask(parent, name).await,
            Known::List => {
                self.refresh(parent, Extent::OnePage).await?;
                // It may be larger than a page, or than the table.
                match self.known(parent, name)? {
                    Known::Here(ino) => Ok(ino),
                    Known::Absent => Err(Error::NotFound),
                    Known::Ask | Known::List => self.ask(parent, name).await,
                }
            }
        }
    }

    async fn ask(self: &Arc<Self>, parent: Ino, name: &Name) -> Result<Ino, Error> {
        loop {
            let prefix = self.table().prefix(parent)?;
            let flight = || Arc::clone(self).ask_for_name(parent, name.clone()).boxed();
            let answer = self.lookups.join((parent, name.clone()), flight).await;
            // If the directory was moved meanwhile, its objects are elsewhere now.
            if !matches!(answer, Err(Error::NotFound)) || self.table().prefix(parent)? == prefix {
                return answer;
            }
        }
    }

    async fn know_attributes(self: &Arc<Self>, ino: Ino) -> Result<(), Error> {
        // Evicted since: the caller sees it and looks again.
        if !matches!(self.attributes_at_hand(ino), Ok(None)) {
            return Ok(());
        }
        match self.fetch(ino).await {
            Ok(_) | Err(Error::Stale) => Ok(()),
            Err(Error::NotFound) if self.table().entry(ino).is_ok_and(super::entry::Entry::is_directory) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn known(&self, parent: Ino, name: &Name) -> Result<Known, Error> {
        if is_absent(parent, name) {
            return Ok(Known::Absent);
        }
        let (now, ttl) = (self.now(), self.settings.ttl);
        let mut table = self.table();
        let complete = table.directory(parent)?.is_complete(now, ttl);
        match table.child(parent, name)? {
            Some(ino) if table.entry(ino)?.is_believed(complete, now, ttl) => return Ok(Known::Here(ino)),
            None if complete => return Ok(Known::Absent),
            _ => {}
        }
        let directory = table.directory_mut(parent)?;
        directory.questions += 1;
        // A program that has made a directory goes on to make names in it, and looks for each of them first.
        let many = directory.made || (directory.questions > QUESTIONS_BEFORE_LISTING && !directory.large);
        Ok(if many { Known::List } else { Known::Ask })
    }

    async fn ask_for_name(self: Arc<Self>, parent: Ino, name: Name) -> Result<Ino, Error> {
        let (key, prefix, is_directory) = self.keys_of(parent, &name)?;
        let question = self.question();
        if is_directory {
            // Most probably it still is one: then its listing is enough.
            if let Below::Something(marker) = self.below(prefix.as_ref()).await? {
                return self.found_directory(parent, &name, &marker, &question);
            }
            let head = self.gateway.head(&key).await;
            return self.found_no_directory(parent, &name, head, &question);
        }
        let (head, below) = future::join(self.gateway.head(&key), self.below(prefix.as_ref())).await;
        match below? {
            Below::Something(marker) => {
                let ino = self.found_directory(parent, &name, &marker, &question)?;
                match head {
                    Ok(head) if is_plain_marker(&head) => {
                        self.table().entry_mut(ino)?.plain_marker = Some(Arc::new(head));
                    }
                    head => self.found_shadowed(ino, head, &question),
                }
                Ok(ino)
            }
            Below::Nothing => self.found_no_directory(parent, &name, head, &question),
        }
    }

    fn keys_of(&self, parent: Ino, name: &Name) -> Result<(Key, Option<Prefix>, bool), Error> {
        let table = self.table();
        let prefix = table.prefix(parent)?;
        let is_directory = match table.child(parent, name)? {
            Some(ino) => table.entry(ino)?.is_directory(),
            None => false,
        };
        // A key of exactly 1,024 bytes leaves no room for the slash: nothing can be below it.
        let below = if is_shadowed(name) { None } else { prefix.directory(name).ok() };
        Ok((prefix.file(name)?, below, is_directory))
    }

    async fn below(&self, prefix: Option<&Prefix>) -> Result<Below, Error> {
        let Some(prefix) = prefix else { return Ok(Below::Nothing) };
        Ok(match self.first_below(prefix.as_str(), 1).await?.into_iter().next() {
            None => Below::Nothing,
            // The marker is the smallest key that can be below a prefix.
            Some(first) if first.key == prefix.as_str() => Below::Something(Marker::Version(seen_version(&first))),
            Some(_) => Below::Something(Marker::Absent),
        })
    }

    fn found_directory(&self, parent: Ino, name: &Name, marker: &Marker, question: &Question) -> Result<Ino, Error> {
        let implicit = self.settings.implicit_directory();
        let mut table = self.table();
        let ino = table.directory_seen(parent, name, question.when, implicit)?;
        if table.entry(ino)?.is_directory() {
            table.marker_seen(ino, marker, question.when, implicit)?;
        }
        Ok(ino)
    }

    /// What HEAD has said of the key that the directory `ino` would hide.
    fn found_shadowed(&self, ino: Ino, head: Result<Head, s3::Error>, question: &Question) {
        let name = Name::shadowed();
        let mut table = self.table();
        if table.directory(ino).is_err() {
            return;
        }
        // What fails here shows in the next answer about the directory.
        let _ = match head {
            Ok(head) => table.file_seen(ino, &name, &Arc::new(head), question.when, &self.settings),
            Err(error) if is_not_found(&error) => table.nothing_seen(ino, &name, question.when),
            Err(_) => Ok(ino),
        };
    }

    fn found_no_directory(
        &self,
        parent: Ino,
        name: &Name,
        head: Result<Head, s3::Error>,
        question: &Question,
    ) -> Result<Ino, Error> {
        match head {
            Ok(head) => self.table().file_seen(parent, name, &Arc::new(head), question.when, &self.settings),
            Err(error) if is_not_found(&error) => self.table().nothing_seen(parent, name, question.when),
            Err(error) => Err(error.into()),
        }
    }
}
