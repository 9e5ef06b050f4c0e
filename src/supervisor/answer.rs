// SPDX-License-Identifier: Apache-2.0
//! What a client asks, and when it is answered.

use std::os::fd::AsFd;

use crate::config::VmName;
use crate::status::control::{Begin, Change, ControlError, ErrorKind, Request, Response, Vms};
use crate::status::State;

use super::clients::ClientId;
use super::event_loop::Supervisor;
use super::lifecycle::Event;
use super::vm::{first, Vm};

/// What a waiting client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// Running, or ready where the VM can say so.
    Up,
    /// Without a worker.
    Down,
}

/// A client that waits for a VM.
#[derive(Debug)]
pub struct Waiter {
    client: ClientId,
    vm: VmName,
    goal: Goal,
}

impl Goal {
    /// Whether `state` answers the question, and how.
    fn met(self, state: State, tells_ready: bool) -> Option<bool> {
        match (self, state) {
            (_, State::Starting | State::Stopping) => None,
            (Goal::Up, State::Ready) => Some(true),
            (Goal::Up, State::Running) => (!tells_ready).then_some(true),
            (Goal::Up, State::Waiting) => None,
            (Goal::Up, _) => Some(false),
            (Goal::Down, State::Running | State::Ready) => None,
            // It was asked to start again in the meantime.
            (Goal::Down, State::Waiting) => Some(false),
            (Goal::Down, _) => Some(true),
        }
    }
}

impl Supervisor {
    /// Does what a client asks.
    pub(super) fn on_request(&mut self, client: ClientId, request: Request, now: u64) {
        match request {
            Request::Status { vm: None } => {
                let all = self.all(now);
                self.clients.answer(client, &all, now);
            }
            Request::Status { vm: Some(name) } => {
                let answer = self
                    .find(&name)
                    .map(|index| Response::Vms(vec![self.vms[index].status(now)].into()));
                self.reply(client, answer, now);
            }
            Request::Log { vm } => {
                let answer = self.find(&vm).map(|index| {
                    let vm = &self.vms[index];
                    let mut lines = vm.journal.lines();
                    lines.extend(vm.console_lines());
                    Response::Lines(lines)
                });
                self.reply(client, answer, now);
            }
            Request::Watch => {
                let all = self.all(now);
                self.clients.watch(client, &all, now);
            }
            Request::Console { vm, begin } => {
                if let Err(error) = self.show_console(client, &vm, begin, now) {
                    self.clients.answer(client, &Response::Error(error), now);
                }
            }
            Request::Start { vm, wait } => {
                self.change(client, &vm, Event::Start, Goal::Up, wait, now);
            }
            Request::Stop { vm, wait } => {
                let event = Event::Stop("stop asked");
                self.change(client, &vm, event, Goal::Down, wait, now);
            }
            Request::Restart { vm, wait } => {
                let event = Event::Restart("restart asked");
                self.change(client, &vm, event, Goal::Up, wait, now);
            }
        }
    }

    fn all(&self, now: u64) -> Response {
        Response::Vms(Vms {
            vms: self.vms.iter().map(|vm| vm.status(now)).collect(),
            problems: self.dir_problems.clone(),
        })
    }

    fn find(&self, name: &str) -> Result<usize, ControlError> {
        self.vms
            .iter()
            .position(|vm| vm.name.as_str() == name)
            .ok_or_else(|| {
                let known: Vec<&str> = self.vms.iter().map(|vm| vm.name.as_str()).collect();
                let known = match known.as_slice() {
                    [] => "there is none at all".to_owned(),
                    names => format!("there are {}", names.join(", ")),
                };
                ControlError::new(ErrorKind::UnknownVm, format!("no VM {name}: {known}"))
            })
    }

    /// Hands the client over to the worker, which shows it the console.
    fn show_console(
        &mut self,
        client: ClientId,
        name: &str,
        begin: Begin,
        now: u64,
    ) -> Result<(), ControlError> {
        let failed = |text: String| ControlError::new(ErrorKind::Failed, text);
        let vm = &self.vms[self.find(name)?];
        let has_console = vm.config.as_ref().is_some_and(|c| c.console.is_some());
        if !has_console {
            return Err(failed(format!("{name} has no `console` in its file")));
        }
        let state = vm.life.state();
        let worker = match (&vm.worker, state) {
            (Some(worker), State::Running | State::Ready | State::Stopping) => worker,
            _ => {
                return Err(failed(format!(
                    "{name} is {state}: its console is there while it runs; `log` shows the last output"
                )))
            }
        };
        let status = vm.status(now);
        let first = match begin {
            Begin::Replay(bytes) => status.console_end.unwrap_or(0).saturating_sub(bytes),
            Begin::At(first) => first,
        };
        let answer = Response::Done(Box::new(status));
        let Some(stream) = self.clients.release(client, &answer) else {
            return Ok(());
        };
        if let Err(errno) = worker.send_console(stream.as_fd(), first) {
            // The client sees its connection end.
            log::warn!("{name}: worker does not take a console client: {errno:?}");
        } else {
            log::info!("{name}: a client looks at its console");
        }
        Ok(())
    }

