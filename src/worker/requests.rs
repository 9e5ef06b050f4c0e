// SPDX-License-Identifier: Apache-2.0
//! Receives the supervisor's requests, some with a client's socket.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::{Reporter, Request};
use crate::diagnostic::{kinds, Diagnostic};
use crate::json;
use crate::process;
use crate::status::logger;

kinds! {
    CHANNEL: Error "run-channel" in Run {
        "the worker cannot hear the supervisor",
        cause: "the host kernel is out of memory",
        cure: "look for gunyahd in dmesg",
    }
    CALLED_OFF: Error "run-called-off" in Run {
        "the VM was to end before its guest had begun",
        cause: "somebody stopped the VM while it started, or gunyahd is gone",
        cure: "start the VM again",
    }
}

/// Longest request in bytes; they are a few words each.
const MAX_REQUEST: usize = 4096;

/// What came.
#[derive(Debug)]
pub(super) enum Received {
    /// A request, and the fd that came with it.
    Request(Request, Option<OwnedFd>),
    /// Nothing from the supervisor; maybe one of the others has something.
    Nothing,
    /// The supervisor has closed its end.
    Gone,
}

/// Waits until there is a request, or one of `others` is readable.
pub(super) fn wait_for_request(
    reporter: &Reporter,
    others: &[BorrowedFd<'_>],
) -> Result<Received, Diagnostic> {
    let mut fds = vec![PollFd::new(reporter.channel().as_fd(), PollFlags::POLLIN)];
    fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(Received::Nothing),
        Err(errno) => return Err(failed(errno)),
    }
    receive(reporter.channel().as_fd())
}

fn failed(errno: Errno) -> Diagnostic {
    CHANNEL.case("waiting for the supervisor").errno(errno)
}

fn receive(channel: BorrowedFd<'_>) -> Result<Received, Diagnostic> {
    let mut packet = [0; MAX_REQUEST];
    let (size, fd) = match process::receive(channel, &mut packet) {
        Ok(received) => received,
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Received::Nothing),
        Err(Errno::ECONNRESET) => return Ok(Received::Gone),
        Err(errno) => return Err(failed(errno)),
    };
    if size == 0 {
        return Ok(Received::Gone);
    }
    match json::from_bytes(&packet[..size]) {
        Ok(request) => Ok(Received::Request(request, fd)),
        Err(error) => {
            logger::warn!("ignoring a request that cannot be read: {error}");
            Ok(Received::Nothing)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{
        sendmsg, socketpair, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType,
    };
    use std::io::{IoSlice, Read, Write};
    use std::os::fd::{AsRawFd, RawFd};
    use std::os::unix::net::UnixStream;

    #[test]
    fn requests_come_with_their_sockets() {
        let (theirs, ours) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        let reporter = Reporter::new(ours);
        let (mut client, passed) = UnixStream::pair().unwrap();
        let send = |bytes: &[u8], fds: &[RawFd]| {
            let rights = [ControlMessage::ScmRights(fds)];
            let rights = if fds.is_empty() { &[][..] } else { &rights };
            let parts = [IoSlice::new(bytes)];
            sendmsg::<()>(theirs.as_raw_fd(), &parts, rights, MsgFlags::empty(), None).unwrap();
        };
        send(b"\"stop\"", &[]);
        send(b"nonsense", &[]);
        send(br#"{"console":{"first":9}}"#, &[passed.as_raw_fd()]);
        drop(passed);
        let next = || wait_for_request(&reporter, &[]).unwrap();
        assert!(matches!(next(), Received::Request(Request::Stop, None)));
        assert!(matches!(next(), Received::Nothing));
        match next() {
            Received::Request(Request::Console { first: 9 }, Some(fd)) => {
                UnixStream::from(fd).write_all(b"hi").unwrap();
            }
            other => panic!("{other:?}"),
        }
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hi");
        drop(theirs);
        assert!(matches!(wait_for_request(&reporter, &[]).unwrap(), Received::Gone));
    }

    #[test]
    fn a_launch_is_called_off_by_a_request_or_a_hang_up() {
        assert_eq!(CALLED_OFF.case("x").name, "run-called-off");
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let (theirs, ours) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let reporter = Reporter::new(ours);
        assert!(!reporter.is_called());
        nix::unistd::write(&theirs, b"\"close\"").unwrap();
        assert!(reporter.is_called());
        wait_for_request(&reporter, &[]).unwrap();
        assert!(!reporter.is_called());
        drop(theirs);
        assert!(reporter.is_called());
    }

    #[test]
    fn a_channel_that_fails_has_a_name() {
        assert_eq!(failed(Errno::ENOMEM).name, "run-channel");
    }
}
