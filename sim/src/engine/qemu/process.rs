// SPDX-License-Identifier: Apache-2.0
//! One `qemu-system-aarch64`, started paused, that never outlives the thread that started it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::layout::Layout;
use super::qmp::Qmp;
use super::Error;

const PROGRAM: &str = "qemu-system-aarch64";
// `-cpu max` is three times slower under emulation.
const CPU: &str = "cortex-a57";
// Long, because a loaded machine may take seconds to load the program.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// A running QEMU.
#[derive(Debug)]
pub struct Process {
    child: Child,
    errors: File,
    /// Its control.
    pub qmp: Qmp,
    /// The guest's PL011.
    pub console: UnixStream,
}

impl Process {
    /// Starts it with the guest's first instruction still to come.
    pub fn start(name: &str, layout: &Layout, cpus: u32, entry: Entry) -> Result<Self, Error> {
        let io = |what: &'static str| move |source| Error::Io { what, source };
        let (qmp, their_qmp) = UnixStream::pair().map_err(io("socketpair"))?;
        let (console, their_console) = UnixStream::pair().map_err(io("socketpair"))?;
        let mut code = memory_file("trampoline").map_err(io("memfd_create"))?;
        code.write_all(&entry.code()).map_err(io("writing the trampoline"))?;
        let errors = memory_file("errors").map_err(io("memfd_create"))?;

        let mut command = Command::new(PROGRAM);
        command
            .args(["-name", name])
            .args(["-machine", "virt,gic-version=3", "-accel", "tcg", "-cpu", CPU])
            .args(["-smp", &cpus.to_string()])
            .args(["-display", "none", "-nodefaults", "-nic", "none"])
            .args(["-S", "-no-reboot"])
            .args(layout.arguments(cpus))
            .arg("-device")
            .arg(format!(
                "loader,file=/proc/self/fd/{},addr={:#x},cpu-num=0,force-raw=on",
                code.as_raw_fd(),
                layout.trampoline
            ))
            .arg("-chardev")
            .arg(format!("socket,id=qmp,fd={}", their_qmp.as_raw_fd()))
            .args(["-mon", "chardev=qmp,mode=control"])
            .arg("-chardev")
            .arg(format!("socket,id=console,fd={}", their_console.as_raw_fd()))
            .args(["-serial", "chardev:console"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors.try_clone().map_err(io("dup"))?);
        let mut inherited = layout.inherited();
        inherited.extend([their_qmp.as_raw_fd(), their_console.as_raw_fd(), code.as_raw_fd()]);
        // SAFETY: a plain system call.
        let parent = unsafe { libc::getpid() };
        // SAFETY: only system calls, which are safe between fork and exec; `inherited` is read only.
        unsafe { command.pre_exec(move || become_child(parent, &inherited)) };
        let child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Missing,
            _ => Error::Io { what: PROGRAM, source: error },
        })?;
        let mut process = Self { child, errors, qmp: Qmp::new(qmp), console };
        drop((their_qmp, their_console));
        process.shake_hands().map_err(|error| process.failed(&error))?;
        Ok(process)
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let stream = self.qmp.stream();
        stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        self.qmp.execute("qmp_capabilities")?;
        self.qmp.execute("cont")?;
        self.qmp.stream().set_read_timeout(None)
    }

    /// An error with QEMU's own words.
    pub fn failed(&mut self, error: &io::Error) -> Error {
        self.end();
        let mut said = String::new();
        let _ = self.errors.rewind();
        let _ = self.errors.read_to_string(&mut said);
        match said.trim() {
            "" => Error::Qemu(error.to_string()),
            said => Error::Qemu(said.replace('\n', "; ")),
        }
    }

    /// Kills it, if it still runs, and waits: its mapping of guest memory is gone then.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where the guest begins, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Address of the first instruction.
    pub pc: u64,
    /// x0: the devicetree's address.
    pub dtb: u64,
}

impl Entry {
    /// The boot protocol's registers (Documentation/arm64/booting.rst), then a jump.
    fn code(self) -> [u8; 40] {
        let mut code = [0; 40];
        let instructions: [u32; 6] = [
            0x5800_00c0, // ldr x0, dtb (24 bytes on)
            0xaa1f_03e1, // mov x1, xzr
            0xaa1f_03e2, // mov x2, xzr
            0xaa1f_03e3, // mov x3, xzr
            0x5800_0084, // ldr x4, entry (16 bytes on)
            0xd61f_0080, // br x4
        ];
        for (at, instruction) in code.chunks_exact_mut(4).zip(instructions) {
            at.copy_from_slice(&instruction.to_le_bytes());
        }
        code[24..32].copy_from_slice(&self.dtb.to_le_bytes());
        code[32..].copy_from_slice(&self.pc.to_le_bytes());
        code
    }
}

fn memory_file(name: &str) -> io::Result<File> {
    let name = std::ffi::CString::new(name)?;
    // SAFETY: the name is a C string; the returned fd is ours alone.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    match fd {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: a new fd that nobody else has.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into()),
    }
}

// In the child: dies with its parent, and keeps only the fds that its command line names.
fn become_child(parent: libc::pid_t, inherited: &[RawFd]) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    };
    // SAFETY: plain system calls on numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        // The parent may have gone before the line above.
        if libc::getppid() != parent {
            return Err(io::ErrorKind::NotConnected.into());
        }
        for fd in inherited {
            check(libc::fcntl(*fd, libc::F_SETFD, 0))?;
        }
    }
    Ok(())
}

/// Waits until one of the fds can be read or has hung up; says which.
pub fn wait_readable<const N: usize>(
    fds: [&dyn AsFd; N],
    timeout: Option<Duration>,
) -> io::Result<[bool; N]> {
    let mut polled =
        fds.map(|fd| libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let timeout = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
    let count = libc::nfds_t::try_from(N).map_err(io::Error::other)?;
    // SAFETY: the array is as long as it is said to be.
    match unsafe { libc::poll(polled.as_mut_ptr(), count, timeout) } {
        -1 => {
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => Ok([false; N]),
                _ => Err(error),
            }
        }
        _ => Ok(polled.map(|polled| polled.revents != 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trampoline_holds_both_addresses() {
        let entry = Entry { pc: 0x8000_0000, dtb: 0x8800_0000 };
        let code = entry.code();
        // Literals stand right after the six instructions, where the loads look for them.
        assert_eq!(code[24..32], entry.dtb.to_le_bytes());
        assert_eq!(code[32..40], entry.pc.to_le_bytes());
    }
}
