//! Symbolic links, fifos, sockets and devices: one object each, made at once. Programs do not read or write it as a
//! file.

use std::time::SystemTime;

use bytes::Bytes;

use crate::namespace::{Attributes, Ino, Kind, Node, Timestamp};
use dssefs_s3::object::Name;

use crate::vfs::{Error, Vfs};

/// What mknod(2) makes beside files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialKind {
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device of this number.
    CharacterDevice(u32),
    /// A block device of this number.
    BlockDevice(u32),
}

impl Vfs {
    /// Makes a symbolic link to `target`, any bytes. It stands in the store when this returns.
    ///
    /// # Errors
    /// The name is taken or cannot be kept, the target is too long, or the store refused.
    pub async fn symlink(
        &self,
        parent: Ino,
        name: &Name,
        target: Bytes,
        (uid, gid): (u32, u32),
    ) -> Result<Node, Error> {
        let _subtree = self.namespace.lock_shared(parent).await;
        let gid = self.namespace.inherited_group(parent).unwrap_or(gid);
        Ok(self.namespace.symlink(parent, name, target, attributes(Kind::Symlink, (0o777, uid, gid))).await?)
    }

    /// Where a symbolic link leads.
    ///
    /// # Errors
    /// It is none, the store cannot be asked, or the object is not compliant and the mount refuses to serve such.
    pub async fn readlink(&self, ino: Ino) -> Result<Bytes, Error> {
        let head = self.namespace.head(ino).await?;
        if let Some(key) = self.namespace.key(ino) {
            self.refuse_to_read(&key, &head)?;
        }
        Ok(self.namespace.target(ino).await?)
    }

    /// Makes a fifo, socket or device. It stands in the store when this returns.
    ///
    /// # Errors
    /// The name is taken or cannot be kept, or the store refused.
    pub async fn make_special(
        &self,
        parent: Ino,
        name: &Name,
        kind: SpecialKind,
        (mode, uid, gid): (u32, u32, u32),
    ) -> Result<Node, Error> {
        let kind = match kind {
            SpecialKind::Fifo => Kind::Fifo,
            SpecialKind::Socket => Kind::Socket,
            SpecialKind::CharacterDevice(number) => Kind::CharacterDevice(number),
            SpecialKind::BlockDevice(number) => Kind::BlockDevice(number),
        };
        let _subtree = self.namespace.lock_shared(parent).await;
        let gid = self.namespace.inherited_group(parent).unwrap_or(gid);
        Ok(self.namespace.mknod(parent, name, attributes(kind, (mode, uid, gid))).await?)
    }
}

fn attributes(kind: Kind, (mode, uid, gid): (u32, u32, u32)) -> Attributes {
    let now = Timestamp::from(SystemTime::now());
    Attributes { kind, size: 0, mode, uid, gid, mtime: now, atime: now, ctime: now, nlink: 1 }
}
