// SPDX-License-Identifier: Apache-2.0
//! What goes into a VM's life and what comes out of it.

use std::fmt;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::{RestartConfig, RestartPolicy, VmConfig};
use crate::diagnostic::{kinds, Diagnostic, Kind};
use crate::status::clock::millis;
use crate::status::State;
use crate::worker::{Report, Request};

/// How a VM becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its file says nothing of it: it stays `running`.
    Unknown,
    /// As soon as it runs.
    AtOnce,
    /// When the guest says so, within milliseconds.
    Within(u64),
}

/// What a VM's file says about its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub restart: RestartConfig,
    /// Milliseconds that `starting` may take.
    pub start_timeout: u64,
    /// Milliseconds between asking the guest to end and closing its VM; none: it cannot be asked.
    pub stop_timeout: Option<u64>,
    pub ready: Readiness,
    /// The property waited for, as `name=value`, and milliseconds.
    pub property: Option<(String, u64)>,
}

impl Rules {
    /// For a VM without a good file, which never starts.
    pub fn none() -> Self {
        let none = Duration::ZERO;
        Self {
            restart: RestartConfig {
                policy: RestartPolicy::Never,
                max: 0,
                window: none,
                backoff: none,
                backoff_max: none,
            },
            start_timeout: 0,
            stop_timeout: None,
            ready: Readiness::Unknown,
            property: None,
        }
    }

    pub fn of(config: &VmConfig) -> Self {
        Self {
            restart: config.restart.clone(),
            start_timeout: millis(config.start.timeout),
            stop_timeout: config.stop.as_ref().map(|_| millis(config.stop_timeout)),
            ready: match &config.ready {
                None => Readiness::Unknown,
                Some(ready) if ready.is_at_once() => Readiness::AtOnce,
                Some(ready) => Readiness::Within(millis(ready.timeout)),
            },
            property: config.start.property.as_ref().map(|wait| {
                let wanted = format!("{}={}", wait.name, wait.value);
                (wanted, millis(wait.timeout))
            }),
        }
    }
}

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It exited with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
}

kinds! {
    KILLED: Error "worker-killed" in Run {
        "a signal killed the VM's process",
        cause: "SIGKILL is a person's, init's, or the kernel's when memory is short; another signal is a fault of gunyahd",
        cure: "look for who did it: `dmesg | grep -i -e kill -e oom`; for another signal report the log",
    }
    FORBIDDEN: Error "worker-forbidden-call" in Run {
        "the VM's process made a system call that its filter forbids",
        cause: "a C library or a kernel that gunyahd was not tried with, or a guest that broke into the process",
        cure: "look up the call's number, `dmesg | grep seccomp`, and report it; --no-confinement runs without the filter",
    }
    EXITED: Error "worker-exited" in Run {
        "the VM's process ended without a report of the VM's end",
        cause: "a fault of gunyahd",
        cure: "report the log",
    }
}

impl Death {
    /// The name of such a death.
    pub(super) fn kind(self) -> &'static Kind {
        match self {
            Self::Exit(_) => &EXITED,
            Self::Signal(libc::SIGSYS) => &FORBIDDEN,
            Self::Signal(_) => &KILLED,
        }
    }
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Death::Exit(code) => write!(f, "worker exited with {code} and no report of an end"),
            // Seccomp's signal: Documentation/userspace-api/seccomp_filter.rst.
            Death::Signal(libc::SIGSYS) => {
                f.write_str("worker killed by SIGSYS: a system call that its filter forbids")
            }
            // What a panic comes to where the program is built without its messages: BRK on arm64, UD2 on x86-64.
            Death::Signal(number @ (libc::SIGTRAP | libc::SIGILL)) => {
                let signal = if *number == libc::SIGTRAP { "SIGTRAP" } else { "SIGILL" };
                write!(f, "worker killed by {signal}, as by a panic: a bug in gunyahd")
            }
            Death::Signal(number) => match Signal::try_from(*number) {
                Ok(signal) => write!(f, "worker killed by {signal}"),
                Err(_) => write!(f, "worker killed by signal {number}"),
            },
        }
    }
}

/// Whether a waiting VM may start, as the supervisor sees it now. Each error says what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    /// `start.after`.
    pub dependencies: Result<(), String>,
    /// Whether the property has its value, or why nobody can know.
    pub property: Result<bool, String>,
    /// No VM of higher priority is starting.
    pub turn: Result<(), String>,
    /// The huge pages of the last runs are back.
    pub pages: Result<(), String>,
}

/// What happens to a VM.
#[derive(Debug)]
pub enum Event<'a> {
    /// A person asks for it.
    Start,
    /// It is to end; who asks.
    Stop(&'a str),
    /// It is to end and to start again; who asks.
    Restart(&'a str),
    /// Who stops it does not want to wait for its guest.
    Hurry,
    /// A person wants its worker killed; who.
    Kill(&'a str),
    /// The supervisor looked at what it waits for.
    Gates(&'a Gates),
    /// [`Action::Fork`] failed.
    ForkFailed(&'a Diagnostic),
    /// The worker said something.
    Report(&'a Report),
    /// The worker's end of the channel is closed.
    HangUp,
    /// The worker is gone, and its huge pages are not back yet: [`Event::Died`] comes when they are.
    PagesPending,
    /// They have not come back in time; [`Event::Died`] comes next.
    PagesMissing(&'a str),
    /// The worker is gone.
    Died(Death),
    /// The resource manager takes this VM down, and does one thing after the other.
    Busy(&'a str),
    /// Time has passed.
    Timer,
}

/// What the supervisor is to do, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fork a worker; [`Event::ForkFailed`] if that fails.
    Fork,
    /// Send to the worker.
    Send(Request),
    /// SIGKILL the worker.
    Kill,
    /// Tell everybody the new state and its reason.
    Publish(State, String),
}
