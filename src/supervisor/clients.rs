// SPDX-License-Identifier: Apache-2.0
//! The control socket's clients. None of them can hold the supervisor: lines, buffers, numbers and
//! times are bounded, and nothing here blocks.

use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt};

use crate::status::control::{
    parse_request, response_line, ControlError, ErrorKind, Request, Response, MAX_REQUEST,
    MAX_RESPONSE,
};
use crate::text::failure;

/// Clients served at once; more are told that gunyahd is busy.
const MAX_CLIENTS: usize = 32;

/// Milliseconds that a client may take to send its line.
const REQUEST_TIMEOUT: u64 = 5_000;

/// Milliseconds that a client may leave its answer unread.
const READ_TIMEOUT: u64 = 10_000;

/// Milliseconds in which what a refused client still sends is read, so that it sees the answer and
/// not a reset.
const DRAIN_TIMEOUT: u64 = 2_000;

/// Milliseconds without accepting after it failed.
const ACCEPT_PAUSE: u64 = 200;

/// A client's number, never used twice.
pub type ClientId = u64;

/// Who may change something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    own_uid: u32,
    inherited: bool,
}

/// Android's AID_SYSTEM and AID_SHELL (system/core's android_filesystem_config.h).
const ANDROID_UIDS: [u32; 2] = [1000, 2000];

impl Rights {
    /// For a process of `own_uid`, with a socket from init or its own.
    pub fn new(own_uid: u32, inherited: bool) -> Self {
        Self { own_uid, inherited }
    }

