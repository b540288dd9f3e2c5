//! The names that have a meaning of their own in every directory.

use super::error::Error;
use super::node::Ino;
use dssefs_s3::object::{Name, RESERVED_NAME, SHADOWED_NAME};

/// Refuses a reserved name. Both are reserved at every level: a directory here may be the root of another mount, which
/// keeps its intent logs there.
pub(super) fn refuse_reserved(name: &Name) -> Result<(), Error> {
    if is_reserved(name) { Err(Error::Reserved) } else { Ok(()) }
}

/// Whether `name` is reserved: no program makes it, and listings hide keys that end with it. Keys are compared byte by
/// byte, so another spelling in capitals is another name.
pub(super) fn is_reserved(name: &Name) -> bool {
    is_own(name) || is_shadowed(name)
}

/// Whether `name` is the one under which a mount keeps what is its own, in its root.
pub(super) fn is_own(name: &Name) -> bool {
    name.as_str() == RESERVED_NAME
}

/// Whether `name` stands for the object that the directory would hide.
pub(super) fn is_shadowed(name: &Name) -> bool {
    name.as_str() == SHADOWED_NAME
}

/// Whether there is nothing of this name in `parent`, whatever the store has. What the root of a mount would hide is
/// outside of the mount.
pub(super) fn is_absent(parent: Ino, name: &Name) -> bool {
    is_own(name) || (is_shadowed(name) && parent == Ino::ROOT)
}
