// SPDX-License-Identifier: Apache-2.0
//! Sets system properties over init's property service, without ever blocking the caller.
//!
//! One connection sets one property: SETPROP2 of AOSP `system/core/init/property_service.cpp`. Native
//! endian, u32 command, then name and value, each behind its u32 length; one u32 comes back.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    connect, recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr,
};

pub use super::property_error::{PropertyError, Reply};
use super::{shorten, Overall, State};

/// How gunyahd as a whole does.
const OVERALL: &str = "vendor.gunyah.state";

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
fn check_name(name: &str) -> Result<(), PropertyError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b':' | b'-');
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_MAX {
        "it is too long"
    } else if name.starts_with('.') || name.ends_with('.') {
        "it begins or ends with a dot"
    } else if name.contains("..") {
        "it has two dots in a row"
    } else if !name.bytes().all(legal) {
        "it has a character that is not allowed"
    } else {
        return Ok(());
    };
    Err(PropertyError::Name {
        name: name.into(),
        why,
    })
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

struct Assignment {
    name: String,
    value: String,
}

enum Stage {
    /// The backlog was full: connect again at this time.
    Retry(Instant),
    /// Connected: so many bytes of the request are written, so many of the reply are here.
    Exchange {
        fd: OwnedFd,
        written: usize,
        reply: [u8; 4],
        here: usize,
    },
}

struct Transfer {
    assignment: Assignment,
    request: Vec<u8>,
    deadline: Instant,
    stage: Stage,
}

enum Answer {
    Pending,
    Code(u32),
    /// The other side closed before the whole answer.
    Closed,
}

enum Progress {
    /// Waits for its fd or its retry time.
    Pending,
    Done(Result<(), PropertyError>),
    /// There is no property service on this host.
    Absent,
}

/// A client of the property service for a poll loop. Values are sent in the order of [`set`], one
/// after the other; failures go to the log.
///
/// [`set`]: PropertyClient::set
pub struct PropertyClient {
    socket: PathBuf,
    queue: VecDeque<Assignment>,
    current: Option<Transfer>,
    absence_told: bool,
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
            absence_told: false,
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

    /// Queues a value and sends what can be sent at once. Never blocks.
    pub fn set(&mut self, name: &str, value: &str) {
        if let Err(error) = check_name(name) {
            return self.fail(error);
        }
        if self.queue.len() >= QUEUE_MAX {
            self.make_room();
        }
        self.queue.push_back(Assignment {
            name: name.into(),
            value: shorten(value, VALUE_MAX),
        });
        self.on_ready();
    }

    /// The fd to poll and for what, while a connection is open.
    pub fn poll_fd(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let transfer = self.current.as_ref()?;
        match &transfer.stage {
            Stage::Retry(_) => None,
            Stage::Exchange { fd, written, .. } if *written < transfer.request.len() => {
                Some((fd.as_fd(), PollFlags::POLLOUT))
            }
            Stage::Exchange { fd, .. } => Some((fd.as_fd(), PollFlags::POLLIN)),
        }
    }

    /// When [`on_ready`](Self::on_ready) is to be called even if the fd stays silent.
    pub fn deadline(&self) -> Option<Instant> {
        let transfer = self.current.as_ref()?;
        match transfer.stage {
            Stage::Retry(at) => Some(at.min(transfer.deadline)),
            _ => Some(transfer.deadline),
        }
    }

