//! What can go wrong, done on purpose.
#![allow(clippy::panic, reason = "panicking is one of the deeds")]

use backend_api::{AbiError, Code};
use std::time::Duration;

/// A misdeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// `panic`: unwinds.
    Panic,
    /// `hang`: never returns and never looks at the cancel flag.
    Hang,
    /// `abort`: SIGABRT.
    Abort,
    /// `segv`: writes to address 0.
    Segv,
    /// `stack`: runs out of stack.
    Stack,
    /// `exit`: ends the process with status 3.
    Exit,
    /// `exit0`: ends the process as if all were well.
    ExitWell,
    /// `kill`: SIGKILL, as the OOM killer sends it.
    Kill,
    /// `oom`: answers `OOM`.
    Oom,
    /// `fail`: answers `INTERNAL`.
    Fail,
    /// `lost`: answers `DEVICE_LOST`.
    Lost,
    /// `cancel`: answers `CANCELLED` though nobody asked.
    Cancel,
    /// `code`: answers an error with a code that no version knows and a message of 1 MiB.
    Code,
    /// `leak`: loses 1 MiB.
    Leak,
    /// `eat`: allocates and touches memory until there is none.
    Eat,
    /// `slow`: takes 200 ms longer.
    Slow,
    /// `stdout`: writes garbage to the standard output.
    Stdout,
    /// `garbage`: writes garbage to every socket that the process has open.
    Garbage,
    /// `close`: closes every socket that the process has open.
    Close,
    /// `net`: tries to reach the network and answers `INTERNAL` with what happened.
    Net,
    /// `write`: tries to write a file and answers `INTERNAL` with what happened.
    Write,
    /// `escape`: tries ways around a sandbox and answers `INTERNAL` with what happened: emptying the file
    /// `sd-rogue-<its parent's number>` of the temporary folder, the kernel's asynchronous calls, a signal to its parent.
    Escape,
    /// `nan`: fills a tensor with NaN.
    Nan,
    /// `lie`: a wrong description, wrong memory figures or wrong offers.
    Lie,
    /// `silent`: answers success without having written anything.
    Silent,
    /// `blind`: answers success to what the backend itself refuses.
    Blind,
    /// `deaf`: never looks at the cancel flag.
    Deaf,
    /// `fickle`: answers a little differently each time.
    Fickle,
    /// `lockstep`: runs every item of a batch at the first one's timestep.
    Lockstep,
    /// `lazy`: answers its input.
    Lazy,
    /// `sour`: after one error all answers are a little off.
    Sour,
    /// `keep`: does not forget what it should forget.
    Keep,
    /// `thread`: leaves a thread running.
    Thread,
    /// `hog`: takes 256 MiB, and answers `INTERNAL` when there are not so many.
    Hog,
}

impl Deed {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "panic" => Deed::Panic,
            "hang" => Deed::Hang,
            "abort" => Deed::Abort,
            "segv" => Deed::Segv,
            "stack" => Deed::Stack,
            "exit" => Deed::Exit,
            "exit0" => Deed::ExitWell,
            "kill" => Deed::Kill,
            "oom" => Deed::Oom,
            "fail" => Deed::Fail,
            "lost" => Deed::Lost,
            "cancel" => Deed::Cancel,
            "code" => Deed::Code,
            "leak" => Deed::Leak,
            "eat" => Deed::Eat,
            "slow" => Deed::Slow,
            "stdout" => Deed::Stdout,
            "garbage" => Deed::Garbage,
            "close" => Deed::Close,
            "net" => Deed::Net,
            "write" => Deed::Write,
            "escape" => Deed::Escape,
            "nan" => Deed::Nan,
            "lie" => Deed::Lie,
            "silent" => Deed::Silent,
            "blind" => Deed::Blind,
            "deaf" => Deed::Deaf,
            "fickle" => Deed::Fickle,
            "lockstep" => Deed::Lockstep,
            "lazy" => Deed::Lazy,
            "sour" => Deed::Sour,
            "keep" => Deed::Keep,
            "thread" => Deed::Thread,
            "hog" => Deed::Hog,
            _ => return None,
        })
    }
}

