//! From written bytes to a proven object: one [`Writer`] for each file that has changes.
//!
//! A writer keeps the bytes in the spill's buffer, sends parts while the program goes on writing in sequence, and at
//! `commit` makes one object of the changes and of the object they were made to. Only the gateway's `Verified` receipt
//! ends a commit.
//!
//! | file | what it has |
//! |---|---|
//! | `writer` | what programs call: write, resize, discard; parts that are sent ahead |
//! | `state` | the bookkeeping of one file, without I/O: what is promised, and what was changed since |
//! | `promise` | what a close or fsync promises, and how later changes join it |
//! | `commit` | making one object of the changes |
//! | `aftermath` | what follows a failed commit, and the answer that was lost |
//! | `error` | why something failed, and what that means for the next try (`Disposition`) |
//! | `parts` | which bytes go into which part: the two planners |
//! | `early_upload` | the upload that begins while the program writes |
//! | `extents` | where the bytes of a file are: here, in the base, or nowhere |
//! | `read_modify_write` | reading what a part needs of the base, or all of it before the base goes |
//! | `backpressure` | waiting for memory or disk |
//! | `slots` | turns for requests: what stalls gives way |
//! | `clone` | a file that is a copy of another object |
//! | `pending_changes` | what the journal keeps of the changes, and the way back |
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
mod promise;
mod read_modify_write;
mod slots;
mod state;
mod target;
mod writer;

pub use engine::{Engine, Settings};
pub use error::{Disposition, Error};
pub use parts::OBJECT_BYTES_MAX;
pub use pending_changes::{KeptAttempt, KeptError, KeptUpload, KeptUploadPart, PendingChanges};
pub use slots::{Slots, Try};
pub use state::{Base, Piece};
pub use target::{CommitTarget, Target};
pub use writer::{Destination, Writer};
