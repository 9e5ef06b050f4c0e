// SPDX-License-Identifier: Apache-2.0
//! VMs' files: read at start, and again at SIGHUP.
//!
//! A new file's VM is started if it wants to be. A changed file counts from its VM's next start. A
//! VM whose file is gone is stopped, and forgotten once it has ended. A file that was good and now has
//! mistakes is reported, and its VM keeps what it had. So do all VMs of a directory that cannot be
//! read.

use std::path::PathBuf;

use crate::config::{changed_keys, load_dirs, ConfigFile, ConfigSet};
use crate::list::Listed;
use crate::status::logger;
use crate::text::Count;

use super::fleet::Fleet;
use super::lifecycle::Event;
use super::publisher::Publisher;
use super::vm::{first, Vm};

/// Where they are.
#[derive(Debug, Default)]
pub struct Files {
    dirs: Vec<PathBuf>,
    /// Directories that could not be read the last time, and why.
    pub problems: Vec<String>,
}

impl Files {
    pub fn of(dirs: Vec<PathBuf>) -> Self {
        let problems = Vec::new();
        Self { dirs, problems }
    }

    fn read(&mut self, fleet: &Fleet) -> ConfigSet {
        let known = fleet.vms.iter().filter(|vm| !vm.removed);
        let known = known.map(|vm| (vm.file.clone(), vm.name.clone())).listed();
        let set = load_dirs(&self.dirs, &known);
        for problem in set.all_problems() {
            logger::error!("{problem}");
        }
        self.problems = set.problems.iter().map(ToString::to_string).listed();
        set
    }

    /// Reads them for the first time.
    pub fn load(&mut self, fleet: &mut Fleet, now: u64, out: &mut Publisher) {
        let set = self.read(fleet);
        let count = set.files.len();
        for file in set.files {
            add(fleet, file, now, out);
        }
        let dirs = self.dirs.iter().map(|d| d.display().to_string()).listed();
        match count {
            0 => logger::info!("no *.json in {}: no VMs", dirs.join(", ")),
            _ => logger::info!("{} in {}", Count::of(count, "VM"), dirs.join(", ")),
        }
    }

    /// Reads them again.
    pub fn reload(&mut self, fleet: &mut Fleet, now: u64, out: &mut Publisher) {
        let set = self.read(fleet);
        for place in set.problems.iter().filter_map(|p| p.place.as_ref()) {
            let dir = place.file.display();
            logger::error!("{dir}: not read again: its VMs stay as they are");
        }
        let mut news = set.problems.len();
        for index in 0..fleet.vms.len() {
            news += usize::from(remove_if_gone(fleet, index, &set, now, out));
        }
        for file in set.files {
            match fleet.vms.iter().position(|vm| vm.name == file.vm) {
                Some(index) => news += usize::from(renew(fleet, index, file, now, out)),
                None => {
                    logger::info!("{}: added, {}", file.vm, file.path.display());
                    news += 1;
                    add(fleet, file, now, out);
                }
            }
        }
        if news == 0 {
            logger::info!("files read again: nothing changed");
        }
    }
}

/// A VM that was not there before.
fn add(fleet: &mut Fleet, file: ConfigFile, now: u64, out: &mut Publisher) {
    let mut vm = Vm::of_file(file, now);
    out.publish_state(&mut vm, now);
    fleet.vms.push(vm);
}

/// Begins to remove the VM at `index` if no file describes it any more; whether that is news.
fn remove_if_gone(
    fleet: &mut Fleet,
    index: usize,
    set: &ConfigSet,
    now: u64,
    out: &mut Publisher,
) -> bool {
    let vm = &mut fleet.vms[index];
    // A directory that cannot be read for a moment must not stop its VMs.
    let kept = vm.removed || set.is_unread(&vm.file);
    if kept || set.files.iter().any(|file| file.vm == vm.name) {
        return false;
    }
    vm.removed = true;
    let path = vm.file.display();
    // A new name in the same file is another VM.
    let by = match set.files.iter().find(|file| file.path == vm.file) {
        Some(file) => {
            logger::info!("{}: removed, {path} describes {} now", vm.name, file.vm);
            "its file describes another VM"
        }
        None => {
            logger::info!("{}: removed, {path} is gone", vm.name);
            "its file was removed"
        }
    };
    fleet.feed(index, Event::Stop(by), now, out);
    true
}

