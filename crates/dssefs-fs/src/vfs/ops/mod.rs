//! The operations of a mounted file system, one file for each kind of call.

mod data;
mod meta;
mod names;
mod ranges;
mod read;
mod rename_dir;
mod special;
mod user_xattr;
mod xattr;

pub use data::{Opened, Place};
pub use meta::{SetAttributes, Statfs, TimeChange};
pub use names::RenameMode;
pub use ranges::{Allocation, Sought};
pub use special::SpecialKind;
pub use xattr::MountFacts;
