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
    colour: bool,
    way: Way,
    /// The last line has no end, because not all of it was taken.
    cut: bool,
}

/// How to write without waiting.
enum Way {
    /// Opened once more for ourselves: O_NONBLOCK on the inherited one would be everybody's.
    Own(File),
    /// Asked before each piece. What never waits, and what cannot be opened once more.
    Asked,
}

impl Stderr {
    pub fn new() -> Self {
        let stderr = io::stderr();
        let way = match stderr.as_fd().try_clone_to_owned().map(File::from) {
            Ok(file) => Way::of(&file),
            Err(_) => Way::Asked,
        };
        Self::by(way, stderr.is_terminal())
    }

    fn by(way: Way, colour: bool) -> Self {
        Self { colour, way, cut: false }
    }

    /// The fd of its own, if it has one.
    pub fn fd(&self) -> Option<RawFd> {
        match &self.way {
            Way::Own(file) => Some(file.as_raw_fd()),
            Way::Asked => None,
        }
    }

    pub fn send(&mut self, level: log::Level, tag: &str, message: &str) -> Sent {
        let mut line = self.line(level, tag, message);
        if self.cut {
            line.insert(0, '\n');
        }
        let written = self.way.write(io::stderr().as_fd(), line.as_bytes());
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

impl Way {
    fn of(file: &File) -> Self {
        let Ok(kind) = file.metadata().map(|metadata| metadata.file_type()) else {
            return Way::Asked;
        };
        // Sockets cannot be opened. A file's second opening would have a place of its own to write at;
        // and it never waits.
        if !kind.is_fifo() && !kind.is_char_device() {
            return Way::Asked;
        }
        let own = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        own.map_or(Way::Asked, Way::Own)
    }

    /// Writes what is taken at once; how many bytes.
    fn write(&mut self, stderr: BorrowedFd<'_>, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            match self.write_some(stderr, &bytes[written..]) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }

    fn write_some(&mut self, stderr: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Way::Own(file) => file.write(bytes),
            Way::Asked => {
                let mut fds = [PollFd::new(stderr, PollFlags::POLLOUT)];
                if poll(&mut fds, PollTimeout::ZERO)? == 0 {
                    return Err(Errno::EAGAIN.into());
                }
                let piece = &bytes[..bytes.len().min(PIPE_BUF)];
                Ok(nix::unistd::write(stderr, piece)?)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    fn plain() -> Stderr {
        Stderr::by(Way::Asked, false)
    }

    #[test]
    fn lines_say_time_level_and_tag() {
        let line = plain().line(log::Level::Error, "gunyahd", "x");
        assert!(line.ends_with("] E gunyahd: x\n"), "{line}");
        assert!(!line.contains('\x1b'));
        let line = plain().line(log::Level::Error, "t", "x\n[0] E t: y\x1b[2J");
        assert!(line.ends_with("x\\n[0] E t: y\\u{1b}[2J\n"), "{line}");
        let coloured = Stderr::by(Way::Asked, true);
        let line = coloured.line(log::Level::Error, "t", "x");
        assert!(line.contains("\x1b[31m"));
    }

    #[test]
    fn nothing_that_is_full_is_waited_for() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let (mut reader, pipe) = (File::from(reader), File::from(pipe));
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let socket = File::from(OwnedFd::from(socket));
        assert!(matches!(Way::of(&pipe), Way::Own(_)));
        assert!(matches!(Way::of(&socket), Way::Asked));
        let line = [b'x'; 100];
        for mut way in [Way::of(&pipe), Way::Asked] {
            while way.write(pipe.as_fd(), &line) == line.len() {}
            assert_eq!(way.write(pipe.as_fd(), &line), 0);
            let mut room = vec![0; 2 * PIPE_BUF];
            reader.read_exact(&mut room).unwrap();
            assert_eq!(way.write(pipe.as_fd(), &line), line.len());
        }
        let mut way = Way::of(&socket);
        while way.write(socket.as_fd(), &line) == line.len() {}
        let mut room = vec![0; 1 << 20];
        assert!(peer.read(&mut room).unwrap() > line.len());
        assert_eq!(way.write(socket.as_fd(), &line), line.len());
    }
}
