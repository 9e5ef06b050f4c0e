// SPDX-License-Identifier: Apache-2.0
//! The loop: settle everything that can be settled now, sleep until something happens, hear it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Uid;

use crate::config::{ConfigFile, VmConfig};
use crate::confine;
use crate::memory;
use crate::status::{clock, logger, State};
use crate::worker::Setting;

use super::answer::Waiter;
use super::clients::{ClientId, Clients, Rights};
use super::foreground::Foreground;
use super::journal::shorten;
use super::lifecycle::{Action, Event};
use super::listen::Listener;
use super::pages::Returns;
use super::sinks::{Overall, Sinks};
use super::spawn::{Heard, Worker};
use super::vm::{Vm, MAX_REASON};
use super::{Outcome, SupervisorError};

/// Milliseconds between two looks at a property or a pool that a VM waits for: reading the shared
/// property area or a file of sysfs costs microseconds, and there is no fd to wait on without a thread.
const LOOK_INTERVAL: u64 = 50;

/// Reports taken from one worker before others get their turn.
const REPORTS_A_TURN: usize = 64;

/// For the last properties, before gunyahd ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// The supervisor.
pub struct Supervisor {
    pub(super) vms: Vec<Vm>,
    pub(super) clients: Clients,
    pub(super) waiters: Vec<Waiter>,
    pub(super) config_dirs: Vec<PathBuf>,
    /// Those of them that could not be read the last time.
    pub(super) dir_problems: Vec<String>,
    /// It is going down.
    pub(super) stopping: bool,
    /// Whoever stops it does not want to wait for guests.
    pub(super) impatient: bool,
    /// Pages of runs that have ended.
    pub(super) returns: Returns,
    /// Bytes of a huge page, where a file does not say.
    pub(super) huge_page: u64,
    setting: Setting,
    listener: Option<Listener>,
    rights: Rights,
    signals: SignalFd,
    pub(super) sinks: Sinks,
    /// One VM in the foreground: the end of it is the end of all.
    alone: bool,
    /// Shows its console on the terminal.
    terminal: Option<Foreground>,
}

/// What an entry of the poll set is.
enum Source {
    Signals,
    Listener,
    Client(ClientId),
    Worker(usize),
    Properties,
}

impl Supervisor {
    /// Takes over signals and the control socket.
    pub(super) fn new(
        setting: Setting,
        listener: Option<Listener>,
    ) -> Result<Self, SupervisorError> {
        let failed = |call| move |errno| SupervisorError::System { call, errno };
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGHUP,
            Signal::SIGCHLD,
        ] {
            mask.add(signal);
        }
        mask.thread_block().map_err(failed("sigprocmask"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed("signalfd"))?;
        let inherited = listener.as_ref().is_some_and(Listener::is_inherited);
        Ok(Self {
            vms: Vec::new(),
            clients: Clients::default(),
            waiters: Vec::new(),
            config_dirs: Vec::new(),
            dir_problems: Vec::new(),
            stopping: false,
            impatient: false,
            returns: Returns::default(),
            huge_page: memory::host().huge_page,
            setting,
            listener,
            rights: Rights::new(Uid::effective().as_raw(), inherited),
            signals,
            sinks: Sinks::new(),
            alone: false,
            terminal: None,
        })
    }

    /// Gives up what only starting up took, for this process and every worker.
    pub(super) fn confine(&self) -> Result<(), SupervisorError> {
        if self.setting.confined {
            confine::supervisor().map_err(crate::error::LaunchError::from)?;
        } else {
            log::warn!("--no-confinement: system calls and capabilities stay as they were");
        }
        Ok(())
    }

    /// The one VM of `gunyahd run`.
    pub(super) fn add_alone(&mut self, config: VmConfig) {
        self.alone = true;
        let now = self.now();
        let file = ConfigFile {
            path: config.file.clone(),
            vm: config.name.clone(),
            config: Ok(config),
        };
        self.vms.push(Vm::of_file(file, now));
        self.feed(0, Event::Start, now);
    }

    /// How the one VM of `gunyahd run` ended.
    pub(super) fn outcome(&self) -> Outcome {
        self.vms.first().map_or(Outcome::LaunchFailed, |vm| {
            super::outcome(vm, self.stopping)
        })
    }

    /// Milliseconds of [`clock`].
    pub(super) fn now(&self) -> u64 {
        super::lifecycle::millis(clock::now())
    }

    /// Serves until all is stopped.
    pub(super) fn serve(&mut self) -> Result<(), SupervisorError> {
        loop {
            let now = self.now();
            self.settle(now);
            if self.is_done() {
                break;
            }
            self.wait_and_hear()?;
        }
        let now = self.now();
        self.dismiss_waiters(now);
        if self.stopping {
            self.sinks.overall(Overall::Stopped);
        }
        self.sinks.properties.finish(FAREWELL);
        if let Some(terminal) = self.terminal.take() {
            terminal.finish(FAREWELL);
        }
        log::info!("all VMs are stopped");
        Ok(())
    }

