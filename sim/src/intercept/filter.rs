// SPDX-License-Identifier: Apache-2.0
//! The BPF program: which system calls the simulator sees. All others run at native speed.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// ioctl types that are seen: the driver's, Android's additions, the legacy vendor driver's.
pub const IOCTL_TYPES: [u8; 3] = [gunyah::uapi::IOCTL_TYPE, gunyah::uapi::ANDROID_IOCTL_TYPE, 0xb2];

// Offsets in struct seccomp_data (linux/seccomp.h); the low word of an argument, little endian.
const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARG1: u32 = 16 + 8;

// linux/audit.h: EM_X86_64 or EM_AARCH64 with the 64-bit and little-endian bits.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

// linux/bpf_common.h.
const LOAD_WORD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

fn step(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

fn number(nr: libc::c_long) -> u32 {
    u32::try_from(nr).unwrap_or(u32::MAX)
}

/// System calls that open a path, all seen; the simulator lets all but the device's go on.
fn opening_calls() -> Vec<u32> {
    let mut calls = vec![number(libc::SYS_openat), number(libc::SYS_openat2)];
    #[cfg(target_arch = "x86_64")]
    calls.push(number(libc::SYS_open));
    calls.sort_unstable();
    calls
}

/// System calls that may be a file's last close, all seen.
const CLOSING: [libc::c_long; 2] = [libc::SYS_close, libc::SYS_exit_group];

/// The filter's program; `more` are system calls that are seen besides.
pub fn program(more: &[libc::c_long]) -> Vec<libc::sock_filter> {
    let allow = step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0);
    let notify = step(RETURN, libc::SECCOMP_RET_USER_NOTIF, 0, 0);
    let mut steps = vec![
        step(LOAD_WORD, OFFSET_ARCH, 0, 0),
        step(JUMP_EQUAL, ARCH, 1, 0),
        allow,
        step(LOAD_WORD, OFFSET_NR, 0, 0),
    ];
    let more = CLOSING.iter().chain(more).map(|nr| number(*nr));
    for nr in opening_calls().into_iter().chain(more) {
        steps.push(step(JUMP_EQUAL, nr, 0, 1));
        steps.push(notify);
    }
    // A vCPU's page, whose unmapping may be a last close, is one page; nearly nothing else is.
    let page = u32::try_from(crate::page_size()).unwrap_or(0);
    steps.push(step(JUMP_EQUAL, number(libc::SYS_munmap), 0, 4));
    steps.push(step(LOAD_WORD, OFFSET_ARG1, 0, 0));
    steps.push(step(JUMP_EQUAL, page, 0, 1));
    steps.push(notify);
    steps.push(allow);
    steps.push(step(JUMP_EQUAL, number(libc::SYS_ioctl), 1, 0));
    steps.push(allow);
    steps.push(step(LOAD_WORD, OFFSET_ARG1, 0, 0));
    steps.push(step(AND, 0xff00, 0, 0));
    for kind in IOCTL_TYPES {
        steps.push(step(JUMP_EQUAL, u32::from(kind) << 8, 0, 1));
        steps.push(notify);
    }
    steps.push(allow);
    steps
}

/// Puts the filter on the calling thread and its future children; returns the listener.
///
/// Allocates nothing, so that it may run between fork and exec.
pub fn install(program: &mut [libc::sock_filter]) -> Result<OwnedFd, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let filter = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    let listener = match set_filter(&filter) {
        // Without CAP_SYS_ADMIN the kernel demands no_new_privs first; with it the program is left as is.
        Err(Errno::EACCES) => {
            // SAFETY: prctl with these plain integers touches no memory.
            Errno::result(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
            set_filter(&filter)?
        }
        other => other?,
    };
    // SAFETY: the kernel just made this descriptor for us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(listener) })
}

fn set_filter(filter: &libc::sock_fprog) -> Result<RawFd, Errno> {
    // SAFETY: `filter` points to a live sock_fprog whose program is `len` steps long.
    let fd = Errno::result(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            filter,
        )
    })?;
    RawFd::try_from(fd).map_err(|_| Errno::EBADF)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program as the kernel would; enough of classic BPF for it.
    fn run(nr: u32, arch: u32, command: u32) -> u32 {
        let program = program(&[libc::SYS_memfd_create]);
        let mut accumulator = 0;
        let mut at = 0;
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD_WORD => {
                    accumulator = match step.k {
                        OFFSET_NR => nr,
                        OFFSET_ARCH => arch,
                        OFFSET_ARG1 => command,
                        other => panic!("loads {other}"),
                    }
                }
                AND => accumulator &= step.k,
                JUMP_EQUAL => {
                    at += usize::from(if accumulator == step.k { step.jt } else { step.jf })
                }
                RETURN => return step.k,
                other => panic!("code {other:#x}"),
            }
        }
    }

    #[test]
    fn sees_opens_and_the_drivers_ioctls_only() {
        let seen = libc::SECCOMP_RET_USER_NOTIF;
        let not = libc::SECCOMP_RET_ALLOW;
        let ioctl = number(libc::SYS_ioctl);
        assert_eq!(run(number(libc::SYS_openat), ARCH, 0), seen);
        assert_eq!(run(number(libc::SYS_openat2), ARCH, 0), seen);
        assert_eq!(run(ioctl, ARCH, gunyah::uapi::VM_START), seen);
        assert_eq!(run(ioctl, ARCH, 0x4020_4111), seen);
        assert_eq!(run(ioctl, ARCH, 0xb201), seen);
        assert_eq!(run(ioctl, ARCH, 0x5401), not); // TCGETS
        assert_eq!(run(number(libc::SYS_read), ARCH, 0x4700), not);
        assert_eq!(run(number(libc::SYS_memfd_create), ARCH, 0), seen);
        assert_eq!(run(number(libc::SYS_close), ARCH, 0), seen);
        assert_eq!(run(number(libc::SYS_exit_group), ARCH, 0), seen);
        let page = u32::try_from(crate::page_size()).unwrap();
        assert_eq!(run(number(libc::SYS_munmap), ARCH, page), seen);
        assert_eq!(run(number(libc::SYS_munmap), ARCH, 2 * page), not);
        assert_eq!(run(ioctl, ARCH ^ 1, 0x4700), not);
    }
}
