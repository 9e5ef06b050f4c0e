// SPDX-License-Identifier: Apache-2.0
//! The loop that brings interception, model, engine, record and script together.

mod calls;
mod closing;
mod commands;
mod faults;
mod files;
mod vcpus;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{kill, SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use serde_json::json;

use crate::console::Console;
use crate::control::Control;
use crate::engine::{self, Engine, EngineVm, Event, EventQueue, Exit, VmId};
use crate::intercept::{host, launch, Launched, Notification};
use crate::model::Model;
use crate::options::Options;
use crate::peers::Peers;
use crate::record::{CallLine, Record};
use crate::script::{self, Command};
use crate::uevents::Uevents;

use closing::{Closing, Delay, Teardown};
use faults::Faults;
use files::{FileKind, Files};

/// How often waiting calls are checked for an interrupted caller, which causes no event.
const INTERRUPTION_POLL: Duration = Duration::from_millis(20);

/// What a waiting call waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// START's end.
    Start(VmId),
    /// The resource manager, which is busy with another VM's end, for a START.
    Turn(VmId),
    /// An exit of a vCPU.
    Run(VmId, u32),
    /// Nothing.
    Forever,
}

/// A call without an answer so far.
#[derive(Debug)]
struct Held {
    notification: Notification,
    line: CallLine,
    waits: Waits,
}

/// What happens at a set time.
#[derive(Debug)]
enum Due {
    /// A delayed call goes to the model.
    Call(Notification, FileKind, CallLine),
    /// A scripted end.
    Exit(VmId, Exit),
}

struct Session {
    launched: Launched,
    device: std::path::PathBuf,
    model: Model,
    engine: Box<dyn Engine>,
    events: EventQueue,
    running: BTreeMap<VmId, Box<dyn EngineVm>>,
    vcpus: vcpus::Vcpus,
    files: Files,
    held: Vec<Held>,
    /// Last closes that wait for their VM's teardown.
    closing: Vec<Closing>,
    due: Vec<(Instant, Due)>,
    /// Scripted ends of VMs that do not run yet.
    ends: Vec<(Option<VmId>, Exit, Duration)>,
    /// VMs whose START fails late.
    refusals: BTreeMap<VmId, Errno>,
    faults: Faults,
    /// Host calls that are intercepted.
    watched: Vec<&'static str>,
    teardown: Teardown,
    /// What teardowns under way wait for.
    waits: Delay,
    record: Record,
    console: Option<Console>,
    control: Option<Control>,
    uevents: Option<Uevents>,
    /// The resource manager is dead: no VM starts or ends any more.
    rm_dead: bool,
    peers: Peers,
    signals: SignalFd,
    status: Option<ExitStatus>,
    /// The cores that sched_getaffinity tells of.
    cores: Option<u32>,
    /// What a real host would not have survived.
    violations: Vec<String>,
    /// Nobody runs under the filter any more.
    unwatched: bool,
    /// Asked to stop after COMMAND had ended already.
    abandoned: bool,
}

