//! The one name that a mount keeps for itself, in every directory.

use super::error::Error;
use dssefs_s3::object::{Name, RESERVED_NAME};

/// Refuses the reserved name. It is reserved at every level: a directory here may be the root of another mount, which
/// keeps its intent logs there.
pub(super) fn refuse_reserved(name: &Name) -> Result<(), Error> {
    if is_reserved(name) { Err(Error::Reserved) } else { Ok(()) }
}

/// Whether `name` is reserved: listings and lookups of every directory hide it. Keys are compared byte by byte, so
/// another spelling in capitals is another name.
pub(super) fn is_reserved(name: &Name) -> bool {
    name.as_str() == RESERVED_NAME
}
