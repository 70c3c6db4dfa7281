//! Memory that is free inside this process to the system.

/// Gives back the pages that nothing uses any more. The allocator keeps what a window leaves, in pieces that the next
/// window does not fit into. Takes some milliseconds.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "a function of the C library")]
pub(super) fn give_back() {
    // SAFETY: the allocator takes its own locks, and no pointer of ours changes.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Other allocators give memory back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn give_back() {}