/// Does a deed. Those that belong to the method's result come back.
pub(crate) fn commit(deed: Deed, method: &str) -> Result<Option<Deed>, AbiError> {
    let answer = |code, text: &str| Err(AbiError::new(code, format!("scripted {text} in {method}")));
    match deed {
        Deed::Panic => panic!("scripted panic in {method}"),
        Deed::Hang => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        Deed::Abort => std::process::abort(),
        Deed::Segv => {
            // SAFETY: there is none: this is the fault that the host must survive.
            unsafe { std::ptr::without_provenance_mut::<u8>(16).write_volatile(1) };
        }
        Deed::Stack => {
            std::hint::black_box(deeper(1));
        }
        Deed::Exit => std::process::exit(3),
        Deed::ExitWell => std::process::exit(0),
        Deed::Kill => {
            // SAFETY: a signal to ourselves; nothing after it runs.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        }
        Deed::Oom => return answer(Code::OOM, "lack of memory"),
        Deed::Fail => return answer(Code::INTERNAL, "failure"),
        Deed::Lost => return answer(Code::DEVICE_LOST, "loss of the device"),
        Deed::Cancel => return answer(Code::CANCELLED, "cancellation"),
        Deed::Code => return answer(Code(0xdead_beef), &"x".repeat(1 << 20)),
        Deed::Leak => std::mem::forget(touched(1 << 20)),
        Deed::Eat => loop {
            std::mem::forget(touched(16 << 20));
        },
        Deed::Slow => std::thread::sleep(Duration::from_millis(200)),
        Deed::Stdout => {
            use std::io::Write;
            // Nobody may be reading; that is not this deed's matter.
            let _ = std::io::stdout().write_all(&[b'!'; 4096]);
        }
        Deed::Garbage => sockets().for_each(|fd| {
            let junk = [0xa5u8; 256];
            // SAFETY: `junk` outlives the call and its length is right.
            unsafe { libc::send(fd, junk.as_ptr().cast(), junk.len(), libc::MSG_NOSIGNAL) };
        }),
        Deed::Close => sockets().for_each(|fd| {
            // SAFETY: closing a number touches no memory; that the owner does not expect it is the deed.
            unsafe { libc::close(fd) };
        }),
        Deed::Net => {
            let outcome = match std::net::TcpListener::bind("127.0.0.1:0") {
                Ok(_) => "a socket was made".to_owned(),
                Err(e) => format!("refused: {}", e.kind()),
            };
            return answer(Code::INTERNAL, &format!("network access ({outcome})"));
        }
        Deed::Write => {
            let path = std::env::temp_dir().join(format!("sd-rogue-{}", std::process::id()));
            let outcome = match std::fs::write(&path, "x") {
                Ok(()) => "a file was written".to_owned(),
                Err(e) => format!("refused: {}", e.kind()),
            };
            let _ = std::fs::remove_file(&path);
            return answer(Code::INTERNAL, &format!("writing ({outcome})"));
        }
        Deed::Escape => {
            // SAFETY: plain numbers, a C string that outlives its call, and zeros where a structure is asked for.
            let outcomes = unsafe {
                let parent = libc::getppid();
                let path = std::env::temp_dir().join(format!("sd-rogue-{parent}\0"));
                let mut room = [0u8; 256];
                [
                    (
                        "truncate",
                        libc::c_long::from(libc::truncate(path.as_os_str().as_encoded_bytes().as_ptr().cast(), 0)),
                    ),
                    ("io_uring", libc::syscall(libc::SYS_io_uring_setup, 1, room.as_mut_ptr())),
                    ("signal", libc::c_long::from(libc::kill(parent, 0))),
                ]
                .map(|(what, result)| format!("{what} {}", if result < 0 { "refused" } else { "done" }))
            };
            return answer(Code::INTERNAL, &format!("escape ({})", outcomes.join(", ")));
        }
        Deed::Thread => {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
        }
        Deed::Hog => {
            let mut block: Vec<u8> = Vec::new();
            if block.try_reserve_exact(256 << 20).is_err() {
                return answer(Code::INTERNAL, "lack of memory under a wrong name");
            }
            std::hint::black_box(block);
        }
        Deed::Nan
        | Deed::Lie
        | Deed::Silent
        | Deed::Blind
        | Deed::Deaf
        | Deed::Fickle
        | Deed::Lockstep
        | Deed::Lazy
        | Deed::Sour
        | Deed::Keep => return Ok(Some(deed)),
    }
    Ok(None)
}

fn deeper(n: u64) -> u64 {
    let here = std::hint::black_box([n; 512]);
    if here[511] == 0 { 0 } else { deeper(here[0] + 1) + here[1] }
}

/// Memory that the kernel must really give.
fn touched(bytes: usize) -> Vec<u8> {
    let mut block = vec![0u8; bytes];
    block.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::hint::black_box(block)
}

fn sockets() -> impl Iterator<Item = i32> {
    (3..256).filter(|fd| {
        let (mut kind, mut len): (libc::c_int, _) = (0, size_of::<libc::c_int>() as libc::socklen_t);
        // SAFETY: both pointers are valid for the call; a number that is no socket is answered by an error.
        unsafe { libc::getsockopt(*fd, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut len) == 0 }
    })
}
