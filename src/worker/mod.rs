// SPDX-License-Identifier: Apache-2.0
//! The one process that owns one VM: it launches it, holds its fds and ends with it.

mod channel;
mod proxy;
mod reporter;
mod requests;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::config::{Scheduling, VmConfig};
use crate::confine;
use crate::diagnostic::Diagnostic;
use crate::driver::Vm;
use crate::error::LaunchError;
use crate::launch::{launch, Launched};

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
    let tell = Reporter::new(start.channel);
    let config = &start.config;
    let mut proxy = match config.vcpus.scheduling {
        Scheduling::Hypervisor => None,
        Scheduling::Proxy => {
            let (log, confined) = (start.log_console, start.setting.confined);
            match Proxy::prepare(config, start.console, log, confined) {
                Ok(proxy) => Some(proxy),
                Err(error) => return fail(&tell, error),
            }
        }
    };
    let before_start = |vm: &Vm| -> Result<(), Diagnostic> {
        match &proxy {
            Some(proxy) => proxy.connect(vm, config),
            None => Ok(()),
        }
    };
    let launched = match launch(
        config,
        &start.setting.device,
        &|event| tell.send(&event.into()),
        before_start,
    ) {
        Ok(launched) => launched,
        Err(error) => return fail(&tell, error.into()),
    };
    tell.send(&Report::Running {
        end_visible: proxy.is_some(),
    });
    let Launched { vm, memory, vcpus } = launched;
    let code = match proxy.take() {
        Some(proxy) => proxy.run(vcpus, config, start.setting.confined, &tell),
        None => match confine_if(start.setting.confined) {
            Ok(()) => hold(&tell),
            Err(error) => {
                tell.send(&Report::Failed(error.into()));
                1
            }
        },
    };
    // The last close of the VM's fds stops the guest and may block; the memory goes after it.
    drop(vm);
    drop(memory);
    tell.send(&Report::Closed);
    code
}

/// From here on only what the rest of a worker's life takes.
fn confine_if(confined: bool) -> Result<(), LaunchError> {
    if confined {
        confine::worker()?;
    }
    Ok(())
}

fn fail(tell: &Reporter, error: LaunchError) -> i32 {
    tell.send(&Report::Failed(error.into()));
    tell.send(&Report::Closed);
    1
}

/// Holds a VM that the hypervisor schedules. There is no way to ask such a guest to end, nor to
/// learn that it has ended; so every request closes it.
fn hold(tell: &Reporter) -> i32 {
    loop {
        match wait_for_request(tell, &[]) {
            Ok(Received::Request(Request::Stop | Request::Close, _)) => return 0,
            // Dropped, its socket tells the client.
            Ok(Received::Request(Request::Console { .. }, _) | Received::Nothing) => {}
            // The supervisor is gone, and so is everyone who could want this VM.
            Ok(Received::Gone) => return 1,
            Err(error) => {
                tell.send(&Report::Failed(error.into()));
                return 1;
            }
        }
    }
}
