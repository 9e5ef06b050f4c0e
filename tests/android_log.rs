// SPDX-License-Identifier: Apache-2.0
//! The log's ways: logd by datagrams, the kernel's log before it is there, stderr elsewhere.

#![allow(clippy::unwrap_used)]

#[path = "android/dir.rs"]
mod dir;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dir::Dir;
use gunyahd::status::logger::Logger;
use log::{Level, Log, Record};

fn logdw(dir: &Dir) -> PathBuf {
    dir.0.join("logdw")
}

/// A log daemon.
struct Peer(UnixDatagram);

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    priority: u8,
    tag: String,
    message: String,
}

impl Peer {
    fn bind(dir: &Dir) -> Self {
        let _ = std::fs::remove_file(logdw(dir));
        let socket = UnixDatagram::bind(logdw(dir)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// Every record that is here, each checked against liblog's layout.
    fn read(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut bytes = [0; 8192];
        while let Ok(length) = self.0.recv(&mut bytes) {
            let bytes = &bytes[..length];
            assert!(length <= 11 + 4068, "payload of {} bytes", length - 11);
            assert_eq!(bytes[0], 0, "the main log");
            let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let told = Duration::new(number(3).into(), number(7));
            assert!(now - told < Duration::from_secs(60), "time {told:?}");
            assert_ne!(u16::from_le_bytes([bytes[1], bytes[2]]), 0, "thread");
            let mut texts = bytes[12..].split(|&b| b == 0);
            let mut text = || String::from_utf8(texts.next().unwrap().to_vec()).unwrap();
            entries.push(Entry { priority: bytes[11], tag: text(), message: text() });
            assert_eq!(texts.next(), Some(&b""[..]), "NUL after the message");
            assert_eq!(texts.next(), None);
        }
        entries
    }

    fn messages(&self) -> Vec<String> {
        self.read().into_iter().map(|entry| entry.message).collect()
    }
}

fn say(logger: &Logger, level: Level, target: &str, message: &str) {
    log::set_max_level(log::LevelFilter::Trace);
    logger.log(
        &Record::builder().level(level).target(target).args(format_args!("{message}")).build(),
    );
}

#[test]
fn records_have_priority_tag_and_message() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    let logger = Logger::new(Some(logdw(&dir)), None);
    let levels = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];
    for level in levels {
        say(&logger, level, "gunyahd::worker", level.as_str());
    }
    say(&logger, Level::Info, "vm1", "from its console");
    let entries = peer.read();
    for (entry, (level, priority)) in entries.iter().zip(levels.iter().zip(2..)) {
        let expected = Entry { priority, tag: "gunyahd".into(), message: level.as_str().into() };
        assert_eq!(*entry, expected);
    }
    assert_eq!(entries[5].tag, "vm1");
    assert_eq!(entries.len(), 6);
}

#[test]
fn long_records_are_split_and_nothing_is_lost() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    let logger = Logger::new(Some(logdw(&dir)), None);
    let lines: Vec<String> = (0..300).map(|n| format!("line {n} of a long report é")).collect();
    say(&logger, Level::Error, "gunyahd", &lines.join("\n"));
    let pieces = peer.messages();
    assert!(pieces.len() > 1);
    assert_eq!(pieces.join("\n"), lines.join("\n"), "cut at line ends only");
    say(&logger, Level::Error, "gunyahd", &"é".repeat(6000));
    let pieces = peer.messages();
    assert!(pieces.iter().all(|piece| piece.chars().all(|c| c == 'é')));
    assert_eq!(pieces.concat(), "é".repeat(6000));
}

#[test]
fn a_restarted_daemon_gets_the_next_record_and_the_count_of_lost_ones() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    let logger = Logger::new(Some(logdw(&dir)), None);
    say(&logger, Level::Info, "gunyahd", "1");
    assert_eq!(peer.messages(), ["1"]);
    // A quick restart between two records loses nothing.
    drop(peer);
    let peer = Peer::bind(&dir);
    say(&logger, Level::Info, "gunyahd", "2");
    assert_eq!(peer.messages(), ["2"]);
    // What is said while it is away is lost, and that is said.
    drop(peer);
    for n in 3..6 {
        say(&logger, Level::Info, "gunyahd", &n.to_string());
    }
    std::fs::remove_file(logdw(&dir)).unwrap();
    say(&logger, Level::Info, "gunyahd", "6");
    let peer = Peer::bind(&dir);
    say(&logger, Level::Info, "gunyahd", "7");
    say(&logger, Level::Info, "gunyahd", "8");
    assert_eq!(peer.messages(), ["4 log records before this one were lost", "7", "8"]);
}

#[test]
fn a_daemon_that_does_not_read_never_blocks() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    let logger = Logger::new(Some(logdw(&dir)), None);
    // Far more than a socket's queue takes (net.unix.max_dgram_qlen is 10 to a few hundred).
    let said = 5000;
    for n in 0..said {
        say(&logger, Level::Info, "gunyahd", &n.to_string());
    }
    let first = peer.messages();
    assert!(first.len() < said, "the queue took everything");
    let in_order: Vec<String> = (0..first.len()).map(|n| n.to_string()).collect();
    assert_eq!(first, in_order);
    say(&logger, Level::Info, "gunyahd", "last");
    let lost = said - first.len();
    assert_eq!(
        peer.messages(),
        [format!("{lost} log records before this one were lost"), "last".into()]
    );
}

