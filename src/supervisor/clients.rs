// SPDX-License-Identifier: Apache-2.0
//! The control socket's clients. None of them can hold the supervisor: lines, buffers, numbers and
//! times are bounded, and nothing here blocks.

use std::io::{ErrorKind as Kind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::PollFlags;
use nix::sys::socket::{getsockopt, sockopt};

use crate::config::VmName;
use crate::list::Listed;
use crate::status::clock::sooner;
use crate::status::control::{
    parse_request, response_line, ControlError, ErrorKind, Request, Response, MAX_REQUEST,
    MAX_RESPONSE,
};
use crate::status::logger;
use crate::text::failure;

use super::goal::Goal;

/// Clients served at once; more get the answer `busy`.
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
    /// The supervisor has its request and will answer, at the latest when this VM has come to this.
    Waiting(Option<(VmName, Goal)>),
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
    /// What is not sent yet.
    output: Vec<u8>,
    deadline: Option<u64>,
    /// It sends no more; it may still read.
    ended: bool,
}

/// All clients.
#[derive(Debug, Default)]
pub struct Clients {
    clients: Vec<Client>,
    next_id: ClientId,
    /// No connection is accepted until then.
    deaf_until: Option<u64>,
}

impl Clients {
    /// Takes every connection that waits.
    pub fn accept(&mut self, listener: &UnixListener, now: u64) {
        // At most one full round, so that a flood cannot hold the loop.
        for _ in 0..MAX_CLIENTS {
            match listener.accept() {
                Ok((stream, _)) => {
                    if stream.set_nonblocking(true).is_ok() {
                        self.add(stream, now);
                    }
                }
                Err(error) if is_for_now(&error) => return,
                Err(error) => {
                    // No fd to be had: the connection stays readable, and asking again at once
                    // would be all that gunyahd does.
                    logger::warn!("accept on the control socket: {}", failure(&error));
                    self.deaf_until = Some(now.saturating_add(ACCEPT_PAUSE));
                    return;
                }
            }
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
        let peer = getsockopt(&stream, sockopt::PeerCredentials);
        self.next_id += 1;
        self.clients.push(Client {
            id: self.next_id,
            stream,
            uid: peer.ok().map(|credentials| credentials.uid()),
            doing: Doing::Asking,
            input: Vec::new(),
            output: Vec::new(),
            deadline: Some(now.saturating_add(REQUEST_TIMEOUT)),
            ended: false,
        });
    }

    /// What to poll: each client's number, fd and events.
    pub fn poll_fds(&self) -> impl Iterator<Item = (ClientId, BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().map(|client| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, !client.ended);
            events.set(PollFlags::POLLOUT, !client.output.is_empty());
            (client.id, client.stream.as_fd(), events)
        })
    }

    /// Whether new clients are taken now.
    pub fn is_accepting(&self) -> bool {
        self.deaf_until.is_none()
    }

    /// When [`Clients::expire`] has something to do.
    pub fn deadline(&self) -> Option<u64> {
        self.clients.iter().map(|client| client.deadline).fold(self.deaf_until, sooner)
    }

    /// Drops those that took too long.
    pub fn expire(&mut self, now: u64) {
        self.clients.retain(|client| {
            let late = client.deadline.is_some_and(|due| due <= now);
            if late && !client.output.is_empty() {
                logger::info!("control client {} does not read; dropped", client.id);
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
        let asked = match client.on_ready(events, now) {
            Ready::Nothing => return None,
            Ready::Gone => {
                self.drop_client(id);
                return None;
            }
            Ready::Line(line) => allowed(parse_request(&line), client.uid, rights),
            Ready::Bad(text) => Err(ControlError::new(ErrorKind::BadRequest, text)),
        };
        match asked {
            Ok(request) => {
                client.doing = Doing::Waiting(None);
                client.deadline = None;
                Some(request)
            }
            Err(error) => {
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

    /// Sends a change to all who watch.
    pub fn tell_watchers(&mut self, response: &Response, now: u64) {
        let watching = self.clients.iter().filter(|c| c.doing == Doing::Watching);
        let watching = watching.map(|client| client.id).listed();
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

    /// A client's answer waits until `vm` has come to `goal`.
    pub fn wait_for(&mut self, id: ClientId, vm: VmName, goal: Goal) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.id == id) {
            client.doing = Doing::Waiting(Some((vm, goal)));
        }
    }

    /// Those whose wait for `vm` is over, each with whether its goal was reached, as `reached` says.
    pub fn done_waiting(
        &self,
        vm: &VmName,
        reached: impl Fn(Goal) -> Option<bool>,
    ) -> Vec<(ClientId, bool)> {
        let done = self.clients.iter().filter_map(|client| match &client.doing {
            Doing::Waiting(Some((its, goal))) if its == vm => Some((client.id, reached(*goal)?)),
            _ => None,
        });
        done.listed()
    }

    fn drop_client(&mut self, id: ClientId) {
        if let Some(at) = self.clients.iter().position(|client| client.id == id) {
            self.clients.remove(at);
        }
    }

    fn push(&mut self, id: ClientId, line: &[u8], doing: Doing, now: u64) {
        let Some(client) = self.clients.iter_mut().find(|client| client.id == id) else {
            return;
        };
        client.doing = doing;
        if client.output.len() + line.len() > MAX_RESPONSE {
            // A watcher that does not read; it would miss changes, so it is better cut off.
            logger::info!("control client {id} does not read; dropped");
            return self.drop_client(id);
        }
        client.output.extend_from_slice(line);
        if client.deadline.is_none() || client.doing == Doing::Leaving {
            client.deadline = Some(now.saturating_add(READ_TIMEOUT));
        }
        if !client.flush(now) {
            self.drop_client(id);
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
        let nobody = "a client without credentials".to_owned();
        let who = uid.map_or(nobody, |uid| format!("uid {uid}"));
        let text = format!("{who} may not change anything: only {} may", rights.who());
        return Err(ControlError::new(ErrorKind::Denied, text));
    }
    Ok(request)
}

enum Ready {
    Nothing,
    Gone,
    Line(Vec<u8>),
    /// What it sent cannot become a line, and why.
    Bad(String),
}

/// There is nothing to be had now.
fn is_for_now(error: &std::io::Error) -> bool {
    matches!(error.kind(), Kind::WouldBlock | Kind::Interrupted)
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
            Err(error) if is_for_now(&error) => Ready::Nothing,
            Err(_) => Ready::Gone,
        }
    }

    fn end_of_input(&mut self) -> Ready {
        self.ended = true;
        match self.doing {
            Doing::Asking if self.input.is_empty() => Ready::Gone,
            Doing::Asking => Ready::Bad("the line has no end: it needs a newline".to_owned()),
            Doing::Draining => Ready::Gone,
            Doing::Waiting(_) | Doing::Watching | Doing::Leaving => Ready::Nothing,
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
            _ => Ready::Bad(format!("the line is longer than {MAX_REQUEST} bytes")),
        }
    }

    /// Sends what can be sent at once; false if the client is gone.
    fn flush(&mut self, now: u64) -> bool {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return false,
                Ok(length) => {
                    self.output.drain(..length);
                    self.deadline = Some(now.saturating_add(READ_TIMEOUT));
                }
                Err(error) if error.kind() == Kind::WouldBlock => return true,
                Err(error) if error.kind() == Kind::Interrupted => {}
                Err(_) => return false,
            }
        }
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
