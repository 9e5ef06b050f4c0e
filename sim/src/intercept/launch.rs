// SPDX-License-Identifier: Apache-2.0
//! Starts the program under the filter and brings its listener over.

use std::ffi::OsString;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{
    recvmsg, sendmsg, socketpair, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags,
    SockFlag, SockType,
};

use super::{filter, Listener};

/// A program that runs under the filter.
#[derive(Debug)]
pub struct Launched {
    /// The program.
    pub child: Child,
    /// Where its calls come in.
    pub listener: Listener,
}

/// Starts `command` under the filter, with `mask` as its signal mask; `watched` are system calls
/// that are seen besides the device's. It dies with this thread.
pub fn launch(
    command: &[OsString],
    mask: SigSet,
    watched: &[libc::c_long],
) -> io::Result<Launched> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let parent = nix::unistd::getpid();
    let mut steps = filter::program(watched);
    let mut starting = Command::new(program);
    starting.args(arguments);
    // SAFETY: the simulator has one thread so far, so no lock is held in the forked child.
    unsafe {
        starting.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
            nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
            let listener = filter::install(&mut steps)?;
            send_fd(&theirs, &listener)?;
            Ok(())
        });
    }
    let child = starting.spawn()?;
    let listener = receive_fd(&ours)?;
    Ok(Launched {
        child,
        listener: Listener::new(listener),
    })
}

fn send_fd(socket: &OwnedFd, fd: &OwnedFd) -> Result<(), Errno> {
    let fds = [fd.as_raw_fd()];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"L")],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::empty(),
        None,
    )
    .map(drop)
}

fn receive_fd(socket: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(i32);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            if let Some(&fd) = fds.first() {
                // SAFETY: the kernel just installed this descriptor for us alone.
                return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Err(Errno::EBADF)
}
