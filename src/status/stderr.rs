// SPDX-License-Identifier: Apache-2.0
//! Standard error, without ever waiting for its reader: a terminal that is stopped or a pipe that
//! nobody reads must not hold up whoever logs.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::clock;
use super::logger::Sent;
use crate::text::printable;

/// A pipe that is ready for output takes so much at once: PIPE_BUF of linux/limits.h. So does a stream
/// socket, which is ready only while most of its buffer is free.
const PIPE_BUF: usize = 4096;

pub(super) struct Stderr {
    /// Opened once more for ourselves: O_NONBLOCK on the inherited one would be everybody's. Without it
    /// stderr is asked before each piece.
    own: Option<File>,
    colour: bool,
    /// The last line has no end, because not all of it was taken.
    cut: bool,
}

impl Stderr {
    pub fn new() -> Self {
        let stderr = io::stderr();
        Self { own: reopened(stderr.as_fd()), colour: stderr.is_terminal(), cut: false }
    }

    /// The fd of its own, if it has one.
    pub fn fd(&self) -> Option<RawFd> {
        self.own.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub fn send(&mut self, level: log::Level, tag: &str, message: &str) -> Sent {
        let mut line = self.line(level, tag, message);
        if self.cut {
            line.insert(0, '\n');
        }
        let written = write(self.own.as_ref(), io::stderr().as_fd(), line.as_bytes());
        if written == line.len() {
            self.cut = false;
            return Sent::Whole;
        }
        self.cut |= written > 0;
        Sent::Lost
    }

    // By the clock of the journals, so that both can be laid side by side.
    fn line(&self, level: log::Level, tag: &str, message: &str) -> String {
        let now = clock::now();
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        let (on, off) = match (self.colour, level) {
            (true, log::Level::Error) => ("\x1b[31m", "\x1b[0m"),
            (true, log::Level::Warn) => ("\x1b[33m", "\x1b[0m"),
            (true, log::Level::Debug | log::Level::Trace) => ("\x1b[2m", "\x1b[0m"),
            _ => ("", ""),
        };
        format!(
            "[{seconds:5}.{micros:06}] {on}{} {tag}: {}{off}\n",
            &level.as_str()[..1],
            printable(message)
        )
    }
}

/// Opens a pipe or a terminal once more. Sockets cannot be opened. A file's second opening would have a
/// place of its own to write at; and it never waits.
fn reopened(stderr: BorrowedFd<'_>) -> Option<File> {
    let path = format!("/proc/self/fd/{}", stderr.as_raw_fd());
    let kind = std::fs::metadata(&path).ok()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return None;
    }
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    OpenOptions::new().write(true).custom_flags(flags).open(path).ok()
}

/// Writes what is taken at once; how many bytes.
fn write(own: Option<&File>, stderr: BorrowedFd<'_>, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match write_some(own, stderr, &bytes[written..]) {
            Ok(length) if length > 0 => written += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    written
}

fn write_some(own: Option<&File>, stderr: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    if let Some(mut own) = own {
        return own.write(bytes);
    }
    let mut fds = [PollFd::new(stderr, PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO)? == 0 {
        return Err(Errno::EAGAIN.into());
    }
    let piece = &bytes[..bytes.len().min(PIPE_BUF)];
    Ok(nix::unistd::write(stderr, piece)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn plain() -> Stderr {
        Stderr { own: None, colour: false, cut: false }
    }

    #[test]
    fn lines_say_time_level_and_tag() {
        let line = plain().line(log::Level::Error, "gunyahd", "x");
        assert!(line.ends_with("] E gunyahd: x\n"), "{line}");
        assert!(!line.contains('\x1b'));
        let line = plain().line(log::Level::Error, "t", "x\n[0] E t: y\x1b[2J");
        assert!(line.ends_with("x\\n[0] E t: y\\u{1b}[2J\n"), "{line}");
        let coloured = Stderr { colour: true, ..plain() };
        let line = coloured.line(log::Level::Error, "t", "x");
        assert!(line.contains("\x1b[31m"));
    }

    #[test]
    fn nothing_that_is_full_is_waited_for() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let mut reader = File::from(reader);
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let own = reopened(pipe.as_fd());
        assert!(own.is_some() && reopened(socket.as_fd()).is_none());
        let line = [b'x'; 100];
        for own in [own.as_ref(), None] {
            while write(own, pipe.as_fd(), &line) == line.len() {}
            assert_eq!(write(own, pipe.as_fd(), &line), 0);
            let mut room = vec![0; 2 * PIPE_BUF];
            reader.read_exact(&mut room).unwrap();
            assert_eq!(write(own, pipe.as_fd(), &line), line.len());
        }
        while write(None, socket.as_fd(), &line) == line.len() {}
        let mut room = vec![0; 1 << 20];
        assert!(peer.read(&mut room).unwrap() > line.len());
        assert_eq!(write(None, socket.as_fd(), &line), line.len());
    }
}
