// SPDX-License-Identifier: Apache-2.0
//! Sets system properties over init's property service, without ever blocking the caller.
//!
//! One connection sets one property: SETPROP2 of AOSP `system/core/init/property_service.cpp`. Native
//! endian, u32 command, then name and value, each behind its u32 length; one u32 comes back.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    connect, recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr,
};

pub use super::property_error::{Fault, PropertyError};
use super::{shorten, Overall, State};

/// How gunyahd as a whole does.
const OVERALL: &str = "vendor.gunyah.state";

/// What the driver speaks.
const DIALECT: &str = "vendor.gunyah.dialect";

/// The property of a VM: its `state`, the `reason` for it, its `restarts`.
fn of_vm(vm: &str, what: &str) -> String {
    format!("vendor.gunyah.{vm}.{what}")
}

/// Where init listens.
pub const DEFAULT_SOCKET: &str = "/dev/socket/property_service";
/// Names another socket than [`DEFAULT_SOCKET`], for tests.
pub const SOCKET_VARIABLE: &str = "GUNYAHD_PROPERTY_SOCKET";
/// Longest value in bytes: PROP_VALUE_MAX of bionic less its NUL. Only `ro.` may be longer.
pub const VALUE_MAX: usize = 91;
/// Longest name in bytes that we send. Init's own limit is 64 KiB; no real name comes near.
pub const NAME_MAX: usize = 255;
/// How long one connection may take: init's own limit for a client is 2 s, bionic's for init 5 s.
pub const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// Values waiting to be sent at most.
pub const QUEUE_MAX: usize = 256;

const SETPROP2: u32 = 0x0002_0001;
// A full backlog answers EAGAIN at once, and no poll event tells when there is room again.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

/// The socket of the host's service, or the one that [`SOCKET_VARIABLE`] names.
pub fn socket_path() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or(DEFAULT_SOCKET.into(), PathBuf::from)
}

/// Checks a property's name as init does.
fn check_name(name: &str) -> Result<(), Fault> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b':' | b'-');
    Err(Fault::Name(if name.is_empty() {
        "is empty"
    } else if name.len() > NAME_MAX {
        "is too long"
    } else if name.starts_with('.') || name.ends_with('.') {
        "begins or ends with a dot"
    } else if name.contains("..") {
        "has two dots in a row"
    } else if !name.bytes().all(legal) {
        "has a character that is not allowed"
    } else {
        return Ok(());
    }))
}

/// What became of the values so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Init has them.
    pub set: u64,
    /// Refused, timed out or not sent for another error.
    pub failed: u64,
    /// Dropped because there is no property service, or because the queue was full.
    pub dropped: u64,
    /// Never sent because the queue was full and a newer value of the same name waited.
    pub superseded: u64,
}

#[derive(Debug)]
struct Assignment {
    name: String,
    value: String,
}

/// A value on its way.
#[derive(Debug)]
struct Transfer {
    assignment: Assignment,
    request: Vec<u8>,
    deadline: Instant,
    /// When to connect, while there is no connection.
    connect_at: Instant,
    connection: Option<OwnedFd>,
    /// Bytes of the request.
    written: usize,
    /// What has come of the answer.
    reply: Vec<u8>,
}

/// A client of the property service for a poll loop. Values are sent in the order of [`set`], one
/// after the other; failures go to the log.
///
/// [`set`]: PropertyClient::set
#[derive(Debug)]
pub struct PropertyClient {
    socket: PathBuf,
    queue: VecDeque<Assignment>,
    current: Option<Transfer>,
    absence_logged: bool,
    counts: Counts,
    last_error: Option<PropertyError>,
}

