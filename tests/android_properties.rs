// SPDX-License-Identifier: Apache-2.0
//! The property client against services that answer, refuse, hang, flood and vanish.

#![allow(clippy::unwrap_used)]

#[path = "android/dir.rs"]
mod dir;
#[path = "android/property_service.rs"]
mod property_service;
#[path = "android/said.rs"]
mod said;

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dir::Dir;
use gunyahd::status::properties::{PropertyClient, QUEUE_MAX};
use property_service::read_request;
use said::warnings;

/// A call that must not block is given this long, on a loaded machine.
const AT_ONCE: Duration = Duration::from_millis(500);

fn socket(dir: &Dir) -> PathBuf {
    dir.0.join("property_service")
}

/// A service that answers `count` requests by `answer`, and what it was asked.
fn serve(
    listener: UnixListener,
    count: usize,
    answer: impl Fn(&str, &str) -> u32 + Send + 'static,
) -> JoinHandle<Vec<(String, String)>> {
    std::thread::spawn(move || {
        (0..count)
            .map(|_| {
                let (mut stream, _) = listener.accept().unwrap();
                let (name, value) = read_request(&mut stream);
                stream.write_all(&answer(&name, &value).to_ne_bytes()).unwrap();
                (name, value)
            })
            .collect()
    })
}

/// A client whose warnings are kept.
fn client(dir: &Dir) -> PropertyClient {
    warnings();
    PropertyClient::new(socket(dir))
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.into(), value.into())
}

#[test]
fn values_arrive_in_order() {
    let dir = Dir::new("properties");
    let service = serve(UnixListener::bind(socket(&dir)).unwrap(), 40, |_, _| 0);
    let mut client = client(&dir);
    for n in 0..40 {
        client.set("vendor.gunyah.vm1.state", &format!("state {n}"));
    }
    assert!(client.finish(Duration::from_secs(20)));
    let seen = service.join().unwrap();
    let expected: Vec<_> =
        (0..40).map(|n| pair("vendor.gunyah.vm1.state", &format!("state {n}"))).collect();
    assert_eq!(seen, expected);
    assert!(client.poll_fd().is_none() && client.deadline().is_none());
}

#[test]
fn values_are_cut_at_91_bytes_between_characters() {
    let dir = Dir::new("properties");
    let service = serve(UnixListener::bind(socket(&dir)).unwrap(), 2, |_, _| 0);
    let mut client = client(&dir);
    client.set("vendor.gunyah.a.reason", &"é".repeat(60));
    client.set("vendor.gunyah.a.reason", "two\nlines");
    assert!(client.finish(Duration::from_secs(20)));
    let seen = service.join().unwrap();
    assert_eq!(seen[0].1, "é".repeat(44) + "…");
    assert_eq!(seen[1].1, "two lines");
}

#[test]
fn every_refusal_is_named_and_the_next_value_still_goes() {
    let codes = [
        (0x04, "PROP_ERROR_READ_CMD"),
        (0x08, "PROP_ERROR_READ_DATA"),
        (0x14, "PROP_ERROR_INVALID_VALUE"),
        (0x18, "PROP_ERROR_PERMISSION_DENIED"),
        (0x1B, "PROP_ERROR_INVALID_CMD"),
        (0x24, "PROP_ERROR_SET_FAILED"),
        (0xFFFF_FFFF_u32, "0xffffffff"),
    ];
    let dir = Dir::new("properties");
    let service = serve(UnixListener::bind(socket(&dir)).unwrap(), codes.len() + 1, |_, value| {
        value.parse().unwrap()
    });
    let mut client = client(&dir);
    for (code, name) in codes {
        client.set("vendor.gunyah.a.state", &code.to_string());
        assert!(client.finish(Duration::from_secs(20)));
        let [text] = &warnings()[..] else { panic!("one warning each") };
        assert!(text.contains(name) && text.contains("vendor.gunyah.a.state"), "{text}");
    }
    client.set("vendor.gunyah.a.state", "0");
    assert!(client.finish(Duration::from_secs(20)));
    service.join().unwrap();
    assert_eq!(warnings(), [""; 0]);
}

