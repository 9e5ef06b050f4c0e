// SPDX-License-Identifier: Apache-2.0
//! VMs' files: read at start, and again at SIGHUP.
//!
//! A new file's VM is started if it wants to be. A changed file counts from its VM's next start. A
//! VM whose file is gone is stopped, and forgotten once it has ended. A file that was good and now
//! has mistakes is told and otherwise left: its VM keeps what it had. So do all VMs of a directory
//! that cannot be read.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::config::{changed_keys, reload_dirs, ConfigFile, ConfigSet};
use crate::diagnostic::Diagnostic;
use crate::status::State;
use crate::text::errno_name;

use super::event_loop::Supervisor;
use super::lifecycle::Event;
use super::vm::{first, Vm};

impl Supervisor {
    /// Reads the files for the first time.
    pub(super) fn load(&mut self, dirs: Vec<PathBuf>) {
        self.config_dirs = dirs;
        let set = self.read_files();
        let now = self.now();
        let count = set.files.len();
        for file in set.files {
            self.add(file, now);
        }
        let dirs: Vec<String> = self
            .config_dirs
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        match count {
            0 => log::info!("no *.json in {}: no VMs", dirs.join(", ")),
            _ => log::info!("{count} VMs in {}", dirs.join(", ")),
        }
    }

    fn read_files(&mut self) -> ConfigSet {
        let known = self.vms.iter().filter(|vm| !vm.removed);
        let known = known.map(|vm| (vm.file.clone(), vm.name.clone())).collect();
        let set = reload_dirs(&self.config_dirs, &known);
        for problem in set.all_problems() {
            log::error!("{problem}");
        }
        self.dir_problems = set.problems.iter().map(told_of_dir).collect();
        set
    }

    /// A VM that was not there before.
    fn add(&mut self, file: ConfigFile, now: u64) {
        let vm = Vm::of_file(file, now);
        self.vms.push(vm);
        let index = self.vms.len() - 1;
        self.announce(index, now);
        if self.vms[index].life.state() == State::Waiting {
            self.feed(index, Event::Boot, now);
        }
    }

    /// Reads the files again.
    pub(super) fn reload(&mut self) {
        let set = self.read_files();
        let now = self.now();
        for place in set
            .problems
            .iter()
            .filter_map(|problem| problem.place.as_ref())
        {
            let dir = place.file.display();
            log::error!("{dir}: not read again: its VMs stay as they are");
        }
        let mut told = set.problems.len();
        for index in 0..self.vms.len() {
            let vm = &mut self.vms[index];
            // A directory that cannot be read for a moment must not stop its VMs.
            if set.is_unread(&vm.file) {
                continue;
            }
            if !vm.removed && !set.files.iter().any(|file| file.vm == vm.name) {
                vm.removed = true;
                told += 1;
                let path = vm.file.display();
                // A new name in the same file is another VM.
                let (what, by) = match set.files.iter().find(|file| file.path == vm.file) {
                    Some(file) => (
                        format!("{path} describes {} now", file.vm),
                        "its file describes another VM",
                    ),
                    None => (format!("{path} is gone"), "its file was removed"),
                };
                log::info!("{}: removed, {what}", vm.name);
                self.feed(index, Event::Stop(by), now);
            }
        }
        for file in set.files {
            match self.vms.iter().position(|vm| vm.name == file.vm) {
                Some(index) => told += usize::from(self.renew(index, file, now)),
                None => {
                    log::info!("{}: added, {}", file.vm, file.path.display());
                    told += 1;
                    self.add(file, now);
                }
            }
        }
        if told == 0 {
            log::info!("files read again: nothing changed");
        }
    }

    /// Takes over what a known VM's file says now; whether it is news.
    fn renew(&mut self, index: usize, file: ConfigFile, now: u64) -> bool {
        let vm = &mut self.vms[index];
        vm.file = file.path;
        let back = std::mem::replace(&mut vm.removed, false);
        let config = match file.config {
            Ok(config) => config,
            Err(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                let news = vm.problems != problems;
                vm.problems = problems;
                if news {
                    let line = format!("its file has mistakes: {}", first(&vm.problems));
                    vm.journal.add(now, &line);
                    log::warn!("{}: {line}; the last good one stays", vm.name);
                }
                return news || back;
            }
        };
        vm.problems.clear();
        let Some(old) = vm.config.replace(config.clone()) else {
            log::info!("{}: its file is good now", vm.name);
            vm.journal.add(now, "its file is good now");
            vm.begin_anew(now);
            self.announce(index, now);
            if self.vms[index].life.state() == State::Waiting {
                self.feed(index, Event::Boot, now);
            }
            return true;
        };
        let changed = changed_keys(&old, &config);
        if !changed.is_empty() {
            let line = format!("changed, from its next start: {}", changed.join(", "));
            log::info!("{}: {line}", vm.name);
            vm.journal.add(now, &line);
        }
        if back {
            log::info!("{}: its file is back", vm.name);
            self.feed(index, Event::Start, now);
        }
        back || !changed.is_empty()
    }
}

/// A directory has no lines and columns.
fn told_of_dir(problem: &Diagnostic) -> String {
    let dir = problem
        .place
        .as_ref()
        .map(|place| place.file.display().to_string());
    let errno = problem
        .errno
        .map(|raw| format!(": {}", errno_name(Errno::from_raw(raw))));
    let (dir, errno) = (dir.unwrap_or_default(), errno.unwrap_or_default());
    format!("{dir}: {}{errno}", problem.what)
}
