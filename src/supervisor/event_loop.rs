// SPDX-License-Identifier: Apache-2.0
//! The loop: do everything that is due, sleep until something happens, hear it.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::signal::{sigprocmask, SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Uid;

use crate::config::{ConfigFile, VmConfig};
use crate::confine;
use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;
use crate::memory::Reserve;
use crate::status::clock::{self, millis, sooner};
use crate::status::{logger, properties};
use crate::worker::Setting;

use super::clients::{ClientId, Rights};
use super::files::Files;
use super::fleet::{Fleet, Shutdown};
use super::lifecycle::Event;
use super::listen::Listener;
use super::publisher::Publisher;
use super::requests::Server;
use super::reserve::Holdings;
use super::spawn::Spawner;
use super::vm::Vm;

kinds! {
    CALL: Error "serve-call" in Serve {
        "a system call that every kernel has failed",
        cause: "the host is short of memory or fds, or a seccomp filter or limit forbids the call",
        cure: "look at the limits of the service and at `dmesg | grep -e avc -e audit`",
    }
}

fn failed(call: &'static str) -> impl FnOnce(Errno) -> Diagnostic {
    move |errno| CALL.case(call).errno(errno)
}

/// For the last properties and output, before gunyahd ends.
const FAREWELL: Duration = Duration::from_millis(500);

pub struct Supervisor {
    pub fleet: Fleet,
    out: Publisher,
    /// `None` for the one VM of `gunyahd run`.
    files: Option<Files>,
    listener: Option<Listener>,
    rights: Rights,
    signals: SignalFd,
}

/// What an entry of the poll set is.
enum Source {
    Signals,
    Listener,
    Client(ClientId),
    Worker(usize),
    Properties,
}

/// Signals wait from now on until the loop takes them.
pub(super) fn block_signals() -> Result<SigSet, Diagnostic> {
    let mut mask = SigSet::empty();
    for signal in
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP, Signal::SIGCHLD]
    {
        mask.add(signal);
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mask), None).map_err(failed("sigprocmask"))?;
    Ok(mask)
}

impl Supervisor {
    /// Takes over signals, and gives up what only starting up took, for this process and every worker.
    fn new(
        setting: Setting,
        listener: Option<Listener>,
        reserve: Option<Reserve>,
    ) -> Result<Self, Diagnostic> {
        let mask = block_signals()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(failed("signalfd"))?;
        if setting.confined {
            confine::supervisor()?;
        } else {
            logger::warn!("--no-confinement: system calls and capabilities stay as they were");
        }
        let inherited = listener.as_ref().is_some_and(Listener::is_inherited);
        let alone = listener.is_none();
        let mut out = Publisher::to(properties::socket_path());
        let reserve = reserve.map(Holdings::of);
        if let Some(holdings) = &reserve {
            out.reserve(&holdings.status());
        }
        let spawner = Spawner { setting, log_console: !alone, reserve, launches: 1 };
        Ok(Self {
            fleet: Fleet::new(spawner, alone),
            out,
            files: None,
            listener,
            rights: Rights::new(Uid::effective().as_raw(), inherited),
            signals,
        })
    }

    /// For all VMs of `dirs`, on the control socket.
    pub fn boot(
        setting: Setting,
        listener: Listener,
        dirs: Vec<PathBuf>,
        reserve: Option<Reserve>,
        problems: Vec<Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        let mut supervisor = Self::new(setting, Some(listener), reserve)?;
        for problem in problems {
            match problem.is_error() {
                true => logger::error!("{problem}"),
                false => logger::warn!("{problem}"),
            }
            supervisor.fleet.problems.push(problem.to_string());
        }
        let mut files = Files::of(dirs);
        files.load(&mut supervisor.fleet, now(), &mut supervisor.out);
        supervisor.files = Some(files);
        Ok(supervisor)
    }

    /// For the one VM of `gunyahd run`.
    pub fn alone(setting: Setting, config: VmConfig) -> Result<Self, Diagnostic> {
        let mut supervisor = Self::new(setting, None, None)?;
        let file =
            ConfigFile { path: config.file.clone(), vm: config.name.clone(), config: Ok(config) };
        let now = now();
        supervisor.fleet.vms.push(Vm::of_file(file, now));
        let out = &mut supervisor.out;
        supervisor.fleet.feed(0, Event::Start, now, out);
        Ok(supervisor)
    }

    /// Serves until all is stopped.
    pub fn serve(&mut self) -> Result<(), Diagnostic> {
        loop {
            let now = now();
            self.out.clients.expire(now);
            let properties = &mut self.out.properties;
            if properties.deadline().is_some_and(|due| due <= Instant::now()) {
                properties.on_ready();
            }
            self.fleet.advance(now, &mut self.out);
            if self.fleet.is_done() {
                break;
            }
            for (source, events) in self.wait()? {
                self.hear(source, events);
            }
        }
        self.fleet.finish(FAREWELL, now(), &mut self.out);
        logger::info!("all VMs are stopped");
        Ok(())
    }