/// Signals that COMMAND gets from us.
const FORWARDED: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Runs the command; returns its exit code, 128 + N when signal N ended it.
pub fn run(options: Options) -> Result<u8, String> {
    let what = |what: &str, error: &dyn std::fmt::Display| format!("{what}: {error}");
    let engine = engine::by_name(&options.engine)?;
    let script = match &options.script {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| what(&path.to_string_lossy(), &error))?;
            script::parse(&text).map_err(|error| what(&path.to_string_lossy(), &error))?
        }
        None => Vec::new(),
    };
    let record = Record::open(options.record.as_deref())?;
    let console = options
        .console
        .as_deref()
        .map(Console::open)
        .transpose()
        .map_err(|error| what("console", &error))?;
    let control = options
        .control
        .as_deref()
        .map(Control::listen)
        .transpose()
        .map_err(|error| what("control socket", &error))?;

    let uevents = options
        .uevents
        .as_deref()
        .map(Uevents::to)
        .transpose()
        .map_err(|error| what("uevents", &error))?;

    let peers = Peers::listen(options.property_socket.as_deref(), options.logd_socket.as_deref())
        .map_err(|error| what("property or log socket", &error))?;

    let mut mask = SigSet::empty();
    for signal in FORWARDED {
        mask.add(signal);
    }
    mask.add(Signal::SIGCHLD);
    let inherited = SigSet::thread_get_mask().map_err(|error| what("signal mask", &error))?;
    mask.thread_block().map_err(|error| what("signal mask", &error))?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(|error| what("signalfd", &error))?;
    let command = options.command[0].to_string_lossy().into_owned();
    let watched = watched_by(&script);
    let numbers: Vec<_> = watched
        .iter()
        .flat_map(|name| host::numbers(name))
        .copied()
        .chain(options.cores.map(|_| libc::SYS_sched_getaffinity))
        .collect();
    let launched =
        launch(&options.command, inherited, &numbers).map_err(|error| what(&command, &error))?;

    let mut session = Session {
        launched,
        device: options.device,
        model: Model::new(options.settings),
        engine,
        events: EventQueue::new().map_err(|error| what("eventfd", &error))?,
        running: BTreeMap::new(),
        vcpus: vcpus::Vcpus::default(),
        files: Files::new().map_err(|error| what("inotify", &error))?,
        held: Vec::new(),
        closing: Vec::new(),
        due: Vec::new(),
        ends: Vec::new(),
        refusals: BTreeMap::new(),
        faults: Faults::default(),
        watched,
        teardown: Teardown::default(),
        waits: Delay::default(),
        record,
        console,
        control,
        uevents,
        rm_dead: false,
        peers,
        signals,
        status: None,
        cores: options.cores,
        violations: Vec::new(),
        unwatched: false,
        abandoned: false,
    };
    if let Some(cores) = session.cores {
        session.model.set_cores(cores);
    }
    for command in script {
        session.command(command);
    }
    session.serve().map_err(|error| what("serving", &error.desc()))?;
    for what in &session.violations {
        eprintln!("gunyah-sim: violation: {what}");
    }
    match session.record.failed() {
        Some(error) => Err(what("the record has not every line", error)),
        None => Ok(session.exit_code()),
    }
}

