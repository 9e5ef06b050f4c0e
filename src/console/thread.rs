// SPDX-License-Identifier: Apache-2.0
//! The console's own thread: it brings output to the log and to the clients, and typed text to the
//! guest, so that vCPU threads never wait for either.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::clients::Clients;
use super::guest_log::GuestLog;
use super::port::Port;
use super::ready::LinePattern;
use super::ring::Ring;
use crate::config::ConsoleConfig;
use crate::confine;
use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;
use crate::mpsc::{self, Receiver, Sender};
use crate::status::clock;
use crate::vcpu::{Bus, Device};

kinds! {
    THREAD: Error "console-thread" in Functions {
        "the console's thread cannot be made",
        cause: "this process has as many files or threads as it may, or the host is out of memory",
        cure: "raise `rlimit nofile` or `rlimit nproc` in the service's .rc, or free memory",
    }
}

/// A byte is shown at once, those that follow it within this time together: a guest that prints
/// makes a wake-up for many bytes, not one each.
const GATHER: Duration = Duration::from_millis(4);
/// The doorbell of a line that stays up rings again: the guest's driver may have answered it and gone
/// on before it had taken everything.
const BELL_AGAIN: Duration = Duration::from_millis(20);
/// After so many times in a row only every second.
const BELLS_IN_HASTE: u32 = 50;
const BELL_AT_LEISURE: Duration = Duration::from_secs(1);
/// How long clients may take to read the last words.
const FAREWELL: Duration = Duration::from_millis(250);

/// What a console does besides showing its output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// The pattern of the line that makes the guest ready.
    pub ready: Option<&'a str>,
    /// Its lines go to the log.
    pub log: bool,
    /// Its thread gives up its capabilities.
    pub confined: bool,
}

/// A guest's console.
pub struct Console {
    port: Arc<Port>,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// A client looks on from this sequence number.
    Attach(OwnedFd, u64),
    /// To be typed, as if a client had.
    Type(String),
    /// The last words.
    End(String),
}

impl Console {
    /// The console of VM `vm`, which prints to `ring`.
    ///
    /// # Errors
    /// No eventfd or thread can be made, or its capabilities cannot be given up.
    pub fn start(
        vm: &str,
        config: &ConsoleConfig,
        ring: &Arc<Ring>,
        options: Options<'_>,
    ) -> Result<Self, Diagnostic> {
        let pattern = options.ready.map(LinePattern::new);
        let port = Port::new(config.device, Arc::clone(ring), pattern)
            .map(Arc::new)
            .map_err(|errno| failed("an eventfd for the console", errno))?;
        let (orders, taken) = mpsc::channel();
        let life = Life {
            port: Arc::clone(&port),
            orders: taken,
            // What an earlier worker printed was logged by it.
            log: options.log.then(|| GuestLog::new(vm, ring.end())),
            ring: Arc::clone(ring),
            clients: Clients::default(),
            bell: None,
        };
        let thread = spawn(life, options.confined)?;
        Ok(Self { port, orders, thread: Some(thread) })
    }

    /// Puts its UART on `bus` where `config` says.
    ///
    /// # Errors
    /// Another device is there.
    pub fn connect(&self, bus: &mut Bus, config: &ConsoleConfig) -> Result<(), Diagnostic> {
        let device: Arc<dyn Device> = self.port.clone();
        bus.add("console", config.base, config.device.frame(), device)
    }

    /// Its UART, for a virtio console beside it as well.
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    /// Lets a client look on, beginning with sequence number `first` of the ring or what of it is still
    /// there, and type if it is the first one.
    pub fn attach(&self, client: OwnedFd, first: u64) {
        self.order(Order::Attach(client, first));
    }

    /// Types `line` and Enter.
    pub fn type_line(&self, line: &str) {
        self.order(Order::Type(format!("{line}\r")));
    }

