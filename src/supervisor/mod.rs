// SPDX-License-Identifier: Apache-2.0
//! One thread, one poll loop: control socket, signals, timers, and a pidfd and a channel per worker.
//!
//! ```text
//! lifecycle, restart   one VM: event and time in, actions out       pure
//! order                all VMs: who may start, who may stop         pure
//! pages                huge pages that ended runs have not given back   pure
//! reserve              which VM has which folios of the reserve
//! goal                 what a client waits for                      pure
//! spawn                forks a worker, hears it, learns of its end
//! vm, journal          one VM, driven
//! fleet                all VMs, driven
//! files                their files, read and read again
//! publisher            tells every change to journal, log, properties and clients
//! listen, clients      the control socket and who is connected
//! requests             what a client asks
//! foreground           the console of `gunyahd run`
//! event_loop           puts them together
//! ```

mod clients;
mod event_loop;
mod files;
mod fleet;
mod foreground;
mod goal;
mod journal;
mod lifecycle;
mod listen;
mod order;
mod pages;
mod publisher;
mod requests;
mod reserve;
mod restart;
mod spawn;
mod vm;

use std::path::PathBuf;

use crate::config::{RestartPolicy, VmConfig};
use crate::diagnostic::{Diagnostic, Kind};
use crate::memory::{self, Reserve};
use crate::status::EndReason;
use crate::worker::Setting;

use event_loop::Supervisor;

/// Every kind of fault that this folder finds.
#[allow(dead_code)]
pub(crate) const KINDS: &[&[&Kind]] = &[
    event_loop::KINDS,
    lifecycle::ending::KINDS,
    lifecycle::events::KINDS,
    listen::KINDS,
    order::KINDS,
    spawn::KINDS,
];

/// Where gunyahd's socket is on a device.
pub const DEFAULT_SOCKET: &str = "/dev/socket/gunyahd";

/// Where VMs' files are on a device.
pub const DEFAULT_CONFIG_DIR: &str = "/vendor/etc/gunyah";

/// Where the driver is.
pub const DEFAULT_DEVICE: &str = "/dev/gunyah";

/// `gunyahd boot`'s options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOptions {
    /// Directories of `*.json`, in order.
    pub config_dirs: Vec<PathBuf>,
    /// The control socket, where init gave none.
    pub socket: PathBuf,
    /// Where the lock is; absent: beside the socket.
    pub run_dir: Option<PathBuf>,
    /// Bytes of the reserve; 0: none.
    pub reserve: u64,
    /// What all workers share.
    pub setting: Setting,
}

/// How a VM in the foreground ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, as its last run did.
    Ended(EndReason),
    /// A signal to gunyahd stopped it.
    Stopped,
}

/// `gunyahd boot`: serves until SIGTERM.
pub fn boot(options: BootOptions) -> Result<(), Diagnostic> {
    // Before there is a socket or a reserve: whoever sees one may ask for the end, which takes it away.
    event_loop::block_signals()?;
    let listener = match listen::Listener::inherited() {
        Some(inherited) => inherited?,
        None => {
            let beside = options.socket.parent().map(PathBuf::from);
            let run_dir = options.run_dir.or(beside).unwrap_or_default();
            listen::Listener::bind(&options.socket, &run_dir)?
        }
    };
    // Before anything else takes memory, and before the calls that it takes are given up.
    let (reserve, problems) = take_reserve(options.reserve);
    Supervisor::boot(options.setting, listener, options.config_dirs, reserve, problems)?.serve()
}

/// The reserve, and what is wrong with it. VMs start without it, too, where their files allow it.
fn take_reserve(bytes: u64) -> (Option<Reserve>, Vec<Diagnostic>) {
    if bytes == 0 {
        return (None, Vec::new());
    }
    match Reserve::take(bytes, memory::folio()) {
        Ok((reserve, warnings)) => (Some(reserve), warnings),
        Err(error) => (None, vec![error]),
    }
}

/// `gunyahd run`: one VM, until it ends. It is started at once, whatever its file says of others, of
/// properties and of restarts.
pub fn run(mut config: VmConfig, setting: Setting) -> Result<Outcome, Diagnostic> {
    config.autostart = false;
    config.start.after.clear();
    config.start.property = None;
    config.restart.policy = RestartPolicy::Never;
    let mut supervisor = Supervisor::alone(setting, config)?;
    supervisor.serve()?;
    let end = supervisor.fleet.vms.first().and_then(|vm| vm.life.last_end());
    Ok(match end {
        Some(end) if supervisor.fleet.shutdown.is_none() => Outcome::Ended(end.reason),
        _ => Outcome::Stopped,
    })
}
