// SPDX-License-Identifier: Apache-2.0
//! Sets system properties over init's property service, without ever blocking the caller.
//!
//! One connection sets one property: SETPROP2 of AOSP `system/core/init/property_service.cpp`. Native
//! endian, u32 command, then name and value, each behind its u32 length; one u32 comes back.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    connect, recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr,
};

use super::{clock, logger, shorten, Overall, State};
use crate::list;
use crate::text::{errno_name, printable};

/// How gunyahd as a whole does.
const OVERALL: &str = "vendor.gunyah.state";

/// What the driver speaks.
const DIALECT: &str = "vendor.gunyah.dialect";

/// How many folios of the reserve are huge, of how many.
const RESERVE: &str = "vendor.gunyah.reserve";

/// The property of a VM: its `state`, the `reason` for it, its `restarts`, `ready_ms`. A VM's name has only characters
/// that init takes.
fn of_vm(vm: &str, what: &str) -> String {
    format!("vendor.gunyah.{vm}.{what}")
}

/// Where init listens.
const DEFAULT_SOCKET: &str = "/dev/socket/property_service";
/// Names another socket than [`DEFAULT_SOCKET`], for tests.
const SOCKET_VARIABLE: &str = "GUNYAHD_PROPERTY_SOCKET";
/// Longest value in bytes: PROP_VALUE_MAX of bionic less its NUL. Only `ro.` may be longer.
const VALUE_MAX: usize = 91;
/// How long one connection may take: init's own limit for a client is 2 s, bionic's for init 5 s.
const CONNECTION_LIMIT: Duration = Duration::from_secs(5);
/// Values waiting to be sent at most.
pub const QUEUE_MAX: usize = 256;

const SETPROP2: u32 = 0x0002_0001;
// A full backlog answers EAGAIN at once, and no poll event tells when there is room again.
const CONNECT_RETRY: Duration = Duration::from_millis(20);

/// The socket of the host's service, or the one that [`SOCKET_VARIABLE`] names.
pub fn socket_path() -> PathBuf {
    std::env::var_os(SOCKET_VARIABLE).map_or(DEFAULT_SOCKET.into(), PathBuf::from)
}

/// A value for a property.
#[derive(Debug)]
struct Assignment {
    name: String,
    value: String,
}

impl Assignment {
    fn warn(&self, why: &str) {
        logger::warn!("property {}=\"{}\": {why}", self.name, printable(&self.value));
    }

    fn request(&self) -> Vec<u8> {
        let mut request = SETPROP2.to_ne_bytes().to_vec();
        for text in [&self.name, &self.value] {
            // Both are limited to far less than 4 GiB.
            let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
            request.extend_from_slice(&length.to_ne_bytes());
            request.extend_from_slice(text.as_bytes());
        }
        request
    }
}

/// A value on its way.
#[derive(Debug)]
struct Transfer {
    assignment: Assignment,
    deadline: Instant,
    /// When to connect once more, while there is no connection.
    connect_at: Instant,
    /// The request is sent.
    connection: Option<OwnedFd>,
}

/// Why a value is not set.
enum Fault {
    /// Init takes its time.
    Pending,
    /// There is no property service on this host.
    Absent,
    /// What failed, with cause and cure.
    Failed(String),
}

/// A client of the property service for a poll loop. Values are sent in the order of [`set`], one
/// after the other; failures go to the log.
///
/// [`set`]: PropertyClient::set
#[derive(Debug)]
pub struct PropertyClient {
    socket: PathBuf,
    queue: Vec<Assignment>,
    current: Option<Transfer>,
}