    /// Tells the clients `farewell`, logs the last words, and ends.
    pub fn stop(mut self, farewell: &str) {
        self.end(farewell);
    }

    fn end(&mut self, farewell: &str) {
        if let Some(thread) = self.thread.take() {
            self.order(Order::End(farewell.to_owned()));
            // A panic was reported on stderr; there is nothing more to do about it.
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        // Fails only where the thread has panicked.
        let _ = self.orders.send(order);
        self.port.wake();
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.end("the console is closed");
    }
}

fn failed(what: &str, errno: Errno) -> Diagnostic {
    THREAD.case(what).errno(errno)
}

fn spawn(mut life: Life, confined: bool) -> Result<JoinHandle<()>, Diagnostic> {
    let failed = |errno| failed("making the console's thread", errno);
    // Confined before the VM runs, other than the vCPUs'.
    confine::spawn("console".to_owned(), confined, &failed, Box::new(move || life.live()))
}

struct Life {
    port: Arc<Port>,
    orders: Receiver<Order>,
    ring: Arc<Ring>,
    log: Option<GuestLog>,
    clients: Clients,
    // For a line that is up: how often in a row the doorbell rang again, and when it does next.
    bell: Option<(u32, Instant)>,
}

impl Life {
    fn live(&mut self) {
        let mut shown = self.ring.end();
        let mut gathering = false;
        let farewell = loop {
            self.wait(gathering);
            self.port.rearm();
            let farewell = self.take_orders();
            let end = self.ring.end();
            gathering = end != std::mem::replace(&mut shown, end);
            if let Some(log) = &mut self.log {
                log.copy(&self.ring);
            }
            self.clients.send(&self.ring);
            if let Some(farewell) = farewell {
                break farewell;
            }
        };
        if let Some(log) = &mut self.log {
            log.finish();
        }
        self.clients.notice(&farewell);
        self.clients.send(&self.ring);
        let ended = Instant::now();
        while !self.clients.idle(&self.ring) && ended.elapsed() < FAREWELL {
            self.wait(true);
            self.clients.send(&self.ring);
        }
    }

    // Until something happens. While `gathering`, output is nothing new.
    fn wait(&mut self, gathering: bool) {
        let bell = self.ring_doorbell(Instant::now());
        let timeout = match clock::sooner(bell, gathering.then_some(GATHER)) {
            None => PollTimeout::NONE,
            // Rounded up: not woken too early.
            Some(time) => {
                u16::try_from(clock::micros(time).div_ceil(1000)).unwrap_or(u16::MAX).into()
            }
        };
        let wake = if gathering { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = vec![PollFd::new(self.port.wake_fd(), wake)];
        self.clients.interests(self.port.room() > 0).append_to(&mut fds);
        let _ = poll(&mut fds, timeout);
        let events = fds[1..].iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let events = events.listed();
        self.clients.receive(&events, &self.port);
    }

    // Rings the doorbell again for a line that stays up; returns how long until it is due next. By the
    // clock alone: a guest that prints steadily waits for its interrupt all the same.
    fn ring_doorbell(&mut self, now: Instant) -> Option<Duration> {
        if !self.port.raised() {
            self.bell = None;
            return None;
        }
        let (bells, due) = self.bell.get_or_insert((0, now + BELL_AGAIN));
        if now >= *due {
            self.port.raise_again();
            *bells = bells.saturating_add(1);
            *due = now + if *bells < BELLS_IN_HASTE { BELL_AGAIN } else { BELL_AT_LEISURE };
        }
        Some(due.saturating_duration_since(now))
    }

    /// The last words, once there are any.
    fn take_orders(&mut self) -> Option<String> {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Attach(client, first) => self.clients.add(client, first, &self.ring),
                // A guest that takes nothing of what is typed loses this too; its stop_timeout ends it.
                Order::Type(line) => {
                    self.port.type_in(line.as_bytes());
                }
                Order::End(farewell) => return Some(farewell),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
