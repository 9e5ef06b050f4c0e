// SPDX-License-Identifier: Apache-2.0
//! `gunyahctl console` against a real console; the test plays gunyahd's socket and the guest.
#![allow(clippy::unwrap_used)] // A test ends there.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gunyahd::config::{parse, ConsoleConfig};
use gunyahd::console::wire::{Decoder, Kind};
use gunyahd::console::{Console, Options, Ring};
use gunyahd::status::control::{response_line, Response, VmStatus};
use gunyahd::status::State;
use gunyahd::vcpu::{Bus, Width};
use nix::pty::openpty;
use nix::sys::signal::{kill, Signal};
use nix::sys::termios::{tcgetattr, LocalFlags};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(20);
/// Of what the guest has printed; more than any terminal or pipe holds.
const RING: usize = 4 << 20;

/// A running guest with a console, and gunyahd's socket.
struct Host {
    socket: PathBuf,
    listener: UnixListener,
    console: Console,
    config: ConsoleConfig,
    bus: Bus,
    ring: Arc<Ring>,
}

impl Host {
    fn new(name: &str) -> Self {
        let name = format!("gunyahd-console-{name}-{}", std::process::id());
        let socket = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&socket);
        let file = r#"{ "name": "vm", "memory": { "size": "64M" }, "kernel": { "path": "/Image" },
            "vcpus": { "scheduling": "proxy" }, "console": {} }"#;
        let config = parse("vm.json".as_ref(), file).unwrap().console.unwrap();
        let ring = Arc::new(Ring::create("client", RING).unwrap());
        let console = Console::start("vm", &config, &ring, Options::default()).unwrap();
        let mut bus = Bus::new("test");
        console.connect(&mut bus, &config).unwrap();
        Self { listener: UnixListener::bind(&socket).unwrap(), socket, console, config, bus, ring }
    }

    fn ctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gunyahctl"));
        command.arg("--socket").arg(&self.socket).args(words);
        command
    }

    /// Answers one request for the console, as gunyahd and the worker do.
    fn let_in(&self) {
        let (stream, _) = self.listener.accept().unwrap();
        let mut request = String::new();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        reader.read_line(&mut request).unwrap();
        assert!(request.contains(r#""op":"console""#), "{request}");
        let replay = request.contains(r#""replay":4194304"#);
        let status = VmStatus {
            vm: "vm".into(),
            state: State::Running,
            reason: String::new(),
            since_ms: 0,
            age_ms: 0,
            dialect: None,
            folios: None,
            restarts: 0,
            resets: 0,
            pid: Some(1),
            file: "vm.json".into(),
            problems: Vec::new(),
            stuck: false,
            end_visible: true,
            steps: Vec::new(),
            launch_micros: None,
            last_end: None,
            console_end: Some(self.ring.end()),
            devices: Vec::new(),
        };
        let answer = response_line(&Response::Done(Box::new(status)));
        (&stream).write_all(&answer).unwrap();
        let first = if replay { 0 } else { self.ring.end() };
        self.console.attach(stream.into(), first);
    }

    fn print(&self, text: &[u8]) {
        for byte in text {
            let base = self.config.base;
            assert!(self.bus.write(base, Width::Byte, u64::from(*byte)));
        }
    }

    /// What the guest finds typed, without waiting for more.
    fn typed(&self) -> Vec<u8> {
        let mut text = Vec::new();
        let base = self.config.base;
        while self.bus.read(base + 0x18, Width::Word).unwrap() & 0x10 == 0 {
            let byte = self.bus.read(base, Width::Byte).unwrap();
            text.push(u8::try_from(byte).unwrap());
        }
        text
    }

    /// Waits until the guest has found `wanted` typed.
    fn expect_typed(&self, wanted: &[u8]) {
        let deadline = Instant::now() + PATIENCE;
        let mut text = Vec::new();
        while text.len() < wanted.len() {
            assert!(Instant::now() < deadline, "typed: {text:?}");
            text.extend(self.typed());
            std::thread::yield_now();
        }
        assert_eq!(text, wanted);
    }

    /// A client that waits until it has the keyboard.
    fn typist(&self) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(PATIENCE)).unwrap();
        self.console.attach(theirs.into(), self.ring.end());
        let (mut decoder, mut types) = (Decoder::default(), false);
        let mut bytes = [0; 256];
        while !types {
            let len = (&ours).read(&mut bytes).expect("no keyboard");
            decoder.feed(&bytes[..len], |kind, _| types |= kind == Kind::Keyboard).unwrap();
        }
        ours
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

/// A program that is ended with the test.
struct Running(Child);

impl Running {
    /// Its exit code.
    fn ends(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `gunyahctl console vm` with `text` piped in.
fn piped(host: &Host, text: &[u8]) -> Running {
    let mut child = host
        .ctl(&["console", "vm", "--replay", "0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    host.let_in();
    Running(child)
}

#[test]
fn a_follower_without_input_leaves_the_keyboard_to_others() {
    let host = Host::new("follower");
    let mut follower = host
        .ctl(&["console", "vm", "--replay", "0", "--follow"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = follower.stdout.take().unwrap();
    let _follower = Running(follower);
    host.let_in();
    // Another one gets it now.
    drop(host.typist());
    let mut script = piped(&host, b"uptime\r");
    host.expect_typed(b"uptime\r");
    host.print(b"up 3 days\n");
    assert_eq!(script.ends(), Some(0));
    let mut answer = [0; 10];
    script.0.stdout.take().unwrap().read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"up 3 days\n");
    heard.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"up 3 days\n", "the follower is still there");
}

#[test]
fn piped_input_that_is_not_typed_is_an_error() {
    let host = Host::new("refused");
    let _typist = host.typist();
    let mut script = piped(&host, b"reboot\r");
    assert_eq!(script.ends(), Some(4));
    let mut told = String::new();
    script.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("another client has the keyboard"), "{told}");
    assert!(told.contains("was not typed"), "{told}");
    assert_eq!(host.typed(), b"");
    // One that only looks on is none.
    let mut looks_on = piped(&host, b"");
    assert_eq!(looks_on.ends(), Some(0));
}

/// `gunyahctl console vm` on a terminal that nobody reads from, once it takes no more.
fn stalled(host: &Host) -> (Running, OwnedFd, OwnedFd) {
    let pty = openpty(None, None).unwrap();
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut command = host.ctl(&["console", "vm", "--replay", "4194304"]);
    command.stdin(end()).stdout(end()).stderr(end());
    // SAFETY: both calls are async-signal-safe and touch no memory.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    let child = Running(command.spawn().unwrap());
    host.let_in();
    let waiting = || {
        let mut bytes: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int.
        let answer = unsafe { libc::ioctl(pty.master.as_raw_fd(), libc::FIONREAD, &mut bytes) };
        assert_eq!(answer, 0);
        bytes
    };
    // It has begun, and has gone on until there was no room.
    let deadline = Instant::now() + PATIENCE;
    let (mut before, mut since) = (0, Instant::now());
    while before == 0 || since.elapsed() < Duration::from_millis(150) {
        assert!(Instant::now() < deadline, "nothing is shown");
        std::thread::sleep(Duration::from_millis(5));
        let now = waiting();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    (child, pty.master, pty.slave)
}

fn is_raw(slave: &impl AsFd) -> bool {
    let flags = tcgetattr(slave).unwrap().local_flags;
    !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
}

#[test]
fn a_terminal_that_shows_nothing_more_can_be_left() {
    let host = Host::new("stalled");
    for _ in 0..RING / 64 {
        host.print(&[b'.'; 64]);
    }
    let (mut by_key, master, slave) = stalled(&host);
    assert!(is_raw(&slave));
    nix::unistd::write(&master, b"\x1d").unwrap();
    assert_eq!(by_key.ends(), Some(0));
    assert!(!is_raw(&slave), "as it was");

    let (mut by_signal, _master, slave) = stalled(&host);
    let pid = Pid::from_raw(i32::try_from(by_signal.0.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(by_signal.ends(), Some(128 + 15));
    assert!(!is_raw(&slave), "as it was");
}

#[test]
fn keys_that_the_guest_does_not_take_do_not_hide_those_that_leave() {
    let host = Host::new("deaf");
    host.print(b"guest: hello\r\n");
    let (mut person, master, _slave) = stalled(&host);
    // More than the console's backlog, both sockets and the client keep for a guest that takes nothing.
    let mut keys = fs::File::from(master);
    std::thread::spawn(move || {
        for _ in 0..512 {
            keys.write_all(&[b'x'; 1024]).unwrap();
        }
        keys.write_all(b"\x1d").unwrap();
        // Open until the end of the test: its closing would be another way out.
        std::thread::park();
    });
    assert_eq!(person.ends(), Some(0));
}

#[test]
fn the_last_words_are_all_shown_to_a_slow_reader() {
    let host = Host::new("slow");
    let mut child = host
        .ctl(&["console", "vm", "--replay", "4194304", "--follow"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut child = Running(child);
    let text = vec![b'.'; 150_000];
    host.print(&text);
    host.let_in();
    let mut shown = vec![0; text.len()];
    out.read_exact(&mut shown).unwrap();
    assert!(shown == text);
    assert!(child.0.try_wait().unwrap().is_none(), "it follows");
}
