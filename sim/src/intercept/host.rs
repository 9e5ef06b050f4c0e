// SPDX-License-Identifier: Apache-2.0
//! The host's own system calls that a script may fail; intercepted only where it asks for them.

use libc::c_long;

/// A host call's name in scripts and records, and its system calls.
struct HostCall {
    name: &'static str,
    numbers: &'static [c_long],
}

macro_rules! calls {
    ($($name:literal: $($number:ident)|+;)*) => {
        &[$(HostCall { name: $name, numbers: &[$(libc::$number),+] }),*]
    };
}

const CALLS: &[HostCall] = calls! {
    "memfd_create": SYS_memfd_create;
    "ftruncate": SYS_ftruncate;
    "mmap": SYS_mmap;
    "madvise": SYS_madvise;
    "socketpair": SYS_socketpair;
    "openat": SYS_openat | SYS_openat2;
    "statx": SYS_statx;
    "read": SYS_read;
    "pread64": SYS_pread64;
    "preadv": SYS_preadv;
    "pwritev": SYS_pwritev;
    "fdatasync": SYS_fdatasync;
    "eventfd": SYS_eventfd2;
    "epoll_create": SYS_epoll_create1;
    "epoll_ctl": SYS_epoll_ctl;
    "timerfd_create": SYS_timerfd_create;
    "timerfd_settime": SYS_timerfd_settime;
    "pidfd_open": SYS_pidfd_open;
    "close_range": SYS_close_range;
    "prctl": SYS_prctl;
    "capset": SYS_capset;
    "seccomp": SYS_seccomp;
    "rseq": SYS_rseq;
    "munmap": SYS_munmap;
    "mprotect": SYS_mprotect;
    "sendmsg": SYS_sendmsg;
    "recvmsg": SYS_recvmsg;
    "sendto": SYS_sendto;
    "write": SYS_write | SYS_writev;
    "fcntl": SYS_fcntl;
    "getrandom": SYS_getrandom;
    "prlimit64": SYS_prlimit64;
    "getppid": SYS_getppid;
    "capget": SYS_capget;
    "sched_getaffinity": SYS_sched_getaffinity;
    "sched_setaffinity": SYS_sched_setaffinity;
    "rt_sigaction": SYS_rt_sigaction;
    "rt_sigprocmask": SYS_rt_sigprocmask;
    "sigaltstack": SYS_sigaltstack;
    "socket": SYS_socket;
    "connect": SYS_connect;
    "fstat": SYS_fstat | SYS_newfstatat;
    "getdents64": SYS_getdents64;
    "close": SYS_close;
    "exit": SYS_exit_group;
};

/// madvise that faults pages in, which can be meant by itself.
const POPULATE: &str = "madv_populate";
// linux/mman.h: MADV_POPULATE_READ and MADV_POPULATE_WRITE.
const POPULATES: [u64; 2] = [22, 23];

/// Both are made by the same calls; the flags tell them apart.
const FORK: &str = "fork";
const THREAD: &str = "thread";
#[cfg(target_arch = "x86_64")]
const MAKING: &[c_long] = &[libc::SYS_clone, libc::SYS_clone3, libc::SYS_fork, libc::SYS_vfork];
#[cfg(not(target_arch = "x86_64"))]
const MAKING: &[c_long] = &[libc::SYS_clone, libc::SYS_clone3];

/// All names, for messages.
pub fn names() -> impl Iterator<Item = &'static str> {
    CALLS.iter().map(|call| call.name).chain([FORK, THREAD, POPULATE])
}

/// The name as it is in the list, if it is a host call.
pub fn known(name: &str) -> Option<&'static str> {
    names().find(|known| known.eq_ignore_ascii_case(name))
}

/// The numbers of the system calls that bear the name; none for an unknown one.
pub fn numbers(name: &str) -> &'static [c_long] {
    match known(name) {
        Some(FORK | THREAD) => MAKING,
        Some(POPULATE) => &[libc::SYS_madvise],
        known => {
            CALLS.iter().find(|call| Some(call.name) == known).map_or(&[], |call| call.numbers)
        }
    }
}

/// The name of a system call. `clone_flags` reads the flags of one that makes a process or thread.
pub fn name(nr: i32, clone_flags: impl FnOnce() -> u64) -> Option<&'static str> {
    let nr = c_long::from(nr);
    if MAKING.contains(&nr) {
        let thread = u64::try_from(libc::CLONE_THREAD).unwrap_or(0);
        return Some(if clone_flags() & thread == 0 { FORK } else { THREAD });
    }
    CALLS.iter().find(|call| call.numbers.contains(&nr)).map(|call| call.name)
}

/// The narrower name of some calls of that name.
pub fn narrower(name: &str, args: &[u64; 6]) -> Option<&'static str> {
    (name == "madvise" && POPULATES.contains(&args[2])).then_some(POPULATE)
}

/// Where the clone flags of a call stand.
pub enum Flags {
    /// In the call itself.
    Here(u64),
    /// At this address of the caller.
    At(u64),
}

/// The flags of a call that makes a process or thread.
pub fn flags_of(nr: i32, args: &[u64; 6]) -> Flags {
    match c_long::from(nr) {
        libc::SYS_clone => Flags::Here(args[0]),
        // struct clone_args begins with them.
        libc::SYS_clone3 => Flags::At(args[0]),
        _ => Flags::Here(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let nr = |number: c_long| i32::try_from(number).unwrap();
        assert_eq!(numbers("MEMFD_CREATE"), [libc::SYS_memfd_create]);
        assert_eq!(numbers("frobnicate"), [0; 0]);
        assert_eq!(numbers("madv_populate"), [libc::SYS_madvise]);
        assert_eq!(narrower("madvise", &[0, 0, 23, 0, 0, 0]), Some("madv_populate"));
        assert_eq!(narrower("madvise", &[0, 0, 4, 0, 0, 0]), None);
        assert_eq!(name(nr(libc::SYS_madvise), || 0), Some("madvise"));
        assert_eq!(name(nr(libc::SYS_clone3), || 0x3d_0f00), Some("thread"));
        assert_eq!(name(nr(libc::SYS_clone), || 0x0120_0011), Some("fork"));
        assert_eq!(name(nr(libc::SYS_getpid), || 0), None);
    }
}
