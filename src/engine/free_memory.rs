//! Hands memory that was freed back to the system.

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
