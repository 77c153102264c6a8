//! `kserved`: serves KServe resources on one machine, without Kubernetes.

use std::process::ExitCode;

/// Many small buffers of many threads, and memory that goes back after a model is unloaded.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kserved::cli::main()
}
