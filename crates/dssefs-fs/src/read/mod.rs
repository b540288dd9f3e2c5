//! Reads one version of an object: which ranges to ask for, how far ahead, and which reads get the bytes.
//!
//! Each GET of a DSSE-KMS object is a call of KMS. So ranges are few and large where a program reads sequentially, and
//! small where it jumps. `prefetch` decides that and is pure; `window` keeps the bytes that came; `Reader` uses both;
//! `ReadBudget` limits the memory of all readers together.
//!
//! This room never mixes versions: each GET is pinned to one, and an answer of 412 is an error. It knows no names and
//! no files being written. It may use `object` and `s3`.

mod budget;
mod error;
pub mod prefetch;
mod reader;
mod window;

pub use budget::ReadBudget;
pub use error::Error;
pub use reader::{Location, Reader};
