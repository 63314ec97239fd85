//! The memory that a host and its child share: sealed, so that neither can make it smaller under the other.

use std::{
    io::{Error, Result},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr::NonNull,
    sync::atomic::AtomicU32,
};

/// Bytes of address space, for a picture of 8192 × 8192 in `f32` and its source. Only pages that are touched cost memory.
pub(super) const SIZE: usize = 2 << 30;
/// Tensors begin behind the page that holds the cancel flag.
pub(super) const DATA: usize = 4096;
/// After a call that used more than this, its pages go back to the system.
const KEEP: usize = 64 << 20;

/// A mapping of the shared memory. The other side may change its bytes at any time, so it is only copied from and to,
/// except where [`Shared::slice`] says why not.
pub(super) struct Shared {
    base: NonNull<u8>,
}

// SAFETY: the mapping belongs to the process, not to a thread; all accesses are copies through raw pointers or atomics,
// and the unsafe methods put their own condition on callers.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

/// Makes the memory and its file descriptor, which a child inherits.
pub(super) fn create() -> Result<OwnedFd> {
    // SAFETY: the name is a C string; the number that comes back is ours alone.
    let fd = unsafe {
        let fd = libc::memfd_create(c"sd-worker-tensors".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        if fd < 0 {
            return Err(Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: plain calls on our own descriptor.
    let done = unsafe {
        libc::ftruncate(fd.as_raw_fd(), SIZE as libc::off_t) == 0
            && libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) == 0
    };
    if done { Ok(fd) } else { Err(Error::last_os_error()) }
}

impl Shared {
    /// Maps the memory. In a child the size is checked, since a shorter file would end in SIGBUS.
    pub(super) fn map(fd: RawFd) -> Result<Self> {
        // SAFETY: `stat` is a plain structure for which zeros are valid, and the call fills it.
        let size = unsafe {
            let mut stat: libc::stat = std::mem::zeroed();
            if libc::fstat(fd, &raw mut stat) != 0 {
                return Err(Error::last_os_error());
            }
            stat.st_size
        };
        if size != SIZE as libc::off_t {
            return Err(Error::other("the shared memory has another size"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
        let base = unsafe {
            libc::mmap(std::ptr::null_mut(), SIZE, protection, libc::MAP_SHARED | libc::MAP_NORESERVE, fd, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        NonNull::new(base.cast()).map(|base| Shared { base }).ok_or_else(Error::last_os_error)
    }

    /// The flag that cancels the running call: not 0 = stop.
    pub(super) fn cancel(&self) -> &AtomicU32 {
        // SAFETY: the mapping is page-aligned, lives as long as `self`, and this word is only used through atomics.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().cast()) }
    }

    fn at(&self, offset: usize, len: usize) -> Option<*mut u8> {
        if offset < DATA || offset.checked_add(len)? > SIZE {
            return None;
        }
        // SAFETY: the offset lies inside the mapping, as just checked.
        Some(unsafe { self.base.as_ptr().add(offset) })
    }

    /// Copies bytes in. `false` when they do not fit.
    #[must_use]
    pub(super) fn write(&self, offset: usize, bytes: &[u8]) -> bool {
        let Some(target) = self.at(offset, bytes.len()) else { return false };
        // SAFETY: the target lies inside the mapping; `bytes` is not in it, since we hand out no references to it here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        true
    }

    /// Copies bytes out. `false` when they lie outside.
    #[must_use]
    pub(super) fn read(&self, offset: usize, bytes: &mut [u8]) -> bool {
        let Some(source) = self.at(offset, bytes.len()) else { return false };
        // SAFETY: as in `write`.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
        true
    }

    /// Fills bytes. `false` when they lie outside.
    #[must_use]
    pub(super) fn fill(&self, offset: usize, len: usize, value: u8) -> bool {
        let Some(target) = self.at(offset, len) else { return false };
        // SAFETY: as in `write`.
        unsafe { target.write_bytes(value, len) };
        true
    }

    /// A view for a plugin, in the child.
    ///
    /// # Safety
    /// Nobody may write these bytes while the view lives. The host keeps to that: it waits for the answer to a call.
    pub(super) unsafe fn slice(&self, offset: usize, len: usize) -> Option<&[u8]> {
        // SAFETY: inside the mapping; the rest is the caller's promise.
        self.at(offset, len).map(|p| unsafe { std::slice::from_raw_parts(p, len) })
    }

    /// A view for a plugin to fill, in the child.
    ///
    /// # Safety
    /// Nobody else may use these bytes while the view lives: the host waits, and a call's tensors do not overlap.
    #[allow(clippy::mut_from_ref, reason = "the memory is not owned by the mapping's handle; see the safety condition")]
    pub(super) unsafe fn slice_mut(&self, offset: usize, len: usize) -> Option<&mut [u8]> {
        // SAFETY: inside the mapping; the rest is the caller's promise.
        self.at(offset, len).map(|p| unsafe { std::slice::from_raw_parts_mut(p, len) })
    }

    /// Gives pages back after a large call that used the first `used` bytes.
    pub(super) fn trim(&self, used: usize) {
        if used > KEEP {
            // SAFETY: the range lies inside our own mapping; its content is not needed any more.
            unsafe { libc::madvise(self.base.as_ptr().add(KEEP).cast(), used.min(SIZE) - KEEP, libc::MADV_REMOVE) };
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this size, and no view outlives the handle.
        unsafe { libc::munmap(self.base.as_ptr().cast(), SIZE) };
    }
}
