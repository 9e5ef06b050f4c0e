// SPDX-License-Identifier: Apache-2.0
//! A VM whose guest runs on threads of the worker: its console before START, its vCPUs after it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::requests::{wait_for_request, Received};
use super::{confine_if, Report, Reporter, Request};
use crate::config::VmConfig;
use crate::console::{Console, Ring, DEFAULT_CAPACITY};
use crate::diagnostic::Diagnostic;
use crate::driver::Vm;
use crate::error::{LaunchError, Step};
use crate::launch::refused;
use crate::status::End as RunEnd;
use crate::vcpu::{Bus, Options, VcpuEvent, Vcpus, STALL};

/// A vCPU that does not leave VCPU_RUN within this stays in it until the process ends.
const LEAVE_BOUND: Duration = Duration::from_secs(2);

/// What the guest meets outside its memory.
pub(super) struct Proxy {
    console: Option<Console>,
    bus: Arc<Bus>,
}

/// Why the vCPUs are to stop.
enum End {
    Asked,
    Orphaned,
    Guest(String),
    Failed(LaunchError),
}

impl Proxy {
    /// Makes what the guest will meet; `ring` is the console's, and `log` says whether its lines go
    /// to the log, `confined` whether its console gives up what it does not need.
    pub(super) fn prepare(
        config: &VmConfig,
        ring: Option<OwnedFd>,
        log: bool,
        confined: bool,
    ) -> Result<Self, LaunchError> {
        let mut bus = Bus::new(config.name.as_str());
        let console = match &config.console {
            None => None,
            Some(settings) => {
                let ring = match ring {
                    Some(fd) => Ring::map(fd),
                    None => Ring::create(config.name.as_str(), DEFAULT_CAPACITY),
                };
                let ring = ring.map_err(|errno| {
                    LaunchError::new(Step::Functions, "mapping the console's ring").errno(errno)
                })?;
                let ready = config.ready.as_ref();
                let line = ready.and_then(|ready| ready.console_line.as_deref());
                let console =
                    Console::start(&config.name, settings, &Arc::new(ring), line, log, confined)?;
                console.connect(&mut bus, settings)?;
                Some(console)
            }
        };
        Ok(Self {
            console,
            bus: Arc::new(bus),
        })
    }

    /// Binds the interrupt lines; before START.
    pub(super) fn connect(&self, vm: &Vm, config: &VmConfig) -> Result<(), Diagnostic> {
        match (&self.console, &config.console) {
            (Some(console), Some(settings)) => {
                let label = settings.label;
                vm.add_irqfd(console.interrupt_fd(), label, true)
                    .map_err(|error| {
                        let call = format!("VM_ADD_FUNCTION of irqfd of doorbell {label}");
                        refused(Step::Functions, call, &error)
                    })
            }
            _ => Ok(()),
        }
    }

    /// Runs the guest until it ends or is to stop; the exit code of the worker. All vCPU fds are
    /// closed then.
    pub(super) fn run(
        self,
        fds: Vec<OwnedFd>,
        config: &VmConfig,
        confined: bool,
        tell: &Reporter,
    ) -> i32 {
        let options = Options {
            name: config.name.to_string(),
            affinity: config.vcpus.affinity.clone(),
            nice: config.vcpus.nice,
            stall: STALL,
            confined,
        };
        let vcpus = (0..).zip(fds).collect();
        let started = Vcpus::start(vcpus, Arc::clone(&self.bus), &options, || {
            confine_if(confined)
        });
        let (end, stuck) = match started {
            Ok(mut vcpus) => {
                let end = self.until_end(&mut vcpus, config, tell);
                (end, vcpus.stop(LEAVE_BOUND))
            }
            Err(error) => (End::Failed(error), Vec::new()),
        };
        if !stuck.is_empty() {
            tell.send(&Report::Warning(format!(
                "vCPUs {stuck:?} do not leave VCPU_RUN within {} s; they end with the worker",
                LEAVE_BOUND.as_secs()
            )));
        }
        let (farewell, code) = match end {
            End::Asked => ("the VM is closed".to_owned(), 0),
            End::Orphaned => ("gunyahd is gone".to_owned(), 1),
            End::Guest(how) => (format!("the guest has ended: {how}"), 0),
            End::Failed(error) => {
                let farewell = format!("the VM failed: {error}");
                tell.send(&Report::Failed(error.into()));
                (farewell, 1)
            }
        };
        if let Some(console) = self.console {
            console.stop(&farewell);
        }
        code
    }

    fn until_end(&self, vcpus: &mut Vcpus, config: &VmConfig, tell: &Reporter) -> End {
        let mut ready = self.console.as_ref().map(Console::ready_fd);
        loop {
            while let Some(event) = vcpus.take_event() {
                match event {
                    VcpuEvent::Warning(text) => tell.send(&Report::Warning(text)),
                    VcpuEvent::Failed(error) => return End::Failed(error),
                    VcpuEvent::Ended { reason, detail } => {
                        self.tell_ready(tell);
                        let how = reason.to_string();
                        // Told first: what follows takes its time.
                        tell.send(&Report::Ended(RunEnd { reason, detail }));
                        return End::Guest(how);
                    }
                }
            }
            let mut others = vec![vcpus.events_fd()];
            others.extend(ready);
            match wait_for_request(tell, &others) {
                Ok(Received::Request(Request::Console { first }, Some(client))) => {
                    if let Some(console) = &self.console {
                        console.attach(client, first);
                    }
                }
                Ok(Received::Request(Request::Stop, _)) => match (&self.console, &config.stop) {
                    (Some(console), Some(stop)) => console.type_line(&stop.console_line),
                    // There is no way to ask that all guests know.
                    _ => return End::Asked,
                },
                Ok(Received::Request(Request::Close, _)) => return End::Asked,
                Ok(Received::Request(Request::Console { .. }, None) | Received::Nothing) => {}
                Ok(Received::Gone) => return End::Orphaned,
                Err(error) => return End::Failed(error),
            }
            if self.tell_ready(tell) {
                ready = None;
            }
        }
    }

    fn tell_ready(&self, tell: &Reporter) -> bool {
        let ready = self.console.as_ref().is_some_and(Console::take_ready);
        if ready {
            tell.send(&Report::Ready);
        }
        ready
    }
}
