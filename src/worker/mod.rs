// SPDX-License-Identifier: Apache-2.0
//! The one process that owns one VM: it launches it, holds its fds and ends with it.

mod channel;
mod close;
mod power_key;
mod proxy;
mod reporter;
mod requests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use gunyah::Vm;

use crate::config::{Scheduling, VmConfig};
use crate::confine::{self, DeviceCalls};
use crate::diagnostic::{Diagnostic, Kind};
use crate::dtb::Devicetree;
use crate::launch::{launch, Event, Launched};
use crate::memory::{Allotment, GuestMemory};

use proxy::Proxy;
use requests::{wait_for_request, Received, CALLED_OFF};

pub use channel::{Closing, Report, Request};
pub use reporter::Reporter;

/// What all workers of a gunyahd have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Path of the Gunyah device, `/dev/gunyah`.
    pub device: PathBuf,
    /// Capabilities and system calls are given up once they are not needed.
    pub confined: bool,
}

/// What a worker is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// The VM.
    pub config: &'a VmConfig,
    /// What it shares with the others.
    pub setting: Setting,
    /// The worker's end of the channel: a SOCK_SEQPACKET pair, one JSON message a packet.
    pub channel: OwnedFd,
    /// The console's ring, which outlives the worker. Absent: what the guest prints ends with it.
    pub console: Option<OwnedFd>,
    /// What the guest prints goes to the log, line by line.
    pub log_console: bool,
    /// Its part of the reserve, if there is one.
    pub reserve: Option<Allotment>,
    /// How many launches there are now, this one among them: they share the cores.
    pub launches: usize,
}

/// Launches the VM and looks after it until it ends or is to stop; returns the exit code of the
/// process. Called in the freshly forked, single-threaded child.
pub fn run(start: Start<'_>) -> i32 {
    let reporter = Reporter::new(start.channel);
    let (config, confined) = (start.config, start.setting.confined);
    // Before there is a VM: of a process that is killed the kernel closes the lowest fds first, and the
    // console's eventfd has to go before the VM's.
    let prepared = match config.vcpus.scheduling {
        Some(Scheduling::Hypervisor) => Ok(None),
        // `auto` is proxy wherever the driver has vCPUs.
        Some(Scheduling::Proxy) | None => {
            Proxy::prepare(config, start.console, start.log_console, confined).map(Some)
        }
    };
    let launched = prepared.and_then(|proxy| {
        let report = |events: Vec<Event>| {
            reporter.send_all(events.into_iter().map(Report::Launch).collect());
        };
        let connect = |vm: &Vm, memory: &GuestMemory, tree: &Devicetree| {
            // Nobody waits for this guest any more, and from START on the end takes longer.
            if reporter.is_called() {
                return Err(CALLED_OFF.case("the launch ends before START"));
            }
            if let Some(proxy) = &proxy {
                proxy.connect(vm, memory, tree)?;
            }
            Ok(proxy)
        };
        let (device, launches) = (&start.setting.device, start.launches);
        launch(config, device, start.reserve, launches, &report, connect)
    });
    let Launched { vm, memory, vcpus, prepared, scheduling, .. } = match launched {
        Ok(launched) => launched,
        Err(error) => {
            let called_off = error.name == CALLED_OFF.name();
            if !called_off {
                reporter.send(Report::Failed(error));
            }
            reporter.send(Report::Closed);
            return i32::from(!called_off);
        }
    };
    // A driver without vCPUs leaves `auto` to the hypervisor.
    let proxy = prepared.filter(|_| scheduling == Scheduling::Proxy);
    reporter.send(Report::Running { end_visible: proxy.is_some() });
    let code = match proxy {
        // Its interrupt lines' eventfds are closed when it is back: android14-6.1 frees memory that it
        // still uses if one of them outlives the VM.
        Some(proxy) => proxy.run(vcpus, &reporter),
        None => {
            let held =
                confine_if(confined, &[]).and_then(|()| hold(&reporter)).unwrap_or_else(|error| {
                    reporter.send(Report::Failed(error));
                    1
                });
            reporter.send(Report::Launch(Event::Warning(close::by_hypervisor())));
            held
        }
    };
    // The last close of the VM's fds stops the guest and may take long; the memory goes after it.
    reporter.send(Report::Closing(Closing::Kernel));
    drop(vm);
    drop(memory);
    reporter.send(Report::Closed);
    code
}

/// From here on only what the rest of a worker's life takes.
fn confine_if(confined: bool, devices: &[DeviceCalls]) -> Result<(), Diagnostic> {
    match confined {
        true => confine::worker(devices),
        false => Ok(()),
    }
}

/// Holds a VM that the hypervisor schedules; returns the exit code. There is no way to ask such a guest
/// to end, nor to learn that it has ended; so every request closes it.
fn hold(reporter: &Reporter) -> Result<i32, Diagnostic> {
    loop {
        match wait_for_request(reporter, &[])? {
            Received::Request(Request::Stop | Request::Close, _) => return Ok(0),
            // Dropped, its socket tells the client.
            Received::Request(Request::Console { .. }, _) | Received::Nothing => {}
            // The supervisor is gone, and so is everyone who could want this VM.
            Received::Gone => return Ok(1),
        }
    }
}

/// Everything that can be wrong here.
pub(crate) const KINDS: &[&[&Kind]] =
    &[close::KINDS, power_key::KINDS, proxy::KINDS, requests::KINDS];
