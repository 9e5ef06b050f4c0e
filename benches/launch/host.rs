// SPDX-License-Identifier: Apache-2.0
//! `gunyahd boot` on the simulator, told what to do, and looked at from outside.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gunyah::Dialect;
use serde_json::{json, Value};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Host {
    simulator: Child,
    dir: PathBuf,
}

impl Host {
    /// Boots with `vms` and no other.
    pub fn boot(
        binaries: &Path,
        dir: &Path,
        dialect: Dialect,
        vms: &[Value],
        options: &[&str],
    ) -> Self {
        let config = dir.join("config");
        let _ = fs::remove_dir_all(&config);
        fs::create_dir_all(&config).unwrap();
        for vm in vms {
            let file = format!("{}.json", vm["name"].as_str().unwrap());
            fs::write(config.join(file), vm.to_string()).unwrap();
        }
        let simulator = Command::new(binaries.join("gunyah-sim"))
            .args(["--dialect", dialect.name(), "--rm", "debug", "--"])
            .arg(binaries.join("gunyahd"))
            .args(["boot", "--config-dir"])
            .arg(&config)
            .arg("--socket")
            .arg(dir.join("socket"))
            .args(options)
            .stdin(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let host = Self { simulator, dir: dir.to_owned() };
        let begin = Instant::now();
        while UnixStream::connect(dir.join("socket")).is_err() {
            assert!(begin.elapsed() < PATIENCE, "gunyahd does not listen: {}", host.log());
            std::thread::sleep(Duration::from_millis(1));
        }
        host
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Until gunyahd says it.
    pub fn wait_for_log(&self, what: &str) {
        let begin = Instant::now();
        while !self.log().contains(what) {
            assert!(begin.elapsed() < PATIENCE, "no {what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// A connection on which one request after another may be made.
    pub fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.dir.join("socket")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        BufReader::new(stream)
    }

    fn order(&self, op: &str, vm: &str) -> BufReader<UnixStream> {
        let mut stream = self.connect();
        ask(&mut stream, &json!({ "v": 1, "op": op, "vm": vm, "wait": true })).unwrap();
        stream
    }

    /// Until the VM has done it.
    pub fn done(&self, op: &str, vm: &str) {
        self.all_done(op, &[vm]);
    }

    /// All at once, until the last has done it.
    pub fn all_done(&self, op: &str, vms: &[&str]) {
        let orders: Vec<_> = vms.iter().map(|vm| self.order(op, vm)).collect();
        let wanted = if op == "stop" { "stopped" } else { "running" };
        for mut order in orders {
            let answer = answer(&mut order);
            assert_eq!(answer["done"]["state"], wanted, "{answer}: {}", self.log());
        }
    }

    /// The supervisor and its workers.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let supervisors = children(self.simulator.id());
        let workers = supervisors.iter().flat_map(|pid| children(*pid)).collect::<Vec<_>>();
        let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        supervisors
            .into_iter()
            .chain(workers)
            .map(|pid| (name(pid).trim().to_owned(), pid))
            .collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The simulator hands it on, and ends with gunyahd.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.simulator.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.simulator.wait().unwrap();
    }
}

pub fn ask(stream: &mut BufReader<UnixStream>, request: &Value) -> std::io::Result<()> {
    // One write: a request in two packets is two wake-ups.
    stream.get_mut().write_all(format!("{request}\n").as_bytes())
}

fn answer(stream: &mut BufReader<UnixStream>) -> Value {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// KiB that a process alone has written, guest memory apart.
pub fn private_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut guest = false;
    let mut sum = 0;
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if !first.ends_with(':') {
            guest = line.contains("/memfd:gunyah:");
        } else if first == "Private_Dirty:" && !guest {
            sum += line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap();
        }
    }
    sum
}

/// How often its threads have been woken so far.
pub fn wake_ups(pid: u32) -> u64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |thread: std::io::Result<fs::DirEntry>| {
        let text = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    threads.map(of).sum()
}

pub fn count(pid: u32, folder: &str) -> usize {
    fs::read_dir(format!("/proc/{pid}/{folder}")).unwrap().count()
}
