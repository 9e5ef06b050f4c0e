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
    // In the order of their coming: the first one types.
    clients: Vec<Client>,
}

#[derive(Debug)]
struct Client {
    fd: OwnedFd,
    // Sequence number of the next byte to send.
    next: u64,
    frame: Vec<u8>,
    sent: usize,
    notices: VecDeque<String>,
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
            gone: false,
        };
        if self.clients.len() >= MAX_CLIENTS {
            client.notices.push_back(format!(
                "this console has {MAX_CLIENTS} clients already, and no more are let in"
            ));
            client.next = ring.end();
            client.send_all(ring);
            return;
        }
        if !self.clients.is_empty() {
            client
                .notices
                .push_back("read only: another client has the keyboard".to_owned());
        }
        self.clients.push(client);
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// What to poll for, client by client; `room`: whether typed text would be taken.
    pub(super) fn interests(
        &self,
        room: bool,
    ) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.clients.iter().enumerate().map(move |(at, client)| {
            let mut flags = PollFlags::empty();
            // Readers' typing is read and thrown away, else their hanging up would stay unseen.
            flags.set(PollFlags::POLLIN, at > 0 || room);
            flags.set(PollFlags::POLLOUT, client.sent < client.frame.len());
            (client.fd.as_fd(), flags)
        })
    }

    /// Takes what client `at` has typed.
    pub(super) fn receive(&mut self, at: usize, port: &Port) {
        let Some(client) = self.clients.get_mut(at) else {
            return;
        };
        let mut bytes = [0; 1024];
        let wanted = match at {
            0 => port.room().min(bytes.len()),
            _ => bytes.len(),
        };
        if wanted == 0 {
            return;
        }
        match recv(
            client.fd.as_raw_fd(),
            &mut bytes[..wanted],
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => client.gone = true,
            Ok(len) if at == 0 => {
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
        let writer_gone = self.clients.first().is_some_and(|client| client.gone);
        self.clients.retain(|client| !client.gone);
        if let (true, Some(next)) = (writer_gone, self.clients.first_mut()) {
            next.notices
                .push_back("the keyboard is yours now".to_owned());
            next.send_all(ring);
        }
    }

    /// Tells everyone something.
    pub(super) fn notice(&mut self, text: &str) {
        for client in &mut self.clients {
            client.notices.push_back(text.to_owned());
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
        if let Some(notice) = self.notices.pop_front() {
            encode(Kind::Notice, notice.as_bytes(), &mut self.frame);
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
