// SPDX-License-Identifier: Apache-2.0
//! The simulator's record, read while it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

/// A call that the simulator looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// As scripts name it.
    pub name: String,
    pub pid: i64,
    /// Which of its name in its process, while that has this name.
    pub nth: u64,
    /// Its process's name.
    pub process: String,
    /// Raw arguments of a host call.
    pub args: [u64; 6],
    /// The name of the file that it opens.
    pub path: String,
    /// The name of the file that its process opened last.
    pub opened: String,
    /// Its process's VM had been told to start.
    pub started: bool,
    /// A script gave the answer.
    pub injected: bool,
}

/// What is known of a process.
#[derive(Default)]
struct Process {
    /// By call and the process's name at the time.
    counts: BTreeMap<(String, String), u64>,
    opened: String,
    started: bool,
}

/// The record so far.
pub struct Record {
    file: File,
    half: Vec<u8>,
    processes: BTreeMap<i64, Process>,
    /// All calls since the last [`Record::forget`], in the order of their answers.
    pub calls: Vec<Call>,
    /// The properties' last values.
    pub properties: BTreeMap<String, String>,
    /// What the log daemon was told.
    pub log: Vec<String>,
    /// What failed STARTs have lost for good: a number of the resource manager's, and bytes.
    pub lost: Vec<(bool, u64)>,
    // By the simulator's numbers, because a VM whose creator was killed meanwhile is given back
    // without ever having been answered for.
    created: BTreeSet<u64>,
    reclaimed: BTreeSet<u64>,
}

impl Record {
    pub fn open(path: &Path) -> Self {
        Self {
            file: File::open(path).unwrap(),
            half: Vec::new(),
            processes: BTreeMap::new(),
            calls: Vec::new(),
            properties: BTreeMap::new(),
            log: Vec::new(),
            lost: Vec::new(),
            created: BTreeSet::new(),
            reclaimed: BTreeSet::new(),
        }
    }

    /// Takes in what is new.
    pub fn read(&mut self) {
        let mut text = std::mem::take(&mut self.half);
        self.file.read_to_end(&mut text).unwrap();
        let whole = text.iter().rposition(|&byte| byte == b'\n');
        let whole = whole.map_or(0, |at| at + 1);
        self.half = text.split_off(whole);
        for line in text.split(|&byte| byte == b'\n') {
            if !line.is_empty() {
                self.take(&serde_json::from_slice(line).unwrap());
            }
        }
    }

    fn take(&mut self, line: &Value) {
        let text = |key: &str| line[key].as_str().map(str::to_owned);
        match line["event"].as_str() {
            Some("property") => {
                let (name, value) = (text("name").unwrap(), text("value").unwrap());
                self.properties.insert(name, value);
            }
            Some("log") => self.log.extend(text("message")),
            Some("lost") => {
                let bytes = line["bytes"].as_u64().unwrap();
                self.lost.push((line["vmid"] == true, bytes));
            }
            Some("reclaimed") => self.reclaimed.extend(line["vm"].as_u64()),
            _ => {}
        }
        let Some(name) = text("call") else { return };
        let name = name.strip_prefix("VM_").unwrap_or(&name).to_owned();
        let pid = line["pid"].as_i64().unwrap();
        let injected = line["note"] == "injected";
        if name == "CREATE_VM" && line["errno"].is_null() {
            self.created.extend(line["vm"].as_u64());
        }
        let word = |at: usize| {
            let text = line["args"]["args"][at].as_str()?;
            u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
        };
        let path = line["args"]["path"].as_str().unwrap_or_default();
        let path = path.rsplit('/').next().unwrap_or_default();
        let process = self.processes.entry(pid).or_default();
        let called = line["process"].as_str().unwrap_or_default().to_owned();
        let count = process.counts.entry((name.clone(), called.clone())).or_insert(0);
        *count += 1;
        if name == "openat" {
            path.clone_into(&mut process.opened);
        }
        self.calls.push(Call {
            pid,
            nth: *count,
            process: called,
            args: std::array::from_fn(|at| word(at).unwrap_or(0)),
            path: path.to_owned(),
            opened: process.opened.clone(),
            started: process.started,
            injected,
            name,
        });
        process.started |= line["call"] == "VM_START";
    }

    /// The simulator's number of the VM that was created last.
    pub fn newest_vm(&self) -> u64 {
        self.created.last().copied().unwrap_or(0)
    }

    /// VMs created and not given back.
    pub fn vms(&self) -> usize {
        self.created.difference(&self.reclaimed).count()
    }

    /// Drops the calls so far.
    pub fn forget(&mut self) {
        self.calls.clear();
        self.processes.clear();
    }
}
