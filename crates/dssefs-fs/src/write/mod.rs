//! From written bytes to a proven object: one [`Writer`] for each file that has changes.
//!
//! A writer keeps the bytes in the spill's buffer, sends parts while the program goes on writing in sequence, and at
//! `commit` makes one object of the changes and of the object they were made to. Only the gateway's `Verified` receipt
//! ends a commit.
//!
//! This room reads nothing for programs and knows no paths, inodes or handles. It may use `object`, `policy`,
//! `journal`, `spill` and `s3`.

mod clone;
mod commit;
mod engine;
mod error;
mod fill;
mod kept;
mod parts;
mod payload;
mod places;
mod room;
mod state;
mod stream;
mod tried;
mod writer;

pub use engine::{Engine, Settings};
pub use error::Error;
pub use kept::{Kept, KeptAttempt, KeptError, KeptPart, KeptUpload};
pub use parts::OBJECT_BYTES_MAX;
pub use state::{Aim, Base, Piece, Target};
pub use writer::{Destination, Writer};
