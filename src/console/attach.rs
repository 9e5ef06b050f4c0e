// SPDX-License-Identifier: Apache-2.0
//! Those who look at a console: any number read, one types.
//!
//! A client has a place in the ring and no buffer beyond one frame. One that reads too slowly falls
//! out of the ring, loses output and is told how much; neither the guest nor another client waits.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
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
    frame: Vec<u8>,
    sent: usize,
    notices: VecDeque<(Kind, String)>,
    // It has shut down its side: it sends nothing more, and so it needs no keyboard.
    input_ended: bool,
    // What it was told last of the keyboard.
    has_keyboard: Option<bool>,
    gone: bool,
}

impl Clients {
    /// Adds a client, whose output begins with sequence number `first`.
    pub(super) fn add(&mut self, fd: OwnedFd, first: u64, ring: &Ring) {
        let mut client = Client {
            fd,
            next: first,
            frame: Vec::new(),
            sent: 0,
            notices: VecDeque::new(),
            input_ended: false,
            has_keyboard: None,
            gone: false,
        };
        // One that has just left makes room, and leaves its keyboard.
        self.clients.retain(|client| !client.gone);
        if self.clients.len() >= MAX_CLIENTS {
            let full =
                format!("this console has {MAX_CLIENTS} clients already, and no more are let in");
            client.notices.push_back((Kind::ReadOnly, full));
            client.next = ring.end();
            client.send_all(ring);
            return;
        }
        self.clients.push(client);
        self.tell_keyboard();
    }

    /// Who types.
    fn typist(&self) -> Option<usize> {
        self.clients.iter().position(|client| !client.input_ended)
    }

    // Tells each client that may type, once, whether it does.
    fn tell_keyboard(&mut self) {
        let typist = self.typist();
        for (at, client) in self.clients.iter_mut().enumerate() {
            let has = typist == Some(at);
            if client.input_ended || client.has_keyboard == Some(has) {
                continue;
            }
            let told = match (client.has_keyboard.replace(has), has) {
                (None, true) => (Kind::Keyboard, ""),
                (Some(_), true) => (Kind::Keyboard, "the keyboard is yours now"),
                (_, false) => (Kind::ReadOnly, "read only: another client has the keyboard"),
            };
            client.notices.push_back((told.0, told.1.to_owned()));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// What to poll for, client by client; `room`: whether typed text would be taken.
    pub(super) fn interests(
        &self,
        room: bool,
    ) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let typist = self.typist();
        self.clients.iter().enumerate().map(move |(at, client)| {
            let mut flags = PollFlags::empty();
            // Readers' typing is read and thrown away: else it would be typed when they get the
            // keyboard.
            let takes = !client.input_ended && (typist != Some(at) || room);
            flags.set(PollFlags::POLLIN, takes);
            flags.set(PollFlags::POLLOUT, client.sent < client.frame.len());
            (client.fd.as_fd(), flags)
        })
    }

    /// Takes what client `at` has typed.
    pub(super) fn receive(&mut self, at: usize, port: &Port) {
        let types = self.typist() == Some(at);
        let Some(client) = self.clients.get_mut(at) else {
            return;
        };
        let mut bytes = [0; 1024];
        let wanted = match types {
            true => port.room().min(bytes.len()),
            false => bytes.len(),
        };
        if wanted == 0 {
            return;
        }
        match recv(
            client.fd.as_raw_fd(),
            &mut bytes[..wanted],
            MsgFlags::MSG_DONTWAIT,
        ) {
            // It may read on; one that is gone altogether hangs up as well.
            Ok(0) => client.input_ended = true,
            Ok(len) if types => {
                // It fits: room only grows between the question and here.
                port.type_in(&bytes[..len]);
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => client.gone = true,
        }
    }

    pub(super) fn hung_up(&mut self, at: usize) {
        if let Some(client) = self.clients.get_mut(at) {
            client.gone = true;
        }
    }

    /// Sends every client what it takes without waiting, and forgets those that are gone.
    pub(super) fn send(&mut self, ring: &Ring) {
        for client in &mut self.clients {
            client.send_all(ring);
        }
        self.clients.retain(|client| !client.gone);
        self.tell_keyboard();
        for client in &mut self.clients {
            client.send_all(ring);
        }
    }

    /// Tells everyone something.
    pub(super) fn notice(&mut self, text: &str) {
        for client in &mut self.clients {
            client.notices.push_back((Kind::Notice, text.to_owned()));
        }
    }

    /// Nothing is left to be sent.
    pub(super) fn idle(&self, ring: &Ring) -> bool {
        self.clients.iter().all(|client| {
            client.sent == client.frame.len()
                && client.notices.is_empty()
                && client.next == ring.end()
        })
    }
}

impl Client {
    fn send_all(&mut self, ring: &Ring) {
        while !self.gone {
            if self.sent == self.frame.len() {
                self.frame.clear();
                self.sent = 0;
                self.fill(ring);
            }
            let rest = &self.frame[self.sent..];
            if rest.is_empty() {
                return;
            }
            match send(
                self.fd.as_raw_fd(),
                rest,
                MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            ) {
                Ok(len) => self.sent += len,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Err(_) => self.gone = true,
            }
        }
    }

    fn fill(&mut self, ring: &Ring) {
        if let Some((kind, notice)) = self.notices.pop_front() {
            encode(kind, notice.as_bytes(), &mut self.frame);
            return;
        }
        let mut bytes = [0; MAX_PAYLOAD];
        let chunk = ring.read(self.next, &mut bytes);
        self.next = chunk.next;
        if chunk.lost > 0 {
            let notice = format!("{} bytes lost: read too slowly", chunk.lost);
            encode(Kind::Notice, notice.as_bytes(), &mut self.frame);
        }
        if chunk.len > 0 {
            encode(Kind::Output, &bytes[..chunk.len], &mut self.frame);
        }
    }
}