    /// Goes on as far as possible without blocking: to be called when the fd is ready and when the
    /// deadline is reached. A call too many is harmless.
    pub fn on_ready(&mut self) {
        // One turn a waiting value, so that a fast server cannot hold the caller.
        for _ in 0..=QUEUE_MAX {
            let now = Instant::now();
            if self.current.is_none() {
                let Some(assignment) = self.queue.pop_front() else {
                    return;
                };
                self.current = Some(Transfer {
                    request: request(&assignment),
                    assignment,
                    deadline: now + CONNECTION_LIMIT,
                    stage: Stage::Retry(now),
                });
            }
            let Some(transfer) = self.current.as_mut() else {
                return;
            };
            match transfer.advance(&self.socket, now) {
                Progress::Pending => return,
                Progress::Done(Ok(())) => {
                    self.current = None;
                    self.counts.set += 1;
                }
                Progress::Done(Err(error)) => {
                    self.current = None;
                    self.fail(error);
                }
                Progress::Absent => return self.drop_all(),
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
            let mut fds: Vec<PollFd> = self
                .poll_fd()
                .map(|(fd, flags)| PollFd::new(fd, flags))
                .into_iter()
                .collect();
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

    fn fail(&mut self, error: PropertyError) {
        log::warn!("{error}");
        self.counts.failed += 1;
        self.last_error = Some(error);
    }

    fn drop_all(&mut self) {
        if !self.absence_told {
            log::debug!(
                "no property service at {}: properties are not set",
                self.socket.display()
            );
            self.absence_told = true;
        }
        let dropped = self.queue.len() + usize::from(self.current.is_some());
        self.counts.dropped += u64::try_from(dropped).unwrap_or(u64::MAX);
        self.queue.clear();
        self.current = None;
    }

    // The oldest value that a later one of the same name makes worthless goes first.
    fn make_room(&mut self) {
        let superseded = (0..self.queue.len()).find(|&at| {
            self.queue
                .iter()
                .skip(at + 1)
                .any(|later| later.name == self.queue[at].name)
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
            let error = PropertyError::QueueFull {
                name: old.name,
                value: old.value,
            };
            log::warn!("{error}");
            self.counts.dropped += 1;
            self.last_error = Some(error);
        }
    }
}

impl fmt::Debug for PropertyClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PropertyClient")
            .field("socket", &self.socket)
            .field("waiting", &self.queue.len())
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}

fn request(assignment: &Assignment) -> Vec<u8> {
    let mut bytes = SETPROP2.to_ne_bytes().to_vec();
    for text in [&assignment.name, &assignment.value] {
        // Both are limited to far less than 4 GiB.
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

impl Transfer {
    fn advance(&mut self, path: &Path, now: Instant) -> Progress {
        if let Stage::Retry(at) = self.stage {
            if now >= at {
                self.stage = match open(path) {
                    Ok(fd) => Stage::Exchange {
                        fd,
                        written: 0,
                        reply: [0; 4],
                        here: 0,
                    },
                    Err(("connect to", Errno::EAGAIN)) => Stage::Retry(now + CONNECT_RETRY),
                    Err(("connect to", Errno::ENOENT)) => return Progress::Absent,
                    Err((call, errno)) => return self.socket_error(path, call, errno),
                };
            }
        }
        match self.exchange() {
            Ok(Answer::Code(code)) => Progress::Done(self.judge(code)),
            Ok(Answer::Closed) => Progress::Done(Err(PropertyError::NoReply {
                name: self.assignment.name.clone(),
                socket: path.into(),
            })),
            Ok(Answer::Pending) if now >= self.deadline => {
                Progress::Done(Err(PropertyError::Timeout {
                    name: self.assignment.name.clone(),
                    doing: self.doing(),
                    socket: path.into(),
                }))
            }
            Ok(Answer::Pending) => Progress::Pending,
            Err((call, errno)) => self.socket_error(path, call, errno),
        }
    }

    fn exchange(&mut self) -> Result<Answer, (&'static str, Errno)> {
        let Stage::Exchange {
            fd,
            written,
            reply,
            here,
        } = &mut self.stage
        else {
            return Ok(Answer::Pending);
        };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        while *written < self.request.len() {
            match send(fd.as_raw_fd(), &self.request[*written..], flags) {
                Ok(n) => *written += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Answer::Pending),
                Err(errno) => return Err(("write to", errno)),
            }
        }
        while *here < reply.len() {
            match recv(fd.as_raw_fd(), &mut reply[*here..], MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Ok(Answer::Closed),
                Ok(n) => *here += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Answer::Pending),
                Err(errno) => return Err(("read from", errno)),
            }
        }
        Ok(Answer::Code(u32::from_ne_bytes(*reply)))
    }

    fn doing(&self) -> &'static str {
        match &self.stage {
            Stage::Retry(_) => "connecting",
            Stage::Exchange { written, .. } if *written < self.request.len() => "writing",
            Stage::Exchange { .. } => "waiting for the answer",
        }
    }

    fn judge(&self, code: u32) -> Result<(), PropertyError> {
        match Reply::from_code(code) {
            Reply::Success => Ok(()),
            reply => Err(PropertyError::Refused {
                name: self.assignment.name.clone(),
                value: self.assignment.value.clone(),
                reply,
                code,
            }),
        }
    }

    fn socket_error(&self, path: &Path, call: &'static str, errno: Errno) -> Progress {
        Progress::Done(Err(PropertyError::Socket {
            name: self.assignment.name.clone(),
            call,
            socket: path.into(),
            errno,
        }))
    }
}

fn open(path: &Path) -> Result<OwnedFd, (&'static str, Errno)> {
    let address = UnixAddr::new(path).map_err(|errno| ("name the socket", errno))?;
    let fd = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(|errno| ("make a socket for", errno))?;
    match connect(fd.as_raw_fd(), &address) {
        Ok(()) => Ok(fd),
        Err(errno) => Err(("connect to", errno)),
    }
}
