//! Symbolic links, fifos, sockets and devices.
//!
//! A link is stored in s3fs's form: its target is the object's body, and its mode says that it is a link. This mount
//! also reads geesefs's form (an empty body, the target in metadata). A listing has neither modes nor metadata, but it
//! names the algorithm of each object's checksum. Files of up to 4,095 bytes that this mount makes have a CRC-32C,
//! which no program gives to links; what it makes here has a SHA-1. Longer objects cannot be links. So a listing proves
//! of most of its entries that they are files, and each other one needs a HEAD before its kind is known.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::directory::head_of;
use super::error::Error;
use super::node::{Attributes, Ino, Kind, Node};
use super::reserved::refuse_reserved;
use super::{Namespace, posix};
use dssefs_s3::object::{Key, Name, UserMetadata};
use dssefs_s3::s3::{Condition, Head, NewObject, TARGET_BYTES_MAX, WithSha1};

impl Namespace {
    /// A new symbolic link to `target`, with one reference of the kernel: one PUT. The caller has looked the name up
    /// before.
    ///
    /// # Errors
    /// [`Error::TargetTooLong`]; [`Error::Exists`], also when another host was faster; [`Error::Name`], and the
    /// store's.
    pub async fn symlink(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        target: Bytes,
        attributes: Attributes,
    ) -> Result<Node, Error> {
        let bytes = target.len() as u64;
        if bytes > TARGET_BYTES_MAX {
            return Err(Error::TargetTooLong { bytes });
        }
        let attributes = Attributes { kind: Kind::Symlink, size: bytes, ..attributes };
        let node = self.make(parent, name, target.clone(), &attributes).await?;
        if let Some(head) = &node.object {
            self.note_target(node.ino, head, target);
        }
        Ok(node)
    }

    /// A new fifo, socket or device, likewise.
    ///
    /// # Errors
    /// As [`Namespace::symlink`].
    pub async fn mknod(self: &Arc<Self>, parent: Ino, name: &Name, attributes: Attributes) -> Result<Node, Error> {
        self.make(parent, name, Bytes::new(), &attributes).await
    }

    /// The target of a symbolic link: from memory while the version is known, else by one GET.
    ///
    /// # Errors
    /// [`Error::NotALink`]; [`Error::TargetTooLong`] for a target that another program has stored; the store's.
    pub async fn target(self: &Arc<Self>, ino: Ino) -> Result<Bytes, Error> {
        match self.current_target(ino).await {
            Err(error) if self.learn_from(ino, &error) => self.current_target(ino).await,
            outcome => outcome,
        }
    }

    async fn current_target(self: &Arc<Self>, ino: Ino) -> Result<Bytes, Error> {
        let head = self.head(ino).await?;
        if let Some(target) = self.target_at_hand(ino, &head)? {
            return Ok(target);
        }
        let key = self.table().key(ino)?;
        let target = self.fetch_target(&key, &head).await?;
        self.note_target(ino, &head, target.clone());
        Ok(target)
    }

    async fn make(
        self: &Arc<Self>,
        parent: Ino,
        name: &Name,
        body: Bytes,
        attributes: &Attributes,
    ) -> Result<Node, Error> {
        let key = self.free_key(parent, name)?;
        let question = self.question();
        let size = body.len() as u64;
        let user = posix::metadata(UserMetadata::new(), attributes, self.settings.posix_form);
        let object = NewObject { user, ..NewObject::at(key) };
        let condition = self.settings.condition(Condition::Absent);
        let put = self.gateway.put(&object, Arc::new(WithSha1(body)), &condition).await.map_err(Error::from);
        let stored = put.map_err(|error| self.exists_if_taken(parent, error))?.into_inner();
        let head = Arc::new(head_of(object, stored, size, 0));
        let mut table = self.table();
        // A listing may have shown it already.
        let ino = table.file_seen(parent, name, &head, question.when, &self.settings)?;
        table.change(ino)?;
        table.touch(parent, SystemTime::now().into());
        table.refer(ino)
    }

    fn free_key(&self, parent: Ino, name: &Name) -> Result<Key, Error> {
        refuse_reserved(name)?;
        let table = self.table();
        let key = table.prefix(parent)?.file(name)?;
        if table.child(parent, name)?.is_some() { Err(Error::Exists) } else { Ok(key) }
    }

    fn target_at_hand(&self, ino: Ino, head: &Head) -> Result<Option<Bytes>, Error> {
        let table = self.table();
        let entry = table.entry(ino)?;
        if entry.attributes.kind != Kind::Symlink {
            return Err(Error::NotALink);
        }
        let read = entry.target.as_ref().filter(|read| read.0 == head.meta.version.etag);
        let in_metadata = || posix::symlink_target(&head.meta.user).map(Bytes::from);
        Ok(read.map(|read| read.1.clone()).or_else(in_metadata))
    }

    async fn fetch_target(&self, key: &Key, head: &Head) -> Result<Bytes, Error> {
        if head.meta.size > TARGET_BYTES_MAX {
            return Err(Error::TargetTooLong { bytes: head.meta.size });
        }
        let mut tries = self.gateway.body_retries();
        loop {
            let download = self.gateway.get(key, Some(&head.meta.version), None).await?;
            // The version is pinned, so its length is the one in HEAD's answer.
            match download.collect(head.meta.size).await {
                Err(error) if tries.again(&error).await => {}
                target => return Ok(target?),
            }
        }
    }

    fn note_target(&self, ino: Ino, head: &Head, target: Bytes) {
        if let Ok(entry) = self.table().entry_mut(ino) {
            entry.target = Some(Box::new((head.meta.version.etag.clone(), target)));
        }
    }
}