impl PropertyClient {
    /// A client of the service at `socket`; nothing is opened yet.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            queue: VecDeque::new(),
            current: None,
            absence_logged: false,
            counts: Counts::default(),
            last_error: None,
        }
    }

    /// Sets the properties of a VM. The state comes last: who waits for it finds the reason that belongs
    /// to it.
    pub fn set_vm(&mut self, vm: &str, state: State, reason: &str, restarts: u32) {
        self.set(&of_vm(vm, "reason"), reason);
        self.set(&of_vm(vm, "restarts"), &restarts.to_string());
        self.set(&of_vm(vm, "state"), state.as_str());
    }

    /// Sets the property of the whole.
    pub fn set_overall(&mut self, overall: Overall) {
        self.set(OVERALL, overall.as_str());
    }

    /// Sets the property of the driver's dialect.
    pub fn set_dialect(&mut self, dialect: &str) {
        self.set(DIALECT, dialect);
    }

    /// Queues a value and sends what can be sent at once. Never blocks.
    pub fn set(&mut self, name: &str, value: &str) {
        let assignment = Assignment { name: name.into(), value: shorten(value, VALUE_MAX) };
        if let Err(fault) = check_name(name) {
            self.counts.failed += 1;
            return self.fail(assignment, fault);
        }
        if self.queue.len() >= QUEUE_MAX {
            self.make_room();
        }
        self.queue.push_back(assignment);
        self.on_ready();
    }

    /// The fd to poll and for what, while a connection is open.
    pub fn poll_fd(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let transfer = self.current.as_ref()?;
        let events = match transfer.is_written() {
            true => PollFlags::POLLIN,
            false => PollFlags::POLLOUT,
        };
        Some((transfer.connection.as_ref()?.as_fd(), events))
    }

    /// When [`on_ready`](Self::on_ready) is to be called even if the fd stays silent.
    pub fn deadline(&self) -> Option<Instant> {
        let transfer = self.current.as_ref()?;
        Some(match transfer.connection {
            None => transfer.connect_at.min(transfer.deadline),
            Some(_) => transfer.deadline,
        })
    }

    /// Goes on as far as possible without blocking: to be called when the fd is ready and when the
    /// deadline is reached. A call too many is harmless.
    pub fn on_ready(&mut self) {
        // One turn a waiting value, so that a fast server cannot hold the caller.
        for _ in 0..=QUEUE_MAX {
            let now = Instant::now();
            let Some(mut transfer) = self.current.take().or_else(|| {
                let assignment = self.queue.pop_front()?;
                Some(Transfer::new(assignment, now))
            }) else {
                return;
            };
            match transfer.advance(&self.socket, now) {
                Poll::Pending => {
                    self.current = Some(transfer);
                    return;
                }
                Poll::Ready(Ok(())) => self.counts.set += 1,
                Poll::Ready(Err(Fault::Absent)) => return self.drop_all(),
                Poll::Ready(Err(fault)) => {
                    self.counts.failed += 1;
                    self.fail(transfer.assignment, fault);
                }
            }
        }
    }

    /// True when nothing waits and nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.current.is_none() && self.queue.is_empty()
    }

    /// Sends what waits, for at most `limit`: for the last values before an exit. True if all is sent.
    pub fn finish(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            self.on_ready();
            let now = Instant::now();
            if self.is_idle() || now >= end {
                return self.is_idle();
            }
            let until = self.deadline().map_or(end, |d| d.min(end));
            // Rounded up, or the last fraction of a millisecond would be spent spinning.
            let wait = until.saturating_duration_since(now) + Duration::from_millis(1);
            let timeout = PollTimeout::try_from(wait).unwrap_or(PollTimeout::MAX);
            let fds = self.poll_fd().into_iter();
            let mut fds: Vec<_> = fds.map(|(fd, flags)| PollFd::new(fd, flags)).collect();
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// What became of the values so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The newest failure.
    pub fn last_error(&self) -> Option<&PropertyError> {
        self.last_error.as_ref()
    }

    fn fail(&mut self, Assignment { name, value }: Assignment, fault: Fault) {
        let error = PropertyError { name, value, fault };
        log::warn!("{error}");
        self.last_error = Some(error);
    }

    fn drop_all(&mut self) {
        if !std::mem::replace(&mut self.absence_logged, true) {
            let socket = self.socket.display();
            log::debug!("no property service at {socket}: properties are not set");
        }
        let dropped = self.queue.len().saturating_add(1);
        self.counts.dropped += u64::try_from(dropped).unwrap_or(u64::MAX);
        self.queue.clear();
    }

    // The oldest value that a later one of the same name makes worthless goes first.
    fn make_room(&mut self) {
        let superseded = (0..self.queue.len()).find(|&at| {
            let mut later = self.queue.iter().skip(at + 1);
            later.any(|later| later.name == self.queue[at].name)
        });
        if let Some(old) = superseded.and_then(|at| self.queue.remove(at)) {
            if self.counts.superseded == 0 {
                log::warn!(
                    "{QUEUE_MAX} properties wait for init: {}={:?} is skipped for a newer value; \
                     likely cause: init is stuck, see `dmesg | grep init:`",
                    old.name,
                    old.value
                );
            }
            self.counts.superseded += 1;
        } else if let Some(old) = self.queue.pop_front() {
            self.counts.dropped += 1;
            self.fail(old, Fault::QueueFull);
        }
    }
}

