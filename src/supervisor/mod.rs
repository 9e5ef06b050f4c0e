// SPDX-License-Identifier: Apache-2.0
//! One thread, one poll loop: control socket, signals, timers, and a pidfd and a channel per worker.
//!
//! ```text
//! lifecycle, restart   one VM: event and time in, actions out       pure
//! order                all VMs: who may start, who may stop         pure
//! pages                huge pages that ended runs have not given back   pure
//! vm, journal          what is known of a VM
//! spawn                fork a worker, hear it, learn of its end
//! listen, clients      the control socket and who is connected
//! answer               what a client asks and when it is answered
//! reload               the files, read again
//! foreground           the console of `gunyahd run`
//! event_loop, settle   put them together
//! sinks                properties and log
//! ```

mod answer;
mod clients;
mod event_loop;
mod foreground;
mod journal;
mod lifecycle;
mod listen;
mod order;
mod pages;
mod reload;
mod restart;
mod settle;
mod sinks;
mod spawn;
mod vm;

use std::path::PathBuf;

use nix::errno::Errno;

use crate::config::{RestartPolicy, VmConfig};
use crate::error::LaunchError;
use crate::status::State;
use crate::worker::Setting;

use event_loop::Supervisor;
use vm::Vm;

pub use listen::ListenError;

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
    /// What all workers share.
    pub setting: Setting,
}

/// Why the supervisor could not work.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// No control socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No confinement.
    #[error(transparent)]
    Confinement(#[from] LaunchError),
    /// A call that cannot fail on a sound host did.
    #[error("{call}: {errno:?} ({})", .errno.desc())]
    System {
        /// The call.
        call: &'static str,
        /// The system's answer.
        errno: Errno,
    },
}

/// How a VM in the foreground ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, as it should.
    PowerOff,
    /// It reset itself.
    Reset,
    /// It could not be launched.
    LaunchFailed,
    /// It ended as it should not.
    Crashed,
    /// A signal to gunyahd stopped it.
    Stopped,
}

/// `gunyahd boot`: serves until SIGTERM.
pub fn boot(options: BootOptions) -> Result<(), SupervisorError> {
    let listener = match listen::Listener::inherited() {
        Some(inherited) => inherited?,
        None => {
            let beside = options.socket.parent().map(PathBuf::from);
            let run_dir = options.run_dir.or(beside).unwrap_or_default();
            listen::Listener::bind(&options.socket, &run_dir)?
        }
    };
    let mut supervisor = Supervisor::new(options.setting, Some(listener))?;
    supervisor.confine()?;
    supervisor.load(options.config_dirs);
    supervisor.serve()
}

/// `gunyahd run`: one VM, until it ends. It is started at once, whatever its file says of others, of
/// properties and of restarts.
pub fn run(mut config: VmConfig, setting: Setting) -> Result<Outcome, SupervisorError> {
    config.start.after.clear();
    config.start.property = None;
    config.restart.policy = RestartPolicy::Never;
    let mut supervisor = Supervisor::new(setting, None)?;
    supervisor.confine()?;
    supervisor.add_alone(config);
    supervisor.serve()?;
    Ok(supervisor.outcome())
}

/// How the one VM of `gunyahd run` ended.
fn outcome(vm: &Vm, signalled: bool) -> Outcome {
    let last = vm.life.last_end().map(|end| end.reason.as_str());
    match (vm.life.state(), last) {
        _ if signalled => Outcome::Stopped,
        (State::Stopped, Some("reset")) => Outcome::Reset,
        (State::Stopped, _) => Outcome::PowerOff,
        (_, Some("launch-failed")) => Outcome::LaunchFailed,
        _ => Outcome::Crashed,
    }
}
