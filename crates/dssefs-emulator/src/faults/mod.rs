//! Faults on purpose: a plan of rules, and each rule makes chosen requests fail in one way.
//!
//! This part decides which request is struck by what. Carrying a fault out is the server's work, at the level of HTTP,
//! so that the S3 and KMS sides know nothing of it.

mod ledger;
mod plan;

pub use ledger::{Faults, Standing};
pub use plan::{Fault, Invalid, Plan, Rule};
