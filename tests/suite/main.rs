//! The built program, mounted on the embedded endpoint: what users are promised in docs/SEMANTICS.md, and what it
//! costs.
//!
//! Each test has an endpoint, a bucket, a key and a mount of its own, and a deadline: a process that waits for a hung
//! mount cannot be killed, so a test that takes too long first detaches its mounts.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "in a test, a panic is the report")]

mod access;
mod annotations;
mod append;
mod bounds;
mod budgets;
mod cli;
mod clock;
mod common;
mod content_headers;
mod copy;
mod counts;
mod crash;
mod data_path;
mod descriptions;
mod doubt;
mod errno;
mod fallocate;
mod faults;
mod files;
mod foreign;
mod gateway;
mod held;
mod hosts;
mod identity;
mod keep;
mod listing;
mod log;
mod mapped;
mod markers;
mod matrix;
mod metadata_room;
mod model;
mod mount_point;
mod mutations;
mod names;
mod namespace;
mod network;
mod noncompliant;
mod numbers;
mod posix_metadata;
mod prefix;
mod privileges;
mod promises;
mod races;
mod read;
mod readers;
mod recover;
mod regression;
mod rename;
mod rename_journal;
mod retries;
mod scattered;
mod secrets;
mod serve;
mod shown;
mod specials;
mod spill;
mod tamper;
mod times;
mod umount;
mod unsent;
mod wire_headers;
mod xattrs;
