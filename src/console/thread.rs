// SPDX-License-Identifier: Apache-2.0
//! The console's own thread: it brings output to the log and to the clients, and typed text to the
//! guest, so that vCPU threads never wait for either.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::attach::Clients;
use super::lines::{LineSplitter, RateLimit};
use super::port::Port;
use super::ready::LinePattern;
use super::ring::Ring;
use crate::config::{ConsoleConfig, VmName};
use crate::confine;
use crate::error::{LaunchError, Step};
use crate::vcpu::{Bus, Device};

/// A byte is shown at once, those that follow it within this time together: a guest that prints
/// makes a wake-up for many bytes, not one each.
const GATHER: Duration = Duration::from_millis(4);
/// A line that stays up is told to the guest again: its driver may have answered a doorbell and
/// gone on before it had taken everything.
const RAISE_AGAIN: Duration = Duration::from_millis(20);
/// After so many times in a row only every second.
const RAISES_IN_HASTE: u32 = 50;
const RAISE_AT_LEISURE: Duration = Duration::from_secs(1);
/// A boot's messages at once, then no more than a person can read.
const LOG_BURST: u32 = 2000;
const LOG_PER_SECOND: u32 = 100;
/// How long clients may take to read the last words.
const FAREWELL: Duration = Duration::from_millis(250);
// Frames, lines and a log record, with plenty to spare.
const STACK: usize = 256 << 10;

/// A guest's console.
pub struct Console {
    port: Arc<Port>,
    inbox: Arc<Mutex<Inbox>>,
    ring: Arc<Ring>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Inbox {
    // With the sequence number of the first byte to show.
    clients: Vec<(OwnedFd, u64)>,
    // To be typed, as if a client had.
    line: Option<String>,
    farewell: Option<String>,
}

impl Console {
    /// The console of `vm` that prints to `ring`; `ready` is the pattern of the line that makes the
    /// guest ready, `log` says whether its lines go to the log, and `confined` whether its thread
    /// gives up its capabilities.
    ///
    /// # Errors
    /// No eventfd or thread can be made, or its capabilities cannot be given up.
    pub fn start(
        vm: &VmName,
        config: &ConsoleConfig,
        ring: &Arc<Ring>,
        ready: Option<&str>,
        log: bool,
        confined: bool,
    ) -> Result<Self, LaunchError> {
        let failed = |what, errno| LaunchError::new(Step::Functions, what).errno(errno);
        let pattern = ready.map(LinePattern::new);
        let port = Port::new(config.device, ring.writer(), pattern)
            .map_err(|e| failed("eventfd for the console", e))?;
        let port = Arc::new(port);
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let mut life = Life {
            target: log.then(|| format!("gunyah.{vm}")),
            port: Arc::clone(&port),
            inbox: Arc::clone(&inbox),
            // What an earlier worker printed was logged by it.
            logged: ring.end(),
            ring: Arc::clone(ring),
            clients: Clients::default(),
            lines: LineSplitter::default(),
            limit: RateLimit::new(LOG_BURST, LOG_PER_SECOND, Instant::now()),
            raises: 0,
            raise_at: None,
        };
        let (up, is_up) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("console".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                // Signals are the worker's main thread's.
                let _ = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
                let given_up = if confined {
                    confine::thread(Step::Functions)
                } else {
                    Ok(())
                };
                let lives = given_up.is_ok();
                // It is waited for below.
                let _ = up.send(given_up);
                if lives {
                    life.live();
                }
            })
            .map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
                failed("making the console's thread", errno)
            })?;
        // What a thread needs to come up is given up before the guest runs.
        is_up
            .recv()
            .map_err(|_| failed("the console's thread did not come up", Errno::ECHILD))??;
        Ok(Self {
            port,
            inbox,
            ring: Arc::clone(ring),
            thread: Some(thread),
        })
    }

    /// Puts its UART on `bus` where `config` says.
    ///
    /// # Errors
    /// Another device is there.
    pub fn connect(&self, bus: &mut Bus, config: &ConsoleConfig) -> Result<(), LaunchError> {
        let size = config.device.frame();
        let device: Arc<dyn Device> = self.port.clone();
        bus.add("console", config.base, size, device)
            .map_err(|error| LaunchError::new(Step::Functions, error.to_string()))
    }

    /// The eventfd of its interrupt line, for the driver's irqfd.
    pub fn interrupt_fd(&self) -> BorrowedFd<'_> {
        self.port.interrupt_fd()
    }

    /// Becomes readable once the guest has printed the line that makes it ready.
    pub fn ready_fd(&self) -> BorrowedFd<'_> {
        self.port.ready_fd()
    }

    /// Whether the guest has become ready; true once.
    pub fn take_ready(&self) -> bool {
        self.port.take_ready()
    }

    /// Lets a client look on, beginning with sequence number `first` of the ring or what of it is still
    /// there, and type if it is the first one.
    pub fn attach(&self, client: OwnedFd, first: u64) {
        let kept = u64::try_from(self.ring.capacity()).unwrap_or(u64::MAX);
        let first = first.max(self.ring.end().saturating_sub(kept));
        self.inbox().clients.push((client, first));
        self.port.wake();
    }

    /// Types `line` and Enter.
    pub fn type_line(&self, line: &str) {
        self.inbox().line = Some(format!("{line}\r"));
        self.port.wake();
    }

    /// Tells the clients `farewell`, logs the last words, and ends.
    pub fn stop(mut self, farewell: &str) {
        self.end(farewell);
    }

    fn end(&mut self, farewell: &str) {
        self.inbox().farewell = Some(farewell.to_owned());
        self.port.wake();
        if let Some(thread) = self.thread.take() {
            // A panic was told on stderr; there is nothing more to do about it.
            let _ = thread.join();
        }
    }

    fn inbox(&self) -> std::sync::MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.end("the console is closed");
        }
    }
}

