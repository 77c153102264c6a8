//! `kserved-cuda`: `kserved` whose models also compute on NVIDIA GPUs. A program of its own, so that `make cuda` leaves `kserved` as it is.

use std::process::ExitCode;

/// Many small buffers of many threads, and memory that goes back after a model is unloaded.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kserved::cli::main()
}
