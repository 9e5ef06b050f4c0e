// SPDX-License-Identifier: Apache-2.0
//! A VM whose guest runs on threads of the worker: its console before START, its vCPUs after it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gunyah::{Trigger, Vcpu, Vm};

use super::power_key::PowerKey;
use super::requests::{wait_for_request, Received};
use super::{confine_if, Closing, Report, Reporter, Request};
use crate::config::VmConfig;
use crate::console::{self, Console, Ring};
use crate::device::Devices;
use crate::diagnostic::{kinds, Diagnostic, Step};
use crate::dtb::Devicetree;
use crate::launch::{refused, Event};
use crate::memory::GuestMemory;
use crate::status::control::DeviceStatus;
use crate::status::End as RunEnd;
use crate::text::array;
use crate::vcpu::{self, Bus, VcpuEvent, Vcpus, STALL};

kinds! {
    STUCK: Warning "run-stuck" in Run {
        "vCPUs cannot be taken out of the guest; they end with the worker",
        cause: "VCPU_RUN does not answer the signal that interrupts it",
        cure: "look for gunyah in dmesg",
    }
}

/// A vCPU that does not leave VCPU_RUN within this stays in it until the process ends.
const LEAVE_BOUND: Duration = Duration::from_secs(2);

/// What the guest meets outside its memory.
pub(super) struct Proxy<'a> {
    config: &'a VmConfig,
    confined: bool,
    console: Option<Console>,
    devices: Devices,
    power_key: Option<PowerKey>,
    bus: Arc<Bus>,
}

/// Why the vCPUs are to stop.
enum End {
    Asked,
    Orphaned,
    Guest(String),
    Failed(Diagnostic),
}

impl<'a> Proxy<'a> {
    /// Makes what the guest will meet; `ring` is the console's, and `log` says whether its lines go
    /// to the log. `confined` threads give up what they do not need.
    pub(super) fn prepare(
        config: &'a VmConfig,
        ring: Option<OwnedFd>,
        log: bool,
        confined: bool,
    ) -> Result<Self, Diagnostic> {
        let vm = config.name.as_str();
        let mut bus = Bus::new(vm);
        let console = match &config.console {
            None => None,
            Some(settings) => {
                let ring = Arc::new(Ring::for_worker(ring, vm)?);
                let ready = config.ready.as_ref();
                let options = console::Options {
                    ready: ready.and_then(|ready| ready.console_line.as_deref()),
                    log,
                    confined,
                };
                let console = Console::start(vm, settings, &ring, options)?;
                console.connect(&mut bus, settings)?;
                Some(console)
            }
        };
        let devices = Devices::prepare(config, &mut bus, console.as_ref(), confined)?;
        let power_key = PowerKey::prepare(config)?;
        Ok(Self { config, confined, console, devices, power_key, bus: Arc::new(bus) })
    }

    /// Binds the interrupt lines and the devices' kicks, and lets the devices at the guest's memory; before
    /// START.
    pub(super) fn connect(
        &self,
        vm: &Vm,
        memory: &GuestMemory,
        tree: &Devicetree,
    ) -> Result<(), Diagnostic> {
        self.devices.connect(vm, self.config, tree, &memory.for_devices())?;
        if let Some(key) = &self.power_key {
            key.connect(vm)?;
        }
        let (Some(console), Some(settings)) = (&self.console, &self.config.console) else {
            return Ok(());
        };
        let label = settings.label;
        vm.add_irqfd(console.port().interrupt_fd(), label, Trigger::Level).map_err(|error| {
            let call = format!("VM_ADD_FUNCTION of irqfd of doorbell {label}");
            refused(Step::Functions, call, &error)
        })
    }

    /// Runs the guest until it ends or is to stop; returns the exit code of the worker. All vCPUs are
    /// closed then.
    pub(super) fn run(self, vcpus: Vec<Vcpu>, reporter: &Reporter) -> i32 {
        let settings = &self.config.vcpus;
        let options = vcpu::Options {
            name: self.config.name.to_string(),
            affinity: settings.affinity.clone(),
            nice: settings.nice,
            stall: STALL,
            confined: self.confined,
        };
        let confine = || {
            confine_if(self.confined, self.devices.calls())?;
            match self.confined {
                true => self.devices.confine(),
                false => Ok(()),
            }
        };
        let mut told = Vec::new();
        let end = match Vcpus::start(vcpus, Arc::clone(&self.bus), &options, confine) {
            Ok(mut vcpus) => {
                let end = self.until_end(&mut vcpus, &mut told, reporter);
                reporter.send(Report::Closing(Closing::Vcpus));
                report_stuck(&vcpus.stop(LEAVE_BOUND), reporter);
                self.report_devices(&mut told, reporter);
                end
            }
            Err(error) => End::Failed(error),
        };
        let (farewell, code) = match end {
            End::Asked => ("the VM is closed".to_owned(), 0),
            End::Orphaned => ("gunyahd is gone".to_owned(), 1),
            End::Guest(how) => (format!("the guest has ended: {how}"), 0),
            End::Failed(error) => {
                let farewell = format!("the VM failed: {error}");
                reporter.send(Report::Failed(error));
                (farewell, 1)
            }
        };
        // Before the console, which one of them prints to.
        drop(self.devices);
        if let Some(console) = self.console {
            console.stop(&farewell);
        }
        code
    }