    fn reply(&mut self, client: ClientId, answer: Result<Response, ControlError>, now: u64) {
        let answer = answer.unwrap_or_else(Response::Error);
        self.clients.answer(client, &answer, now);
    }

    fn change(
        &mut self,
        client: ClientId,
        name: &str,
        event: Event<'_>,
        goal: Goal,
        wait: bool,
        now: u64,
    ) {
        let index = match self.find(name) {
            Ok(index) => index,
            Err(error) => return self.reply(client, Err(error), now),
        };
        let vm = &self.vms[index];
        if goal == Goal::Up {
            let refusal = if self.stopping {
                Some((ErrorKind::Busy, "gunyahd is going down".to_owned()))
            } else if vm.removed {
                Some((ErrorKind::Failed, format!("{name}: its file is gone")))
            } else if vm.config.is_none() {
                let text = format!("{name}: {}", first(&vm.problems));
                Some((ErrorKind::Failed, text))
            } else {
                None
            };
            if let Some((kind, text)) = refusal {
                return self.reply(client, Err(ControlError::new(kind, text)), now);
            }
        }
        // A restart of a running VM is met only by what comes after.
        let already = !matches!(event, Event::Restart(_))
            && goal
                .met(vm.life.state(), vm.tells_ready())
                .is_some_and(|met| met)
            && (goal == Goal::Up || vm.life.at_rest());
        self.feed(index, event, now);
        let vm = &self.vms[index];
        if already || !wait {
            let done = Response::Done(Box::new(vm.status(now)));
            return self.clients.answer(client, &done, now);
        }
        let waiter = Waiter {
            client,
            vm: vm.name.clone(),
            goal,
        };
        // A waiting VM is stopped at once: nothing more will be published.
        if goal == Goal::Down && vm.life.at_rest() {
            return self.settle_waiter(waiter, true, now);
        }
        self.waiters.push(waiter);
    }

    /// Answers those who wait for the VM at `index`, which has just come into a state.
    pub(super) fn wake_waiters(&mut self, index: usize, state: State, now: u64) {
        let tells_ready = self.vms[index].tells_ready();
        self.settle_waiters(index, |goal| goal.met(state, tells_ready), now);
    }

    /// Answers those who wait for a start that cannot come.
    pub(super) fn wake_stuck(&mut self, index: usize, now: u64) {
        self.settle_waiters(index, |goal| (goal == Goal::Up).then_some(false), now);
    }

    fn settle_waiters(&mut self, index: usize, met: impl Fn(Goal) -> Option<bool>, now: u64) {
        let name = self.vms[index].name.clone();
        let waiters = std::mem::take(&mut self.waiters);
        for waiter in waiters {
            match (waiter.vm == name).then(|| met(waiter.goal)).flatten() {
                Some(met) => self.settle_waiter(waiter, met, now),
                None if self.clients.is_waiting(waiter.client) => self.waiters.push(waiter),
                None => {}
            }
        }
    }

    fn settle_waiter(&mut self, waiter: Waiter, met: bool, now: u64) {
        let Some(vm) = self.vms.iter().find(|vm| vm.name == waiter.vm) else {
            return;
        };
        let answer = if met {
            Response::Done(Box::new(vm.status(now)))
        } else {
            let text = format!("{} is {}: {}", vm.name, vm.life.state(), vm.reason());
            Response::Error(ControlError::new(ErrorKind::Failed, text))
        };
        self.clients.answer(waiter.client, &answer, now);
    }

    /// Tells watchers of the VM's newest state.
    pub(super) fn tell_watchers(&mut self, vm: &str, state: State, reason: &str, now: u64) {
        let change = Response::Change(Change {
            at_ms: now,
            vm: vm.to_owned(),
            state,
            reason: reason.to_owned(),
        });
        self.clients.tell_watchers(&change, now);
    }

    /// Answers everybody who still waits: there will be no more changes.
    pub(super) fn dismiss_waiters(&mut self, now: u64) {
        for waiter in std::mem::take(&mut self.waiters) {
            let down = waiter.goal == Goal::Down
                && self
                    .vms
                    .iter()
                    .find(|vm| vm.name == waiter.vm)
                    .is_none_or(|vm: &Vm| vm.life.at_rest());
            self.settle_waiter(waiter, down, now);
        }
    }
}
