// SPDX-License-Identifier: Apache-2.0
//! Those who look at a console: any number read, one types.
//!
//! A client has a place in the ring and no buffer beyond one frame. One that reads too slowly falls
//! out of the ring and loses output, and hears how much; neither the guest nor another client waits.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::socket::{recv, send, MsgFlags};

use super::port::Port;
use super::ring::Ring;
use super::wire::{encode, Kind, MAX_PAYLOAD};

/// Clients of one console at a time.
pub const MAX_CLIENTS: usize = 16;

/// All clients of a console.
#[derive(Debug, Default)]
pub(super) struct Clients {
    // In the order of their coming: the first one whose input is open types.
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    // Sequence number of the next byte to send.
    next: u64,
    // What waits to be sent.
    frames: Vec<u8>,
    // It has shut down its side: it sends nothing more, and so it needs no keyboard.
    input_ended: bool,
    // Whether it has the keyboard, as it heard last.
    has_keyboard: Option<bool>,
}

impl Clients {
    /// Adds a client, whose output begins with sequence number `first`.
    pub(super) fn add(&mut self, fd: OwnedFd, first: u64, ring: &Ring) {
        let mut client = Client {
            fd,
            next: first.max(ring.oldest(ring.end())),
            frames: Vec::new(),
            input_ended: false,
            has_keyboard: None,
        };
        if self.clients.len() < MAX_CLIENTS {
            self.clients.push(client);
            self.share_keyboard();
            return;
        }
        let full = format!("this console has {MAX_CLIENTS} clients already; no more are let in");
        encode(Kind::ReadOnly, full.as_bytes(), &mut client.frames);
        client.next = ring.end();
        client.send(ring);
    }

    /// Who types.
    fn typist(&self) -> Option<usize> {
        self.clients.iter().position(|client| !client.input_ended)
    }

    // Tells each client that may type, once, whether it does.
    fn share_keyboard(&mut self) {
        let typist = self.typist();
        for (at, client) in self.clients.iter_mut().enumerate() {
            let has = typist == Some(at);
            if client.input_ended || client.has_keyboard == Some(has) {
                continue;
            }
            let (kind, text) = match (client.has_keyboard.replace(has), has) {
                (None, true) => (Kind::Keyboard, ""),
                (Some(_), true) => (Kind::Keyboard, "the keyboard is yours now"),
                (_, false) => (Kind::ReadOnly, "read only: another client has the keyboard"),
            };
            encode(kind, text.as_bytes(), &mut client.frames);
        }
    }

    /// What to poll for, client by client; `room`: whether typed text would be taken.
    pub(super) fn interests(&self, room: bool) -> impl Iterator<Item = PollFd<'_>> {
        let typist = self.typist();
        self.clients.iter().enumerate().map(move |(at, client)| {
            let mut flags = PollFlags::empty();
            // Readers' typing is read and thrown away: else it would be typed when they get the
            // keyboard.
            let takes = !client.input_ended && (typist != Some(at) || room);
            flags.set(PollFlags::POLLIN, takes);
            flags.set(PollFlags::POLLOUT, !client.frames.is_empty());
            PollFd::new(client.fd.as_fd(), flags)
        })
    }

    /// Takes what the clients have typed, and forgets those that are gone: `events` are the answers to
    /// [`Clients::interests`].
    pub(super) fn receive(&mut self, events: &[PollFlags], port: &Port) {
        let typist = self.typist();
        let mut events = events.iter().enumerate();
        self.clients.retain_mut(|client| match events.next() {
            Some((at, events)) if events.contains(PollFlags::POLLIN) => {
                client.receive((typist == Some(at)).then_some(port))
            }
            Some((_, events)) => !events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR),
            None => true,
        });
    }

    /// Sends every client what it takes without waiting, and forgets those that are gone.
    pub(super) fn send(&mut self, ring: &Ring) {
        self.clients.retain_mut(|client| client.send(ring));
        self.share_keyboard();
        self.clients.retain_mut(|client| client.send(ring));
    }

    /// Tells everyone something.
    pub(super) fn notice(&mut self, text: &str) {
        for client in &mut self.clients {
            encode(Kind::Notice, text.as_bytes(), &mut client.frames);
        }
    }

    /// Nothing is left to be sent.
    pub(super) fn idle(&self, ring: &Ring) -> bool {
        let mut clients = self.clients.iter();
        clients.all(|client| client.frames.is_empty() && client.next == ring.end())
    }
}

impl Client {
    /// Types at `port`, or throws away, what has come; false where the client is gone.
    fn receive(&mut self, port: Option<&Port>) -> bool {
        let mut bytes = [0; 1024];
        // There was room before the wait, and since then only the guest can have made more.
        let wanted = port.map_or(bytes.len(), |port| port.room().min(bytes.len()));
        match recv(self.fd.as_raw_fd(), &mut bytes[..wanted], MsgFlags::MSG_DONTWAIT) {
            // It may read on; one that is gone altogether hangs up as well.
            Ok(0) => self.input_ended = true,
            Ok(len) => {
                port.map(|port| port.type_in(&bytes[..len]));
            }
            Err(errno) => return matches!(errno, Errno::EAGAIN | Errno::EINTR),
        }
        true
    }

    /// Sends what is taken without waiting; false where the client is gone.
    fn send(&mut self, ring: &Ring) -> bool {
        loop {
            if self.frames.is_empty() {
                self.take_output(ring);
            }
            if self.frames.is_empty() {
                return true;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.fd.as_raw_fd(), &self.frames, flags) {
                Ok(len) => drop(self.frames.drain(..len)),
                Err(Errno::EINTR) => {}
                Err(errno) => return errno == Errno::EAGAIN,
            }
        }
    }

    fn take_output(&mut self, ring: &Ring) {
        let mut bytes = [0; MAX_PAYLOAD];
        let chunk = ring.read(self.next, &mut bytes);
        self.next = chunk.next;
        if chunk.lost > 0 {
            let notice = format!("{} bytes lost: read too slowly", chunk.lost);
            encode(Kind::Notice, notice.as_bytes(), &mut self.frames);
        }
        if chunk.len > 0 {
            encode(Kind::Output, &bytes[..chunk.len], &mut self.frames);
        }
    }
}