    fn is_done(&self) -> bool {
        (self.stopping || self.alone) && self.vms.iter().all(|vm| vm.life.at_rest())
    }

    /// Gives an event to a VM and does what comes of it.
    pub(super) fn feed(&mut self, index: usize, event: Event<'_>, now: u64) {
        let actions = self.vms[index].life.on(event, now);
        self.act(index, actions, now);
    }

    fn act(&mut self, index: usize, actions: Vec<Action>, now: u64) {
        for action in actions {
            match action {
                Action::Publish(state, reason) => self.tell(index, state, &reason, now),
                Action::Fork => self.fork(index, now),
                Action::Send(request) => {
                    let vm = &self.vms[index];
                    let sent = vm.worker.as_ref().map(|worker| worker.send(request));
                    if let Some(Err(errno)) = sent {
                        log::warn!("{}: worker does not take {request:?}: {errno:?}", vm.name);
                    }
                }
                Action::Kill => {
                    if let Some(worker) = &self.vms[index].worker {
                        worker.kill();
                    }
                }
            }
        }
    }

    /// Tells everybody the state that the VM is in.
    pub(super) fn announce(&mut self, index: usize, now: u64) {
        let life = &self.vms[index].life;
        let (state, reason) = (life.state(), life.reason().to_owned());
        self.tell(index, state, &reason, now);
    }

    /// Tells everybody a state that the VM has come into; it may have left it already.
    fn tell(&mut self, index: usize, state: State, reason: &str, now: u64) {
        let vm = &mut self.vms[index];
        let reason = shorten(reason, MAX_REASON);
        let name = vm.name.to_string();
        vm.journal.add(now, &format!("{state}: {reason}"));
        self.sinks.state(&name, state, &reason, vm.life.restarts());
        self.tell_watchers(&name, state, &reason, now);
        self.wake_waiters(index, state, now);
    }

    fn fork(&mut self, index: usize, now: u64) {
        let vm = &mut self.vms[index];
        vm.begin_launch();
        let console = vm.console_fd();
        let forked = match &vm.config {
            Some(config) => {
                Worker::fork(config, &self.setting, &logger::fds(), console, !self.alone)
            }
            None => Err("there is no good file".to_owned()),
        };
        match forked {
            Ok(worker) => {
                vm.journal
                    .add(now, &format!("worker is process {}", worker.pid()));
                vm.worker = Some(worker);
            }
            Err(why) => self.feed(index, Event::ForkFailed(&why), now),
        }
    }

    fn wait_and_hear(&mut self) -> Result<(), SupervisorError> {
        let mut sources = Vec::new();
        let mut fds = Vec::new();
        for (source, fd, events) in self.poll_set() {
            sources.push(source);
            fds.push(PollFd::new(fd, events));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(()),
            Err(errno) => {
                return Err(SupervisorError::System {
                    call: "poll",
                    errno,
                })
            }
        }
        let ready: Vec<(Source, PollFlags)> = sources
            .into_iter()
            .zip(&fds)
            .filter_map(|(source, fd)| {
                let events = fd.revents().unwrap_or(PollFlags::empty());
                (!events.is_empty()).then_some((source, events))
            })
            .collect();
        drop(fds);
        let now = self.now();
        let mut signalled = false;
        for (source, events) in ready {
            match source {
                Source::Worker(index) => self.hear(index, now),
                Source::Properties => self.sinks.properties.on_ready(),
                Source::Client(id) => {
                    let asked = self.clients.on_ready(id, events, &self.rights, now);
                    if let Some(request) = asked {
                        self.on_request(id, request, now);
                    }
                }
                Source::Listener => {
                    if let Some(listener) = &self.listener {
                        self.clients.accept(listener.socket(), now);
                    }
                }
                // Last, because reading the files again changes which VMs there are.
                Source::Signals => signalled = true,
            }
        }
        if signalled {
            self.on_signals(now);
        }
        Ok(())
    }

    fn poll_set(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>, PollFlags)> {
        let input = PollFlags::POLLIN;
        let workers = self.vms.iter().enumerate().flat_map(move |(index, vm)| {
            let fds = vm
                .worker
                .iter()
                .flat_map(|worker| [worker.channel(), worker.pidfd()]);
            fds.flatten()
                .map(move |fd| (Source::Worker(index), fd, input))
        });
        let listener = self
            .listener
            .iter()
            .filter(|_| self.clients.is_accepting())
            .map(move |listener| (Source::Listener, listener.socket().as_fd(), input));
        let properties = self
            .sinks
            .properties
            .poll_fd()
            .into_iter()
            .map(|(fd, events)| (Source::Properties, fd, events));
        let clients = self
            .clients
            .poll_fds()
            .map(|(id, fd, events)| (Source::Client(id), fd, events));
        // Clients before the listener: those who left make room for those who come.
        workers
            .chain(properties)
            .chain(clients)
            .chain(listener)
            .chain([(Source::Signals, self.signals.as_fd(), input)])
    }

