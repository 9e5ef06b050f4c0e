// SPDX-License-Identifier: Apache-2.0
//! A seccomp filter (Documentation/userspace-api/seccomp_filter.rst) from a list of rules.

use libc::{c_long, sock_filter};
use nix::errno::Errno;

/// What an argument must be. Arguments count from 0; all that are looked at here have 32 bits for the
/// kernel, too, so that their low words say everything.
#[derive(Debug, Clone, Copy)]
pub enum Condition<'a> {
    /// One of these values.
    Among(u32, &'a [u32]),
    /// None of these bits.
    Without(u32, u32),
}

/// A program for the kernel: what [`super::kernel::install`] takes. The first rule for a call is the one that
/// counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    pub(super) program: Vec<sock_filter>,
}

// Instruction codes (linux/bpf_common.h), which the crate libc does not have for Android.
const LOAD: u16 = 0x20; // LD | W | ABS
const JUMP: u16 = 0x05; // JMP | JA
const JUMP_EQUAL: u16 = 0x15; // JMP | JEQ | K
const JUMP_FROM: u16 = 0x35; // JMP | JGE | K
const JUMP_BITS: u16 = 0x45; // JMP | JSET | K
const ANSWER: u16 = 0x06; // RET | K

// Offsets in struct seccomp_data (linux/seccomp.h); arguments are 64 bits each, little endian.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;
const ARGUMENT: u32 = 8;

/// AUDIT_ARCH_* (linux/audit.h): the ELF machine, 64 bit, little endian.
#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

/// x86-64's x32 calls have this bit, and are not meant by any rule.
const X32_BIT: u32 = 0x4000_0000;

impl Filter {
    /// Without a rule yet.
    pub fn new() -> Self {
        let mut filter = Self { program: Vec::new() };
        filter.load(ARCH);
        filter.push(JUMP_EQUAL, 1, 0, AUDIT_ARCH);
        filter.answer(libc::SECCOMP_RET_KILL_PROCESS);
        filter.load(NR);
        filter.push(JUMP_FROM, 0, 1, X32_BIT);
        filter.answer(libc::SECCOMP_RET_KILL_PROCESS);
        filter
    }

    /// A call that no rule names answers this errno, or kills the process.
    pub fn end(mut self, otherwise: Option<Errno>) -> Self {
        self.answer(otherwise.map_or(libc::SECCOMP_RET_KILL_PROCESS, refuse));
        self
    }

    /// These are allowed.
    pub fn allow(&mut self, lists: &[&[c_long]]) {
        self.each(lists, libc::SECCOMP_RET_ALLOW);
    }

    /// These are refused with an errno: what a library tries and lives without.
    pub fn refuse(&mut self, lists: &[&[c_long]], errno: Errno) {
        self.each(lists, refuse(errno));
    }

    fn each(&mut self, lists: &[&[c_long]], answer: u32) {
        for nr in lists.iter().copied().flatten() {
            self.push(JUMP_EQUAL, 0, 1, number(*nr));
            self.answer(answer);
        }
    }

    /// Allows `nr` where its argument is one of `values`.
    pub fn only(&mut self, nr: c_long, argument: u32, values: &[u32]) {
        self.when(nr, &[Condition::Among(argument, values)]);
    }

    /// Allows `nr` where its argument has none of `bits`.
    pub fn without(&mut self, nr: c_long, argument: u32, bits: u32) {
        self.when(nr, &[Condition::Without(argument, bits)]);
    }

    /// Allows `nr` where all of these hold; else EPERM.
    pub fn when(&mut self, nr: c_long, conditions: &[Condition<'_>]) {
        // The whole block is skipped for other calls, which need their number kept.
        self.push(JUMP_EQUAL, 1, 0, number(nr));
        let skip = self.program.len();
        self.jump(0);
        for condition in conditions {
            self.condition(condition);
        }
        self.answer(libc::SECCOMP_RET_ALLOW);
        self.program[skip].k = word(self.program.len() - skip - 1);
    }

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) {
        self.program.push(sock_filter { code, jt, jf, k });
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, 0, 0, offset);
    }

    // Unconditional jumps reach far, unlike the others.
    fn jump(&mut self, over: usize) {
        self.push(JUMP, 0, 0, word(over));
    }

    fn answer(&mut self, value: u32) {
        self.push(ANSWER, 0, 0, value);
    }

    // Goes on behind it where the condition holds.
    fn condition(&mut self, condition: &Condition<'_>) {
        match condition {
            Condition::Among(argument, values) => {
                self.load(ARGUMENTS + ARGUMENT * argument);
                for (at, value) in values.iter().enumerate() {
                    self.push(JUMP_EQUAL, 0, 1, *value);
                    // Two instructions for each value to come, and the refusal.
                    self.jump(2 * (values.len() - 1 - at) + 1);
                }
            }
            Condition::Without(argument, bits) => {
                self.load(ARGUMENTS + ARGUMENT * argument);
                self.push(JUMP_BITS, 0, 1, *bits);
            }
        }
        self.answer(refuse(Errno::EPERM));
    }

    /// What the kernel would answer to a call of this machine with these arguments, for tests.
    #[cfg(test)]
    pub(super) fn answer_to(&self, nr: c_long, arguments: [u32; 3]) -> u32 {
        self.run(AUDIT_ARCH, number(nr), arguments)
    }

    /// The same for a machine and any number.
    #[cfg(test)]
    fn run(&self, arch: u32, nr: u32, arguments: [u32; 3]) -> u32 {
        let data = |at: u32| match at {
            NR => nr,
            ARCH => arch,
            at => arguments[((at - ARGUMENTS) / ARGUMENT) as usize],
        };
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let step = self.program[at];
            at += 1;
            let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
            match step.code {
                LOAD => accumulator = data(step.k),
                JUMP => at += step.k as usize,
                JUMP_EQUAL => at += jump(accumulator == step.k),
                JUMP_FROM => at += jump(accumulator >= step.k),
                JUMP_BITS => at += jump(accumulator & step.k != 0),
                _ => return step.k,
            }
        }
    }
}

