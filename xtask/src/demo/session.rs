// SPDX-License-Identifier: Apache-2.0
//! gunyahd on the simulator, as a child process. Each line of its output becomes an event.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::sys::signal::{kill, SigSet, Signal};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde_json::Value;

use super::guests::Guests;
use super::terminal::Terminal;

const SET_PRIVILEGES: &str = "setpriv";
const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// A line of a console or of the log.
    Output(String),
    /// What `gunyahctl console` printed.
    Terminal(String),
    /// All VMs.
    Vms(Value),
    /// One VM's new state.
    Change(Value),
    /// Ctrl-C, or asked to end.
    Interrupted,
    /// All output is closed: the simulator is gone.
    Ended,
}

/// All events, of one session after the other.
#[derive(Debug)]
pub struct Events {
    sender: Sender<Event>,
    receiver: Receiver<Event>,
}

/// From here on Ctrl-C and similar signals become events.
pub fn take_signals() -> Result<Events> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // Before any other thread starts, so that every thread inherits the mask.
    signals.thread_block()?;
    let (sender, receiver) = mpsc::channel();
    let tell = sender.clone();
    thread::spawn(move || {
        while signals.wait().is_ok() {
            let _ = tell.send(Event::Interrupted);
        }
    });
    Ok(Events { sender, receiver })
}

/// The running system.
#[derive(Debug)]
pub struct Session<'a> {
    simulator: Child,
    gunyahd: Pid,
    gunyahctl: PathBuf,
    socket: PathBuf,
    events: &'a Events,
    begin: Instant,
}

