// SPDX-License-Identifier: Apache-2.0
//! The system calls of each kind of process, by what they are for.

use libc::{c_long, *};
use nix::errno::Errno;

use super::filter::{Condition, Filter};
use super::requests;
use gunyah::uapi;

// Of arm64's calls, the crate libc lacks these for Android (include/uapi/asm-generic/unistd.h).
#[cfg(all(target_os = "android", target_arch = "aarch64"))]
#[allow(non_upper_case_globals)] // They are named as their siblings are.
mod absent {
    use libc::c_long;
    pub const SYS_ftruncate: c_long = 46;
    pub const SYS_newfstatat: c_long = 79;
    pub const SYS_fadvise64: c_long = 223;
    pub const SYS_fstat: c_long = 80;
    pub const SYS_rseq: c_long = 293;
}
#[cfg(all(target_os = "android", target_arch = "aarch64"))]
use absent::*;

/// What a worker's loop takes: its channel, its console's clients, eventfds, memory, its own end.
#[rustfmt::skip] // By what they are for.
const LOOP: &[&[c_long]] = &[
    &[SYS_read, SYS_readv, SYS_pread64, SYS_write, SYS_writev, SYS_lseek, SYS_close],
    &[SYS_recvfrom, SYS_recvmsg, SYS_sendto, SYS_sendmsg, SYS_shutdown],
    &[SYS_ppoll, SYS_epoll_pwait, SYS_timerfd_settime],
    &[SYS_timer_settime, SYS_timer_delete],
    &[SYS_brk, SYS_munmap, SYS_madvise],
    &[SYS_futex, SYS_sched_yield, SYS_getpid, SYS_gettid, SYS_getuid, SYS_getrandom],
    &[SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep],
    &[SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall],
    // The last two of these: a thread's own end in musl, where nobody joins it.
    &[SYS_exit, SYS_exit_group, SYS_set_robust_list, SYS_set_tid_address],
    #[cfg(target_arch = "x86_64")]
    &[SYS_poll, SYS_epoll_wait],
];

/// What a device's thread takes besides its own work: eventfds, memory, its own end.
#[rustfmt::skip] // By what they are for.
const DEVICE_LOOP: &[&[c_long]] = &[
    &[SYS_read, SYS_write, SYS_ppoll, SYS_close],
    &[SYS_brk, SYS_munmap, SYS_madvise],
    &[SYS_futex, SYS_sched_yield, SYS_getpid, SYS_gettid, SYS_getrandom],
    &[SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep],
    &[SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_sigaltstack, SYS_restart_syscall],
    &[SYS_exit, SYS_exit_group, SYS_set_robust_list, SYS_set_tid_address],
    #[cfg(target_arch = "x86_64")]
    &[SYS_poll],
];

/// What a kind of device takes for its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceCalls {
    calls: &'static [c_long],
    /// ioctls.
    requests: &'static [u32],
    /// ioctls by which it is opened, before the worker is confined.
    opening: &'static [u32],
    /// Families of sockets that it makes.
    sockets: &'static [u32],
}

#[rustfmt::skip] // By what they are for.
impl DeviceCalls {
    /// A disk: its file.
    pub const DISK: Self = Self {
        calls: &[SYS_pread64, SYS_preadv, SYS_pwrite64, SYS_pwritev, SYS_fdatasync, SYS_fallocate],
        ..Self::CONSOLE
    };

    /// Randomness: a file.
    pub const ENTROPY: Self = Self { calls: &[SYS_preadv], ..Self::CONSOLE };

    /// A console: the ring and eventfds.
    pub const CONSOLE: Self = Self { calls: &[], requests: &[], opening: &[], sockets: &[] };

    /// A network device: packets of a tap, and what of its offloads the guest takes.
    pub const NET: Self = Self {
        calls: &[SYS_readv, SYS_writev],
        requests: &[requests::TUNSETOFFLOAD],
        opening: &[requests::TUNSETIFF, requests::TUNSETVNETHDRSZ],
        ..Self::CONSOLE
    };

