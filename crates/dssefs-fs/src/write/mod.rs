//! From written bytes to a proven object: one [`Writer`] for each file that has changes.
//!
//! A writer keeps the bytes in the spill's buffer, sends parts while the program goes on writing in sequence, and at
//! `commit` makes one object of the changes and of the object they were made to. Only the gateway's `Verified` receipt
//! ends a commit.
//!
//! This room reads nothing for programs and knows no paths, inodes or handles. It may use `object`, `policy`,
//! `journal`, `spill` and `s3`.

mod aftermath;
mod backpressure;
mod clone;
mod commit;
mod early_upload;
mod engine;
mod error;
mod extents;
mod parts;
mod payload;
mod pending_changes;
mod read_modify_write;
mod state;
mod writer;

pub use engine::{Engine, Settings};
pub use error::{Disposition, Error};
pub use parts::OBJECT_BYTES_MAX;
pub use pending_changes::{KeptAttempt, KeptError, KeptUpload, KeptUploadPart, PendingChanges};
pub use state::{Base, CommitTarget, Piece, Target};
pub use writer::{Destination, Writer};
