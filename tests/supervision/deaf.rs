// SPDX-License-Identifier: Apache-2.0
//! Control clients that ask and never read: dropped in time, and nobody else waits for them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gunyahd::status::State;
use serde_json::json;

use crate::host::{open_fds, Host, PATIENCE};

/// Twice as long as gunyahd lets an answer lie unread.
const DROPPED_WITHIN: Duration = Duration::from_secs(20);

/// Of a start and a stop each: far more than the socket of one who does not read has room for.
const ROUNDS: u32 = 100;

#[test]
fn a_watcher_that_never_reads_is_dropped_and_one_that_reads_is_not() {
    let mut host = Host::new();
    for name in ["vm", "last"] {
        host.vm(name, json!({"autostart": false}));
    }
    host.boot();
    let mut reader = host.watch();
    let reading = std::thread::spawn(move || {
        reader.until_next("last", State::Running);
        reader.states_of("vm").len()
    });
    let supervisor = host.pid();
    // By its answer everybody else is there or gone.
    assert_eq!(host.statuses().len(), 2);
    let before = open_fds(supervisor);
    let deaf: Vec<UnixStream> = (0..5)
        .map(|_| {
            let mut stream = UnixStream::connect(host.socket()).unwrap();
            stream.write_all(b"{\"v\":1,\"op\":\"watch\"}\n").unwrap();
            stream
        })
        .collect();
    for _ in 0..ROUNDS {
        let round = Instant::now();
        assert_eq!(host.told(&["start", "vm"]).0, 0);
        assert_eq!(host.told(&["stop", "vm"]).0, 0);
        assert!(round.elapsed() < PATIENCE / 10, "{:?}", round.elapsed());
    }
    let begun = Instant::now();
    host.wait_until("all of them are dropped", |host| {
        assert_eq!(host.statuses().len(), 2);
        host.log().matches("does not read; dropped").count() == deaf.len()
    });
    assert!(begun.elapsed() < DROPPED_WITHIN, "{:?}", begun.elapsed());
    host.wait_until("their fds are closed", |_| open_fds(supervisor) <= before);
    // What was sent before is there to be read, and then the end.
    for mut stream in deaf {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("\"change\""), "{text}");
    }
    assert_eq!(host.told(&["start", "last"]).0, 0);
    // Waiting, starting, running, stopping, stopped: it missed nothing.
    let changes = reading.join().unwrap();
    assert!(changes >= 5 * usize::try_from(ROUNDS).unwrap(), "{changes}");
}
