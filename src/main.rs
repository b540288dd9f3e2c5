//! The `dssefs` program: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    dssefs::cli::main()
}
