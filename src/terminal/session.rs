// SPDX-License-Identifier: Apache-2.0
//! One look at a console: what the guest prints goes to the screen, what is typed to the guest.

use std::io::{self, IsTerminal, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signalfd::SignalFd;
use nix::sys::socket::{send, MsgFlags};
use nix::unistd::read;

use super::keys::{Escapes, Terminal};
use super::screen::{Screen, To};
use super::{signal, Left, View};
use crate::console::wire::{Decoder, Kind};

/// After the end of piped input, so much silence of the guest is the end of its answer.
const QUIET: Duration = Duration::from_secs(1);

/// Keys that wait for the guest; what is over is lost, so that those that leave are always read.
const KEYS: usize = 4096;

/// Shows the console behind `stream`, of which `early` was read already; why it was left, and how many
/// bytes of output were seen.
pub fn look(
    stream: UnixStream,
    early: &[u8],
    vm: &str,
    view: View,
    screen: &Screen,
    signals: Option<&SignalFd>,
) -> io::Result<(Left, u64)> {
    stream.set_nonblocking(true)?;
    let terminal = Terminal::take(view == View::Foreground)?;
    let raw = terminal.is_some() && view != View::Foreground;
    if raw {
        let keys = "connected; Ctrl-] leaves, as does ~. at the beginning of a line";
        screen.notice(vm, keys, raw);
    }
    let mut session = Session {
        stream,
        vm,
        screen,
        signals,
        keyboard: None,
        ended: false,
        keys: raw.then(Escapes::default),
        decoder: Decoder::default(),
        typed: Vec::new(),
        // A terminal that was not taken belongs to somebody else.
        input_open: terminal.is_some() || !io::stdin().is_terminal(),
        heard: Instant::now(),
        seen: 0,
    };
    session.print(early)?;
    let left = session.run(view != View::Once)?;
    if raw && left != Left::Closed {
        screen.notice(vm, "left", raw);
    }
    Ok((left, session.seen))
}

struct Session<'a> {
    stream: UnixStream,
    vm: &'a str,
    screen: &'a Screen,
    signals: Option<&'a SignalFd>,
    // Whether what is sent is typed; unknown before the console's first word.
    keyboard: Option<bool>,
    // The console is closed; what it said is still being shown.
    ended: bool,
    // For a terminal that sends every key as it is.
    keys: Option<Escapes>,
    decoder: Decoder,
    // Read from standard input and not sent yet.
    typed: Vec<u8>,
    input_open: bool,
    // When the guest was last heard.
    heard: Instant,
    // Bytes of output.
    seen: u64,
}

impl Session<'_> {
    fn run(&mut self, follow: bool) -> io::Result<Left> {
        loop {
            self.screen.rearm();
            if self.screen.is_broken() {
                // A reader that went away (`| head`) has seen enough.
                return Ok(Left::ByUser);
            }
            let shown = self.screen.is_empty();
            if self.ended && shown {
                return Ok(Left::Closed);
            }
            let stdin = io::stdin();
            let quiet = (!self.input_open && self.typed.is_empty() && !follow && shown)
                .then(|| QUIET.saturating_sub(self.heard.elapsed()));
            if quiet == Some(Duration::ZERO) {
                return Ok(Left::ByUser);
            }
            let timeout = quiet.map_or(PollTimeout::NONE, |left| {
                // Rounded up: not woken too early, and not spinning at the end.
                let left = left.saturating_add(Duration::from_millis(1));
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            });
            let is_input = self.wait(stdin.as_fd(), timeout)?;
            if let Some(left) = self.signals.and_then(signal) {
                return Ok(left);
            }
            if is_input {
                if let Some(left) = self.take_input(stdin.as_fd())? {
                    return Ok(left);
                }
            }
            self.hear()?;
            self.send_typed()?;
        }
    }

    // Whether standard input is to be read now.
    fn reads(&self) -> bool {
        self.input_open
            && match self.keys {
                // One of them may leave.
                Some(_) => true,
                // What the guest does not take yet is not read yet.
                None => self.typed.is_empty() && self.keyboard.is_some() && !self.ended,
            }
    }

    /// Sleeps until something happens; whether standard input can be read then.
    fn wait(&self, stdin: BorrowedFd<'_>, timeout: PollTimeout) -> io::Result<bool> {
        let input = PollFlags::POLLIN;
        let mut socket = PollFlags::empty();
        socket.set(input, !self.screen.is_full());
        let sends = self.keyboard == Some(true) && !self.typed.is_empty();
        socket.set(PollFlags::POLLOUT, sends);
        let (listens, reads) = (!self.ended && !socket.is_empty(), self.reads());
        // What is not waited for is left out, for a hang-up is always reported.
        let mut fds = vec![PollFd::new(self.screen.wake_fd(), input)];
        fds.extend(listens.then(|| PollFd::new(self.stream.as_fd(), socket)));
        fds.extend(self.signals.map(|signals| PollFd::new(signals.as_fd(), input)));
        fds.extend(reads.then(|| PollFd::new(stdin, input)));
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(reads && fds.last().is_some_and(|fd| fd.any() != Some(false))),
            Err(Errno::EINTR) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        while !self.screen.is_full() {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(len) => {
                    self.heard = Instant::now();
                    self.print(&bytes[..len])?;
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock => break,
                    io::ErrorKind::Interrupted => {}
                    // The worker was killed with typed text unread.
                    io::ErrorKind::ConnectionReset => {
                        self.ended = true;
                        break;
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (vm, raw, screen) = (self.vm, self.keys.is_some(), self.screen);
        let (seen, keyboard) = (&mut self.seen, &mut self.keyboard);
        self.decoder
            .feed(bytes, |kind, payload| {
                match kind {
                    Kind::Output => {
                        *seen = seen.saturating_add(u64::try_from(payload.len()).unwrap_or(0));
                        screen.show(To::Output, payload);
                        return;
                    }
                    Kind::Keyboard => *keyboard = Some(true),
                    Kind::ReadOnly => *keyboard = Some(false),
                    Kind::Notice => {}
                }
                if !payload.is_empty() {
                    screen.notice(vm, &String::from_utf8_lossy(payload), raw);
                }
            })
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    fn take_input(&mut self, stdin: BorrowedFd<'_>) -> io::Result<Option<Left>> {
        let mut bytes = [0; 1024];
        match read(stdin, &mut bytes) {
            // A terminal that is gone ends with EIO.
            Ok(0) | Err(Errno::EIO) => {
                self.input_open = false;
                // From here the silence is counted.
                self.heard = Instant::now();
                Ok(self.keys.is_some().then_some(Left::ByUser))
            }
            Ok(len) => match &mut self.keys {
                Some(keys) => {
                    let leaves = keys.filter(&bytes[..len], &mut self.typed);
                    self.typed.truncate(KEYS);
                    Ok(leaves.then_some(Left::ByUser))
                }
                // A script must not take it for typed.
                None if self.keyboard == Some(false) => Ok(Some(Left::Refused)),
                None => {
                    self.typed.extend_from_slice(&bytes[..len]);
                    Ok(None)
                }
            },
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    fn send_typed(&mut self) -> io::Result<()> {
        let fd = self.stream.as_raw_fd();
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        if self.keyboard == Some(false) {
            self.typed.clear();
        }
        if self.typed.is_empty() && !self.input_open {
            // The keyboard is for others now. It may be closed already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        while self.keyboard == Some(true) && !self.typed.is_empty() {
            match send(fd, &self.typed, flags) {
                Ok(len) => {
                    self.typed.drain(..len);
                    self.heard = Instant::now();
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                // The end is read from the socket, after the last output.
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.typed.clear(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
