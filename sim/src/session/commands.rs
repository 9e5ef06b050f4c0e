// SPDX-License-Identifier: Apache-2.0
//! What scripts and the control socket ask for.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::intercept::host;
use crate::model::State;
use crate::script::{self, Command};
use crate::vm::VmId;

use super::{Due, Session, Teardown};

impl Session {
    /// Does one command; the answer is a line.
    pub(super) fn command(&mut self, command: Command) -> String {
        match command {
            Command::Exit { vm, exit, after } => {
                let mut found = false;
                let running: Vec<_> = self
                    .model
                    .vms()
                    .filter(|of| vm.is_none_or(|wanted| wanted == of.id))
                    .map(|of| (of.id, of.state))
                    .collect();
                for (id, state) in running {
                    if state == State::Running {
                        found = true;
                        self.due.push((Instant::now() + after, Due::Exit(id, exit)));
                    }
                }
                // A rule for every VM stays; one for a VM that runs is done.
                if vm.is_none() || !found {
                    self.ends.push((vm, exit, after));
                }
            }
            Command::Busy { vm, count } => {
                self.vcpus.busy.insert(vm, count);
            }
            Command::Signals { vm, count } => {
                self.vcpus.signals.insert(vm, count);
            }
            Command::Spin { vm } => {
                self.vcpus.spins.insert(vm);
            }
            Command::Untold { vm } => {
                self.vcpus.untold.insert(vm);
            }
            Command::PageFault { vm, errno, address } => {
                self.vcpus.faults.insert(vm, (address, errno));
            }
            Command::Refuse { vm, errno, at: None } => {
                self.refusals.insert(vm, errno);
            }
            Command::Refuse { vm, errno, at: Some(stage) } => {
                self.model.refuse_at(vm, stage, errno);
            }
            Command::Call { call, .. } if self.is_unwatched(&call) => {
                return format!("error: {call} is not watched: the script has to say so");
            }
            Command::Call { call, nth, from, fault } => self.faults.add(call, nth, from, fault),
            // The script's were set up before the program began.
            Command::Watch(names) => {
                if let Some(name) = names.iter().find(|name| !self.watched.contains(name)) {
                    return format!("error: {name} is not watched: the script has to say so");
                }
            }
            Command::Forgive => self.faults.forgive(),
            Command::Teardown { delay, behind } => self.teardown = Teardown { delay, behind },
            Command::TeardownOver => {
                self.teardown.delay = Duration::ZERO;
                std::mem::take(&mut self.waits).end();
            }
            Command::RmDead => self.kill_rm("a script says so"),
            Command::Property(mode) if self.peers.set_property_mode(mode) => {}
            Command::Log(mode) if self.peers.set_log_mode(mode) => {}
            Command::Property(_) | Command::Log(_) => {
                return "error: no such peer, or it cannot come back".to_string()
            }
            Command::List => return self.list(),
        }
        "ok".to_string()
    }

    fn is_unwatched(&self, call: &str) -> bool {
        host::known(call).is_some_and(|name| !self.watched.contains(&name))
    }

    /// A VM runs now: its scripted ends have a time.
    pub(super) fn schedule_ends(&mut self, vm: VmId) {
        let now = Instant::now();
        let mut due = Vec::new();
        self.ends.retain(|(wanted, exit, after)| {
            if wanted.is_none_or(|wanted| wanted == vm) {
                due.push((now + *after, Due::Exit(vm, *exit)));
            }
            *wanted != Some(vm)
        });
        self.due.extend(due);
    }

    fn list(&self) -> String {
        let vms: Vec<_> = self
            .model
            .vms()
            .map(|vm| {
                json!({
                    "vm": vm.id,
                    "pid": vm.creator.pid,
                    "state": if vm.closing { "teardown" } else { vm.state.as_str() },
                    "regions": vm.regions.len(),
                    "vcpus": vm.vcpus.len(),
                    "pinned": vm.charged(),
                })
            })
            .collect();
        json!({ "vms": vms }).to_string()
    }

    /// Serves whoever is at the control socket.
    pub(super) fn serve_control(&mut self) {
        let Some(mut control) = self.control.take() else {
            return;
        };
        for (client, line) in control.take_lines() {
            let answer = match script::parse_line(&line) {
                Ok(Some(command)) => self.command(command),
                Ok(None) => "ok".to_string(),
                Err(what) => format!("error: {what}"),
            };
            control.answer(client, &answer);
        }
        self.control = Some(control);
    }
}
