//! The `dssefs` program: parse, run, exit code.

use std::process::ExitCode;

#[global_allocator]
static HEAP: dssefs_seal::secret::WipingHeap = dssefs_seal::secret::WipingHeap;

fn main() -> ExitCode {
    dssefs::cli::main()
}
