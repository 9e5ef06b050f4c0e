// SPDX-License-Identifier: Apache-2.0
//! What a client asks, and what it is answered.

use std::os::fd::AsFd;

use crate::list::Listed;
use crate::status::control::{ControlError, ErrorKind, Request, Response, Vms};
use crate::status::logger;
use crate::status::State;

use super::clients::ClientId;
use super::fleet::Fleet;
use super::goal::Goal;
use super::lifecycle::Event;
use super::publisher::Publisher;
use super::vm::first;
use crate::text::symbol;

/// Serves one request.
pub struct Server<'a> {
    pub fleet: &'a mut Fleet,
    pub out: &'a mut Publisher,
    /// Config directories that cannot be read.
    pub problems: &'a [String],
    pub now: u64,
}

impl Server<'_> {
    /// Does what `client` asks.
    pub fn serve(&mut self, client: ClientId, request: Request) {
        let answer = match request {
            Request::Status { vm: None } => Ok(self.all()),
            Request::Status { vm: Some(name) } => self.find(&name).map(|index| {
                let vms = vec![self.fleet.vms[index].status(self.now)];
                Response::Vms(Vms { vms, ..Vms::default() })
            }),
            Request::Log { vm } => self.find(&vm).map(|index| {
                let vm = &self.fleet.vms[index];
                let mut lines = vm.journal.lines();
                lines.extend(vm.console_lines());
                Response::Lines(lines)
            }),
            Request::Watch {} => {
                let all = self.all();
                return self.out.clients.watch(client, &all, self.now);
            }
            Request::Console { vm, replay, at } => {
                match self.show_console(client, &vm, replay, at) {
                    Ok(()) => return,
                    Err(error) => Err(error),
                }
            }
            Request::Start { vm, wait } => {
                return self.change(client, &vm, Event::Start, wait);
            }
            Request::Stop { vm, wait } => {
                return self.change(client, &vm, Event::Stop("stop asked"), wait);
            }
            Request::Kill { vm, wait } => {
                if let Some(error) = self.nothing_to_kill(&vm) {
                    return self.answer(client, Err(error));
                }
                return self.change(client, &vm, Event::Kill("kill asked"), wait);
            }
            Request::Restart { vm, wait } => {
                return self.change(client, &vm, Event::Restart("restart asked"), wait);
            }
        };
        self.answer(client, answer);
    }

    fn answer(&mut self, client: ClientId, answer: Result<Response, ControlError>) {
        let answer = answer.unwrap_or_else(Response::Error);
        self.out.clients.answer(client, &answer, self.now);
    }

    fn all(&self) -> Response {
        let vms = self.fleet.vms.iter().map(|vm| vm.status(self.now));
        let problems = self.fleet.problems.iter().chain(self.problems).cloned().listed();
        let reserve = self.fleet.spawner.reserve.as_ref().map(|holdings| holdings.status());
        Response::Vms(Vms { vms: vms.listed(), problems, reserve })
    }

    fn find(&self, name: &str) -> Result<usize, ControlError> {
        let mut names = self.fleet.vms.iter().map(|vm| vm.name.as_str());
        names.clone().position(|known| known == name).ok_or_else(|| {
            let known = match names.next() {
                None => "there is none at all".to_owned(),
                Some(one) => names.fold(format!("there are {one}"), |all, one| all + ", " + one),
            };
            ControlError::new(ErrorKind::UnknownVm, format!("no VM {name}: {known}"))
        })
    }

    /// Hands the client over to the worker, which shows it the console.
    fn show_console(
        &mut self,
        client: ClientId,
        name: &str,
        replay: Option<u64>,
        at: Option<u64>,
    ) -> Result<(), ControlError> {
        let failed = |text: String| ControlError::new(ErrorKind::Failed, text);
        let vm = &self.fleet.vms[self.find(name)?];
        let has_console = vm.config.as_ref().is_some_and(|c| c.console.is_some());
        if !has_console {
            return Err(failed(format!("{name} has no `console` in its file")));
        }
        let state = vm.life.state();
        let worker = vm.worker.as_ref().filter(|_| state != State::Starting);
        let worker = worker.ok_or_else(|| {
            failed(format!(
                "{name} is {state}: its console is there while it runs; `log` shows the last output"
            ))
        })?;
        let status = vm.status(self.now);
        let end = status.console_end.unwrap_or(0);
        let first = at.unwrap_or_else(|| end.saturating_sub(replay.unwrap_or(0)));
        let answer = Response::Done(Box::new(status));
        let Some(stream) = self.out.clients.release(client, &answer) else {
            return Ok(());
        };
        match worker.send_console(stream.as_fd(), first) {
            Ok(()) => logger::info!("{name}: a client looks at its console"),
            // The client sees its connection end.
            Err(errno) => {
                logger::warn!("{name}: worker does not take a console client: {}", symbol(errno));
            }
        }
        Ok(())
    }

    /// Feeds `event` to a VM, and answers at once or when it has come to what was asked.
    fn change(&mut self, client: ClientId, name: &str, event: Event<'_>, wait: bool) {
        let goal = match event {
            Event::Stop(_) | Event::Kill(_) => Goal::Down,
            _ => Goal::Up,
        };
        let found = self.find(name).and_then(|index| {
            let refusal = self.refusal(index).filter(|_| goal == Goal::Up);
            refusal.map_or(Ok(index), Err)
        });
        let index = match found {
            Ok(index) => index,
            Err(error) => return self.answer(client, Err(error)),
        };
        let vm = &self.fleet.vms[index];
        let reached = goal.reached(vm.life.state(), vm.tells_ready()) == Some(true);
        let already = match event {
            // Only what comes after it counts.
            Event::Restart(_) => false,
            _ => reached,
        };
        self.fleet.feed(index, event, self.now, self.out);
        let vm = &self.fleet.vms[index];
        // A waiting VM is stopped at once: nothing more will be published.
        let done = goal == Goal::Down && vm.life.at_rest();
        if already || done || !wait {
            return self.out.clients.answer(client, &vm.answer(true, self.now), self.now);
        }
        self.out.clients.wait_for(client, vm.name.clone(), goal);
    }

    /// Why the VM has no worker that could be killed; none: it has one, or there is no such VM.
    fn nothing_to_kill(&self, name: &str) -> Option<ControlError> {
        let vm = &self.fleet.vms[self.find(name).ok()?];
        if vm.worker.is_some() {
            return None;
        }
        let state = vm.life.state();
        let hint = match state {
            State::Waiting => "; `stop` keeps it from starting",
            State::Stopping => "; only the kernel has it now",
            _ => "",
        };
        let text = format!("{name} is {state}: it has no process to kill{hint}");
        Some(ControlError::new(ErrorKind::Failed, text))
    }

    /// Why the VM at `index` cannot be started.
    fn refusal(&self, index: usize) -> Option<ControlError> {
        let vm = &self.fleet.vms[index];
        let failed =
            |what: &str| ControlError::new(ErrorKind::Failed, format!("{}: {what}", vm.name));
        if self.fleet.shutdown.is_some() {
            return Some(ControlError::new(ErrorKind::Busy, "gunyahd is stopping"));
        }
        if vm.removed {
            return Some(failed("its file is gone"));
        }
        vm.config.is_none().then(|| failed(&first(&vm.problems)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::config::{ConfigFile, VmName};
    use crate::status::control::parse_response;
    use crate::supervisor::spawn::Spawner;
    use crate::supervisor::vm::Vm;
    use crate::worker::Setting;

    /// What a client is answered by a host with one VM, whose file never was good.
    fn answer(request: Request) -> Response {
        let setting = Setting { device: "/no/such/device".into(), confined: false };
        let mut fleet =
            Fleet::new(Spawner { setting, log_console: false, reserve: None, launches: 1 }, false);
        let mut out = Publisher::to("/no/such/property/service".into());
        let file = ConfigFile {
            path: "a.json".into(),
            vm: VmName::new("a").unwrap(),
            config: Err(Vec::new()),
        };
        fleet.vms.push(Vm::of_file(file, 0));
        let (mut client, id) = out.clients.pair();
        let problems = &["/odm: cannot be read".to_owned()];
        Server { fleet: &mut fleet, out: &mut out, problems, now: 7 }.serve(id, request);
        let mut line = Vec::new();
        client.read_to_end(&mut line).unwrap();
        parse_response(&line).unwrap()
    }

    fn error(request: Request) -> (ErrorKind, String) {
        match answer(request) {
            Response::Error(ControlError { kind, message }) => (kind, message),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_vms_come_with_what_is_wrong_with_the_whole() {
        let Response::Vms(all) = answer(Request::Status { vm: None }) else { panic!() };
        assert_eq!((all.vms.len(), all.problems.len()), (1, 1));
        assert_eq!(all.vms[0].state, State::Failed);
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_what_is_done_already_is_answered_at_once() {
        let vm = || "a".to_owned();
        assert_eq!(
            error(Request::Start { vm: "b".to_owned(), wait: true }),
            (ErrorKind::UnknownVm, "no VM b: there are a".to_owned())
        );
        assert_eq!(
            error(Request::Start { vm: vm(), wait: true }),
            (ErrorKind::Failed, "a: its file has mistakes".to_owned())
        );
        let (_, text) = error(Request::Console { vm: vm(), replay: None, at: None });
        assert_eq!(text, "a has no `console` in its file");
        let (_, text) = error(Request::Kill { vm: vm(), wait: true });
        assert_eq!(text, "a is failed: it has no process to kill");
        let stopped = answer(Request::Stop { vm: vm(), wait: true });
        assert!(matches!(stopped, Response::Done(_)), "{stopped:?}");
    }
}
