// SPDX-License-Identifier: Apache-2.0
//! A console with clients on socket pairs; the tests play the guest on its bus.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;
use crate::config::ConsoleDevice;
use crate::console::clients::MAX_CLIENTS;
use crate::console::wire::{Decoder, Kind};
use crate::vcpu::Width;

const BASE: u64 = 0x0900_0000;

struct Guest {
    console: Console,
    bus: Bus,
    ring: Arc<Ring>,
}

fn guest(ready: Option<&str>) -> Guest {
    let config = ConsoleConfig {
        device: ConsoleDevice::Pl011,
        base: BASE,
        label: 5,
        interrupt: 5,
        virtio: false,
    };
    let ring = Arc::new(Ring::create("test", 64 << 10).unwrap());
    let options = Options { ready, log: true, confined: false };
    let console = Console::start("test", &config, &ring, options).unwrap();
    let mut bus = Bus::new("test");
    console.connect(&mut bus, &config).unwrap();
    Guest { console, bus, ring }
}

impl Guest {
    fn print(&self, text: &[u8]) {
        for byte in text {
            assert!(self.bus.write(BASE, Width::Byte, u64::from(*byte)));
        }
    }

    fn flags(&self) -> u64 {
        self.bus.read(BASE + 0x18, Width::Word).unwrap()
    }

    /// Waits for `len` typed bytes.
    fn typed(&self, len: usize) -> Vec<u8> {
        let mut text = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(10);
        while text.len() < len {
            assert!(Instant::now() < deadline, "only {text:?} was typed");
            if self.flags() & 0x10 != 0 {
                std::thread::yield_now();
                continue;
            }
            let byte = self.bus.read(BASE, Width::Byte).unwrap();
            text.push(u8::try_from(byte).unwrap());
        }
        text
    }

    fn client(&self, replay: u64) -> Client {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let first = self.ring.end().saturating_sub(replay);
        self.console.attach(theirs.into(), first);
        Client {
            socket: ours,
            decoder: Decoder::default(),
            output: Vec::new(),
            notices: Vec::new(),
            types: None,
        }
    }
}

struct Client {
    socket: UnixStream,
    decoder: Decoder,
    output: Vec<u8>,
    notices: Vec<String>,
    /// What it was told last of the keyboard.
    types: Option<bool>,
}

impl Client {
    /// Reads until `done`; false at the end of the connection.
    fn read_until(&mut self, done: impl Fn(&Self) -> bool) -> bool {
        let mut bytes = [0; 65536];
        while !done(self) {
            let len = self.socket.read(&mut bytes).expect("the console is silent");
            if len == 0 {
                return false;
            }
            let (output, notices) = (&mut self.output, &mut self.notices);
            let types = &mut self.types;
            self.decoder
                .feed(&bytes[..len], |kind, payload| match kind {
                    Kind::Output => output.extend_from_slice(payload),
                    Kind::Keyboard | Kind::ReadOnly | Kind::Notice => {
                        *types = match kind {
                            Kind::Keyboard => Some(true),
                            Kind::ReadOnly => Some(false),
                            _ => *types,
                        };
                        if !payload.is_empty() {
                            notices.push(String::from_utf8(payload.to_vec()).unwrap());
                        }
                    }
                })
                .unwrap();
        }
        true
    }

    fn expect(&mut self, text: &[u8]) {
        assert!(self.read_until(|client| client.output.ends_with(text)));
    }
}

#[test]
fn output_reaches_clients_and_typed_text_the_guest() {
    let guest = guest(None);
    guest.print(b"before\n");
    let mut late = guest.client(4);
    late.expect(b"ore\n");
    guest.print(b"after\n");
    late.expect(b"after\n");
    assert_eq!(late.output, b"ore\nafter\n");
    assert!(late.notices.is_empty());
    late.socket.write_all(b"ls\n").unwrap();
    assert_eq!(guest.typed(3), b"ls\n");
}

#[test]
fn the_first_client_types_the_others_read_until_it_leaves() {
    let guest = guest(None);
    let mut first = guest.client(0);
    guest.print(b"x");
    first.expect(b"x");
    let mut second = guest.client(1);
    second.expect(b"x");
    assert_eq!(second.notices, ["read only: another client has the keyboard"]);
    second.socket.write_all(b"no").unwrap();
    first.socket.write_all(b"yes").unwrap();
    assert_eq!(guest.typed(3), b"yes");
    drop(first);
    assert!(second.read_until(|client| client.notices.len() == 2));
    assert_eq!(second.notices[1], "the keyboard is yours now");
    second.socket.write_all(b"now").unwrap();
    assert_eq!(guest.typed(3), b"now");
    assert_eq!(guest.flags() & 0x10, 0x10, "nothing else was typed");
}

