// SPDX-License-Identifier: Apache-2.0
//! What goes into a VM's life and what comes out of it.

use crate::config::VmConfig;
use crate::status::State;
use crate::worker::{Report, Request};

use super::super::restart::RestartRules;

/// How a VM becomes ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its file says nothing of it: it stays `running`.
    Untold,
    /// As soon as it runs.
    AtOnce,
    /// When the guest says so, within milliseconds.
    Within(u64),
}

/// What a VM's file says about its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// When it is started again.
    pub restart: RestartRules,
    /// Milliseconds that `starting` may take.
    pub start_timeout: u64,
    /// Milliseconds between asking the guest to end and closing its VM; none: it cannot be asked.
    pub stop_timeout: Option<u64>,
    /// How it becomes ready.
    pub ready: Readiness,
    /// The property waited for, as `name=value`, and milliseconds.
    pub property: Option<(String, u64)>,
}

impl Rules {
    /// For a VM whose file says nothing that can be trusted.
    pub fn none() -> Self {
        Self {
            restart: RestartRules::none(),
            start_timeout: 0,
            stop_timeout: None,
            ready: Readiness::Untold,
            property: None,
        }
    }

    /// The rules in a VM's file.
    pub fn of(config: &VmConfig) -> Self {
        Self {
            restart: RestartRules::of(&config.restart),
            start_timeout: millis(config.start.timeout),
            stop_timeout: config.stop.as_ref().map(|_| millis(config.stop_timeout)),
            ready: match &config.ready {
                None => Readiness::Untold,
                Some(ready) if ready.console_line.is_none() => Readiness::AtOnce,
                Some(ready) => Readiness::Within(millis(ready.timeout)),
            },
            property: config.start.property.as_ref().map(|wait| {
                (
                    format!("{}={}", wait.name, wait.value),
                    millis(wait.timeout),
                )
            }),
        }
    }
}

/// A duration in milliseconds; one too long for a `u64` is as good as for ever.
pub fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// It exited with this code.
    Exit(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Death {
    /// For reasons.
    pub fn describe(self) -> String {
        match self {
            Death::Exit(code) => format!("worker exited with {code} and no report of an end"),
            // Seccomp's signal: Documentation/userspace-api/seccomp_filter.rst.
            Death::Signal(libc::SIGSYS) => {
                "worker killed by SIGSYS: a system call that its filter forbids".to_owned()
            }
            Death::Signal(number) => format!("worker killed by {}", signal_name(number)),
        }
    }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number)
        .map_or_else(|_| format!("signal {number}"), |signal| signal.to_string())
}

/// Whether a waiting VM may start, as the supervisor sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gates {
    /// `start.after`; else what it waits for.
    pub dependencies: Result<(), String>,
    /// The property has its value, or why nobody can know.
    pub property: Result<bool, String>,
    /// No VM of higher priority is starting; else what it waits for.
    pub turn: Result<(), String>,
    /// The huge pages of the last runs are back; else what it waits for.
    pub pages: Result<(), String>,
}

/// What happens to a VM.
#[derive(Debug)]
pub enum Event<'a> {
    /// `gunyahd boot` starts its VMs.
    Boot,
    /// A person or a test asks for it.
    Start,
    /// It is to end; by whom.
    Stop(&'a str),
    /// It is to end and to start again; by whom.
    Restart(&'a str),
    /// The supervisor looked at what it waits for.
    Gates(&'a Gates),
    /// [`Action::Fork`] could not be done; why.
    ForkFailed(&'a str),
    /// The worker said something.
    Report(&'a Report),
    /// The worker's end of the channel is closed.
    HangUp,
    /// The worker is gone.
    Died(Death),
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
    /// Tell everybody.
    Publish(State, String),
}

/// Milliseconds for people: `250 ms`, `1.5 s`, `10 min`.
pub fn span(ms: u64) -> String {
    match ms {
        0..=999 => format!("{ms} ms"),
        1_000..=119_999 if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        1_000..=119_999 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min", ms / 60_000),
    }
}