    /// Sleeps until something happens.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>, Diagnostic> {
        let (mut sources, mut fds) = (Vec::new(), Vec::new());
        self.poll_set(&mut |source, fd, events| {
            sources.push(source);
            fds.push(PollFd::new(fd, events));
        });
        match poll(&mut fds, self.timeout()) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => return Err(failed("poll")(errno)),
        }
        let happened = sources.into_iter().zip(&fds).filter_map(|(source, fd)| {
            let events = fd.revents().unwrap_or(PollFlags::empty());
            (!events.is_empty()).then_some((source, events))
        });
        Ok(happened.listed())
    }

    // Clients before the listener: those who left make room for those who come. Signals last, because
    // reading the files again changes which VMs there are.
    fn poll_set<'a>(&'a self, add: &mut dyn FnMut(Source, BorrowedFd<'a>, PollFlags)) {
        let input = PollFlags::POLLIN;
        for (index, vm) in self.fleet.vms.iter().enumerate() {
            if let Some(worker) = &vm.worker {
                worker.poll_fds().for_each(|fd| add(Source::Worker(index), fd, input));
            }
        }
        if let Some(fd) = self.out.properties.poll_fd() {
            add(Source::Properties, fd, input);
        }
        self.out
            .clients
            .poll_fds()
            .for_each(|(id, fd, events)| add(Source::Client(id), fd, events));
        if let Some(listener) = self.listener.as_ref().filter(|_| self.out.clients.is_accepting()) {
            add(Source::Listener, listener.socket().as_fd(), input);
        }
        add(Source::Signals, self.signals.as_fd(), input);
    }

    fn timeout(&self) -> PollTimeout {
        let now = now();
        let property = self.out.properties.deadline().map(|due| {
            let left = due.saturating_duration_since(Instant::now());
            // Rounded up.
            now.saturating_add(millis(left)).saturating_add(1)
        });
        let due = sooner(self.fleet.deadline(now), self.out.clients.deadline());
        match sooner(due, property) {
            None => PollTimeout::NONE,
            // Longer waits are cut into pieces: a wake-up for nothing is harmless.
            Some(due) => {
                let left = i32::try_from(due.saturating_sub(now)).unwrap_or(i32::MAX);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        }
    }

    fn hear(&mut self, source: Source, events: PollFlags) {
        let (now, out) = (now(), &mut self.out);
        match source {
            Source::Worker(index) => self.fleet.hear(index, now, out),
            Source::Properties => out.properties.on_ready(),
            Source::Client(id) => {
                if let Some(request) = out.clients.on_ready(id, events, &self.rights, now) {
                    let problems = self.files.as_ref().map_or(&[][..], |f| &f.problems);
                    let fleet = &mut self.fleet;
                    Server { fleet, out, problems, now }.serve(id, request);
                }
            }
            Source::Listener => {
                if let Some(listener) = &self.listener {
                    out.clients.accept(listener.socket(), now);
                }
            }
            Source::Signals => {
                while let Ok(Some(info)) = self.signals.read_signal() {
                    let signal = i32::try_from(info.ssi_signo).map(Signal::try_from);
                    if let Ok(Ok(signal)) = signal {
                        self.on_signal(signal, now);
                    }
                }
            }
        }
    }

    fn on_signal(&mut self, signal: Signal, now: u64) {
        let (fleet, out) = (&mut self.fleet, &mut self.out);
        match (signal, &mut self.files) {
            // One SIGCHLD may stand for several: look at everybody.
            (Signal::SIGCHLD, _) => {
                for index in 0..fleet.vms.len() {
                    fleet.hear(index, now, out);
                }
            }
            (Signal::SIGHUP, Some(_)) if fleet.shutdown.is_some() => {}
            (Signal::SIGHUP, Some(files)) => {
                logger::info!("SIGHUP: reading the files again");
                files.reload(fleet, now, out);
            }
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP, _) => {
                let again = fleet.shutdown.is_some();
                if !again {
                    logger::info!("{signal}: stopping all VMs");
                    fleet.shutdown = Some(Shutdown::Asking);
                }
                // A second Ctrl-C is a person who does not want to wait.
                if signal == Signal::SIGQUIT || (again && signal == Signal::SIGINT) {
                    logger::info!("{signal}: closing what has not ended");
                    fleet.hurry(now, out);
                }
            }
            _ => {}
        }
    }
}

/// Milliseconds of [`clock`].
fn now() -> u64 {
    millis(clock::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_fails_is_named() {
        let error = failed("signalfd")(Errno::EMFILE);
        assert_eq!(error.name, "serve-call");
        assert!(error.to_string().starts_with("serve: signalfd: EMFILE"));
    }
}
