// SPDX-License-Identifier: Apache-2.0
//! Starts the program under the filter and brings its listener over.

use std::ffi::{CString, OsString};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{
    recvmsg, socketpair, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType,
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
    let program =
        command.first().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command"))?;
    let words: Vec<_> =
        command.iter().map(|word| CString::new(word.as_bytes())).collect::<Result<_, _>>()?;
    let pointers = Pointers::to(&words);
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    let parent = nix::unistd::getpid();
    let mut steps = filter::program(watched);
    let mut starting = Command::new(program);
    // SAFETY: the simulator has one thread so far, so no lock is held in the forked child.
    unsafe {
        starting.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
            if nix::unistd::getppid() != parent {
                return Err(Errno::ESRCH.into());
            }
            nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
            let listener = filter::install(&mut steps)?;
            send(&theirs, 0, Some(&listener))?;
            // From here on nobody answers a call that the filter sends us until exec is over, and
            // a failed child of Command's would exit by one; so exec and the end are our own.
            let errno = pointers.exec();
            let _ = send(&theirs, errno, None);
            libc::syscall(libc::SYS_kill, libc::getpid(), libc::SIGKILL);
            Err(Errno::ENOEXEC.into())
        });
    }
    let mut child = starting.spawn()?;
    drop(starting);
    let (_, listener) = receive(&ours)?;
    let listener = listener.ok_or(Errno::EBADF)?;
    if let Ok((errno, _)) = receive(&ours) {
        let _ = child.wait();
        return Err(Errno::from_raw(errno).into());
    }
    Ok(Launched { child, listener: Listener::new(listener) })
}

/// An argument vector for exec.
struct Pointers(Vec<*const libc::c_char>);

// SAFETY: they point into strings that outlive the child's start, and nobody writes there.
unsafe impl Send for Pointers {}
// SAFETY: as above.
unsafe impl Sync for Pointers {}

impl Pointers {
    fn to(words: &[CString]) -> Self {
        let ends = std::iter::once(std::ptr::null());
        Self(words.iter().map(|word| word.as_ptr()).chain(ends).collect())
    }

    /// Becomes the program, or says why not.
    fn exec(&self) -> i32 {
        // SAFETY: NUL-terminated strings that live, and a null pointer at the end.
        unsafe { libc::execvp(self.0[0], self.0.as_ptr()) };
        Errno::last_raw()
    }
}

/// Room for the control message of one descriptor, aligned as its header.
#[repr(C, align(8))]
struct Rights([u8; 32]);

/// Sends an errno and perhaps a descriptor, by a call that no script names and without allocating.
fn send(socket: &OwnedFd, errno: i32, fd: Option<&OwnedFd>) -> Result<(), Errno> {
    let mut word = errno.to_ne_bytes();
    let mut part = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: word.len() };
    let mut rights = Rights([0; 32]);
    // SAFETY: all-zero bytes are an empty mmsghdr.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    if let Some(fd) = fd {
        let length = u32::try_from(size_of::<i32>()).map_err(|_| Errno::EINVAL)?;
        message.msg_hdr.msg_control = rights.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE and CMSG_LEN only compute; the header and its data lie inside
        // `rights`, which has room for CMSG_SPACE(4), 24 bytes.
        unsafe {
            message.msg_hdr.msg_controllen = libc::CMSG_SPACE(length) as _;
            let header = libc::CMSG_FIRSTHDR(&raw const message.msg_hdr);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(length) as _;
            libc::CMSG_DATA(header).cast::<i32>().write_unaligned(fd.as_raw_fd());
        }
    }
    // SAFETY: one message whose parts live until the call is back.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), &raw mut message, 1, 0) };
    Errno::result(sent).map(drop)
}

/// What [`send`] sent; EAGAIN: nothing.
fn receive(socket: &OwnedFd) -> Result<(i32, Option<OwnedFd>), Errno> {
    let mut word = [0; 4];
    let mut parts = [IoSliceMut::new(&mut word)];
    let mut space = nix::cmsg_space!(i32);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT,
    )?;
    if message.bytes == 0 {
        return Err(Errno::EAGAIN);
    }
    let mut received = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel just installed this descriptor for us alone.
            received = fds.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    Ok((i32::from_ne_bytes(word), received))
}
