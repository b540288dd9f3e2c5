//! Names, inodes, listings and attributes.
