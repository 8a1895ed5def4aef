//! The C library's allocator, told to keep large blocks.
//!
//! libtorch takes and gives back tensors of megabytes for every frame. By default glibc maps each of them anew, and the
//! kernel clears every page again: on the processor that costs more than some layers of the network.
//!
//! Threads share one heap: of the heaps that glibc gives each thread of its own, none is larger than 64 MB, and what a
//! batch of several frames takes at once does not fit. Measured with the released model on one core, a frame in a batch
//! of 8 takes 250 ms with heaps of their own and 110 ms, as alone, with one.

/// Blocks up to this size come from the heap, which keeps them, and not from `mmap`. The largest the C interface takes.
const THRESHOLD: libc::c_int = 1 << 30;

/// Call once, before other threads allocate. Does nothing where the C library is not glibc.
#[allow(unsafe_code)]
pub fn keep_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `mallopt` has no preconditions. What it refuses it leaves as it was.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, THRESHOLD);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
