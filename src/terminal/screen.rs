// SPDX-License-Identifier: Apache-2.0
//! Standard output and error on a thread of their own, behind a bounded buffer: a terminal that is
//! stopped, or a reader that is slow, holds back the guest's output and never the keys that leave.

use std::io::{stderr, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::write;

use crate::mpsc::{channel, Receiver, Sender};
use crate::process;

/// Bytes that wait for the terminal before no more are asked for.
const FULL: usize = 64 << 10;
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_millis(250);
// One write at a time.
const STACK: usize = 64 << 10;

/// Where something is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Standard output: the guest's bytes and nothing else.
    Output,
    /// Standard error: words about the console. Nobody needs to read them.
    Error,
}

/// What is to be shown, in order.
#[derive(Debug)]
pub struct Screen {
    pieces: Sender<(To, Vec<u8>)>,
    shown: Arc<Shown>,
}

/// How far the thread is.
#[derive(Debug)]
struct Shown {
    /// Bytes that wait or are being written.
    waiting: AtomicUsize,
    broken: AtomicBool,
    /// For a poll: written whenever there is less.
    wake: EventFd,
}

impl Shown {
    /// The thread's life, which ends with the screen.
    fn show(&self, pieces: Receiver<(To, Vec<u8>)>) {
        while let Ok((to, piece)) = pieces.recv() {
            if !self.broken.load(Ordering::Acquire) {
                let written = match to {
                    To::Output => write_all(stdout().as_fd(), &piece),
                    To::Error => write_all(stderr().as_fd(), &piece).or(Ok(())),
                };
                self.broken.store(written.is_err(), Ordering::Release);
            }
            self.waiting.fetch_sub(piece.len(), Ordering::AcqRel);
            // Full only after 2^64 writes that nobody looked at.
            let _ = self.wake.write(1);
        }
    }
}

fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match write(to, bytes) {
            Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
            Err(Errno::EINTR) => {}
            // Somebody who shares it made it so.
            Err(Errno::EAGAIN) => {
                let mut fds = [PollFd::new(to, PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

impl Screen {
    pub fn start() -> std::io::Result<Self> {
        let shown = Arc::new(Shown {
            waiting: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let (pieces, to_show) = channel();
        let its = Arc::clone(&shown);
        // Not joined: it may never come back from a terminal that is stopped.
        process::thread("screen".to_owned(), STACK, Box::new(move || its.show(to_show)))?;
        Ok(Self { pieces, shown })
    }

    /// Adds bytes; the caller heeds [`Screen::is_full`].
    pub fn show(&self, to: To, bytes: &[u8]) {
        if !bytes.is_empty() && !self.is_broken() {
            self.shown.waiting.fetch_add(bytes.len(), Ordering::AcqRel);
            // The thread ends after us.
            let _ = self.pieces.send((to, bytes.to_vec()));
        }
    }

    /// A line about the console, on standard error: scripts get the guest's bytes and nothing else.
    pub fn notice(&self, vm: &str, text: &str, raw: bool) {
        let (begin, end) = if raw { ("\r\n", "\r\n") } else { ("", "\n") };
        self.show(To::Error, format!("{begin}[{vm}: {text}]{end}").as_bytes());
    }

    /// Too much waits to be shown.
    pub fn is_full(&self) -> bool {
        self.shown.waiting.load(Ordering::Acquire) >= FULL
    }

    /// Everything was shown.
    pub fn is_empty(&self) -> bool {
        self.shown.waiting.load(Ordering::Acquire) == 0
    }

    /// Standard output takes nothing more: its reader went away.
    pub fn is_broken(&self) -> bool {
        self.shown.broken.load(Ordering::Acquire)
    }

    /// Becomes readable when there is less to be shown.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shown.wake.as_fd()
    }

    /// Forgets that there was less.
    pub fn rearm(&self) {
        let _ = self.shown.wake.read();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let end = Instant::now() + FAREWELL;
        self.rearm();
        while !self.is_empty() && Instant::now() < end {
            let left = end.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let _ = poll(&mut [PollFd::new(self.wake_fd(), PollFlags::POLLIN)], timeout);
            self.rearm();
        }
    }
}
