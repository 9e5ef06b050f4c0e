// SPDX-License-Identifier: Apache-2.0
//! The one process that owns one VM: it launches it, holds its fds and ends with it.

mod channel;
mod close;
mod proxy;
mod reporter;
mod requests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use gunyah::Vm;

use crate::config::{Scheduling, VmConfig};
use crate::confine;
use crate::diagnostic::{Diagnostic, Kind};
use crate::launch::{launch, Event, Launched};

use proxy::Proxy;
use requests::{wait_for_request, Received};

pub use channel::{Report, Request};
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
pub struct Start {
    /// The VM.
    pub config: VmConfig,
    /// What it shares with the others.
    pub setting: Setting,
    /// The worker's end of the channel: a SOCK_SEQPACKET pair, one JSON message a packet.
    pub channel: OwnedFd,
    /// The console's ring, which outlives the worker. Absent: what the guest prints ends with it.
    pub console: Option<OwnedFd>,
    /// What the guest prints goes to the log, line by line.
    pub log_console: bool,
}

/// Launches the VM and looks after it until it ends or is to stop; returns the exit code of the
/// process. Called in the freshly forked, single-threaded child.
pub fn run(start: Start) -> i32 {
    let reporter = Reporter::new(start.channel);
    let (config, confined) = (&start.config, start.setting.confined);
    let prepared = match config.vcpus.scheduling {
        Some(Scheduling::Hypervisor) => Ok(None),
        // `auto` is proxy wherever the driver has vCPUs.
        Some(Scheduling::Proxy) | None => {
            Proxy::prepare(config, start.console, start.log_console, confined).map(Some)
        }
    };
    let launched = prepared.and_then(|proxy| {
        let report = |event: Event| reporter.send(&Report::Launch(event));
        let connect = |vm: &Vm| proxy.as_ref().map_or(Ok(()), |proxy| proxy.connect(vm));
        let launched = launch(config, &start.setting.device, &report, connect)?;
        let proxy = proxy.filter(|_| launched.scheduling == Scheduling::Proxy);
        Ok((proxy, launched))
    });
    let (proxy, Launched { vm, memory, vcpus, .. }) = match launched {
        Ok(launched) => launched,
        Err(error) => {
            reporter.send(&Report::Failed(error));
            reporter.send(&Report::Closed);
            return 1;
        }
    };
    reporter.send(&Report::Running { end_visible: proxy.is_some() });
    let code = match proxy {
        Some(proxy) => proxy.run(vcpus, &reporter),
        None => {
            let held =
                confine_if(confined).and_then(|()| hold(&reporter)).unwrap_or_else(|error| {
                    reporter.send(&Report::Failed(error));
                    1
                });
            reporter.send(&Report::Launch(Event::Warning(close::by_hypervisor())));
            held
        }
    };
    // The last close of the VM's fds stops the guest and may block; the memory goes after it.
    drop(vm);
    drop(memory);
    reporter.send(&Report::Closed);
    code
}

/// From here on only what the rest of a worker's life takes.
fn confine_if(confined: bool) -> Result<(), Diagnostic> {
    match confined {
        true => confine::worker(),
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
pub(crate) const KINDS: &[&[Kind]] = &[close::KINDS, proxy::KINDS, requests::KINDS];
