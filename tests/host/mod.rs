// SPDX-License-Identifier: Apache-2.0
//! `gunyahd boot` with one VM on the simulator, and gunyahctl beside it.
#![allow(dead_code)] // Each test file uses its part.

pub mod assemble;
pub mod disk;
pub mod peer;
mod skip;

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{json, Value};

pub use skip::skip;

// Everything here takes milliseconds on a free machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where the programs are, or a loud word about what is missing.
pub fn binaries(engine: &str) -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_BIN_EXE_gunyahd")).parent().unwrap();
    let binaries = std::env::var_os("GUNYAHD_BIN_DIR").map_or(here.to_owned(), PathBuf::from);
    let simulator = binaries.join("gunyah-sim");
    if !simulator.is_file() {
        skip("no gunyah-sim; cargo build -p gunyah-sim makes it");
        return None;
    }
    let mut try_it = Command::new(simulator);
    let tried = try_it.args(["--engine", engine, "--", "/bin/true"]).output();
    if !tried.unwrap().status.success() {
        skip(&format!(
            "gunyah-sim has no engine {engine}; cargo build -p gunyah-sim --features {engine} adds it"
        ));
        return None;
    }
    Some(binaries)
}

/// `gunyahd boot` on the simulator, and gunyahctl beside it.
pub struct Host {
    binaries: PathBuf,
    /// Files of this test.
    pub dir: PathBuf,
    /// How long it may be until the next change of state.
    pub patience: Duration,
    simulator: Child,
}

impl Host {
    /// Boots one VM, named `vm`, with `changes` to its file, on `engine` with a script for the
    /// simulator. `kernel` and an initrd, if `changes` has one as text, become files.
    pub fn boot(
        test: &str,
        engine: &str,
        script: &str,
        kernel: &[u8],
        changes: &Value,
    ) -> Option<Self> {
        Self::boot_on("ack61", test, engine, script, kernel, changes)
    }

    /// The same on the driver of `dialect`.
    pub fn boot_on(
        dialect: &str,
        test: &str,
        engine: &str,
        script: &str,
        kernel: &[u8],
        changes: &Value,
    ) -> Option<Self> {
        Self::boot_with(&[], dialect, test, engine, script, kernel, changes)
    }

    /// The same with further options of the simulator.
    pub fn boot_with(
        options: &[&OsStr],
        dialect: &str,
        test: &str,
        engine: &str,
        script: &str,
        kernel: &[u8],
        changes: &Value,
    ) -> Option<Self> {
        let binaries = binaries(engine)?;
        let dir = std::env::temp_dir()
            .join(format!("gunyahd-{engine}-{dialect}-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("config")).unwrap();
        fs::write(dir.join("Image"), kernel).unwrap();
        fs::write(dir.join("script"), script).unwrap();
        let mut config = json!({
            "name": "vm",
            "memory": { "size": "4M", "backing": ["base"] },
            "kernel": { "path": dir.join("Image") },
            "restart": { "policy": "never" },
            "stop_timeout": "1m",
        });
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        if let Some(bytes) = config["initrd"].as_str().map(str::to_owned) {
            fs::write(dir.join("initrd"), bytes).unwrap();
            config["initrd"] = json!({ "path": dir.join("initrd") });
        }
        if let Some(cmdline) = config["cmdline"].as_str().map(str::to_owned) {
            config["kernel"]["cmdline"] = json!(cmdline);
            config.as_object_mut().unwrap().remove("cmdline");
        }
        fs::write(dir.join("config/vm.json"), config.to_string()).unwrap();
        let simulator = Command::new(binaries.join("gunyah-sim"))
            .args(["--dialect", dialect, "--engine", engine, "--script"])
            .arg(dir.join("script"))
            .arg("--record")
            .arg(dir.join("record"))
            .args(options)
            .arg("--")
            .arg(binaries.join("gunyahd"))
            .arg("boot")
            .arg("--config-dir")
            .arg(dir.join("config"))
            .arg("--socket")
            .arg(dir.join("socket"))
            .stdin(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let host = Self { binaries, dir, patience: PATIENCE, simulator };
        let deadline = Instant::now() + PATIENCE;
        // Its file is there before anybody listens.
        while UnixStream::connect(host.dir.join("socket")).is_err() {
            assert!(Instant::now() < deadline, "no control socket");
            std::thread::sleep(Duration::from_millis(5));
        }
        Some(host)
    }

    pub fn ctl(&self, words: &[&str]) -> Command {
        let mut ctl = Command::new(self.binaries.join("gunyahctl"));
        ctl.arg("--socket").arg(self.dir.join("socket")).args(words);
        ctl
    }

    /// gunyahd's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// The record's lines so far.
    pub fn record(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.dir.join("record")).unwrap();
        // The last one may not be whole yet.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Names and arguments of the driver's calls so far that did something, in their order.
    pub fn calls(&self) -> Vec<(String, Value)> {
        let mut lines = self.record();
        lines.sort_by_key(|line| line["seq"].as_u64());
        lines
            .into_iter()
            .filter(|line| line["call"].is_string() && line["errno"].is_null())
            .map(|line| (line["call"].as_str().unwrap().to_owned(), line["args"].clone()))
            .collect()
    }

    /// The console's lines that the guest printed, as `gunyahctl log` shows them.
    pub fn printed(&self) -> Vec<String> {
        let text = String::from_utf8(self.ask(&["log", "vm"]).stdout).unwrap();
        text.lines().filter_map(|line| line.strip_prefix("console| ")).map(str::to_owned).collect()
    }

    /// `gunyahd run` of the VM's file on a simulator of its own.
    pub fn run_alone(&self, engine: &str) -> Command {
        let mut command = Command::new(self.binaries.join("gunyah-sim"));
        command
            .args(["--engine", engine, "--"])
            .arg(self.binaries.join("gunyahd"))
            .arg("run")
            .arg(self.dir.join("config/vm.json"));
        command
    }

    pub fn ask(&self, words: &[&str]) -> Output {
        self.ctl(words).stdin(Stdio::null()).output().unwrap()
    }

    pub fn status(&self) -> Value {
        let answer = self.ask(&["status", "vm", "--json"]);
        let value: Result<Value, _> = serde_json::from_slice(&answer.stdout);
        value.unwrap_or_else(|error| panic!("{error}: {answer:?}"))["vms"][0].clone()
    }

    /// Follows every change of state until `done` is true of the VM's status.
    pub fn wait_until(&self, done: impl Fn(&Value) -> bool) -> Value {
        let watch = self.ctl(&["watch", "--json"]).stdout(Stdio::piped()).spawn();
        let mut watch = Watch(watch.unwrap());
        let changes = lines(watch.0.stdout.take().unwrap());
        loop {
            let status = self.status();
            if done(&status) {
                return status;
            }
            if changes.recv_timeout(self.patience).is_err() {
                panic!("nothing more happens: {status:#}");
            }
        }
    }

    /// Waits for a line of the guest's that contains this, complete or not.
    pub fn wait_for_line(&self, text: &str) {
        let deadline = Instant::now() + self.patience;
        // Nothing tells of an incomplete line.
        while !String::from_utf8_lossy(&self.ask(&["log", "vm"]).stdout).contains(text) {
            assert!(Instant::now() < deadline, "no `{text}`");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn wait_for(&self, state: &str) -> Value {
        self.wait_until(|status| status["state"] == state)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.simulator.id()).unwrap()),
            nix::sys::signal::Signal::SIGTERM,
        );
        let _ = self.simulator.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log"));
            eprintln!("gunyahd's log:\n{}", log.unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lines as they come.
pub fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}
