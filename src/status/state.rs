// SPDX-License-Identifier: Apache-2.0
//! The states of a VM and the reasons of its end.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A VM's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not to be started at boot.
    Disabled,
    /// For a dependency, a property, its turn or its restart.
    Waiting,
    /// A worker is launching it.
    Starting,
    /// START has returned.
    Running,
    /// The guest said so.
    Ready,
    /// Asked to end, or being closed.
    Stopping,
    /// Ended as it should.
    Stopped,
    /// Ended as it should not; a restart may follow.
    Crashed,
    /// Given up: a human or `start` is needed.
    Failed,
}

impl State {
    /// The word in properties, status and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Disabled => "disabled",
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Running => "running",
            State::Ready => "ready",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
            State::Crashed => "crashed",
            State::Failed => "failed",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a guest ended, as the driver told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// PSCI SYSTEM_OFF, or an end without further words.
    PowerOff,
    /// PSCI SYSTEM_RESET or SYSTEM_RESET2: restarted at once, not counted as a crash.
    Reset,
    /// The guest's watchdog bit.
    Watchdog,
    /// The hypervisor ended it, by an exception loop for example.
    HypervisorError,
    /// An asynchronous external abort.
    ExternalAbort,
    /// Stopped by the host.
    ForceStopped,
    /// RM could not load it.
    LoadFailed,
    /// The driver says crashed and no more.
    Crashed,
    /// The driver answers that the VM is gone without having reported an end.
    Unreported,
}

impl EndReason {
    /// The word in properties, status and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::PowerOff => "power-off",
            EndReason::Reset => "reset",
            EndReason::Watchdog => "watchdog",
            EndReason::HypervisorError => "hypervisor-error",
            EndReason::ExternalAbort => "external-abort",
            EndReason::ForceStopped => "force-stopped",
            EndReason::LoadFailed => "load-failed",
            EndReason::Crashed => "crashed",
            EndReason::Unreported => "unreported",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