impl PropertyClient {
    /// A client of the service at `socket`; nothing is opened yet.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, queue: Vec::new(), current: None }
    }

    /// Sets the properties of a VM; `ready`: it has just become so, that long after boot. The state comes last: who waits for it finds the reason that belongs
    /// to it.
    pub fn set_vm(
        &mut self,
        vm: &str,
        state: State,
        reason: &str,
        restarts: u32,
        ready: Option<Duration>,
    ) {
        self.push(&of_vm(vm, "reason"), reason);
        self.push(&of_vm(vm, "restarts"), &restarts.to_string());
        if let Some(since_boot) = ready {
            self.push(&of_vm(vm, "ready_ms"), &clock::millis(since_boot).to_string());
        }
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

    /// Sets the property of the reserve.
    pub fn set_reserve(&mut self, huge: u64, folios: u64) {
        self.set(RESERVE, &format!("{huge}/{folios}"));
    }

    /// Queues a value and sends what can be sent at once. Never blocks.
    pub fn set(&mut self, name: &str, value: &str) {
        self.push(name, value);
        self.on_ready();
    }

    fn push(&mut self, name: &str, value: &str) {
        if self.queue.len() >= QUEUE_MAX {
            self.make_room();
        }
        let value = shorten(value, VALUE_MAX);
        self.queue.push(Assignment { name: name.into(), value });
    }

    /// The fd to poll for input, while init owes an answer.
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.current.as_ref()?.connection.as_ref()?.as_fd())
    }

    /// When [`on_ready`](Self::on_ready) is to be called even if the fd stays silent.
    pub fn deadline(&self) -> Option<Instant> {
        let transfer = self.current.as_ref()?;
        Some(match transfer.connection {
            None => transfer.connect_at,
            Some(_) => transfer.deadline,
        })
    }

    /// Goes on as far as possible without blocking: to be called when the fd is ready and when the
    /// deadline is reached. A call too many is harmless.
    pub fn on_ready(&mut self) {
        // One turn a waiting value, so that a fast server cannot hold the caller.
        for _ in 0..=QUEUE_MAX {
            let now = Instant::now();
            let next = || Some(Transfer::new(list::take_first(&mut self.queue)?, now));
            let Some(mut transfer) = self.current.take().or_else(next) else {
                return;
            };
            match transfer.advance(&self.socket, now) {
                Ok(()) => {}
                Err(Fault::Pending) if now < transfer.deadline => {
                    self.current = Some(transfer);
                    return;
                }
                Err(Fault::Pending) => transfer.assignment.warn(&format!(
                    "no answer from init within {} s; the value may be unset; {INIT_IS_STUCK}",
                    CONNECTION_LIMIT.as_secs()
                )),
                // Not Android: nobody wants properties.
                Err(Fault::Absent) => self.queue.clear(),
                Err(Fault::Failed(why)) => transfer.assignment.warn(&why),
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
            let mut fds = Vec::new();
            if let Some(fd) = self.poll_fd() {
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            match poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Drops, of a queue that is full, the oldest value that a later one of the same name makes worthless;
    /// without one, the oldest.
    fn make_room(&mut self) {
        let superseded = |at: &usize| {
            let mut later = self.queue.iter().skip(at + 1);
            later.any(|later| later.name == self.queue[*at].name)
        };
        let at = (0..self.queue.len()).find(superseded).unwrap_or(0);
        self.queue.remove(at).warn(&format!(
            "dropped, because {QUEUE_MAX} newer values wait for init; {INIT_IS_STUCK}"
        ));
    }
}

impl Transfer {
    fn new(assignment: Assignment, now: Instant) -> Self {
        let deadline = now + CONNECTION_LIMIT;
        Self { assignment, deadline, connect_at: now, connection: None }
    }

    /// Sends the request, once, and reads the answer if it is there.
    fn advance(&mut self, path: &Path, now: Instant) -> Result<(), Fault> {
        let fd = match &mut self.connection {
            Some(fd) => fd.as_raw_fd(),
            none => {
                self.connect_at = now + CONNECT_RETRY;
                none.insert(ask(path, &self.assignment.request())?).as_raw_fd()
            }
        };
        let mut reply = [0; size_of::<u32>()];
        let read = recv(fd, &mut reply, MsgFlags::MSG_DONTWAIT).map_err(failed("read from"))?;
        match u32::from_ne_bytes(reply) {
            _ if read != reply.len() => Err(Fault::Failed(NO_REPLY.to_owned())),
            0 => Ok(()),
            code => Err(Fault::Failed(refusal(code))),
        }
    }
}

/// A new connection to the service with the request in it: a fresh socket has room for all of it.
fn ask(path: &Path, request: &[u8]) -> Result<OwnedFd, Fault> {
    let address = UnixAddr::new(path).map_err(failed("name the socket of"))?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .map_err(failed("make a socket for"))?;
    match connect(fd.as_raw_fd(), &address) {
        Err(Errno::ENOENT) => return Err(Fault::Absent),
        connected => connected.map_err(failed("connect to"))?,
    }
    send(fd.as_raw_fd(), request, MsgFlags::MSG_NOSIGNAL).map_err(failed("write to"))?;
    Ok(fd)
}

const INIT_IS_STUCK: &str = "likely cause: init is stuck, see `dmesg | grep init:`";
const NO_REPLY: &str =
    "init closed the connection without an answer; the value may be unset; likely cause: \
     init was too busy or the caller's label is unknown to it";

fn failed(call: &'static str) -> impl Fn(Errno) -> Fault {
    move |errno| {
        let cure = match errno {
            Errno::EAGAIN | Errno::EINTR => return Fault::Pending,
            Errno::EACCES | Errno::EPERM => {
                "likely cause: SELinux or the socket's mode; set_prop(…, vendor_gunyah_prop) also allows the connection"
            }
            Errno::ECONNREFUSED => "nobody listens; likely cause: init is gone, or a stale socket file",
            Errno::EPIPE | Errno::ECONNRESET => return Fault::Failed(NO_REPLY.to_owned()),
            _ => "the value may be unset",
        };
        Fault::Failed(format!("{call} the property service: {}; {cure}", errno_name(errno)))
    }
}

/// AOSP's name of a code, from system/core/init/property_service.h and bionic's _system_properties.h, with
/// cause and cure.
fn refusal(code: u32) -> String {
    const BUSY: &str =
        "init gave up reading; likely cause: a host too busy at boot; the next change is sent anew";
    let (name, cure) = match code {
        0x04 => ("PROP_ERROR_READ_CMD", BUSY),
        0x08 => ("PROP_ERROR_READ_DATA", BUSY),
        0x14 => (
            "PROP_ERROR_INVALID_VALUE",
            "likely cause: property_contexts gives the property a type that this value is not of; declare it \
             as `prefix string`",
        ),
        0x18 => (
            "PROP_ERROR_PERMISSION_DENIED",
            "likely cause: SELinux; label vendor.gunyah. as vendor_gunyah_prop in property_contexts and give \
             the caller's domain set_prop(…, vendor_gunyah_prop); `dmesg | grep avc` shows the denial",
        ),
        0x1B => (
            "PROP_ERROR_INVALID_CMD",
            "likely cause: an init older than Android 8, which lacks SETPROP2",
        ),
        0x24 => (
            "PROP_ERROR_SET_FAILED",
            "likely cause: the property area is full (128 KiB a context) or its file was not made at boot",
        ),
        _ => (
            "a code that is not expected here",
            "see PROP_ERROR_ in AOSP; likely cause: another program listens on the socket",
        ),
    };
    format!("init answered {name} ({code:#x}); {cure}")
}
