// SPDX-License-Identifier: Apache-2.0
//! Clients of every kind, on socket pairs, with the time given.

use super::*;
use crate::status::control::{parse_response, request_line, Vms};

/// One client's other end.
struct Peer {
    clients: Clients,
    id: ClientId,
    stream: UnixStream,
}

fn own_uid() -> u32 {
    nix::unistd::Uid::current().as_raw()
}

impl Peer {
    fn new() -> Self {
        let mut clients = Clients::default();
        let (stream, id) = clients.pair();
        Self { clients, id, stream }
    }

    fn send(&mut self, bytes: &[u8]) -> &mut Self {
        self.stream.write_all(bytes).unwrap();
        self
    }

    fn heard(&mut self, now: u64) -> Option<Request> {
        let rights = Rights::new(own_uid(), false);
        self.clients.on_ready(self.id, PollFlags::POLLIN, &rights, now)
    }

    fn is_served(&self) -> bool {
        self.clients.clients.iter().any(|client| client.id == self.id)
    }

    fn answer(&mut self) -> Response {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes).unwrap();
        parse_response(&bytes).unwrap()
    }

    fn error(&mut self) -> ControlError {
        match self.answer() {
            Response::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_request_in_pieces_is_heard_once_it_is_whole() {
    let mut peer = Peer::new();
    let line = request_line(&Request::Status { vm: None });
    for byte in &line[..line.len() - 1] {
        assert_eq!(peer.send(&[*byte]).heard(0), None);
    }
    assert_eq!(peer.send(b"\n").heard(0), Some(Request::Status { vm: None }));
    let id = peer.id;
    let vm = VmName::new("a").unwrap();
    peer.clients.wait_for(id, vm.clone(), Goal::Up);
    let done = peer.clients.done_waiting(&vm, |goal| Some(goal == Goal::Up));
    assert_eq!(done, [(id, true)]);
    assert_eq!(peer.clients.deadline(), None, "the answer may take its time");
    peer.clients.answer(id, &Response::Lines(vec![]), 7);
    assert_eq!(peer.answer(), Response::Lines(vec![]));
}

#[test]
fn half_a_line_is_dropped_after_a_while() {
    let mut peer = Peer::new();
    peer.send(b"{\"v\":1,").heard(0);
    assert_eq!(peer.clients.deadline(), Some(REQUEST_TIMEOUT));
    peer.clients.expire(REQUEST_TIMEOUT - 1);
    assert!(peer.is_served());
    peer.clients.expire(REQUEST_TIMEOUT);
    assert!(!peer.is_served());
}

#[test]
fn a_line_without_an_end_is_answered() {
    let mut peer = Peer::new();
    peer.send(b"{\"v\":1,\"op\":\"status\"}").heard(0);
    peer.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(peer.heard(0), None);
    assert!(peer.error().message.contains("newline"));
}

#[test]
fn a_megabyte_is_refused_early() {
    let mut peer = Peer::new();
    let mut sender = peer.stream.try_clone().unwrap();
    sender.set_nonblocking(true).unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let sent = sender.write(&chunk).unwrap();
    assert!(sent > MAX_REQUEST);
    peer.heard(0);
    assert!(peer.error().message.contains("longer than 4096"));
    // It may go on for a moment, and is read so that it sees the answer; then it is gone.
    assert!(peer.clients.clients[0].input.len() <= MAX_REQUEST);
    peer.clients.expire(DRAIN_TIMEOUT);
    assert!(!peer.is_served());
}

#[test]
fn garbage_is_answered_with_its_kind() {
    for (line, kind) in [
        (&b"\x00\xff\xfe\n"[..], ErrorKind::BadRequest),
        (b"\n", ErrorKind::BadRequest),
        (b"GET / HTTP/1.1\r\n", ErrorKind::BadRequest),
        (b"{\"v\":9,\"op\":\"status\"}\n", ErrorKind::Version),
    ] {
        let mut peer = Peer::new();
        assert_eq!(peer.send(line).heard(0), None);
        assert_eq!(peer.error().kind, kind);
    }
}

#[test]
fn one_who_never_reads_is_dropped() {
    let mut peer = Peer::new();
    peer.send(&request_line(&Request::Watch {}));
    assert_eq!(peer.heard(0), Some(Request::Watch {}));
    let id = peer.id;
    peer.clients.watch(id, &Response::Vms(Vms::default()), 0);
    let line = Response::Lines(vec!["x".repeat(60_000)]);
    let mut told = 0;
    while peer.is_served() {
        peer.clients.tell_watchers(&line, 0);
        told += 1;
        assert!(told < 100, "its buffer has no bound");
    }
    // Or by time, if little happens.
    let mut peer = Peer::new();
    peer.send(&request_line(&Request::Watch {}));
    peer.heard(0);
    let id = peer.id;
    peer.clients.watch(id, &Response::Vms(Vms::default()), 0);
    while peer.clients.clients[0].output.is_empty() {
        peer.clients.tell_watchers(&line, 0);
    }
    assert_eq!(peer.clients.deadline(), Some(READ_TIMEOUT));
    peer.clients.expire(READ_TIMEOUT);
    assert!(!peer.is_served());
}

#[test]
fn a_watcher_that_reads_stays() {
    let mut peer = Peer::new();
    peer.send(&request_line(&Request::Watch {}));
    peer.heard(0);
    let id = peer.id;
    peer.clients.watch(id, &Response::Vms(Vms::default()), 0);
    let line = Response::Lines(vec!["x".repeat(60_000)]);
    let length = response_line(&line).len();
    let mut first = vec![0; response_line(&Response::Vms(Vms::default())).len()];
    peer.stream.read_exact(&mut first).unwrap();
    for now in 0..100 {
        peer.clients.tell_watchers(&line, now);
        let mut bytes = vec![0; length];
        peer.stream.read_exact(&mut bytes).unwrap();
        assert_eq!(peer.clients.deadline(), None);
    }
    assert!(peer.is_served());
}

#[test]
fn a_hang_up_ends_it() {
    let mut peer = Peer::new();
    peer.send(&request_line(&Request::Stop { vm: "a".to_owned(), wait: true }));
    assert!(peer.heard(0).is_some());
    let rights = Rights::new(own_uid(), false);
    let (_, other) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut peer.stream, other));
    peer.clients.on_ready(peer.id, PollFlags::POLLIN | PollFlags::POLLHUP, &rights, 0);
    assert!(!peer.is_served());
}

