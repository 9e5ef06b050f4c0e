// SPDX-License-Identifier: Apache-2.0
//! A host of a test's own: a directory with VMs' files, and gunyahd with its socket in it.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gunyahd::status::control::{parse_response, request_line, Change, Request, Response, VmStatus};
use gunyahd::status::State;
use nix::sys::signal::{kill, Signal};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Pid;
use serde_json::{json, Value};

use crate::memlock::limit_memlock;

/// Longer than anything takes on a loaded machine; nothing waits for it that goes well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const GUNYAHD: &str = env!("CARGO_BIN_EXE_gunyahd");
pub const GUNYAHCTL: &str = env!("CARGO_BIN_EXE_gunyahctl");

fn simulator() -> PathBuf {
    let path = Path::new(GUNYAHD).with_file_name("gunyah-sim");
    assert!(path.exists(), "{} is missing: cargo build --package gunyah-sim", path.display());
    path
}

pub struct Host {
    pub dir: PathBuf,
    daemon: Option<Child>,
    simulated: bool,
    huge_pages: bool,
    locks: bool,
    dialect: &'static str,
    /// A program and its arguments that gunyahd is run by.
    runner: Vec<String>,
}

impl Host {
    /// A host without VMs, not yet booted.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gunyahd-supervision-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(dir.join("vms")).unwrap();
        std::fs::write(dir.join("Image"), image()).unwrap();
        Self {
            dir,
            daemon: None,
            simulated: true,
            huge_pages: true,
            locks: true,
            dialect: "ack61",
            runner: Vec::new(),
        }
    }

    /// The same, with the driver of a dialect.
    pub fn of(dialect: &'static str) -> Self {
        let mut host = Self::new();
        host.dialect = dialect;
        host
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// A file of a small VM, with `more` keys of its own.
    pub fn vm(&mut self, name: &str, more: Value) -> &mut Self {
        let mut config = json!({
            "name": name,
            "memory": {"size": "4M", "backing": "base"},
            "kernel": {"path": self.path("Image")},
            "restart": {"backoff": "20ms"},
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        self.file(&format!("{name}.json"), &config.to_string())
    }

    pub fn file(&mut self, name: &str, text: &str) -> &mut Self {
        std::fs::write(self.path("vms").join(name), text).unwrap();
        self
    }

    /// Commands for the simulator to begin with.
    pub fn script(&mut self, text: &str) -> &mut Self {
        std::fs::write(self.path("script"), text).unwrap();
        self
    }

    /// `gunyahd` with `arguments`, under the simulator.
    pub fn command(&self, arguments: &[&str]) -> Command {
        if !self.simulated {
            let mut words = self.runner.iter().map(String::as_str).chain([GUNYAHD]);
            let mut command = Command::new(words.next().unwrap());
            command.args(words).args(arguments);
            return command;
        }
        let mut command = Command::new(simulator());
        command.args(["--dialect", self.dialect]).arg("--control").arg(self.path("sim"));
        if self.path("script").exists() {
            command.arg("--script").arg(self.path("script"));
        }
        command.arg("--").arg(GUNYAHD).args(arguments);
        command
    }

    /// No transparent huge page comes to gunyahd.
    pub fn without_huge_pages(&mut self) -> &mut Self {
        self.huge_pages = false;
        self
    }

    /// gunyahd may lock no memory: no capability, and the limit of a shell.
    pub fn without_locks(&mut self) -> &mut Self {
        self.locks = false;
        self
    }

    /// A command to the simulator, now.
    pub fn tell_simulator(&self, command: &str) {
        assert_eq!(self.ask_simulator(command), "ok\n", "{command}");
    }

    /// The same, with its answer.
    pub fn ask_simulator(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.path("sim")).unwrap();
        writeln!(stream, "{command}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    /// Without the simulator, for what needs no device.
    pub fn bare(&mut self) -> &mut Self {
        self.simulated = false;
        self
    }

    /// The same, run by another program.
    pub fn bare_by(&mut self, runner: &[&str]) -> &mut Self {
        self.runner = runner.iter().map(|word| (*word).to_owned()).collect();
        self.bare()
    }

    pub fn boot_arguments(&self) -> Vec<String> {
        let text = |path: PathBuf| path.into_os_string().into_string().unwrap();
        vec![
            "boot".to_owned(),
            "--config-dir".to_owned(),
            text(self.path("vms")),
            "--socket".to_owned(),
            text(self.socket()),
        ]
    }

    /// Boots, and returns once gunyahd answers.
    pub fn boot(&mut self) -> &mut Self {
        self.boot_with(&[])
    }

    /// The same, with further arguments.
    pub fn boot_with(&mut self, more: &[&str]) -> &mut Self {
        let log = std::fs::File::create(self.path("log")).unwrap();
        self.start(more, log.into())
    }

    /// The same, with its log somewhere else.
    pub fn boot_logging(&mut self, log: Stdio) -> &mut Self {
        self.start(&[], log)
    }

    fn start(&mut self, more: &[&str], log: Stdio) -> &mut Self {
        let arguments = self.boot_arguments();
        let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        arguments.extend(more);
        let mut command = self.command(&arguments);
        // No log daemon or property service of this machine.
        command
            .env("GUNYAHD_LOGD_SOCKET", self.path("no-logd"))
            .env("GUNYAHD_PROPERTY_SOCKET", self.path("properties"))
            .env("GUNYAHD_PROPERTY_AREA", self.path("area"))
            // No trace, unless the test made the file.
            .env("GUNYAHD_TRACE_MARKER", self.path("trace"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // SAFETY: prctl is a bare system call. Whatever a failing test leaves dies with it.
        unsafe {
            command
                .pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        }
        if !self.locks {
            limit_memlock(&mut command, 64 << 10);
        }
        if !self.huge_pages {
            // SAFETY: prctl is a bare system call.
            unsafe {
                command.pre_exec(|| nix::sys::prctl::set_thp_disable(true).map_err(Into::into));
            }
        }
        self.daemon = Some(command.spawn().unwrap());
        drop(command);
        self.wait_until("gunyahd answers", |host| UnixStream::connect(host.socket()).is_ok());
        self
    }

    /// For what no event tells.
    pub fn wait_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(self) {
            if let Some(status) = self.daemon.as_mut().and_then(|c| c.try_wait().unwrap()) {
                panic!("gunyahd ended with {status}, while waiting until {what}\n{}", self.log());
            }
            assert!(Instant::now() < end, "never: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// gunyahd's own process, whoever started it.
    pub fn pid(&self) -> Pid {
        let stream = UnixStream::connect(self.socket()).unwrap();
        Pid::from_raw(getsockopt(&stream, sockopt::PeerCredentials).unwrap().pid())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    /// Waits for gunyahd's end.
    pub fn wait(&mut self) -> ExitStatus {
        self.daemon.take().unwrap().wait().unwrap()
    }

    /// SIGTERM, and its exit code.
    pub fn shut_down(&mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.wait().code()
    }

    pub fn ctl(&self, arguments: &[&str]) -> Output {
        Command::new(GUNYAHCTL)
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// gunyahctl's exit code and everything that it printed.
    pub fn told(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.ctl(arguments);
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    pub fn statuses(&self) -> Vec<VmStatus> {
        let request = Request::Status { vm: None };
        match gunyahd::client::ask(&self.socket(), &request).unwrap() {
            Response::Vms(all) => all.vms,
            other => panic!("{other:?}"),
        }
    }

    pub fn status(&self, vm: &str) -> VmStatus {
        let all = self.statuses();
        let found = all.iter().find(|status| status.vm == vm);
        found.unwrap_or_else(|| panic!("no {vm} in {all:?}")).clone()
    }

    pub fn worker(&self, vm: &str) -> Pid {
        Pid::from_raw(self.status(vm).pid.expect("a worker"))
    }

    pub fn watch(&self) -> Watch {
        Watch::new(&self.socket())
    }

    /// Waits until a VM is in a state.
    pub fn until(&self, vm: &str, state: State) -> &Self {
        self.watch().until(vm, state);
        self
    }
}

/// A host of each kind of driver: where the last close is back at once, and where it waits.
pub fn on_both(test: impl Fn(Host) + Sync) {
    std::thread::scope(|scope| {
        for dialect in ["ack61", "ack612"] {
            let test = &test;
            scope.spawn(move || test(Host::of(dialect)));
        }
    });
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // The simulator's program goes with it, and workers end once gunyahd is gone.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// All changes from a moment on.
pub struct Watch {
    lines: BufReader<UnixStream>,
    pub now: Vec<VmStatus>,
    pub changes: Vec<Change>,
}

impl Watch {
    pub fn new(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&request_line(&Request::Watch {})).unwrap();
        let mut watch =
            Self { lines: BufReader::new(stream), now: Vec::new(), changes: Vec::new() };
        match watch.next() {
            Some(Response::Vms(all)) => watch.now = all.vms,
            other => panic!("{other:?}"),
        }
        watch
    }

    fn next(&mut self) -> Option<Response> {
        let mut line = Vec::new();
        self.lines
            .read_until(b'\n', &mut line)
            .unwrap_or_else(|error| panic!("no change: {error}; so far {:?}", self.changes));
        (!line.is_empty()).then(|| parse_response(&line).unwrap())
    }

    /// The next change; `None` when gunyahd has gone.
    pub fn change(&mut self) -> Option<Change> {
        match self.next()? {
            Response::Change(change) => {
                self.changes.push(change.clone());
                Some(change)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Reads changes until `vm` comes into `state`, or was in it from the beginning.
    pub fn until(&mut self, vm: &str, state: State) -> &mut Self {
        let already = self.now.iter().any(|status| status.vm == vm && status.state == state);
        if already && self.changes.is_empty() {
            return self;
        }
        self.until_next(vm, state)
    }

    /// Reads changes until `vm` comes into `state` once more.
    pub fn until_next(&mut self, vm: &str, state: State) -> &mut Self {
        loop {
            let change = self.change();
            let Some(change) = change else {
                panic!("gunyahd went before {vm} was {state}: {:?}", self.changes);
            };
            if change.vm == vm && change.state == state {
                return self;
            }
        }
    }

    /// Reads changes until `vm` gives a reason that has `text`.
    pub fn until_reason(&mut self, vm: &str, text: &str) -> &mut Self {
        loop {
            let change = self.change();
            let Some(change) = change else {
                panic!("gunyahd went before {vm} said {text:?}: {:?}", self.changes);
            };
            if change.vm == vm && change.reason.contains(text) {
                return self;
            }
        }
    }

    /// All until gunyahd goes.
    pub fn until_the_end(&mut self) -> &mut Self {
        while self.change().is_some() {}
        self
    }

    pub fn states_of(&self, vm: &str) -> Vec<State> {
        let of_vm = self.changes.iter().filter(|change| change.vm == vm);
        of_vm.map(|change| change.state).collect()
    }

    /// Where in the story `vm` first came into `state`.
    pub fn position(&self, vm: &str, state: State) -> usize {
        let found = self.changes.iter().position(|change| change.vm == vm && change.state == state);
        found.unwrap_or_else(|| panic!("{vm} never was {state}: {:?}", self.changes))
    }
}

/// Waits for a process that is no child of ours to be gone; a zombie is not gone.
pub fn wait_gone(pid: Pid) {
    let end = Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{pid}")).exists() {
        assert!(Instant::now() < end, "process {pid} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The children of a process, zombies included.
pub fn children(pid: Pid) -> Vec<String> {
    let mut text = String::new();
    std::fs::File::open(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

pub fn open_fds(pid: Pid) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The smallest arm64 Image: header and nothing (Documentation/arch/arm64/booting.rst).
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    bytes[0..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    bytes[16..24].copy_from_slice(&4096u64.to_le_bytes());
    bytes[24..32].copy_from_slice(&0xau64.to_le_bytes());
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes
}