#[test]
fn a_permission_error_says_where_to_look() {
    let dir = Dir::new("properties");
    let service = serve(UnixListener::bind(socket(&dir)).unwrap(), 1, |_, _| 0x18);
    let mut client = client(&dir);
    client.set("vendor.gunyah.a.state", "running");
    assert!(client.finish(Duration::from_secs(20)));
    service.join().unwrap();
    let text = warnings().concat();
    for word in ["vendor.gunyah.a.state", "SELinux", "property_contexts", "set_prop"] {
        assert!(text.contains(word), "{word} is missing in: {text}");
    }
}

#[test]
fn without_a_service_everything_is_dropped_at_once() {
    let dir = Dir::new("properties");
    let mut client = client(&dir);
    for _ in 0..3 {
        client.set("vendor.gunyah.state", "running");
    }
    assert!(client.is_idle());
    assert_eq!(warnings(), [""; 0]);
    // It is found when it comes.
    let service = serve(UnixListener::bind(socket(&dir)).unwrap(), 1, |_, _| 0);
    client.set("vendor.gunyah.state", "stopped");
    assert!(client.finish(Duration::from_secs(20)));
    assert_eq!(service.join().unwrap(), [pair("vendor.gunyah.state", "stopped")]);
}

#[test]
fn a_stale_socket_refuses_and_says_so() {
    let dir = Dir::new("properties");
    drop(UnixListener::bind(socket(&dir)).unwrap());
    let mut client = client(&dir);
    client.set("vendor.gunyah.state", "running");
    assert!(client.is_idle());
    let text = warnings().concat();
    assert!(text.contains("ECONNREFUSED") && text.contains("nobody listens"), "{text}");
}

#[test]
fn a_hung_service_never_blocks_and_times_out() {
    let dir = Dir::new("properties");
    let listener = UnixListener::bind(socket(&dir)).unwrap();
    let mut client = client(&dir);
    let start = Instant::now();
    client.set("vendor.gunyah.a.state", "lost");
    client.set("vendor.gunyah.a.state", "kept");
    assert!(start.elapsed() < AT_ONCE, "set blocked");
    let (held, _) = listener.accept().unwrap();
    let deadline = client.deadline().unwrap();
    assert!(deadline <= start + Duration::from_secs(5) + AT_ONCE);
    // The first one's five seconds pass; then the second one's turn comes.
    let service = serve(listener, 1, |_, _| 0);
    assert!(client.finish(Duration::from_secs(20)));
    assert!(Instant::now() >= deadline);
    drop(held);
    assert_eq!(service.join().unwrap(), [pair("vendor.gunyah.a.state", "kept")]);
    let [text] = &warnings()[..] else { panic!("one warning") };
    assert!(text.contains("\"lost\"") && text.contains("no answer from init within 5 s"), "{text}");
}

#[test]
fn a_full_backlog_is_retried_by_the_deadline() {
    let dir = Dir::new("properties");
    let listener = UnixListener::bind(socket(&dir)).unwrap();
    // A backlog of one, filled by connections that nobody accepts.
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
    let mut fill = Vec::new();
    loop {
        let stream = nix::sys::socket::socket(
            nix::sys::socket::AddressFamily::Unix,
            nix::sys::socket::SockType::Stream,
            nix::sys::socket::SockFlag::SOCK_NONBLOCK,
            None,
        )
        .unwrap();
        let address = nix::sys::socket::UnixAddr::new(&socket(&dir)).unwrap();
        match nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&stream), &address) {
            Ok(()) => fill.push(stream),
            Err(errno) => {
                assert_eq!(errno, nix::errno::Errno::EAGAIN);
                break;
            }
        }
    }
    let mut client = client(&dir);
    let start = Instant::now();
    client.set("vendor.gunyah.state", "running");
    assert!(start.elapsed() < AT_ONCE, "set blocked");
    assert!(client.poll_fd().is_none(), "there is nothing to poll yet");
    assert!(client.deadline().unwrap() < start + Duration::from_secs(1));
    for _ in 0..fill.len() {
        drop(listener.accept().unwrap());
    }
    let service = serve(listener, 1, |_, _| 0);
    assert!(client.finish(Duration::from_secs(20)));
    assert_eq!(service.join().unwrap().len(), 1);
    assert_eq!(warnings(), [""; 0]);
}