impl<'a> Session<'a> {
    /// Starts `gunyahd boot` on the simulator and begins to watch it.
    pub fn start(binaries: &Path, guests: &Guests, events: &'a Events) -> Result<Self> {
        let socket = guests.run_dir.join("gunyahd.socket");
        let mut command = if nix::unistd::geteuid().is_root() {
            Command::new(SET_PRIVILEGES)
        } else {
            // In a user namespace of its own gunyahd may lock memory.
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", SET_PRIVILEGES]);
            unshare
        };
        command
            // The simulator ends with this program, and what it started ends with it.
            .args(["--pdeathsig", "KILL"])
            .arg(binaries.join("gunyah-sim"))
            // The hypervisor schedules one of them, whose stop the real resource manager does not survive.
            .args(["--rm", "debug", "--engine", guests.engine, "--console", "-", "--"])
            .arg(binaries.join("gunyahd"))
            .arg("boot")
            .arg("--config-dir")
            .arg(&guests.config_dir)
            .arg("--socket")
            .arg(&socket)
            .arg("--run-dir")
            .arg(&guests.run_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // This program turns Ctrl-C into an orderly end.
            .process_group(0);
        let begin = Instant::now();
        let mut simulator = command.spawn().context("starting gunyah-sim")?;
        let readers = [
            simulator.stdout.take().map(|out| read_lines(out, events.sender.clone())),
            simulator.stderr.take().map(|err| read_lines(err, events.sender.clone())),
        ];
        let at_end = events.sender.clone();
        thread::spawn(move || {
            for reader in readers.into_iter().flatten() {
                let _ = reader.join();
            }
            let _ = at_end.send(Event::Ended);
        });
        let mut session = Self {
            simulator,
            gunyahd: Pid::from_raw(0),
            gunyahctl: binaries.join("gunyahctl"),
            socket,
            events,
            begin,
        };
        session.watch(events.sender.clone())?;
        Ok(session)
    }

    fn watch(&mut self, sender: Sender<Event>) -> Result<()> {
        let mut stream = loop {
            match UnixStream::connect(&self.socket) {
                Ok(stream) => break stream,
                Err(error) if self.begin.elapsed() > SOCKET_TIMEOUT => {
                    self.show_rest();
                    return Err(error).with_context(|| {
                        format!("gunyahd does not listen on {}", self.socket.display())
                    });
                }
                Err(_) => {
                    if let Some(status) = self.simulator.try_wait()? {
                        self.show_rest();
                        bail!("gunyah-sim ended at once: {status}");
                    }
                    // There is no event for a socket that begins to listen.
                    thread::sleep(Duration::from_millis(10));
                }
            }
        };
        self.gunyahd = Pid::from_raw(getsockopt(&stream, PeerCredentials)?.pid());
        stream.write_all(b"{\"v\":1,\"op\":\"watch\"}\n")?;
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(|line| line.ok()) {
                let Ok(mut answer) = serde_json::from_str::<Value>(&line) else {
                    continue;
                };
                let event = if answer["vms"].is_array() {
                    Event::Vms(answer["vms"].take())
                } else if answer["change"].is_object() {
                    Event::Change(answer["change"].take())
                } else {
                    Event::Output(format!("unexpected answer to watch: {line}"))
                };
                let _ = sender.send(event);
            }
        });
        Ok(())
    }

    /// Shows log and consoles up to now, and drops other events.
    pub fn output_so_far(&self) -> Vec<String> {
        let events = self.events.receiver.try_iter();
        events
            .filter_map(|event| match event {
                Event::Output(line) => Some(line),
                _ => None,
            })
            .collect()
    }

    fn show_rest(&self) {
        while let Ok(Event::Output(line)) =
            self.events.receiver.recv_timeout(Duration::from_millis(200))
        {
            println!("{line}");
        }
    }

    /// Since gunyahd was started.
    pub fn age(&self) -> Duration {
        self.begin.elapsed()
    }

    /// The next event, or `None` after `timeout`.
    pub fn next(&self, timeout: Duration) -> Option<Event> {
        match self.events.receiver.recv_timeout(timeout) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Event::Ended),
        }
    }

    /// Runs gunyahctl and returns its output.
    pub fn control(&self, arguments: &[&str]) -> Result<String> {
        crate::tree::quiet(
            Command::new(&self.gunyahctl).arg("--socket").arg(&self.socket).args(arguments),
        )
    }

    /// The console of `vm`, to type there, with its last bytes.
    pub fn console(&self, vm: &str, replay: usize) -> Result<Terminal> {
        let mut command = Command::new(&self.gunyahctl);
        command.arg("--socket").arg(&self.socket).args([
            "console",
            vm,
            "--replay",
            &replay.to_string(),
        ]);
        Terminal::start(command, self.events.sender.clone())
    }

    /// SIGTERM to gunyahd; waits for the simulator. Fails unless both ended as they should.
    pub fn end(mut self) -> Result<Duration> {
        let begin = Instant::now();
        if self.simulator.try_wait()?.is_none() && self.gunyahd.as_raw() > 0 {
            kill(self.gunyahd, Signal::SIGTERM).context("SIGTERM to gunyahd")?;
        }
        let status = self.wait_for_end()?;
        if !status.success() {
            bail!("gunyahd on the simulator: {status}");
        }
        Ok(begin.elapsed())
    }

    fn wait_for_end(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + END_TIMEOUT;
        loop {
            if Instant::now() > deadline {
                bail!("gunyahd has not ended within {} s", END_TIMEOUT.as_secs());
            }
            match self.next(Duration::from_millis(200)) {
                // A second Ctrl-C ends at once.
                Some(Event::Interrupted) => bail!("interrupted while gunyahd was ending"),
                Some(Event::Output(line)) => println!("{line}"),
                // Of the last one that has the simulator's output open, which the next session must not see.
                Some(Event::Ended) => return Ok(self.simulator.wait()?),
                _ => {}
            }
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // Its guests end with it.
        let _ = self.simulator.kill();
        let _ = self.simulator.wait();
    }
}

fn read_lines(from: impl Read + Send + 'static, to: Sender<Event>) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line);
            let _ = to.send(Event::Output(text.trim_end().to_owned()));
            line.clear();
        }
    })
}