    fn who(&self) -> &'static str {
        if self.inherited {
            "root, gunyahd's own user, system and shell"
        } else {
            "root and gunyahd's own user"
        }
    }

    /// Whether a peer of `uid` may start and stop VMs. Reading is open to whoever may connect.
    pub fn may_change(&self, uid: u32) -> bool {
        uid == 0 || uid == self.own_uid || (self.inherited && ANDROID_UIDS.contains(&uid))
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Doing {
    /// Its request is not whole yet.
    Asking,
    /// The supervisor has its request and will answer.
    Waiting,
    /// It gets every change.
    Watching,
    /// The last bytes are in the buffer.
    Leaving,
    /// All is sent; its own rest is thrown away until it hangs up.
    Draining,
}

#[derive(Debug)]
struct Client {
    id: ClientId,
    stream: UnixStream,
    uid: Option<u32>,
    doing: Doing,
    input: Vec<u8>,
    output: Vec<u8>,
    sent: usize,
    deadline: Option<u64>,
    /// It sends no more; it may still read.
    ended: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
    next_id: ClientId,
    deaf_until: Option<u64>,
}

impl Clients {
    /// Takes every connection that waits.
    pub fn accept(&mut self, listener: &UnixListener, now: u64) {
        // At most one full round, so that a flood cannot hold the loop.
        for _ in 0..MAX_CLIENTS {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    if !matches!(
                        error.kind(),
                        IoErrorKind::WouldBlock | IoErrorKind::Interrupted
                    ) {
                        // No fd to be had: the connection stays readable, and asking again at once
                        // would be all that gunyahd does.
                        log::warn!("accept on the control socket: {}", failure(&error));
                        self.deaf_until = Some(now.saturating_add(ACCEPT_PAUSE));
                    }
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            self.add(stream, now);
        }
    }

    /// A client on a socket pair: its end, and its number here.
    #[cfg(test)]
    pub fn pair(&mut self) -> (UnixStream, ClientId) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        self.add(ours, 0);
        (theirs, self.next_id)
    }

    fn add(&mut self, mut stream: UnixStream, now: u64) {
        if self.clients.len() >= MAX_CLIENTS {
            let text = format!("{MAX_CLIENTS} clients are served already: try again");
            let error = ControlError::new(ErrorKind::Busy, text);
            // A new connection's buffer is empty, so this cannot fail but by the peer's leaving.
            let _ = stream.write(&response_line(&Response::Error(error)));
            return;
        }
        let uid = getsockopt(&stream, sockopt::PeerCredentials)
            .ok()
            .map(|credentials| credentials.uid());
        self.next_id += 1;
        self.clients.push(Client {
            id: self.next_id,
            stream,
            uid,
            doing: Doing::Asking,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            deadline: Some(now.saturating_add(REQUEST_TIMEOUT)),
            ended: false,
        });
    }

    /// What to poll: each client's number, fd and events.
    pub fn poll_fds(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().map(|client| {
            let mut events = PollFlags::empty();
            if !client.ended {
                events |= PollFlags::POLLIN;
            }
            if client.sent < client.output.len() {
                events |= PollFlags::POLLOUT;
            }
            (client.id, client.stream.as_fd(), events)
        })
    }

    /// Whether new clients are taken now.
    pub fn is_accepting(&self) -> bool {
        self.deaf_until.is_none()
    }

    /// When [`Clients::expire`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.clients
            .iter()
            .filter_map(|client| client.deadline)
            .chain(self.deaf_until)
            .min()
    }

    /// Drops those that took too long.
    pub fn expire(&mut self, now: u64) {
        self.clients.retain(|client| {
            let late = client.deadline.is_some_and(|due| due <= now);
            if late && client.sent < client.output.len() {
                log::info!("control client {} does not read; dropped", client.id);
            }
            !late
        });
        self.deaf_until = self.deaf_until.filter(|due| *due > now);
    }

    /// A client's fd is ready: what it asks, if its line is whole now.
    pub fn on_ready(
        &mut self,
        id: ClientId,
        events: PollFlags,
        rights: &Rights,
        now: u64,
    ) -> Option<Request> {
        let client = self.clients.iter_mut().find(|client| client.id == id)?;
        match client.on_ready(events, now) {
            Ready::Nothing => None,
            Ready::Gone => {
                self.clients.retain(|client| client.id != id);
                None
            }
            Ready::Line(line) => match allowed(parse_request(&line), client.uid, rights) {
                Ok(request) => {
                    client.doing = Doing::Waiting;
                    client.deadline = None;
                    Some(request)
                }
                Err(error) => {
                    self.answer(id, &Response::Error(error), now);
                    None
                }
            },
            Ready::Bad(error) => {
                self.answer(id, &Response::Error(error), now);
                None
            }
        }
    }

    /// The last answer to a client.
    pub fn answer(&mut self, id: ClientId, response: &Response, now: u64) {
        self.push(id, &response_line(response), Doing::Leaving, now);
    }

    /// An answer after which changes follow.
    pub fn watch(&mut self, id: ClientId, response: &Response, now: u64) {
        self.push(id, &response_line(response), Doing::Watching, now);
    }

    /// Tells all who watch.
    pub fn tell_watchers(&mut self, response: &Response, now: u64) {
        let watching: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|client| client.doing == Doing::Watching)
            .map(|client| client.id)
            .collect();
        if watching.is_empty() {
            return;
        }
        let line = response_line(response);
        for id in watching {
            self.push(id, &line, Doing::Watching, now);
        }
    }

    /// The last answer to a client, which is then handed over to somebody else.
    pub fn release(&mut self, id: ClientId, response: &Response) -> Option<UnixStream> {
        let at = self.clients.iter().position(|client| client.id == id)?;
        let mut client = self.clients.swap_remove(at);
        let line = response_line(response);
        // It waited for this, so nothing is in front of it and there is room.
        let written = client.stream.write(&line).ok()?;
        (written == line.len()).then_some(client.stream)
    }

    /// Still connected and waiting for its answer.
    pub fn is_waiting(&self, id: ClientId) -> bool {
        self.clients
            .iter()
            .any(|client| client.id == id && client.doing == Doing::Waiting)
    }

    fn push(&mut self, id: ClientId, line: &[u8], doing: Doing, now: u64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return;
        };
        client.doing = doing;
        if client.output.len() - client.sent + line.len() > MAX_RESPONSE {
            // A watcher that does not read; it would miss changes, so it is better cut off.
            log::info!("control client {id} does not read; dropped");
            self.clients.retain(|client| client.id != id);
            return;
        }
        client.output.drain(..client.sent);
        client.sent = 0;
        client.output.extend_from_slice(line);
        if client.deadline.is_none() || client.doing == Doing::Leaving {
            client.deadline = Some(now.saturating_add(READ_TIMEOUT));
        }
        if !client.flush(now) {
            self.clients.retain(|client| client.id != id);
        }
    }
}

