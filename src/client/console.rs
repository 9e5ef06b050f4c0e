// SPDX-License-Identifier: Apache-2.0
//! A guest's console on this terminal, or through this pipe.

use std::io::{self, IsTerminal, Read};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{send, MsgFlags};
use nix::unistd::read;

use super::screen::{Screen, To};
use super::terminal::{Escapes, Terminal};
use super::{ask, ClientError, Conversation};
use crate::console::wire::{Decoder, Kind};
use crate::status::control::{Begin, ControlError, Request, Response};
use crate::status::State;

/// After the end of piped input, so much silence of the guest is the end of its answer.
const QUIET: Duration = Duration::from_secs(1);

/// How a console is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Stay after the end of piped input, until the guest ends.
    pub follow: bool,
    /// Ctrl-C and the like stay signals, and no keys leave: `gunyahd run`.
    pub foreground: bool,
}

/// Why one does not look at a console any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By the keys for it, or piped input has ended and so has the answer.
    ByUser,
    /// The console was closed: the guest has ended, or gunyahd.
    Closed,
    /// Piped input was not typed: another client has the keyboard, or no more are let in.
    Refused,
    /// A signal came.
    Signal(i32),
}

/// Keys that wait for the guest; what is over is lost, so that those that leave are always read.
const KEYS: usize = 4096;
/// Between two looks at a VM that is to start again.
const LOOK_AGAIN: u16 = 100;
/// A console that ended while its VM lives on was refused to us; a worker's death is noticed sooner.
const LOOKS_AT_THE_SAME_LIFE: u32 = 10;

/// Asks for `vm`'s console and shows it; a VM that starts again is followed into its next life, but
/// not by a pipe that does not follow.
///
/// # Errors
/// gunyahd cannot be reached or understood; the inner error is its refusal.
pub fn console(
    socket: &Path,
    vm: &str,
    replay: u64,
    view: View,
) -> Result<Result<Left, ControlError>, ClientError> {
    let signals = take_signals().map_err(|errno| ClientError::Broken(errno.into()))?;
    let screen = Screen::start().map_err(ClientError::Broken)?;
    let stays = view.follow || io::stdin().is_terminal();
    let mut begin = Begin::Replay(replay);
    loop {
        let request = Request::Console {
            vm: vm.to_owned(),
            begin,
        };
        let mut conversation = Conversation::begin(socket, &request)?;
        let status = match conversation.answer()?.ok_or(ClientError::HungUp)? {
            Response::Error(error) => return Ok(Err(error)),
            Response::Done(status) => status,
            other => return Err(ClientError::Garbled(format!("{other:?}"))),
        };
        let (stream, early) = conversation.into_stream();
        let (left, seen) =
            look(stream, &early, vm, view, &screen, Some(&signals)).map_err(ClientError::Broken)?;
        if left != Left::Closed || !stays {
            return Ok(Ok(left));
        }
        let first = match begin {
            Begin::Replay(bytes) => status.console_end.unwrap_or(0).saturating_sub(bytes),
            Begin::At(first) => first,
        };
        begin = Begin::At(first.saturating_add(seen));
        if let Some(left) = wait_for_next_life(socket, vm, status.pid, &screen, &signals)? {
            return Ok(Ok(left));
        }
    }
}

/// Waits until `vm`, whose worker was `last`, runs again; tells why not.
fn wait_for_next_life(
    socket: &Path,
    vm: &str,
    last: Option<i32>,
    screen: &Screen,
    signals: &SignalFd,
) -> Result<Option<Left>, ClientError> {
    let mut told = false;
    let mut same = 0;
    loop {
        let request = Request::Status {
            vm: Some(vm.to_owned()),
        };
        let state = match ask(socket, &request) {
            Ok(Response::Vms(found)) => found.vms.first().map(|vm| (vm.state, vm.pid)),
            Ok(_) => None,
            // It went with its VM.
            Err(ClientError::Unreachable { .. } | ClientError::HungUp) => None,
            Err(error) => return Err(error),
        };
        match state {
            Some((State::Running | State::Ready, pid)) if pid != last => return Ok(None),
            Some((State::Running | State::Ready, _)) if same < LOOKS_AT_THE_SAME_LIFE => same += 1,
            // A stop that is under way is no waiting.
            Some((State::Stopping, _)) => {}
            Some((State::Waiting | State::Starting, _)) => {
                if !std::mem::replace(&mut told, true) {
                    screen.notice(vm, "waiting for it to start again; Ctrl-C leaves", false);
                }
            }
            _ => return Ok(Some(Left::Closed)),
        }
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, LOOK_AGAIN);
        if let Some(signal) = signal(signals) {
            return Ok(Some(signal));
        }
    }
}

/// Shows the console behind `stream`.
///
/// # Errors
/// The connection broke.
pub fn show(stream: UnixStream, vm: &str, view: View) -> io::Result<Left> {
    let screen = Screen::start()?;
    look(stream, &[], vm, view, &screen, None).map(|(left, _)| left)
}

