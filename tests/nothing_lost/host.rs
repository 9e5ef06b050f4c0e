// SPDX-License-Identifier: Apache-2.0
//! `gunyahd boot` with several VMs on the simulator, told which call is to fail.

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gunyah::Dialect;
use serde_json::{json, Value};

use crate::left::{self, HugePages, Left};
use crate::memlock::limit_memlock;
use crate::record::Record;
use crate::skip::skip;

/// Everything here takes milliseconds on a free machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing tells of what is looked at by polling: fds, processes, the record's file.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Huge pages are counted for the whole machine, so one test at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The programs, and the turn to use huge pages.
pub struct Stage {
    pub binaries: PathBuf,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Stage {
    /// None, and a loud word, where the simulator is missing.
    pub fn new() -> Option<Self> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Self::with(Some(turn))
    }

    /// For VMs on a driver: who has no huge pages of the pool waits for nobody.
    pub fn of(dialect: Dialect) -> Option<Self> {
        match dialect.pages_on_demand() {
            true => Self::with(None),
            false => Self::new(),
        }
    }

    fn with(turn: Option<MutexGuard<'static, ()>>) -> Option<Self> {
        let here = Path::new(env!("CARGO_BIN_EXE_gunyahd")).parent().unwrap();
        let binaries = std::env::var_os("GUNYAHD_BIN_DIR").map_or(here.to_owned(), PathBuf::from);
        if !binaries.join("gunyah-sim").is_file() {
            skip("no gunyah-sim; cargo build -p gunyah-sim makes it");
            return None;
        }
        // Orphans come to us: an init may take seconds to wait for them.
        nix::sys::prctl::set_child_subreaper(true).unwrap();
        Some(Self { binaries, _turn: turn })
    }
}

/// What a host is booted with.
pub struct Boot<'a> {
    /// The driver.
    pub dialect: Dialect,
    /// Files of VMs; `dir` in a path stands for the host's folder.
    pub vms: &'a [Value],
    /// Host calls that may fail.
    pub watch: &'a [&'a str],
    /// More commands for the simulator to begin with.
    pub script: &'a [&'a str],
    /// There is a log daemon.
    pub logd: bool,
    /// More options of `gunyahd boot`.
    pub options: &'a [&'a str],
    /// Every call goes into a file.
    pub record: bool,
    /// RLIMIT_MEMLOCK in bytes, and no capability to exceed or raise it.
    pub memlock: Option<u64>,
    /// Cores of the host, instead of those that there are.
    pub cores: Option<u32>,
}

impl Default for Boot<'_> {
    fn default() -> Self {
        Self {
            dialect: Dialect::Ack61,
            vms: &[],
            watch: &[],
            script: &[],
            logd: false,
            options: &[],
            record: false,
            memlock: None,
            cores: None,
        }
    }
}

/// gunyahd on the simulator.
pub struct Host {
    binaries: PathBuf,
    pub dir: PathBuf,
    pub simulator: Child,
    pub supervisor: u32,
    control: BufReader<UnixStream>,
    changes: Receiver<Value>,
    /// Changes of VMs that nobody waited for yet.
    set_aside: RefCell<Vec<Value>>,
    pub record: Option<Record>,
}

