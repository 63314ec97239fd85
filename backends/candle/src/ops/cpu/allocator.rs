//! Freed memory: kept while a model works, given back to the system when it goes.

use rayon::ThreadPool;
use std::sync::Arc;

/// Tells the C library to keep freed memory: every operation makes a buffer, and fetching fresh pages for it costs as
/// much as half of all arithmetic.
pub fn keep_freed_memory() {
    heap::keep();
}

/// Gives kept memory back to the system when dropped: as the last field of what held most of it. The threads are those
/// that worked for it.
pub(crate) struct GiveBack(pub(crate) Arc<ThreadPool>);

impl Drop for GiveBack {
    fn drop(&mut self) {
        heap::give_back(&self.0);
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod heap {
    use rayon::ThreadPool;

    /// In bytes: as good as everything.
    const LARGEST: i32 = 1 << 30;
    /// In bytes: glibc looks at the end of a heap when a block of this size is freed.
    const SMALLEST: i32 = 128 << 10;

    pub(super) fn keep() {
        // SAFETY: sets numbers inside of the C library's allocator, which locks itself.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGEST);
            libc::mallopt(libc::M_TRIM_THRESHOLD, LARGEST);
        }
    }

    /// `malloc_trim` alone leaves much behind: of the heap that each thread has for its own it returns what lies between
    /// blocks in use, never what lies behind the last one, which may be 64 MiB a thread. That goes when the thread frees a
    /// block while the threshold is low.
    pub(super) fn give_back(threads: &ThreadPool) {
        let threshold = |bytes| {
            // SAFETY: sets a number inside of the C library's allocator, which locks itself.
            unsafe { libc::mallopt(libc::M_TRIM_THRESHOLD, bytes) };
        };
        let free_a_block = || drop(std::hint::black_box(Vec::<u8>::with_capacity(SMALLEST as usize)));
        threshold(SMALLEST);
        free_a_block();
        threads.broadcast(|_| free_a_block());
        threshold(LARGEST);
        // SAFETY: takes a number; the C library's allocator locks itself.
        unsafe { libc::malloc_trim(0) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
mod heap {
    pub(super) fn keep() {}
    pub(super) fn give_back(_: &rayon::ThreadPool) {}
}