#[test]
fn one_who_asks_and_leaves_is_heard() {
    let mut peer = Peer::new();
    peer.send(&request_line(&Request::Watch {}));
    let (_, other) = UnixStream::pair().unwrap();
    drop(std::mem::replace(&mut peer.stream, other));
    let rights = Rights::new(own_uid(), false);
    let events = PollFlags::POLLIN | PollFlags::POLLHUP;
    let asked = peer.clients.on_ready(peer.id, events, &rights, 0);
    assert_eq!(asked, Some(Request::Watch {}));
}

#[test]
fn too_many_are_told_so() {
    let mut clients = Clients::default();
    let mut kept = Vec::new();
    for _ in 0..=MAX_CLIENTS {
        kept.push(clients.pair().0);
    }
    assert_eq!(clients.clients.len(), MAX_CLIENTS);
    let mut bytes = Vec::new();
    kept[MAX_CLIENTS].read_to_end(&mut bytes).unwrap();
    let Ok(Response::Error(error)) = parse_response(&bytes) else {
        panic!("{}", String::from_utf8_lossy(&bytes));
    };
    assert_eq!(error.kind, ErrorKind::Busy);
}

#[test]
fn rights_are_by_uid() {
    let own = Rights::new(500, false);
    let inherited = Rights::new(500, true);
    for (uid, by_own, by_inherited) in [
        (0, true, true),
        (500, true, true),
        (1000, false, true),
        (2000, false, true),
        (10_001, false, false),
    ] {
        assert_eq!(own.may_change(uid), by_own, "{uid}");
        assert_eq!(inherited.may_change(uid), by_inherited, "{uid}");
    }
}

#[test]
fn reading_is_open_and_changing_is_not() {
    let stranger = Rights::new(500, true);
    let stop = Request::Stop { vm: "a".to_owned(), wait: true };
    let status = Request::Status { vm: None };
    assert_eq!(allowed(Ok(status.clone()), Some(10_001), &stranger), Ok(status));
    for uid in [Some(10_001), None] {
        let error = allowed(Ok(stop.clone()), uid, &stranger).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied);
    }
    assert_eq!(allowed(Ok(stop.clone()), Some(2000), &stranger), Ok(stop));
}