    fn until_end(
        &self,
        vcpus: &mut Vcpus,
        told: &mut Vec<DeviceStatus>,
        reporter: &Reporter,
    ) -> End {
        let mut ready = Vec::from_iter(self.devices.ready_fd());
        ready.extend(self.console.as_ref().map(|console| console.port().ready_fd()));
        loop {
            while let Some(event) = vcpus.take_event() {
                match event {
                    VcpuEvent::Warning(warning) => {
                        reporter.send(Report::Launch(Event::Warning(warning)))
                    }
                    VcpuEvent::Failed(error) => return End::Failed(error),
                    VcpuEvent::Ended { reason, detail } => {
                        self.report_ready(reporter);
                        let how = reason.to_string();
                        // Reported first: what follows takes its time.
                        reporter.send(Report::Ended(RunEnd { reason, detail }));
                        return End::Guest(how);
                    }
                }
            }
            while let Some(warning) = self.devices.take_warning() {
                reporter.send(Report::Launch(Event::Warning(warning)));
            }
            // The vCPUs are looked at every few seconds while they do something: often enough.
            self.report_devices(told, reporter);
            let mut others = vcpus.events_fds().to_vec();
            others.extend(&ready);
            others.extend(self.devices.warnings_fd());
            match wait_for_request(reporter, &others) {
                Ok(Received::Request(Request::Console { first }, Some(client))) => {
                    if let Some(console) = &self.console {
                        console.attach(client, first);
                    }
                }
                // It may do so without a sign of life.
                Ok(Received::Request(Request::Stop, _)) if self.ask() => vcpus.watch(),
                Ok(Received::Request(Request::Stop, _)) => return End::Asked,
                Ok(Received::Request(Request::Close, _)) => return End::Asked,
                Ok(Received::Request(Request::Console { .. }, None) | Received::Nothing) => {}
                Ok(Received::Gone) => return End::Orphaned,
                Err(error) => return End::Failed(error),
            }
            if self.report_ready(reporter) {
                ready.clear();
            }
        }
    }

    /// Asks the guest to end; false where its file says no way, and there is none that all guests know.
    fn ask(&self) -> bool {
        let stop = self.config.stop.as_ref();
        let line = stop.and_then(|stop| stop.console_line.as_deref());
        match (&self.power_key, &self.console, line) {
            (Some(key), ..) => key.press(),
            (None, Some(console), Some(line)) => console.type_line(line),
            _ => return false,
        }
        true
    }

    /// What the devices have done, if it is more than was `told`.
    fn report_devices(&self, told: &mut Vec<DeviceStatus>, reporter: &Reporter) {
        let now = self.devices.counters();
        if *told != now {
            reporter.send(Report::Devices(now.clone()));
            *told = now;
        }
    }

    fn report_ready(&self, reporter: &Reporter) -> bool {
        let ready = self.devices.take_ready()
            || self.console.as_ref().is_some_and(|console| console.port().take_ready());
        if ready {
            reporter.send(Report::Ready);
        }
        ready
    }
}

fn report_stuck(vcpus: &[u32], reporter: &Reporter) {
    if !vcpus.is_empty() {
        let bound = LEAVE_BOUND.as_secs();
        let vcpus = array(vcpus);
        let what = format!("vCPUs {vcpus} do not leave VCPU_RUN within {bound} s");
        reporter.send(Report::Launch(Event::Warning(STUCK.case(what))));
        reporter.send(Report::Closing(Closing::Lost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{recv, socketpair, AddressFamily, MsgFlags, SockFlag, SockType};
    use std::os::fd::AsRawFd;

    #[test]
    fn stuck_vcpus_are_named() {
        let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
        let (ours, theirs) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let reporter = Reporter::new(ours);
        report_stuck(&[], &reporter);
        report_stuck(&[1, 3], &reporter);
        let mut packet = [0; 4096];
        let len = recv(theirs.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        let text = std::str::from_utf8(&packet[..len]).unwrap();
        assert!(text.contains("vCPUs [1, 3] do not leave"), "{text}");
        assert!(text.contains("\"run-stuck\""), "{text}");
    }
}