// Shows a console of which `early` was read already; why it was left, and how many bytes were seen.
fn look(
    stream: UnixStream,
    early: &[u8],
    vm: &str,
    view: View,
    screen: &Screen,
    signals: Option<&SignalFd>,
) -> io::Result<(Left, u64)> {
    stream.set_nonblocking(true)?;
    let terminal = Terminal::take(view.foreground)?;
    let raw = terminal.is_some() && !view.foreground;
    if raw {
        screen.notice(
            vm,
            "connected; Ctrl-] leaves, as does ~. at the beginning of a line",
            raw,
        );
    }
    let mut session = Session {
        stream,
        vm,
        screen,
        raw,
        keyboard: None,
        given_up: false,
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
    let left = session.run(signals, view.follow || view.foreground)?;
    if raw && left != Left::Closed {
        screen.notice(vm, "left", raw);
    }
    Ok((left, session.seen))
}

// Any of these would otherwise end us and leave the terminal raw.
fn take_signals() -> Result<SignalFd, Errno> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
}

fn signal(signals: &SignalFd) -> Option<Left> {
    let info = signals.read_signal().ok()??;
    Some(Left::Signal(i32::try_from(info.ssi_signo).unwrap_or(0)))
}

struct Session<'a> {
    stream: UnixStream,
    vm: &'a str,
    screen: &'a Screen,
    raw: bool,
    // Whether what is sent is typed; unknown before the console's first word.
    keyboard: Option<bool>,
    // The sending side is shut down: the keyboard is for others.
    given_up: bool,
    // The console is closed; what it said is still being shown.
    ended: bool,
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
    fn run(&mut self, signals: Option<&SignalFd>, follow: bool) -> io::Result<Left> {
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
            let timeout = match quiet {
                None => PollTimeout::NONE,
                // Rounded up: not woken too early, and not spinning at the end.
                Some(left) => i32::try_from(left.as_millis().saturating_add(1))
                    .ok()
                    .and_then(|ms| PollTimeout::try_from(ms).ok())
                    .unwrap_or(PollTimeout::MAX),
            };
            let happened = self.wait(&stdin.as_fd(), signals, timeout)?;
            if let (true, Some(signals)) = (happened.signal, signals) {
                if let Some(left) = self::signal(signals) {
                    return Ok(left);
                }
            }
            if happened.input {
                if let Some(left) = self.take_input(&stdin.as_fd())? {
                    return Ok(left);
                }
            }
            if happened.socket {
                self.hear()?;
            }
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

    fn wait(
        &self,
        stdin: &BorrowedFd<'_>,
        signals: Option<&SignalFd>,
        timeout: PollTimeout,
    ) -> io::Result<Happened> {
        let mut socket_events = PollFlags::empty();
        socket_events.set(PollFlags::POLLIN, !self.screen.is_full());
        let sends = self.keyboard == Some(true) && !self.typed.is_empty();
        socket_events.set(PollFlags::POLLOUT, sends);
        let listens = !self.ended && !socket_events.is_empty();
        let (screen, socket) = (self.screen.wake_fd(), self.stream.as_fd());
        // In order: what is not waited for is left out, for a hang-up is always told.
        let mut fds = vec![PollFd::new(screen, PollFlags::POLLIN)];
        fds.extend(listens.then(|| PollFd::new(socket, socket_events)));
        let reads = self.reads();
        fds.extend(reads.then(|| PollFd::new(*stdin, PollFlags::POLLIN)));
        fds.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Happened::default()),
            Err(errno) => return Err(errno.into()),
        }
        let mut events = fds.iter().skip(1);
        let mut next = |waited: bool| {
            let fd = if waited { events.next() } else { None };
            let revents = fd.and_then(PollFd::revents);
            revents.is_some_and(|events| !events.is_empty())
        };
        Ok(Happened {
            socket: next(listens),
            input: next(reads),
            signal: next(signals.is_some()),
        })
    }

    fn hear(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        while !self.screen.is_full() {
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.ended = true;
                    return Ok(());
                }
                Ok(len) => {
                    self.heard = Instant::now();
                    self.print(&bytes[..len])?;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The worker was killed with typed text unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    self.ended = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (vm, raw, screen) = (self.vm, self.raw, self.screen);
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

    fn take_input(&mut self, stdin: &BorrowedFd<'_>) -> io::Result<Option<Left>> {
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
        use std::os::fd::AsRawFd;
        let fd = self.stream.as_raw_fd();
        if self.keyboard == Some(false) {
            self.typed.clear();
        }
        if self.typed.is_empty() && !self.input_open && !self.given_up {
            self.given_up = true;
            // It may be closed already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        while self.keyboard == Some(true) && !self.typed.is_empty() {
            match send(
                fd,
                &self.typed,
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
            ) {
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

/// What a wait ended for.
#[derive(Debug, Default)]
struct Happened {
    socket: bool,
    input: bool,
    signal: bool,
}