struct Life {
    // The log's tag; none: nothing is logged.
    target: Option<String>,
    port: Arc<Port>,
    inbox: Arc<Mutex<Inbox>>,
    ring: Arc<Ring>,
    logged: u64,
    clients: Clients,
    lines: LineSplitter,
    limit: RateLimit,
    // How often in a row the line was told to be still up.
    raises: u32,
    // When that is due the next time; none: the line is down.
    raise_at: Option<Instant>,
}

impl Life {
    fn live(&mut self) {
        let mut gathering = false;
        let farewell = loop {
            self.wait(gathering);
            self.port.rearm();
            let before = self.logged;
            let farewell = self.take_inbox();
            self.log();
            self.clients.send(&self.ring);
            if let Some(farewell) = farewell {
                break farewell;
            }
            gathering = self.logged != before;
        };
        self.log();
        self.flush_log();
        self.say_farewell(&farewell);
    }

    // Until something happens. While `gathering`, output is nothing new.
    fn wait(&mut self, gathering: bool) {
        let now = Instant::now();
        if !self.port.raised() {
            self.raises = 0;
            self.raise_at = None;
        } else if self.raise_at.is_none() {
            self.raise_at = now.checked_add(RAISE_AGAIN);
        }
        let due = self.raise_at.map(|at| at.saturating_duration_since(now));
        let longest = gathering.then_some(GATHER);
        let timeout = match due.into_iter().chain(longest).min() {
            None => PollTimeout::NONE,
            // Rounded up: not woken too early.
            Some(time) => u16::try_from(time.as_micros().div_ceil(1000))
                .unwrap_or(u16::MAX)
                .into(),
        };
        let room = self.clients.len() > 0 && self.port.room() > 0;
        let wake = if gathering {
            PollFlags::empty()
        } else {
            PollFlags::POLLIN
        };
        let mut fds = vec![PollFd::new(self.port.wake_fd(), wake)];
        fds.extend(
            self.clients
                .interests(room)
                .map(|(fd, flags)| PollFd::new(fd, flags)),
        );
        let _ = poll(&mut fds, timeout);
        let events: Vec<PollFlags> = fds
            .iter()
            .skip(1)
            .map(|fd| fd.revents().unwrap_or(PollFlags::empty()))
            .collect();
        drop(fds);
        for (at, events) in events.into_iter().enumerate() {
            if events.contains(PollFlags::POLLIN) {
                self.clients.receive(at, &self.port);
            } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
                self.clients.hung_up(at);
            }
        }
        // By the clock alone: a guest that prints steadily waits for its interrupt all the same.
        let now = Instant::now();
        if self.port.raised() && self.raise_at.is_some_and(|at| now >= at) {
            self.raises = self.raises.saturating_add(1);
            self.port.raise_again();
            let pause = match self.raises < RAISES_IN_HASTE {
                true => RAISE_AGAIN,
                false => RAISE_AT_LEISURE,
            };
            self.raise_at = now.checked_add(pause);
        }
    }

    fn take_inbox(&mut self) -> Option<String> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        for (client, first) in inbox.clients.drain(..) {
            self.clients.add(client, first, &self.ring);
        }
        // A guest that takes nothing of what is typed loses this too; its stop_timeout ends it.
        if let Some(line) = inbox.line.take() {
            self.port.type_in(line.as_bytes());
        }
        inbox.farewell.take()
    }

    fn log(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            let chunk = self.ring.read(self.logged, &mut bytes);
            self.logged = chunk.next;
            if let (Some(target), true) = (&self.target, chunk.lost > 0) {
                log::warn!(target: target, "[{} bytes of output not logged: too fast]", chunk.lost);
            }
            if chunk.len == 0 {
                return;
            }
            let (Some(target), limit) = (&self.target, &mut self.limit) else {
                continue;
            };
            self.lines
                .feed(&bytes[..chunk.len], |line| log_line(target, limit, line));
        }
    }

    fn flush_log(&mut self) {
        let (Some(target), limit) = (&self.target, &mut self.limit) else {
            return;
        };
        self.lines.flush(|line| log_line(target, limit, line));
        let dropped = self.limit.take_dropped();
        if dropped > 0 {
            log::warn!(target: target, "[{dropped} lines not logged: too many]");
        }
    }

    fn say_farewell(&mut self, farewell: &str) {
        self.clients.notice(farewell);
        let started = Instant::now();
        loop {
            self.clients.send(&self.ring);
            if self.clients.idle(&self.ring) || started.elapsed() >= FAREWELL {
                return;
            }
            let mut fds: Vec<PollFd<'_>> = self
                .clients
                .interests(false)
                .map(|(fd, _)| PollFd::new(fd, PollFlags::POLLOUT))
                .collect();
            let _ = poll(&mut fds, 50u16);
        }
    }
}

fn log_line(target: &str, limit: &mut RateLimit, line: &str) {
    if !limit.allow(Instant::now()) {
        return;
    }
    let dropped = limit.take_dropped();
    if dropped > 0 {
        log::warn!(target: target, "[{dropped} lines not logged: too many]");
    }
    log::info!(target: target, "{line}");
}

#[cfg(test)]
mod tests;
