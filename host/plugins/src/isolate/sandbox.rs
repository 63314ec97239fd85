//! What a child gives up before it opens a library: new privileges, the network, writing files, other processes.
//!
//! Each part is taken where the kernel has it; the answer lists what was. A GPU driver keeps what it needs: reading
//! files, `/dev`, local sockets.

use std::ffi::CStr;

/// Gives up what it can, and answers what that was.
pub(super) fn enter() -> Vec<&'static str> {
    let mut done = Vec::new();
    // SAFETY: plain calls with constant arguments; a failure changes nothing.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
            // Without this the kernel allows neither of the others.
            return done;
        }
    }
    done.push("no_new_privs");
    if landlock() {
        done.push("read_only_files");
    }
    if seccomp() {
        done.push("no_network");
    }
    done
}

/// `struct landlock_ruleset_attr`. Older kernels know a shorter one, and take this one where the rest is zero.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// Landlock (kernel 5.13): no file is written, made or removed, except what lies in `/dev`; from kernel 6.2 on none is
/// emptied, and from 6.12 on no process outside gets a signal.
fn landlock() -> bool {
    // linux/landlock.h: WRITE_FILE is bit 1, the REMOVE_ and MAKE_ rights are bits 4 to 12, TRUNCATE is bit 14.
    const WRITE_FILE: u64 = 1 << 1;
    const CHANGES: u64 = WRITE_FILE | 0b1_1111_1111_0000;
    const TRUNCATE: u64 = 1 << 14;
    const SCOPE_SIGNAL: u64 = 1 << 1;
    const ASK_VERSION: u32 = 1;
    // SAFETY: the kernel answers its version and reads nothing.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0, ASK_VERSION) };
    let truncate = if version >= 3 { TRUNCATE } else { 0 };
    let rules = Ruleset {
        handled_access_fs: CHANGES | truncate,
        handled_access_net: 0,
        scoped: if version >= 6 { SCOPE_SIGNAL } else { 0 },
    };
    let beneath = |path: &CStr, ruleset: libc::c_int| {
        // SAFETY: `path` is a C string and `rule` outlives the call; the descriptor is closed again.
        unsafe {
            let folder = libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
            if folder >= 0 {
                let rule = PathBeneath { allowed_access: WRITE_FILE | truncate, parent_fd: folder };
                libc::syscall(libc::SYS_landlock_add_rule, ruleset, 1, &raw const rule, 0);
                libc::close(folder);
            }
        }
    };
    // SAFETY: `rules` outlives the call and its size is given; the descriptor that comes back is ours.
    unsafe {
        let ruleset =
            libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size_of::<Ruleset>(), 0) as libc::c_int;
        if ruleset < 0 {
            return false;
        }
        beneath(c"/dev", ruleset);
        // GPU drivers name their threads there.
        beneath(c"/proc/self", ruleset);
        let done = libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0) == 0;
        libc::close(ruleset);
        done
    }
}

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// A system call filter: only local and netlink sockets, no looking into other processes, no asynchronous calls, which
/// would pass by this filter. Refused calls answer `EACCES`.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn seccomp() -> bool {
    // linux/filter.h and linux/seccomp.h.
    const LOAD: u16 = 0x20;
    const EQUAL: u16 = 0x15;
    const AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const KILL: u32 = 0x8000_0000;
    const REFUSE: u32 = 0x0005_0000 | libc::EACCES as u32;
    // The same calls by other numbers (x32 on x86-64; no such numbers elsewhere).
    const SECOND_NUMBERS: u32 = 0x4000_0000;
    const REFUSED: [libc::c_long; 7] = [
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
    ];
    let (number, arch, first_argument) = (0, 4, 16);
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let sockets = [
        step(EQUAL, libc::SYS_socket as u32, 1, 0),
        step(RETURN, ALLOW, 0, 0),
        step(LOAD, first_argument, 0, 0),
        step(EQUAL, libc::AF_UNIX as u32, 2, 0),
        step(EQUAL, libc::AF_NETLINK as u32, 1, 0),
        step(RETURN, REFUSE, 0, 0),
        step(RETURN, ALLOW, 0, 0),
    ];
    let mut filter = vec![
        step(LOAD, arch, 0, 0),
        step(EQUAL, ARCH, 1, 0),
        step(RETURN, KILL, 0, 0),
        step(LOAD, number, 0, 0),
        // From here to the refusal: all of the list, and five of the steps for sockets.
        step(AT_LEAST, SECOND_NUMBERS, REFUSED.len() as u8 + 5, 0),
    ];
    let left = (0..REFUSED.len() as u8).rev();
    filter.extend(REFUSED.iter().zip(left).map(|(number, left)| step(EQUAL, *number as u32, left + 5, 0)));
    filter.extend(sockets);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its instructions outlive the call, which copies them. SECCOMP_SET_MODE_FILTER = 1.
    unsafe { libc::syscall(libc::SYS_seccomp, 1, 0, &raw const program) == 0 }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn seccomp() -> bool {
    false
}
