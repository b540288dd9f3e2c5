//! Reading one pinned version of an object.
