// SPDX-License-Identifier: Apache-2.0
//! What a process gives up once it has what it needs: capabilities, new privileges, system calls.
//!
//! Two steps. The supervisor's, when it is up, holds for the workers that it forks too: they have what
//! launching takes, and nothing that runs another program or looks into another process. A worker's,
//! before the first VCPU_RUN of its guest, leaves what the run loop and the console take.

mod calls;
mod filter;
mod kernel;
pub mod requests;

use std::path::Path;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::diagnostic::{Diagnostic, Kind, Step};
use crate::list::Listed;
use crate::mpsc;
use crate::process;
use filter::Filter;
use kernel::{Threads, CAPABILITIES, FILTER};

pub use calls::DeviceCalls;

/// A device's requests are moved in batches of iovecs on it; plenty to spare.
const STACK: usize = 256 << 10;

// Bits of linux/capability.h.
/// Newer drivers pin a guest's pages when it touches them.
const IPC_LOCK: u64 = 1 << 14;
/// Niceness of vCPU threads below 0.
const SYS_NICE: u64 = 1 << 23;
/// A higher RLIMIT_MEMLOCK.
const SYS_RESOURCE: u64 = 1 << 24;
/// Files of any owner. Where gunyahd has these, as root on a workstation, images and devices may need
/// them at every launch.
const DAC_OVERRIDE: u64 = 1 << 1;
const DAC_READ_SEARCH: u64 = 1 << 2;

/// The kernel's log, for what it says of a START that fails.
const SYSLOG: u64 = 1 << 34;

/// What launching takes, of what this process has.
const LAUNCHING: u64 = IPC_LOCK | SYS_NICE | SYS_RESOURCE | DAC_OVERRIDE | DAC_READ_SEARCH | SYSLOG;

/// Confines a supervisor that is up, and every process that it forks. Calls that they have no need of
/// answer EPERM: the supervisor's death would be that of every VM.
pub fn supervisor() -> Result<(), Diagnostic> {
    kernel::bound_capabilities(LAUNCHING);
    kernel::drop_capabilities(LAUNCHING).map_err(capabilities_failed)?;
    install(&calls::supervisor(), Threads::All)
}

/// Confines a worker whose guest runs, all its threads included, and leaves what `devices` take. Calls that
/// it has no need of end it.
pub fn worker(devices: &[DeviceCalls]) -> Result<(), Diagnostic> {
    thread()?;
    install(&calls::worker(std::process::id(), &threads(), devices), Threads::All)
}

/// Confines the calling thread, a device's, after its worker is: to what the device takes of that.
pub fn device(calls: DeviceCalls) -> Result<(), Diagnostic> {
    install(&calls::device(calls), Threads::Own)
}

/// Gives up what the calling thread has of capabilities, all but the one to pin memory. Each thread
/// has its own: a worker's must all call this.
pub fn thread() -> Result<(), Diagnostic> {
    kernel::drop_capabilities(IPC_LOCK).map_err(capabilities_failed)
}

/// A thread of a worker other than a vCPU's: it takes no signals, and is `confined` once this returns.
///
/// # Errors
/// What `failed` says where it cannot be made; its capabilities cannot be given up.
pub fn spawn(
    name: String,
    confined: bool,
    failed: &dyn Fn(Errno) -> Diagnostic,
    live: Box<dyn FnOnce() + Send>,
) -> Result<JoinHandle<()>, Diagnostic> {
    let (up, is_up) = mpsc::channel();
    let run = move || {
        // Signals are the worker's main thread's.
        let _ = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
        let given_up = if confined { thread() } else { Ok(()) };
        let lives = given_up.is_ok();
        // It is waited for below.
        let _ = up.send(given_up);
        if lives {
            live();
        }
    };
    let handle = process::thread(name, STACK, Box::new(run)).map_err(failed)?;
    // What a thread needs to come up is given up before the guest runs.
    is_up.recv().map_err(|_| failed(Errno::ECHILD))?.map_err(|mut error| {
        error.step = Step::Functions;
        error
    })?;
    Ok(handle)
}

fn capabilities_failed(errno: Errno) -> Diagnostic {
    CAPABILITIES.case("confinement: dropping capabilities").errno(errno)
}

fn install(filter: &Filter, threads: Threads) -> Result<(), Diagnostic> {
    let failed = |errno| FILTER.case("confinement: the seccomp filter").errno(errno);
    if threads == Threads::All {
        kernel::no_new_privileges().map_err(failed)?;
    }
    kernel::install(filter, threads).map_err(failed)
}

/// The threads of this process. One that cannot be read only loses the right to abort.
fn threads() -> Vec<u32> {
    let names = process::names_in(Path::new("/proc/self/task")).unwrap_or_default();
    names.iter().filter_map(|name| name.parse().ok()).listed()
}

/// Everything that can be wrong here.
pub(crate) const KINDS: &[&[&Kind]] = &[kernel::KINDS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_has_its_name() {
        let failed = capabilities_failed(Errno::EPERM);
        assert_eq!(failed.name, "confine-capabilities");
        let mut too_long = Filter::new();
        too_long.allow(&[&[0; 40_000]]);
        assert_eq!(install(&too_long, Threads::Own).unwrap_err().name, "confine-filter");
    }
}