impl Transfer {
    fn new(assignment: Assignment, now: Instant) -> Self {
        let mut request = SETPROP2.to_ne_bytes().to_vec();
        for text in [&assignment.name, &assignment.value] {
            // Both are limited to far less than 4 GiB.
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            request.extend_from_slice(&length.to_ne_bytes());
            request.extend_from_slice(text.as_bytes());
        }
        Self {
            assignment,
            request,
            deadline: now + CONNECTION_LIMIT,
            connect_at: now,
            connection: None,
            written: 0,
            reply: Vec::new(),
        }
    }

    fn is_written(&self) -> bool {
        self.written == self.request.len()
    }

    fn advance(&mut self, path: &Path, now: Instant) -> Poll<Result<(), Fault>> {
        match self.exchange(path, now) {
            Err(Fault::Call(_, Errno::EAGAIN | Errno::EINTR)) if now < self.deadline => {
                Poll::Pending
            }
            Err(Fault::Call(_, Errno::EAGAIN | Errno::EINTR)) => {
                Poll::Ready(Err(Fault::Timeout(match self.connection {
                    None => "connecting",
                    Some(_) if self.is_written() => "waiting for the answer",
                    Some(_) => "writing",
                })))
            }
            done => Poll::Ready(done),
        }
    }

    /// EAGAIN where it would block.
    fn exchange(&mut self, path: &Path, now: Instant) -> Result<(), Fault> {
        let fd = match &mut self.connection {
            Some(fd) => fd.as_raw_fd(),
            None if now < self.connect_at => {
                return Err(Fault::Call("connect to", Errno::EAGAIN));
            }
            none => {
                self.connect_at = now + CONNECT_RETRY;
                none.insert(open(path)?).as_raw_fd()
            }
        };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        while !self.is_written() {
            let sent = send(fd, &self.request[self.written..], flags);
            self.written += sent.map_err(|errno| Fault::Call("write to", errno))?;
        }
        loop {
            if let Ok(code) = self.reply.as_slice().try_into() {
                return match u32::from_ne_bytes(code) {
                    0 => Ok(()),
                    code => Err(Fault::Refused(code)),
                };
            }
            let mut bytes = vec![0; size_of::<u32>() - self.reply.len()];
            let read = recv(fd, &mut bytes, MsgFlags::MSG_DONTWAIT);
            match read.map_err(|errno| Fault::Call("read from", errno))? {
                0 => return Err(Fault::NoReply),
                length => self.reply.extend_from_slice(&bytes[..length]),
            }
        }
    }
}

fn open(path: &Path) -> Result<OwnedFd, Fault> {
    let failed = |call| move |errno| Fault::Call(call, errno);
    let address = UnixAddr::new(path).map_err(failed("name the socket of"))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(failed("make a socket for"))?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => Ok(fd),
        Err(Errno::ENOENT) => Err(Fault::Absent),
        Err(errno) => Err(failed("connect to")(errno)),
    }
}