#[test]
fn the_kernels_log_is_used_until_logd_is_there() {
    let dir = Dir::new("log");
    let kmsg = dir.0.join("kmsg");
    let logger = Logger::new(Some(logdw(&dir)), Some(File::create(&kmsg).unwrap()));
    say(&logger, Level::Info, "gunyahd::config", "early");
    say(&logger, Level::Error, "gunyahd", "two\nlines");
    let peer = Peer::bind(&dir);
    say(&logger, Level::Info, "gunyahd", "late");
    assert_eq!(peer.messages(), ["late"]);
    drop(peer);
    say(&logger, Level::Warn, "gunyahd", "while logd restarts");
    let text = std::fs::read_to_string(&kmsg).unwrap();
    assert_eq!(
        text,
        "<6>gunyahd: early\n<3>gunyahd: two\n<3>gunyahd: lines\n<4>gunyahd: while logd restarts\n"
    );
}

#[test]
fn kernel_log_lines_stay_within_the_kernels_limit() {
    let dir = Dir::new("log");
    let kmsg = dir.0.join("kmsg");
    let logger = Logger::new(Some(logdw(&dir)), Some(File::create(&kmsg).unwrap()));
    say(&logger, Level::Info, "gunyahd", &"x".repeat(3000));
    let text = std::fs::read_to_string(&kmsg).unwrap();
    assert!(text.lines().all(|line| line.len() < 1024 && line.starts_with("<6>gunyahd: ")));
    assert_eq!(text.matches('x').count(), 3000);
}

#[test]
fn forked_processes_log_by_themselves() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    let logger = Logger::new(Some(logdw(&dir)), None);
    say(&logger, Level::Info, "gunyahd", "before");
    // SAFETY: the child only logs and leaves; no other thread holds this logger's lock.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Child => {
            say(&logger, Level::Info, "gunyahd", "child");
            // SAFETY: ends the child without running the parent's exit handlers.
            unsafe { nix::libc::_exit(0) }
        }
        nix::unistd::ForkResult::Parent { child } => {
            nix::sys::wait::waitpid(child, None).unwrap();
        }
    }
    say(&logger, Level::Info, "gunyahd", "parent");
    assert_eq!(peer.messages(), ["before", "child", "parent"]);
}

/// Not a test by itself: what [`run_child`] runs in a process of its own.
#[test]
fn child_process() {
    use gunyahd::status::logger::{start, Audience};
    match std::env::var("GUNYAHD_TEST_AUDIENCE").as_deref() {
        Ok("service") => start(Audience::Service, log::LevelFilter::Info),
        Ok("foreground") => start(Audience::Foreground, log::LevelFilter::Debug),
        _ => return,
    }
    log::error!(target: "gunyahd", "an error");
    log::info!(target: "gunyahd", "some news");
    log::debug!(target: "gunyahd", "a detail");
}

/// Runs [`child_process`] and answers its stderr.
fn run_child(audience: &str, dir: &Dir, kmsg: Option<&OwnedFd>) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child_process", "--nocapture", "--test-threads=1"])
        .env("GUNYAHD_TEST_AUDIENCE", audience)
        .env("GUNYAHD_LOGD_SOCKET", logdw(dir))
        .env_remove("ANDROID_FILE__dev_kmsg");
    if let Some(fd) = kmsg {
        command.env("ANDROID_FILE__dev_kmsg", fd.as_raw_fd().to_string());
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_service_finds_logd_by_its_environment() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    assert_eq!(run_child("service", &dir, None), "");
    assert_eq!(peer.messages(), ["an error", "some news"]);
}

#[test]
fn a_service_finds_its_inherited_kernel_log() {
    let dir = Dir::new("log");
    // Inherited: without O_CLOEXEC, as init leaves it.
    let (mut read, write) = std::io::pipe().unwrap();
    let write = OwnedFd::from(write);
    nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    assert_eq!(run_child("service", &dir, Some(&write)), "");
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "<3>gunyahd: an error\n<6>gunyahd: some news\n");
}

#[test]
fn without_any_log_there_is_stderr() {
    let dir = Dir::new("log");
    let lines = run_child("service", &dir, None);
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("] E gunyahd: an error\n"), "{lines}");
    let lines = run_child("foreground", &dir, None);
    assert_eq!(lines.lines().count(), 3, "{lines}");
    assert!(!lines.contains('\x1b'), "colour without a terminal");
}

#[test]
fn the_foreground_leaves_logd_alone() {
    let dir = Dir::new("log");
    let peer = Peer::bind(&dir);
    assert_ne!(run_child("foreground", &dir, None), "");
    assert_eq!(peer.messages(), [""; 0]);
}