    /// A socket device: the kernel's vhost is started and stopped, and does the rest.
    pub const VSOCK: Self = Self {
        requests: &[
            requests::VHOST_SET_FEATURES, requests::VHOST_SET_MEM_TABLE,
            requests::VHOST_SET_VRING_NUM, requests::VHOST_SET_VRING_ADDR,
            requests::VHOST_SET_VRING_BASE, requests::VHOST_SET_VRING_KICK,
            requests::VHOST_SET_VRING_CALL, requests::VHOST_VSOCK_SET_RUNNING,
        ],
        opening: &[
            requests::VHOST_SET_OWNER, requests::VHOST_GET_FEATURES,
            requests::VHOST_VSOCK_SET_GUEST_CID,
        ],
        ..Self::CONSOLE
    };

    /// One whose guest is ready when a port accepts: connections to it, tried now and then.
    pub const VSOCK_PROBE: Self = Self {
        calls: &[SYS_connect, SYS_timerfd_settime],
        sockets: &[word(AF_VSOCK)],
        ..Self::VSOCK
    };

    /// A device of a backend: its socket, another one when it is gone, and a timer until then.
    pub const VHOST_USER: Self = Self {
        calls: &[SYS_connect, SYS_sendmsg, SYS_recvfrom, SYS_timerfd_settime],
        sockets: &[word(AF_UNIX)],
        ..Self::CONSOLE
    };

    /// All of them: a worker's filters stand above its supervisor's.
    const ALL: &[Self] =
        &[Self::DISK, Self::ENTROPY, Self::CONSOLE, Self::NET, Self::VSOCK, Self::VSOCK_PROBE, Self::VHOST_USER];
}

/// What launching takes besides, and a supervisor's own loop.
#[rustfmt::skip] // By what they are for.
const LAUNCH: &[&[c_long]] = &[
    &[SYS_openat, SYS_faccessat, SYS_fstat, SYS_newfstatat, SYS_statx, SYS_getdents64],
    &[SYS_readlinkat, SYS_getcwd, SYS_unlinkat, SYS_fchmod, SYS_fchmodat, SYS_flock, SYS_ftruncate],
    &[SYS_fadvise64],
    &[SYS_umask, SYS_memfd_create, SYS_dup, SYS_dup3, SYS_close_range, SYS_pipe2, SYS_eventfd2],
    &[SYS_epoll_create1, SYS_epoll_ctl, SYS_timerfd_create, SYS_timer_create, SYS_signalfd4],
    &[SYS_connect, SYS_bind, SYS_listen, SYS_accept4, SYS_getsockopt, SYS_setsockopt, SYS_getsockname],
    &[SYS_wait4, SYS_waitid, SYS_pidfd_open, SYS_getpgid, SYS_geteuid, SYS_getegid],
    &[SYS_getgid, SYS_prctl, SYS_capget, SYS_capset, SYS_seccomp, SYS_getrlimit, SYS_setrlimit],
    &[SYS_mremap, SYS_getpriority, SYS_sched_getaffinity, SYS_rseq, SYS_uname, SYS_clock_getres],
    #[cfg(target_arch = "x86_64")]
    &[SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_unlink, SYS_chmod, SYS_dup2],
    #[cfg(target_arch = "x86_64")]
    &[SYS_fork, SYS_getpgrp, SYS_arch_prctl],
];

/// What a library tries and lives without: a log that reconnects, a panic's backtrace, glibc's count
/// of CPUs for its allocator. mremap: realloc copies without it. It would widen a worker's part of the
/// reserve to what lies beside it, which is another VM's.
#[rustfmt::skip] // By what they are for.
const TRIED: &[&[c_long]] = &[
    &[SYS_socket, SYS_connect],
    &[SYS_openat, SYS_faccessat, SYS_fstat, SYS_newfstatat, SYS_readlinkat, SYS_statx, SYS_getcwd],
    &[SYS_sched_getaffinity, SYS_mremap],
    #[cfg(target_arch = "x86_64")]
    &[SYS_open, SYS_stat, SYS_lstat, SYS_access, SYS_readlink],
    // Bionic's allocator names its mappings.
    #[cfg(target_os = "android")]
    &[SYS_prctl],
];

