//! The file system in our own types.
