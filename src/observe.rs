//! Every metric of the daemon: its name, its unit, its labels, and the one function that records it.

/// Counts bytes copied because a tensor was not aligned for its datatype.
pub fn misaligned_copy(bytes: usize) {
    metrics::counter!("kserved_misaligned_copy_bytes_total").increment(bytes as u64);
}