// The type of ioctl's request differs between C libraries; the kernel looks at 32 bits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
const fn request(number: Ioctl) -> u32 {
    number as u32
}

/// fcntl commands without a say over other processes: F_SETOWN and F_SETSIG make the kernel send any
/// signal to any process of the same user. musl's open makes F_SETFD of O_CLOEXEC.
const FCNTL: &[u32] = &[word(F_GETFD), word(F_SETFD), word(F_GETFL), word(F_DUPFD_CLOEXEC)];

const ABORT: u32 = word(SIGABRT);

/// What fork and a thread of glibc, musl and bionic are made with; the low byte is the signal of the
/// end. All else, such as namespaces, is nothing that a launch takes.
#[rustfmt::skip] // By what they are for.
const CLONE: c_int = 0xff
    | CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS
    | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID | CLONE_DETACHED;

// Signals, commands and flags are small and positive, or sets of bits.
#[allow(clippy::cast_sign_loss)]
const fn word(value: c_int) -> u32 {
    value as u32
}

/// A worker whose guest runs: process `pid` with these `threads`, and with these `devices`, whose own
/// threads each take another filter on top. Calls that it has no need of end it.
pub fn worker(pid: u32, threads: &[u32], devices: &[DeviceCalls]) -> Filter {
    let mut filter = Filter::new();
    // The run loop first: it is what runs often.
    let mut requests = vec![uapi::VCPU_RUN];
    devices.iter().for_each(|device| requests.extend_from_slice(device.requests));
    filter.only(SYS_ioctl, 1, &requests);
    filter.allow(LOOP);
    devices.iter().for_each(|device| filter.allow(&[device.calls]));
    if !devices.is_empty() {
        // It only takes away.
        filter.allow(&[&[SYS_seccomp]]);
    }
    sockets(devices, &mut filter);
    no_code(&mut filter);
    filter.only(SYS_fcntl, 1, FCNTL);
    // The same user has other workers. glibc's abort and what stops vCPUs; bionic's abort; musl's,
    // which names no process.
    filter.only(SYS_tgkill, 0, &[pid]);
    filter.only(SYS_rt_tgsigqueueinfo, 0, &[pid]);
    // A thread that ends may leave its number to a stranger, so that no other signal is allowed.
    filter.when(SYS_tkill, &[Condition::Among(0, threads), Condition::Among(1, &[ABORT])]);
    filter.refuse(TRIED, Errno::EPERM);
    filter.end(None)
}

/// The sockets that `devices` make, if any do.
fn sockets(devices: &[DeviceCalls], filter: &mut Filter) {
    let mut families = Vec::new();
    devices.iter().for_each(|device| families.extend_from_slice(device.sockets));
    if !families.is_empty() {
        filter.only(SYS_socket, 0, &families);
    }
}

/// Memory, but none with code.
fn no_code(filter: &mut Filter) {
    filter.without(SYS_mmap, 2, word(PROT_EXEC));
    filter.without(SYS_mprotect, 2, word(PROT_EXEC));
}

/// A device's thread, on top of its worker's.
pub fn device(device: DeviceCalls) -> Filter {
    let mut filter = Filter::new();
    filter.allow(&[device.calls]);
    filter.allow(DEVICE_LOOP);
    sockets(&[device], &mut filter);
    // The standard library looks at what it closes, where it is built with debug assertions.
    filter.only(SYS_fcntl, 1, &[word(F_GETFD)]);
    filter.only(SYS_ioctl, 1, device.requests);
    // A panic's abort, so that it is told as one; the worker's filter leaves it no other process.
    filter.only(SYS_tgkill, 2, &[ABORT]);
    filter.only(SYS_tkill, 1, &[ABORT]);
    no_code(&mut filter);
    filter.refuse(TRIED, Errno::EPERM);
    filter.end(None)
}