/// The folder of a test, with the files that VMs are made of.
pub fn folder(test: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("gunyahd-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("config")).unwrap();
    fs::write(dir.join("Image"), image(8192)).unwrap();
    fs::write(dir.join("initrd"), vec![0x5a; 70_000]).unwrap();
    dir
}

impl Host {
    /// Boots in `dir`, which [`folder`] made; there may have been another host there before.
    pub fn boot(stage: &Stage, dir: &Path, boot: &Boot<'_>) -> Self {
        for vm in boot.vms {
            let name = vm["name"].as_str().unwrap();
            let text = vm.to_string().replace("dir/", &format!("{}/", dir.display()));
            fs::write(dir.join(format!("config/{name}.json")), text).unwrap();
        }
        fs::write(
            dir.join("script"),
            format!("watch {}\n{}\n", boot.watch.join(" "), boot.script.join("\n")),
        )
        .unwrap();
        let mut command = Command::new(stage.binaries.join("gunyah-sim"));
        // Some VMs are scheduled by the hypervisor: the real resource manager dies when one is stopped.
        command.args(["--dialect", boot.dialect.name(), "--rm", "debug"]);
        let path = |name: &str| dir.join(name);
        if boot.record {
            command.arg("--record").arg(path("record"));
            let _ = fs::remove_file(path("record"));
        }
        if let Some(cores) = boot.cores {
            command.args(["--cores", &cores.to_string()]);
        }
        if boot.logd {
            command.arg("--logd-socket").arg(path("logd"));
        }
        let _ = fs::remove_file(path("sim"));
        if let Some(bytes) = boot.memlock {
            limit_memlock(&mut command, bytes);
        }
        let simulator = command
            .arg("--script")
            .arg(path("script"))
            .arg("--control")
            .arg(path("sim"))
            .arg("--property-socket")
            .arg(path("property"))
            .env("GUNYAHD_PROPERTY_SOCKET", path("property"))
            .env("GUNYAHD_LOGD_SOCKET", path("logd"))
            .arg("--")
            .arg(stage.binaries.join("gunyahd"))
            .arg("boot")
            .arg("--config-dir")
            .arg(path("config"))
            .arg("--socket")
            .arg(path("socket"))
            .args(boot.options)
            .stdin(Stdio::null())
            .stderr(fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let control = BufReader::new(connect(&path("sim")));
        let changes = watch(&path("socket"));
        let supervisor = left::children(simulator.id())[0];
        let record = boot.record.then(|| Record::open(&path("record")));
        Self {
            binaries: stage.binaries.clone(),
            dir: dir.to_owned(),
            simulator,
            supervisor,
            control,
            changes,
            set_aside: RefCell::default(),
            record,
        }
    }

    /// A command to the simulator.
    pub fn tell_simulator(&mut self, command: &str) {
        writeln!(self.control.get_mut(), "{command}").unwrap();
        let mut answer = String::new();
        self.control.read_line(&mut answer).unwrap();
        assert_eq!(answer, "ok\n", "{command}");
    }

    /// A request to gunyahd, and its answer.
    pub fn ask(&self, request: &Value) -> Value {
        let mut stream = connect(&self.dir.join("socket"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    /// `start`, `stop` or `restart` of a VM.
    pub fn order(&self, op: &str, vm: &str, wait: bool) -> Value {
        self.ask(&json!({ "v": 1, "op": op, "vm": vm, "wait": wait }))
    }

    pub fn status(&self, vm: &str) -> Value {
        let mut answer = self.ask(&json!({ "v": 1, "op": "status", "vm": vm }));
        answer["vms"][0].take()
    }

    /// What `gunyahctl status --json` says of a VM.
    pub fn gunyahctl_status(&self, vm: &str) -> Value {
        let output = Command::new(self.binaries.join("gunyahctl"))
            .arg("--socket")
            .arg(self.dir.join("socket"))
            .args(["status", vm, "--json"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        answer["vms"][0].take()
    }

    /// Waits until the VM comes into one of `states`, and says into which; all its changes since
    /// the last call are looked at, in order.
    pub fn wait_for(&self, vm: &str, states: &[&str]) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut set_aside = self.set_aside.borrow_mut();
        let (of_it, of_others) = set_aside.drain(..).partition(|change| change["vm"] == vm);
        *set_aside = of_others;
        let mut of_it: Vec<Value> = of_it;
        loop {
            while !of_it.is_empty() {
                let change = of_it.remove(0);
                let state = change["state"].as_str().unwrap_or_default();
                if states.contains(&state) {
                    set_aside.append(&mut of_it);
                    return Ok(state.to_owned());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(change) = self.changes.recv_timeout(left) else {
                return Err(format!("{vm} is not {states:?}: {:#}", self.status(vm)));
            };
            if change["vm"] == vm {
                of_it.push(change);
            } else {
                set_aside.push(change);
            }
        }
    }

    /// A VM's life without faults: started and stopped.
    pub fn live(&self, vm: &str) -> Result<(), String> {
        for (op, state) in [("start", "running"), ("stop", "stopped")] {
            let answer = self.order(op, vm, true);
            if answer["done"]["state"] != state {
                return Err(format!("{op}: {answer}"));
            }
        }
        Ok(())
    }

    /// Drops the changes so far.
    pub fn forget_changes(&self) {
        while self.changes.try_recv().is_ok() {}
        self.set_aside.borrow_mut().clear();
    }

    /// gunyahd's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// What there is now.
    pub fn look(&self) -> Left {
        let dir = self.dir.to_string_lossy();
        left::look(self.simulator.id(), self.supervisor, &dir)
    }

    /// What there is once nothing changes: connections come and go a little late.
    pub fn look_when_settled(&self) -> Left {
        let mut before = self.look();
        loop {
            std::thread::sleep(Duration::from_millis(50));
            let now = self.look();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    /// Waits until all is as it was; clients' connections, for example, end a little later.
    pub fn wait_for_nothing_left(&self, before: &Left, huge: HugePages) -> Result<(), String> {
        self.wait_for_only(before)?;
        left::wait_for_pool(huge)
    }

    /// The same, but for the pool of huge pages.
    pub fn wait_for_only(&self, before: &Left) -> Result<(), String> {
        wait_until(
            || self.look() == *before,
            || format!("left behind {:#?}, before {before:#?}", self.look()),
        )
    }

    /// SIGTERM to gunyahd, which stops its VMs; then nothing may be left.
    pub fn end(mut self) {
        let family = left::family(self.simulator.id());
        signal(self.supervisor, libc::SIGTERM);
        let status = self.simulator.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{}", self.log());
        wait_until_gone(&family).unwrap();
        for socket in ["socket", "sim", "property", "logd"] {
            assert!(!self.dir.join(socket).exists(), "{socket}");
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.simulator.kill();
        let _ = self.simulator.wait();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(6000);
            eprintln!("end of gunyahd's log:\n{}", log.get(from..).unwrap_or(&log));
        }
    }
}

/// Waits for `done`, of which nothing tells; `what` is said if it does not come.
pub fn wait_until(mut done: impl FnMut() -> bool, what: impl Fn() -> String) -> Result<(), String> {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        if Instant::now() > deadline {
            return Err(what());
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Waits until none of the processes is there, not even dead.
pub fn wait_until_gone(pids: &[u32]) -> Result<(), String> {
    let there = || -> Vec<String> {
        for pid in pids {
            let orphan = nix::unistd::Pid::from_raw(i32::try_from(*pid).unwrap());
            let _ = nix::sys::wait::waitpid(orphan, Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        }
        let left = pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists());
        left.map(|pid| format!("{pid} {}", left::name(*pid))).collect()
    };
    wait_until(|| there().is_empty(), || format!("still there: {:?}", there()))
}

pub fn signal(pid: u32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
}

fn connect(socket: &Path) -> UnixStream {
    let mut stream = None;
    wait_until(
        || {
            stream = UnixStream::connect(socket).ok();
            stream.is_some()
        },
        || format!("nobody listens at {}", socket.display()),
    )
    .unwrap();
    stream.unwrap()
}

/// Every change of state, from the states at the beginning on.
fn watch(socket: &Path) -> Receiver<Value> {
    let mut stream = connect(socket);
    writeln!(stream, "{}", json!({ "v": 1, "op": "watch" })).unwrap();
    let (sender, changes) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let line: Value = serde_json::from_str(&line).unwrap();
            let mut told = line["vms"].as_array().cloned().unwrap_or_default();
            told.push(line["change"].clone());
            for change in told {
                if sender.send(change).is_err() {
                    return;
                }
            }
        }
    });
    changes
}

/// An arm64 Image of so many bytes: a branch to itself, the header that names its size, and bytes
/// that do not pack well.
pub fn image(bytes: usize) -> Vec<u8> {
    let mut image = Vec::with_capacity(bytes + 8);
    let mut state = 1u64;
    while image.len() < bytes {
        // Knuth's MMIX generator.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        image.extend(state.to_le_bytes());
    }
    image.truncate(bytes);
    image[..64].fill(0);
    image[..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    image[16..24].copy_from_slice(&u64::try_from(bytes).unwrap().to_le_bytes());
    // Anywhere in memory, 4 KiB pages, little endian.
    image[24..32].copy_from_slice(&0xau64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}