fn number(nr: c_long) -> u32 {
    u32::try_from(nr).unwrap_or(u32::MAX)
}

fn word(instructions: usize) -> u32 {
    u32::try_from(instructions).unwrap_or(u32::MAX)
}

fn refuse(errno: Errno) -> u32 {
    // errno values fit the 16 bits of SECCOMP_RET_DATA.
    libc::SECCOMP_RET_ERRNO | u32::try_from(errno as i32).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_KILL_PROCESS};

    #[test]
    fn answers_by_the_rules() {
        let mut filter = Filter::new();
        filter.allow(&[&[libc::SYS_read]]);
        filter.only(libc::SYS_ioctl, 1, &[0x4705, 0x4706]);
        filter.without(libc::SYS_mmap, 2, 4);
        let many: Vec<u32> = (1..300).collect();
        let conditions =
            [Condition::Among(0, &[7]), Condition::Among(2, &many), Condition::Without(1, 1 << 31)];
        filter.when(libc::SYS_tgkill, &conditions);
        filter.refuse(&[&[libc::SYS_socket]], Errno::EPERM);
        filter.allow(&[&[libc::SYS_write], &[libc::SYS_socket]]);
        let filter = filter.end(None);
        let run = |nr, arguments| filter.answer_to(nr, arguments);
        assert_eq!(run(libc::SYS_read, [0; 3]), SECCOMP_RET_ALLOW);
        assert_eq!(run(libc::SYS_write, [0; 3]), SECCOMP_RET_ALLOW);
        assert_eq!(run(libc::SYS_ioctl, [3, 0x4705, 0]), SECCOMP_RET_ALLOW);
        assert_eq!(run(libc::SYS_ioctl, [3, 0x4706, 0]), SECCOMP_RET_ALLOW);
        assert_eq!(run(libc::SYS_ioctl, [3, 0x4703, 0]), refuse(Errno::EPERM));
        assert_eq!(run(libc::SYS_mmap, [0, 4096, 3]), SECCOMP_RET_ALLOW);
        assert_eq!(run(libc::SYS_mmap, [0, 4096, 5]), refuse(Errno::EPERM));
        assert_eq!(run(libc::SYS_tgkill, [7, 9, 1]), SECCOMP_RET_ALLOW);
        assert_eq!(run(libc::SYS_tgkill, [7, 9, 299]), SECCOMP_RET_ALLOW);
        for refused in [[8, 9, 1], [7, 9, 300], [7, 1 << 31, 1]] {
            assert_eq!(run(libc::SYS_tgkill, refused), refuse(Errno::EPERM));
        }
        assert_eq!(run(libc::SYS_socket, [0; 3]), refuse(Errno::EPERM));
        assert_eq!(run(libc::SYS_execve, [0; 3]), SECCOMP_RET_KILL_PROCESS);
        assert_eq!(filter.run(AUDIT_ARCH ^ 1, 0, [0; 3]), SECCOMP_RET_KILL_PROCESS);
        assert_eq!(filter.run(AUDIT_ARCH, X32_BIT, [0; 3]), SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn a_supervisor_kills_one_process_at_a_time_and_makes_plain_ones() {
        let filter = crate::confine::calls::supervisor();
        let run = |nr, arguments| filter.answer_to(nr, arguments);
        let allowed = |nr, arguments| run(nr, arguments) == SECCOMP_RET_ALLOW;
        assert!(allowed(libc::SYS_kill, [1234, 9, 0]));
        assert!(!allowed(libc::SYS_kill, [1234, 15, 0]));
        assert!(allowed(libc::SYS_unshare, [libc::CLONE_THREAD.unsigned_abs(), 0, 0]));
        assert!(!allowed(libc::SYS_unshare, [libc::CLONE_NEWUSER.unsigned_abs(), 0, 0]));
        assert!(!allowed(libc::SYS_kill, [u32::MAX, 9, 0]));
        assert!(allowed(libc::SYS_ioctl, [3, crate::confine::requests::PAGEMAP_SCAN, 0]));
        // Forks of glibc and musl; threads of glibc and musl (clone(2), by strace).
        for flags in [0x0120_0011, 0x11, 0x003d_0f00, 0x007d_0f00] {
            assert!(allowed(libc::SYS_clone, [flags, 0, 0]), "{flags:#x}");
        }
        for flag in [libc::CLONE_NEWNS, libc::CLONE_NEWUSER, libc::CLONE_PARENT] {
            let flags = 0x11 | flag.unsigned_abs();
            assert_eq!(run(libc::SYS_clone, [flags, 0, 0]), refuse(Errno::EPERM));
        }
        assert_eq!(run(libc::SYS_clone3, [0; 3]), refuse(Errno::ENOSYS));
    }
}