/// Takes over what a known VM's file says now; whether it is news.
fn renew(fleet: &mut Fleet, index: usize, file: ConfigFile, now: u64, out: &mut Publisher) -> bool {
    let vm = &mut fleet.vms[index];
    vm.file = file.path;
    let back = std::mem::replace(&mut vm.removed, false);
    let config = match file.config {
        Ok(config) => config,
        Err(problems) => {
            let problems = problems.iter().map(ToString::to_string).listed();
            let news = vm.problems != problems;
            vm.problems = problems;
            if news {
                let line = format!("its file has mistakes: {}", first(&vm.problems));
                vm.journal.add(now, &line);
                logger::warn!("{}: {line}; the last good one stays", vm.name);
            }
            return news || back;
        }
    };
    vm.problems.clear();
    let old = vm.config.replace(config);
    let (Some(old), Some(config)) = (old, &vm.config) else {
        logger::info!("{}: its file is good now", vm.name);
        vm.journal.add(now, "its file is good now");
        vm.begin_anew(now);
        out.publish_state(vm, now);
        return true;
    };
    let changed = changed_keys(&old, config);
    if !changed.is_empty() {
        let line = format!("changed, from its next start: {}", changed.join(", "));
        logger::info!("{}: {line}", vm.name);
        vm.journal.add(now, &line);
    }
    if back {
        logger::info!("{}: its file is back", vm.name);
        fleet.feed(index, Event::Start, now, out);
    }
    back || !changed.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::State;
    use crate::supervisor::spawn::Spawner;
    use crate::worker::Setting;

    #[test]
    fn files_come_change_break_and_go() {
        let dir = std::env::temp_dir().join(format!("gunyahd-files-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap();
        let good = |size: &str| {
            format!(
                r#"{{"name":"a","autostart":false,"memory":{{"size":"{size}"}},"kernel":{{"path":"/k"}}}}"#
            )
        };
        let spawner = Spawner {
            setting: Setting { device: "/no/such/device".into(), confined: false },
            log_console: false,
            reserve: None,
            launches: 1,
        };
        let mut fleet = Fleet::new(spawner, false);
        let mut out = Publisher::to("/no/such/property/service".into());
        let mut files = Files::of(vec![dir.clone()]);
        let states = |fleet: &Fleet| -> Vec<(String, State)> {
            let vms = fleet.vms.iter();
            vms.map(|vm| (vm.name.to_string(), vm.life.state())).collect()
        };
        write("a.json", &good("4M"));
        write("b.json", "{");
        files.load(&mut fleet, 0, &mut out);
        let wanted = [("a".to_owned(), State::Disabled), ("b".to_owned(), State::Failed)];
        assert_eq!(states(&fleet), wanted);

        write("a.json", &good("6M"));
        std::fs::remove_file(dir.join("b.json")).unwrap();
        files.reload(&mut fleet, 1, &mut out);
        fleet.advance(1, &mut out);
        assert_eq!(states(&fleet), wanted[..1]);
        let line = fleet.vms[0].journal.lines().pop().unwrap();
        assert!(line.ends_with("from its next start: memory.size"), "{line}");

        write("a.json", "{");
        files.reload(&mut fleet, 2, &mut out);
        assert!(fleet.vms[0].config.is_some() && fleet.vms[0].problems.len() == 1);

        std::fs::remove_dir_all(&dir).unwrap();
        files.reload(&mut fleet, 3, &mut out);
        assert_eq!(states(&fleet), wanted[..1]);
        assert!(files.problems[0].contains("ENOENT"), "{:?}", files.problems);
    }
}
