//! Keeps the C library, which engines allocate from, from holding on to memory that nobody uses.

/// Has all threads share as many pools of memory as the machine has cores, two at least.
///
/// Left alone the library makes eight times as many, a pool for each new thread; what one worker's run leaves in its pool no
/// other worker uses. Engines keep what they need again, so few calls meet in a pool. Works best before threads are started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn share_pools() {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let pools = libc::c_int::try_from(cores.max(2)).unwrap_or(libc::c_int::MAX);
    #[expect(unsafe_code, reason = "the C library has no safe way to be told")]
    // SAFETY: `mallopt` takes plain numbers, and this one only bounds how many pools are made from now on.
    let done = unsafe { libc::mallopt(libc::M_ARENA_MAX, pools) };
    if done == 0 {
        tracing::debug!("the C library keeps as many pools of memory as it likes");
    }
}

/// Where the C library has no pools of its own for threads.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn share_pools() {}

/// Asks the C library, which engines allocate from, for what it keeps. May take some milliseconds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn give_back() {
    #[expect(unsafe_code, reason = "the C library has no safe way to be asked for it")]
    // SAFETY: `malloc_trim` takes no pointer, may be called from any thread at any time, and only returns free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Where the C library gives memory back by itself.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub const fn give_back() {}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    #[test]
    fn threads_share_pools_and_each_still_gets_memory_of_its_own() {
        super::share_pools();
        let threads: Vec<_> = (0..16_u8).map(|fill| std::thread::spawn(move || vec![fill; 100_000])).collect();
        for (fill, thread) in (0..16_u8).zip(threads) {
            assert!(thread.join().unwrap().iter().all(|byte| *byte == fill));
        }
        super::give_back();
    }
}
