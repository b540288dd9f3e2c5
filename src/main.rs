//! The `dssefs` program: parse, run, exit code.

use std::process::ExitCode;

#[global_allocator]
static HEAP: dssefs::secret::WipingHeap = dssefs::secret::WipingHeap;

fn main() -> ExitCode {
    dssefs::cli::main()
}
