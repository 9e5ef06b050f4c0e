// SPDX-License-Identifier: Apache-2.0
//! A guest's console on this terminal, or through this pipe: for `gunyahctl console` and `gunyahd run`.

mod keys;
mod screen;
mod session;

use std::io;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

pub use screen::Screen;
pub use session::look;

/// How a console is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Until the guest ends. Ctrl-C and the like stay signals, and no keys leave: `gunyahd run`.
    Foreground,
    /// Until the guest ends for good.
    Follow,
    /// As `Follow` on a terminal; in a pipe until the guest has answered what was piped.
    Once,
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

/// Shows the console behind `stream`.
pub fn show(stream: UnixStream, vm: &str, view: View) -> io::Result<Left> {
    let screen = Screen::start()?;
    look(stream, &[], vm, view, &screen, None).map(|(left, _)| left)
}

/// Any of these would otherwise end us and leave the terminal raw.
pub fn take_signals() -> io::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        mask.add(signal);
    }
    mask.thread_block()?;
    Ok(SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?)
}

/// The signal that came, if one did.
pub fn signal(signals: &SignalFd) -> Option<Left> {
    let info = signals.read_signal().ok()??;
    Some(Left::Signal(i32::try_from(info.ssi_signo).unwrap_or(0)))
}
