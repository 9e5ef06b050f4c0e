// SPDX-License-Identifier: Apache-2.0
//! Publishes every change: the VM's journal, the log, system properties, and the clients that
//! watch or wait.

use std::path::PathBuf;

use crate::status::control::{Change, ReserveStatus, Response};
use crate::status::properties::PropertyClient;
use crate::status::{clock, logger, shorten, Overall, State};
use crate::text::Size;

use super::clients::Clients;
use super::goal::Goal;
use super::vm::{Vm, MAX_REASON};

/// Where states go.
pub struct Publisher {
    pub properties: PropertyClient,
    pub clients: Clients,
    overall: Option<Overall>,
    dialect: Option<String>,
    reserve: Option<(u64, u64)>,
}

impl Publisher {
    /// Properties go to the service at `socket`.
    pub fn to(socket: PathBuf) -> Self {
        Self {
            properties: PropertyClient::new(socket),
            clients: Clients::default(),
            overall: None,
            dialect: None,
            reserve: None,
        }
    }

    /// Publishes a state that `vm` has come into; it may have left it already.
    pub fn publish(&mut self, vm: &mut Vm, state: State, reason: &str, now: u64) {
        let reason = shorten(reason, MAX_REASON);
        vm.journal.add(now, &format!("{state}: {reason}"));
        let level = match state.is_bad() {
            true => log::Level::Error,
            false => log::Level::Info,
        };
        logger::say(level, format_args!("{}: {state}: {reason}", vm.name));
        let restarts = vm.life.restarts();
        let ready = Goal::Up.reached(state, vm.tells_ready()) == Some(true);
        let ready = ready.then(clock::since_boot);
        self.properties.set_vm(vm.name.as_str(), state, &reason, restarts, ready);
        let change =
            Response::Change(Change { at_ms: now, vm: vm.name.to_string(), state, reason });
        self.clients.tell_watchers(&change, now);
        self.wake(vm, state, now);
    }

    /// Publishes the state that `vm` is in.
    pub fn publish_state(&mut self, vm: &mut Vm, now: u64) {
        let reason = vm.life.reason().to_owned();
        self.publish(vm, vm.life.state(), &reason, now);
    }

    /// Answers those who wait for `vm`, which has come into `state`.
    pub fn wake(&mut self, vm: &Vm, state: State, now: u64) {
        let tells_ready = vm.tells_ready();
        self.wake_by(vm, |goal| goal.reached(state, tells_ready), now);
    }

    /// Answers those who wait for `vm` as `reached` says.
    pub fn wake_by(&mut self, vm: &Vm, reached: impl Fn(Goal) -> Option<bool>, now: u64) {
        for (client, reached) in self.clients.done_waiting(&vm.name, reached) {
            self.clients.answer(client, &vm.answer(reached, now), now);
        }
    }

    /// How many folios of the reserve are huge; published only if it changed.
    pub fn reserve(&mut self, reserve: &ReserveStatus) {
        let ReserveStatus { folio_size, folios, huge, .. } = *reserve;
        if self.reserve != Some((huge, folios)) {
            logger::info!("reserve: {huge} of {folios} folios of {} are huge", Size(folio_size));
            self.properties.set_reserve(huge, folios);
            self.reserve = Some((huge, folios));
        }
    }

    /// What the driver speaks; published only if it changed.
    pub fn dialect(&mut self, dialect: &str) {
        if self.dialect.as_deref() != Some(dialect) {
            logger::info!("the driver's dialect is {dialect}");
            self.dialect = Some(dialect.to_owned());
            self.properties.set_dialect(dialect);
        }
    }

    /// How gunyahd as a whole does; published only if it changed.
    pub fn overall(&mut self, overall: Overall) {
        if self.overall.replace(overall) != Some(overall) {
            self.properties.set_overall(overall);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;
    use crate::config::{ConfigFile, VmName};
    use crate::status::control::{parse_response, Request, Vms};
    use crate::supervisor::clients::Rights;

    #[test]
    fn one_change_reaches_journal_watchers_and_waiters() {
        let dir = std::env::temp_dir().join(format!("gunyahd-publisher-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let service = UnixListener::bind(dir.join("properties")).unwrap();
        service.set_nonblocking(true).unwrap();
        let mut out = Publisher::to(dir.join("properties"));
        let rights = Rights::new(0, false);
        let ask = |out: &mut Publisher, request| {
            let (client, id) = out.clients.pair();
            use std::io::Write;
            (&client).write_all(&crate::status::control::request_line(&request)).unwrap();
            out.clients.on_ready(id, nix::poll::PollFlags::POLLIN, &rights, 0);
            (client, id)
        };
        let (mut watcher, id) = ask(&mut out, Request::Watch {});
        out.clients.watch(id, &Response::Vms(Vms::default()), 0);
        let (mut waiter, id) = ask(&mut out, Request::Status { vm: None });
        let mut vm = Vm::of_file(
            ConfigFile {
                path: "a.json".into(),
                vm: VmName::new("a").unwrap(),
                config: Err(Vec::new()),
            },
            0,
        );
        out.clients.wait_for(id, vm.name.clone(), Goal::Up);
        out.publish(&mut vm, State::Failed, "a\nb", 7);
        assert_eq!(vm.journal.lines(), ["[    0.007] failed: a b"]);
        let read = |stream: &mut UnixStream| {
            let mut bytes = vec![0; 4096];
            let length = stream.read(&mut bytes).unwrap();
            String::from_utf8(bytes[..length].to_vec()).unwrap()
        };
        let heard = read(&mut watcher);
        let change = parse_response(heard.lines().last().unwrap().as_bytes());
        assert!(
            matches!(&change, Ok(Response::Change(Change { at_ms: 7, reason, .. })) if reason == "a b"),
            "{change:?}"
        );
        let answer = read(&mut waiter);
        assert!(answer.contains("a is failed: "), "{answer}");
        assert!(service.accept().is_ok(), "no property was set");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