#[test]
fn a_client_without_input_leaves_the_keyboard_to_others() {
    let guest = guest(None);
    let mut follower = guest.client(0);
    assert!(follower.read_until(|client| client.types == Some(true)));
    // What it sent before its end is typed, and then it only reads.
    follower.socket.write_all(b"a").unwrap();
    let end = std::net::Shutdown::Write;
    follower.socket.shutdown(end).unwrap();
    assert_eq!(guest.typed(1), b"a");
    guest.print(b"x");
    follower.expect(b"x");
    let mut typist = guest.client(0);
    assert!(typist.read_until(|client| client.types.is_some()));
    // Where it came before the end was seen, it was told so a moment later.
    assert!(typist.read_until(|client| client.types == Some(true)));
    typist.socket.write_all(b"typed").unwrap();
    assert_eq!(guest.typed(5), b"typed");
    guest.print(b"y");
    follower.expect(b"y");
    typist.expect(b"y");
    // Gone altogether, it makes room for another.
    drop(follower);
    let mut clients: Vec<Client> = (1..MAX_CLIENTS).map(|_| guest.client(1)).collect();
    for client in &mut clients {
        client.expect(b"y");
        assert_eq!(client.types, Some(false));
    }
}

#[test]
fn a_client_that_does_not_read_loses_output_and_stalls_nobody() {
    let guest = guest(None);
    let mut slow = guest.client(0);
    let mut quick = guest.client(0);
    let mut printed = 0u32;
    // More than ring and socket hold; the quick client shows that the console went on meanwhile.
    while printed < 2 << 20 {
        guest.print(&[b'.'; 16 << 10]);
        printed += 16 << 10;
        guest.print(b"\n");
        quick.expect(b"\n");
    }
    guest.print(b"end");
    slow.expect(b"end");
    let marker = slow.notices.iter().find(|text| text.contains("bytes lost"));
    assert!(marker.is_some(), "{:?}", slow.notices);
    let lost = quick.notices.iter().find(|text| text.contains("bytes lost"));
    assert_eq!(lost, None);
}

#[test]
fn long_typed_text_waits_for_the_guest() {
    let guest = guest(None);
    let client = guest.client(0);
    let text: Vec<u8> = (0..50_000u32).map(|at| (at % 251) as u8).collect();
    let mut socket = client.socket.try_clone().unwrap();
    let sent = text.clone();
    let typist = std::thread::spawn(move || socket.write_all(&sent).unwrap());
    assert_eq!(guest.typed(text.len()), text);
    typist.join().unwrap();
}

#[test]
fn the_end_is_told_after_the_last_output() {
    let guest = guest(None);
    let mut client = guest.client(0);
    guest.print(b"last words");
    let Guest { console, .. } = guest;
    console.stop("the guest ended: power-off");
    assert!(!client.read_until(|_| false), "the connection ends");
    assert_eq!(client.output, b"last words");
    assert_eq!(client.notices, ["the guest ended: power-off"]);
}

#[test]
fn readiness_is_told_once_the_line_is_there() {
    let guest = guest(Some("login:"));
    let readable = |guest: &Guest| {
        let mut fds = [PollFd::new(guest.console.port().ready_fd(), PollFlags::POLLIN)];
        poll(&mut fds, 0u16) == Ok(1)
    };
    guest.print(b"log\nin:");
    assert!(!readable(&guest));
    guest.print(b"guest login: ");
    assert!(readable(&guest));
}

#[test]
fn a_line_that_stays_up_is_told_again() {
    let guest = guest(None);
    guest.bus.write(BASE + 0x38, Width::Word, 0x50);
    let mut client = guest.client(0);
    client.socket.write_all(b"x").unwrap();
    let mut seen = 0;
    while seen < 3 {
        let mut fds = [PollFd::new(guest.console.port().interrupt_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 10_000u16), Ok(1));
        let mut count = [0; 8];
        nix::unistd::read(guest.console.port().interrupt_fd(), &mut count).unwrap();
        seen += 1;
    }
    assert_eq!(guest.typed(1), b"x");
}

#[test]
fn a_line_that_stays_up_is_told_again_to_a_guest_that_prints_without_a_pause() {
    let guest = guest(None);
    guest.bus.write(BASE + 0x38, Width::Word, 0x50);
    let mut client = guest.client(0);
    client.socket.write_all(b"x").unwrap();
    let mut fds = [PollFd::new(guest.console.port().interrupt_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 10_000u16), Ok(1));
    // It takes 60 ms; seconds where only a pause in the output lets it.
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut seen = 0;
    while seen < 4 {
        assert!(Instant::now() < deadline, "told {seen} times");
        guest.print(b".");
        let mut fds = [PollFd::new(guest.console.port().interrupt_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, 0u16) == Ok(1) {
            let mut count = [0; 8];
            nix::unistd::read(guest.console.port().interrupt_fd(), &mut count).unwrap();
            seen += 1;
        }
    }
}

#[test]
fn one_client_too_many_is_told_so() {
    let guest = guest(None);
    guest.print(b"x");
    let mut clients: Vec<Client> = (0..MAX_CLIENTS).map(|_| guest.client(1)).collect();
    for client in &mut clients {
        client.expect(b"x");
    }
    let mut refused = guest.client(1);
    assert!(!refused.read_until(|_| false));
    assert!(refused.notices[0].contains("16 clients already"));
    assert!(refused.output.is_empty());
}

#[test]
fn what_was_printed_outlives_the_console() {
    let Guest { console, ring, .. } = {
        let guest = guest(None);
        guest.print(b"kept\n");
        guest
    };
    drop(console);
    assert_eq!(ring.tail(), b"kept\n");
}

#[test]
fn a_thread_that_cannot_be_made_has_a_name() {
    assert_eq!(failed("a thread", Errno::EAGAIN).name, "console-thread");
}
