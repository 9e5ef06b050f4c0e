// SPDX-License-Identifier: Apache-2.0
//! Standard output and error on a thread of their own, behind a bounded buffer: a terminal that is
//! stopped, or a reader that is slow, holds back the guest's output and never the keys that leave.

use std::collections::VecDeque;
use std::io::{stderr, stdout};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::write;

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
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    more: Condvar,
    less: Condvar,
    // For a poll: written whenever there is less.
    wake: EventFd,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<(To, Vec<u8>)>,
    // Of `pieces`, and of the piece that is being written.
    bytes: usize,
    broken: bool,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // The thread's life.
    fn show(&self) {
        let mut queue = self.queue();
        loop {
            let Some((to, piece)) = queue.pieces.pop_front() else {
                if queue.closed {
                    return;
                }
                queue = self
                    .more
                    .wait(queue)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(queue);
            let written = match to {
                To::Output => write_all(stdout().as_fd(), &piece),
                To::Error => write_all(stderr().as_fd(), &piece).or(Ok(())),
            };
            queue = self.queue();
            queue.bytes = queue.bytes.saturating_sub(piece.len());
            if written.is_err() {
                queue.broken = true;
                queue.pieces.clear();
                queue.bytes = 0;
            }
            self.less.notify_all();
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
    /// # Errors
    /// No eventfd or thread can be made.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            more: Condvar::new(),
            less: Condvar::new(),
            wake: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        });
        let its = Arc::clone(&shared);
        // Not joined: it may never come back from a terminal that is stopped.
        std::thread::Builder::new()
            .name("screen".to_owned())
            .stack_size(STACK)
            .spawn(move || its.show())?;
        Ok(Self { shared })
    }

    /// Adds bytes; the caller heeds [`Screen::is_full`].
    pub fn show(&self, to: To, bytes: &[u8]) {
        let mut queue = self.shared.queue();
        if queue.broken || bytes.is_empty() {
            return;
        }
        queue.bytes = queue.bytes.saturating_add(bytes.len());
        match queue.pieces.back_mut() {
            Some((last, piece)) if *last == to => piece.extend_from_slice(bytes),
            _ => queue.pieces.push_back((to, bytes.to_vec())),
        }
        self.shared.more.notify_one();
    }

    /// A line about the console, on standard error: scripts get the guest's bytes and nothing else.
    pub fn notice(&self, vm: &str, text: &str, raw: bool) {
        let end = if raw { "\r\n" } else { "\n" };
        let begin = if raw { "\r\n" } else { "" };
        let line = format!("{begin}[{vm}: {text}]{end}");
        self.show(To::Error, line.as_bytes());
    }

    pub fn is_full(&self) -> bool {
        self.shared.queue().bytes >= FULL
    }

    /// Everything was shown.
    pub fn is_empty(&self) -> bool {
        self.shared.queue().bytes == 0
    }

    /// Standard output takes nothing more: its reader went away.
    pub fn is_broken(&self) -> bool {
        self.shared.queue().broken
    }

    /// Becomes readable when there is less to be shown.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// Forgets that there was less.
    pub fn rearm(&self) {
        let _ = self.shared.wake.read();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let end = Instant::now() + FAREWELL;
        let mut queue = self.shared.queue();
        queue.closed = true;
        self.shared.more.notify_one();
        while queue.bytes > 0 {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.shared.less.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
