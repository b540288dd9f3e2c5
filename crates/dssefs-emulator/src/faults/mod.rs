//! Faults on purpose: a plan of rules, and each rule makes chosen requests fail in one way.
//!
//! This room decides which fault strikes which request. The server carries it out at the level of HTTP, so the S3 and
//! KMS sides know nothing of faults.

mod ledger;
mod plan;

pub use ledger::{Faults, Standing};
pub use plan::{Fault, Invalid, Plan, Rule};