    fn timeout(&self) -> PollTimeout {
        let now = self.now();
        let looking = self
            .vms
            .iter()
            .any(|vm| vm.life.awaits_property() || (vm.life.at_gate() && vm.awaits_pages));
        let look = looking.then(|| now.saturating_add(LOOK_INTERVAL));
        let setting = self.sinks.properties.deadline().map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            now.saturating_add(super::lifecycle::millis(left))
                .saturating_add(1)
        });
        let due = self
            .vms
            .iter()
            .filter_map(|vm| vm.life.deadline())
            .chain(self.clients.deadline())
            .chain(look)
            .chain(setting)
            .min();
        match due {
            None => PollTimeout::NONE,
            // Longer waits are cut into pieces: a wake-up for nothing is harmless.
            Some(due) => {
                let left = i32::try_from(due.saturating_sub(now)).unwrap_or(i32::MAX);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        }
    }

    /// Hears a worker out, and learns whether it is gone.
    fn hear(&mut self, index: usize, now: u64) {
        let Some(worker) = &self.vms[index].worker else {
            return;
        };
        // Before its last words are read: what it said before its death is in the channel by then.
        let death = worker.reap();
        let turns = if death.is_some() {
            usize::MAX
        } else {
            REPORTS_A_TURN
        };
        for _ in 0..turns {
            let Some(worker) = &mut self.vms[index].worker else {
                return;
            };
            match worker.hear() {
                Heard::Report(report) => self.on_report(index, &report, now),
                Heard::Garbage(what) => log::warn!("{}: {what}", self.vms[index].name),
                Heard::Nothing => break,
                Heard::HangUp => {
                    if death.is_none() {
                        self.feed(index, Event::HangUp, now);
                    }
                    break;
                }
            }
        }
        if let Some(death) = death {
            let vm = &mut self.vms[index];
            vm.worker = None;
            self.returns
                .expect(vm.name.as_str(), vm.launch.take_pages(), now);
            self.feed(index, Event::Died(death), now);
        }
    }

    fn on_report(&mut self, index: usize, report: &crate::worker::Report, now: u64) {
        use crate::worker::Report;
        let vm = &mut self.vms[index];
        let line = vm.note(report, now);
        if let Some(line) = line {
            log::info!("{}: {line}", vm.name);
        }
        if let Report::Warning(text) = report {
            vm.journal.add(now, &format!("warning: {text}"));
            log::warn!("{}: {text}", vm.name);
        }
        if let (true, Report::Running { .. }) = (self.alone, report) {
            let vm = &self.vms[index];
            self.terminal = vm.worker.as_ref().and_then(|worker| {
                let config = vm.config.as_ref()?;
                config.console.as_ref()?;
                Foreground::show(&vm.name, worker)
            });
        }
        self.feed(index, Event::Report(report), now);
    }

    fn on_signals(&mut self, now: u64) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                Ok(Ok(Signal::SIGHUP)) if self.alone => self.go_down("SIGHUP", now),
                Ok(Ok(Signal::SIGHUP)) if !self.stopping => {
                    log::info!("SIGHUP: reading the files again");
                    self.reload();
                }
                Ok(Ok(Signal::SIGTERM)) => self.go_down("SIGTERM", now),
                Ok(Ok(Signal::SIGINT)) => self.go_down("SIGINT", now),
                Ok(Ok(Signal::SIGQUIT)) => {
                    self.go_down("SIGQUIT", now);
                    self.hurry("SIGQUIT", now);
                }
                // One SIGCHLD may stand for several: look at everybody.
                Ok(Ok(Signal::SIGCHLD)) => {
                    for index in 0..self.vms.len() {
                        self.hear(index, now);
                    }
                }
                _ => {}
            }
        }
    }

    /// Begins to stop all VMs. A second Ctrl-C is a person who does not want to wait.
    fn go_down(&mut self, signal: &str, now: u64) {
        if !self.stopping {
            log::info!("{signal}: stopping all VMs");
            self.stopping = true;
            return;
        }
        if signal == "SIGINT" {
            self.hurry("SIGINT again", now);
        }
    }

    /// Closes what has not ended, and what comes to be stopped later.
    fn hurry(&mut self, why: &str, now: u64) {
        log::info!("{why}: closing what has not ended");
        self.impatient = true;
        for index in 0..self.vms.len() {
            self.hurry_one(index, now);
        }
    }

    pub(super) fn hurry_one(&mut self, index: usize, now: u64) {
        let actions = self.vms[index].life.hurry(now);
        self.act(index, actions, now);
    }
}