/// ioctls of the supervisor and of a launch.
const REQUESTS: &[u32] = &[
    uapi::VCPU_RUN,
    uapi::VCPU_MMAP_SIZE,
    uapi::CREATE_VM,
    uapi::VM_SET_USER_MEM_REGION,
    uapi::VM_ANDROID_LEND_USER_MEM,
    uapi::VM_ANDROID_SET_FW_CONFIG,
    uapi::VM_SET_DTB_CONFIG,
    uapi::VM_SET_BOOT_CONTEXT,
    // Which driver is it?
    uapi::VM_ANDROID_RECLAIM_REGION,
    uapi::VM_MAP_MEM,
    uapi::CHECK_EXTENSION,
    uapi::VM_ADD_FUNCTION,
    uapi::VM_START,
    requests::PAGEMAP_SCAN,
    // Sockets that shall not block.
    request(FIONBIO),
    // `gunyahd run` on a terminal: is it one, whose is it, its settings.
    request(TIOCGWINSZ),
    request(TIOCGPGRP),
    request(TCGETS),
    request(TCSETS),
    request(TCGETS2),
    request(TCSETS2),
];

/// The supervisor and, until its guest runs, a worker. Calls that they have no need of answer EPERM: the
/// supervisor's death would be that of every VM.
pub fn supervisor() -> Filter {
    let mut filter = Filter::new();
    let mut requests = REQUESTS.to_vec();
    // What a worker's devices will take.
    for device in DeviceCalls::ALL {
        requests.extend_from_slice(device.requests);
        requests.extend_from_slice(device.opening);
    }
    filter.only(SYS_ioctl, 1, &requests);
    DeviceCalls::ALL.iter().for_each(|device| filter.allow(&[device.calls]));
    filter.allow(LOOP);
    filter.allow(LAUNCH);
    no_code(&mut filter);
    // A worker has another number, and its threads are yet to come: the signals alone are known.
    let signals = &[ABORT, word(SIGURG)];
    filter.only(SYS_tgkill, 2, signals);
    filter.only(SYS_rt_tgsigqueueinfo, 2, signals);
    filter.only(SYS_tkill, 1, signals);
    // F_ADD_SEALS: the console's ring keeps its size.
    filter.only(SYS_fcntl, 1, &[FCNTL, &[word(F_ADD_SEALS)]].concat());
    filter.only(SYS_socket, 0, &[word(AF_UNIX), word(AF_VSOCK)]);
    filter.only(SYS_socketpair, 0, &[word(AF_UNIX)]);
    filter.without(SYS_clone, 0, word(!CLONE));
    // Is there one thread alone? Nothing else is asked by it.
    filter.only(SYS_unshare, 0, &[word(CLONE_THREAD)]);
    // Its flags are in memory, where a filter cannot look; C libraries then take clone.
    filter.refuse(&[&[SYS_clone3]], Errno::ENOSYS);
    // Workers have numbers that are not known yet. Negative: whole groups, or everybody.
    let one = Condition::Without(0, 1 << 31);
    filter.when(SYS_kill, &[one, Condition::Among(1, &[word(SIGKILL)])]);
    // Of the caller alone: its limits, its niceness, its CPUs.
    filter.only(SYS_prlimit64, 0, &[0]);
    filter.only(SYS_setpriority, 1, &[0]);
    filter.only(SYS_sched_setaffinity, 0, &[0]);
    filter.end(Some(Errno::EPERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(filter: &Filter, nr: c_long, arguments: [u32; 3]) -> bool {
        filter.answer_to(nr, arguments) == SECCOMP_RET_ALLOW
    }

    #[test]
    fn nobody_runs_a_program_or_looks_into_another_process() {
        for filter in
            [worker(7, &[7, 8], &[DeviceCalls::DISK]), device(DeviceCalls::DISK), supervisor()]
        {
            for nr in [
                SYS_execve,
                SYS_execveat,
                SYS_ptrace,
                SYS_process_vm_readv,
                SYS_mount,
                SYS_bpf,
                SYS_init_module,
            ] {
                assert!(!allows(&filter, nr, [0; 3]), "{nr}");
            }
        }
        // mremap reaches the parts of the reserve beside the worker's own.
        let reaching = [SYS_openat, SYS_socket, SYS_clone, SYS_clone3, SYS_memfd_create, SYS_kill];
        for nr in reaching.into_iter().chain([SYS_mremap]) {
            assert!(!allows(&worker(7, &[7], &[DeviceCalls::DISK]), nr, [0; 3]), "{nr}");
        }
    }

    /// Every call, ioctl and kind of socket of every device, tried by every other: a thread's list is its own.
    #[test]
    fn no_device_may_do_what_another_does() {
        let refused = SECCOMP_RET_ERRNO | Errno::EPERM as u32;
        let tried = TRIED.concat();
        for own in DeviceCalls::ALL {
            let filter = device(*own);
            let check = |nr, arguments, may, otherwise| {
                let expected = if may { SECCOMP_RET_ALLOW } else { otherwise };
                let answer = filter.answer_to(nr, arguments);
                assert_eq!(answer, expected, "{own:?}: {nr} {arguments:x?}");
            };
            for other in DeviceCalls::ALL {
                for nr in other.calls {
                    // What a library tries is refused; another is the end.
                    let otherwise =
                        if tried.contains(nr) { refused } else { SECCOMP_RET_KILL_PROCESS };
                    check(*nr, [0; 3], own.calls.contains(nr), otherwise);
                }
                for request in other.requests.iter().chain(other.opening) {
                    let may = own.requests.contains(request);
                    check(SYS_ioctl, [3, *request, 0], may, refused);
                }
                for family in other.sockets {
                    let arguments = [*family, 1, 0];
                    check(SYS_socket, arguments, own.sockets.contains(family), refused);
                }
            }
        }
    }

    #[test]
    fn a_device_that_panics_may_abort_and_sends_no_other_signal() {
        let filter = device(DeviceCalls::ENTROPY);
        for signal in 0..65 {
            assert_eq!(allows(&filter, SYS_tgkill, [7, 7, signal]), signal == ABORT);
            assert_eq!(allows(&filter, SYS_tkill, [7, signal, 0]), signal == ABORT);
        }
    }

    #[test]
    fn a_device_makes_its_own_requests_and_sockets_alone() {
        let refused = SECCOMP_RET_ERRNO | Errno::EPERM as u32;
        assert!(allows(&device(DeviceCalls::NET), SYS_ioctl, [3, requests::TUNSETOFFLOAD, 0]));
        for calls in [DeviceCalls::NET, DeviceCalls::VSOCK, DeviceCalls::DISK] {
            let filter = device(calls);
            assert_eq!(filter.answer_to(SYS_socket, [0; 3]), refused);
            for nr in [SYS_socket, SYS_connect, SYS_sendmsg, SYS_openat] {
                assert!(!allows(&filter, nr, [0; 3]), "{nr}");
            }
        }
        for (calls, own) in
            [(DeviceCalls::VSOCK_PROBE, AF_VSOCK), (DeviceCalls::VHOST_USER, AF_UNIX)]
        {
            for filter in [device(calls), worker(7, &[7], &[DeviceCalls::NET, calls])] {
                for family in 0..64 {
                    let allowed = allows(&filter, SYS_socket, [word(family), 1, 0]);
                    assert_eq!(allowed, family == own, "{calls:?}: {family}");
                }
            }
        }
        // What opens a device is gone once a guest runs.
        for request in [requests::TUNSETIFF, requests::VHOST_SET_OWNER] {
            let arguments = [3, request, 0];
            assert!(allows(&supervisor(), SYS_ioctl, arguments));
            let worker = worker(7, &[7], DeviceCalls::ALL);
            assert!(!allows(&worker, SYS_ioctl, arguments), "{request:#x}");
        }
    }
}