fn allowed(
    request: Result<Request, ControlError>,
    uid: Option<u32>,
    rights: &Rights,
) -> Result<Request, ControlError> {
    let request = request?;
    if request.changes() && !uid.is_some_and(|uid| rights.may_change(uid)) {
        let who = uid.map_or("a client without credentials".to_owned(), |uid| {
            format!("uid {uid}")
        });
        let text = format!("{who} may not change anything: only {} may", rights.who());
        return Err(ControlError::new(ErrorKind::Denied, text));
    }
    Ok(request)
}

enum Ready {
    Nothing,
    Gone,
    Line(Vec<u8>),
    Bad(ControlError),
}

impl Client {
    fn on_ready(&mut self, events: PollFlags, now: u64) -> Ready {
        if !self.flush(now) {
            return Ready::Gone;
        }
        // A client that asked and left at once is still heard.
        let hung_up = events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        if hung_up && self.doing != Doing::Asking {
            return Ready::Gone;
        }
        let mut buffer = [0; MAX_REQUEST];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.end_of_input(),
            Ok(_) if self.doing != Doing::Asking => Ready::Nothing,
            Ok(length) => {
                self.input.extend_from_slice(&buffer[..length]);
                self.line()
            }
            Err(error)
                if matches!(
                    error.kind(),
                    IoErrorKind::WouldBlock | IoErrorKind::Interrupted
                ) =>
            {
                Ready::Nothing
            }
            Err(_) => Ready::Gone,
        }
    }

    fn end_of_input(&mut self) -> Ready {
        self.ended = true;
        match self.doing {
            Doing::Asking if self.input.is_empty() => Ready::Gone,
            Doing::Asking => Ready::Bad(ControlError::new(
                ErrorKind::BadRequest,
                "the line has no end: it needs a newline",
            )),
            Doing::Draining => Ready::Gone,
            Doing::Waiting | Doing::Watching | Doing::Leaving => Ready::Nothing,
        }
    }

    fn line(&mut self) -> Ready {
        match self.input.iter().position(|byte| *byte == b'\n') {
            Some(end) if end < MAX_REQUEST => {
                let mut line = std::mem::take(&mut self.input);
                line.truncate(end);
                Ready::Line(line)
            }
            None if self.input.len() < MAX_REQUEST => Ready::Nothing,
            _ => Ready::Bad(ControlError::new(
                ErrorKind::BadRequest,
                format!("the line is longer than {MAX_REQUEST} bytes"),
            )),
        }
    }

    /// Sends what can be sent at once; false if the client is gone.
    fn flush(&mut self, now: u64) -> bool {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return false,
                Ok(length) => {
                    self.sent += length;
                    self.deadline = Some(now.saturating_add(READ_TIMEOUT));
                }
                Err(error) if error.kind() == IoErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == IoErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.output.clear();
        self.sent = 0;
        match self.doing {
            Doing::Leaving => {
                self.doing = Doing::Draining;
                self.deadline = Some(now.saturating_add(DRAIN_TIMEOUT));
                return self.stream.shutdown(Shutdown::Write).is_ok();
            }
            Doing::Watching => self.deadline = None,
            _ => {}
        }
        true
    }
}

#[cfg(test)]
#[path = "clients_test.rs"]
mod tests;