#[test]
fn a_service_that_hangs_up_or_floods_costs_one_value() {
    let dir = Dir::new("properties");
    let listener = UnixListener::bind(socket(&dir)).unwrap();
    let service = std::thread::spawn(move || {
        // Hangs up at once, in the middle of the answer, and after far too many bytes.
        drop(listener.accept().unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        stream.write_all(&[0, 0]).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        // Until the client closes: it must not read on.
        while stream.write_all(&[0xAA; 4096]).is_ok() {}
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        stream.write_all(&0u32.to_ne_bytes()).unwrap();
    });
    let mut client = client(&dir);
    for n in 0..4 {
        client.set("vendor.gunyah.state", &n.to_string());
    }
    assert!(client.finish(Duration::from_secs(20)));
    service.join().unwrap();
    let warnings = warnings();
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(warnings[0].contains("without an answer"), "{warnings:?}");
    assert!(warnings[1].contains("without an answer"), "{warnings:?}");
    assert!(warnings[2].contains("0xaaaaaaaa"), "{warnings:?}");
}

#[test]
fn a_full_queue_skips_superseded_values_first() {
    let dir = Dir::new("properties");
    let listener = UnixListener::bind(socket(&dir)).unwrap();
    let mut client = client(&dir);
    // The first one is on its way; the queue takes QUEUE_MAX more.
    client.set("vendor.gunyah.first", "x");
    client.set("vendor.gunyah.a.state", "old");
    for n in 0..QUEUE_MAX - 2 {
        client.set(&format!("vendor.gunyah.n{n}"), "x");
    }
    client.set("vendor.gunyah.a.state", "new");
    assert_eq!(warnings(), [""; 0]);
    // Full: a.state=old makes room, then nothing is superseded and the oldest goes.
    client.set("vendor.gunyah.last", "x");
    let text = warnings().concat();
    assert!(text.contains("vendor.gunyah.a.state=\"old\": dropped"), "{text}");
    client.set("vendor.gunyah.really-last", "x");
    let text = warnings().concat();
    assert!(text.contains("vendor.gunyah.n0=\"x\": dropped"), "{text}");
    let service = serve(listener, QUEUE_MAX + 1, |_, _| 0);
    assert!(client.finish(Duration::from_secs(20)));
    let seen = service.join().unwrap();
    assert_eq!(seen[0].0, "vendor.gunyah.first");
    assert_eq!(seen[1].0, "vendor.gunyah.n1");
    assert_eq!(seen[QUEUE_MAX - 2], pair("vendor.gunyah.a.state", "new"));
    assert_eq!(seen[QUEUE_MAX].0, "vendor.gunyah.really-last");
}

#[test]
fn a_poll_loop_is_woken_by_the_fd() {
    let dir = Dir::new("properties");
    let listener = UnixListener::bind(socket(&dir)).unwrap();
    let (answer, may_answer): (Sender<()>, Receiver<()>) = channel();
    let service = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_request(&mut stream);
        may_answer.recv().unwrap();
        stream.write_all(&0u32.to_ne_bytes()).unwrap();
    });
    let mut client = client(&dir);
    client.set("vendor.gunyah.state", "running");
    answer.send(()).unwrap();
    while let Some(fd) = client.poll_fd() {
        let mut fds = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        assert_eq!(nix::poll::poll(&mut fds, 10_000u16).unwrap(), 1, "no event");
        client.on_ready();
    }
    service.join().unwrap();
    assert_eq!(warnings(), [""; 0]);
}
