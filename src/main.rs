//! The `dssefs` program: parse, run, exit code.

fn main() {}