/// The host calls that a script names.
fn watched_by(script: &[Command]) -> Vec<&'static str> {
    let mut names: Vec<_> = script
        .iter()
        .flat_map(|command| match command {
            Command::Watch(names) => names.clone(),
            Command::Call { call, .. } => host::known(call).into_iter().collect(),
            _ => Vec::new(),
        })
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl Session {
    fn serve(&mut self) -> Result<(), Errno> {
        loop {
            self.run_due();
            self.take_events();
            self.close_files();
            self.take_notes();
            let done =
                self.status.is_some() && self.model.vms().all(|vm| self.rm_dead && vm.closing);
            if self.abandoned || (done && self.unwatched) {
                self.serve_peers();
                return Ok(());
            }
            let ready = self.wait()?;
            if ready.signals {
                self.take_signals();
            }
            if ready.control {
                self.serve_control();
            }
            if ready.peers {
                self.serve_peers();
            }
            if ready.lines {
                self.take_interrupts();
            }
            if ready.calls {
                match self.launched.listener.receive() {
                    Ok(notification) => self.take_call(notification),
                    // The caller was interrupted before we looked.
                    Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                    Err(errno) => return Err(errno),
                }
            }
            self.drop_interrupted();
        }
    }

    fn serve_peers(&mut self) {
        for event in self.peers.serve() {
            self.record.event(None, event);
        }
    }

    fn wait(&mut self) -> Result<Ready, Errno> {
        let timeout = self.timeout();
        let calls = if self.unwatched { PollFlags::empty() } else { PollFlags::POLLIN };
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.bell().as_fd(), PollFlags::POLLIN),
        ];
        if !self.unwatched {
            fds.push(PollFd::new(self.launched.listener.as_fd(), calls));
        }
        let first_control = fds.len();
        if let Some(control) = &self.control {
            fds.extend(control.poll_fds());
        }
        let first_peer = fds.len();
        fds.extend(self.peers.poll_fds());
        let first_line = fds.len();
        fds.extend(self.interrupt_fds());
        let first_file = fds.len();
        fds.extend(self.files.poll_fds());
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        let happened = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let listener =
            fds[2..first_control].first().and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        let ready = Ready {
            signals: happened(&fds[0]),
            calls: listener.contains(PollFlags::POLLIN),
            control: fds[first_control..first_peer].iter().any(happened),
            peers: fds[first_peer..first_line].iter().any(happened),
            lines: fds[first_line..first_file].iter().any(happened),
        };
        if listener.contains(PollFlags::POLLHUP) && !ready.calls {
            self.unwatched = true;
        }
        Ok(ready)
    }

    fn timeout(&self) -> PollTimeout {
        let now = Instant::now();
        let next = self.due.iter().map(|(at, _)| at.saturating_duration_since(now)).min();
        let poll = (!self.held.is_empty() || self.closes()).then_some(INTERRUPTION_POLL);
        match next.into_iter().chain(poll).min() {
            // Rounded up: waking too early would only spin.
            Some(wait) => {
                PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        }
    }

    fn run_due(&mut self) {
        let now = Instant::now();
        while let Some(index) = self.due.iter().position(|(at, _)| *at <= now) {
            match self.due.swap_remove(index).1 {
                Due::Call(notification, kind, line) => self.dispatch_late(notification, kind, line),
                Due::Exit(vm, exit) => self.vm_exited(vm, exit),
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let Some(signal) =
                i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok())
            else {
                continue;
            };
            if signal == Signal::SIGCHLD {
                if let Ok(Some(status)) = self.launched.child.try_wait() {
                    self.status.get_or_insert(status);
                }
            } else if self.status.is_some() {
                self.abandoned = true;
            } else if info.ssi_code != libc::SI_KERNEL {
                // The terminal's own signals reach the whole foreground group already.
                let _ = kill(self.command_pid(), signal);
            }
        }
    }

    fn command_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.launched.child.id()).unwrap_or(i32::MAX))
    }

    fn exit_code(&self) -> u8 {
        let Some(status) = self.status else {
            return 1;
        };
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        u8::try_from(code & 0xff).unwrap_or(1)
    }

    fn take_events(&mut self) {
        for (vm, event) in self.events.drain() {
            match event {
                Event::Started => {
                    self.model.started(vm);
                    self.record.event(Some(vm), json!({"event": "started"}));
                    self.end_start(vm, Ok(0));
                    self.schedule_ends(vm);
                }
                Event::Refused(errno, why) => {
                    self.model.refused(vm);
                    self.record.event(
                        Some(vm),
                        json!({"event": "engine-refused", "errno": crate::model::errno_name(errno), "why": why}),
                    );
                    self.end_start(vm, Err(errno));
                }
                Event::Exited(exit) => self.vm_exited(vm, exit),
                Event::Vcpu(vcpu, exit) => self.vcpu_exited(vm, vcpu, exit),
                Event::Console(bytes) => {
                    if let Some(console) = &mut self.console {
                        console.show(vm, &bytes);
                    }
                    self.record.event(
                        Some(vm),
                        json!({"event": "console", "text": String::from_utf8_lossy(&bytes)}),
                    );
                }
                Event::Note(what) => {
                    self.record.event(Some(vm), json!({"event": "engine", "what": what}))
                }
                Event::Stopped => {
                    if let Some(farewell) = self.model.farewell(vm) {
                        self.tell(Some(vm), farewell);
                    }
                    self.model.remove(vm);
                    if let Some(console) = &mut self.console {
                        console.forget(vm);
                    }
                    self.vcpus.forget(vm);
                    self.record.event(Some(vm), json!({"event": "reclaimed"}));
                    self.end_closing(vm);
                    self.next_start();
                }
            }
        }
    }

    fn take_notes(&mut self) {
        for (vm, note) in self.model.take_notes() {
            self.tell(Some(vm), note);
        }
    }

    /// To the record, and where it is one, to those who listen for uevents.
    fn tell(&mut self, vm: Option<VmId>, what: serde_json::Value) {
        if let Some(uevents) = self.uevents.as_mut().filter(|_| what["event"] == "uevent") {
            uevents.send(&what);
        }
        if what["event"] == "violation" {
            let text = what["what"].as_str().unwrap_or_default().to_string();
            self.violations.push(text);
        }
        self.record.event(vm, what);
    }

    /// Ends a VM as the guest would.
    fn vm_exited(&mut self, vm: VmId, exit: Exit) {
        if !self.model.exited(vm, exit) {
            return;
        }
        self.record.event(
            Some(vm),
            json!({"event": "exit", "status": exit.status, "exit_type": exit.exit_type}),
        );
        self.tell_end(vm, exit);
    }

    /// From now on STARTs and teardowns hang.
    fn kill_rm(&mut self, why: &str) {
        self.rm_dead = true;
        self.record.event(None, json!({"event": "rm-dead", "why": why}));
    }

    /// The resource manager has time for a START that waited.
    fn next_start(&mut self) {
        for held in self.take_held(|waits| matches!(waits, Waits::Turn(_))) {
            if let Waits::Turn(vm) = held.waits {
                self.start(held.notification, held.line, vm);
            }
        }
    }

    fn close_files(&mut self) {
        for kind in self.files.closed() {
            let Some(vm) = kind.vm() else { continue };
            if self.model.file_closed(vm) {
                self.tear_down(vm);
            }
        }
    }

    /// The last close: the engine's VM ends on a thread of its own, then memory is given back.
    fn tear_down(&mut self, vm: VmId) {
        let state = self.model.vm(vm).map(|vm| vm.state.as_str());
        self.record.event(Some(vm), json!({"event": "teardown", "state": state}));
        self.due.retain(|(_, due)| !matches!(due, Due::Exit(of, _) if *of == vm));
        if self.model.vm(vm).is_some_and(|vm| vm.oopses()) {
            let why = "a vCPU that the devicetree does not have";
            self.record.event(Some(vm), json!({"event": "host-oops", "why": why}));
        }
        for violation in self.model.dangling_irqfds(vm) {
            self.tell(Some(vm), violation);
        }
        if self.model.stop_kills_rm(vm) {
            self.kill_rm("a running VM without proxy scheduling was stopped");
        }
        let hangs = self.rm_dead && state.is_some_and(|state| state != "configuring");
        let engine_vm = self.running.remove(&vm);
        let delay = self.teardown.delay;
        let events = self.events.sender(vm);
        if hangs {
            // Only the engine's side ends; the pages stay where they are.
            if let Some(engine_vm) = engine_vm {
                std::thread::spawn(move || engine_vm.stop());
            }
            return;
        }
        if engine_vm.is_none() && delay.is_zero() {
            events.send(Event::Stopped);
            return;
        }
        let waits = self.waits.clone();
        std::thread::spawn(move || {
            waits.wait(delay);
            if let Some(engine_vm) = engine_vm {
                engine_vm.stop();
            }
            events.send(Event::Stopped);
        });
    }
}

struct Ready {
    signals: bool,
    calls: bool,
    control: bool,
    peers: bool,
    lines: bool,
}

/// A descriptor's number as a call's value.
fn fd_value(fd: i32) -> i64 {
    i64::from(fd.as_raw_fd())
}
