// SPDX-License-Identifier: Apache-2.0
//! The states of a VM, and how a run ends.

use std::fmt;

use crate::json::record;
use crate::text::words;

words! {
    /// A VM's state.
    State {
        /// Not to be started at boot.
        Disabled = "disabled",
        /// For a dependency, a property, its turn, huge pages or its restart.
        Waiting = "waiting",
        /// A worker launches it.
        Starting = "starting",
        /// START has returned.
        Running = "running",
        /// The guest said so, or its file.
        Ready = "ready",
        /// It ends; its worker is there.
        Stopping = "stopping",
        /// Ended as it should.
        Stopped = "stopped",
        /// Ended as it should not; a restart may follow.
        Crashed = "crashed",
        /// Given up: a person's `start` is needed.
        Failed = "failed",
    }
}

impl State {
    /// Whether a worker has the VM.
    pub fn has_worker(self) -> bool {
        self.is_up() || matches!(self, State::Starting | State::Stopping)
    }

    /// Whether its guest runs and nothing ends it.
    pub fn is_up(self) -> bool {
        matches!(self, State::Running | State::Ready)
    }

    /// Whether a person should look at it.
    pub fn is_bad(self) -> bool {
        matches!(self, State::Crashed | State::Failed)
    }
}

words! {
    /// How gunyahd as a whole does.
    Overall {
        /// Some VM is on its way.
        Starting = "starting",
        /// Every VM is where it should be.
        Up = "up",
        /// Some VM crashed or failed.
        Degraded = "degraded",
        /// gunyahd stops all VMs.
        Stopping = "stopping",
        /// All are stopped; gunyahd ends.
        Stopped = "stopped",
    }
}

impl Overall {
    /// From the states of all VMs.
    pub fn of(states: impl Iterator<Item = State>) -> Self {
        let mut overall = Overall::Up;
        for state in states {
            if state.is_bad() {
                return Overall::Degraded;
            }
            if matches!(state, State::Waiting | State::Starting) {
                overall = Overall::Starting;
            }
        }
        overall
    }
}

words! {
    /// Why a run ended: the driver's word for the guest's end, or gunyahd's own.
    EndReason {
        /// PSCI SYSTEM_OFF, or an end without further words.
        PowerOff = "power-off",
        /// PSCI SYSTEM_RESET or SYSTEM_RESET2: restarted at once, not counted as a crash.
        Reset = "reset",
        /// The guest's watchdog bit.
        Watchdog = "watchdog",
        /// The hypervisor ended it, by an exception loop for example.
        HypervisorError = "hypervisor-error",
        /// An asynchronous external abort.
        ExternalAbort = "external-abort",
        /// Stopped by the host.
        ForceStopped = "force-stopped",
        /// The resource manager could not load it.
        LoadFailed = "load-failed",
        /// The driver says crashed and no more.
        Crashed = "crashed",
        /// The driver answers that the VM is gone without having reported an end.
        Unreported = "unreported",
        /// A step of the launch failed, or the vCPUs could not be run.
        LaunchFailed = "launch-failed",
        /// It was not up or not ready in time.
        Timeout = "timeout",
        /// The worker died and had reported no end.
        WorkerDied = "worker-died",
        /// Somebody asked for it.
        Asked = "asked",
    }
}

impl EndReason {
    /// The state of a VM that stays down after it.
    pub fn state(self) -> State {
        match self {
            Self::PowerOff | Self::Reset | Self::Asked => State::Stopped,
            Self::LaunchFailed => State::Failed,
            _ => State::Crashed,
        }
    }

    /// The driver's word explained; `None` for gunyahd's own, whose detail says all.
    fn explained(self) -> Option<&'static str> {
        Some(match self {
            Self::PowerOff => "the guest powered off",
            Self::Reset => "the guest reset itself",
            Self::Watchdog => "the guest's watchdog bit",
            Self::HypervisorError => "the hypervisor ended the guest",
            Self::ExternalAbort => "the guest took an asynchronous external abort",
            Self::ForceStopped => "the host stopped the VM by force",
            Self::LoadFailed => "the resource manager could not load the VM",
            Self::Crashed => "the guest crashed",
            Self::Unreported => "the VM is gone without a word",
            Self::LaunchFailed | Self::Timeout | Self::WorkerDied | Self::Asked => return None,
        })
    }
}

record! {
    /// How a run ended.
    End {
        /// Why.
        reason: EndReason,
        /// The driver's words ("status 2, exit type 1"), or the error, or who asked.
        detail: String,
    }
}

impl End {
    /// An end.
    pub fn new(reason: EndReason, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { reason, detail }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, detail } = self;
        match reason.explained() {
            None => f.write_str(detail),
            Some(what) if detail.is_empty() => write!(f, "{reason}: {what}"),
            Some(what) => write!(f, "{reason}: {what} ({detail})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    #[test]
    fn the_worst_state_counts() {
        use State::*;
        for (states, overall) in [
            (&[][..], Overall::Up),
            (&[Running, Disabled, Stopped][..], Overall::Up),
            (&[Running, Waiting][..], Overall::Starting),
            (&[Failed, Waiting, Running][..], Overall::Degraded),
        ] {
            assert_eq!(Overall::of(states.iter().copied()), overall, "{states:?}");
        }
    }

    #[test]
    fn an_end_is_explained_where_the_driver_is_brief() {
        let end = End::new(EndReason::Reset, "status 2");
        assert_eq!(end.to_string(), "reset: the guest reset itself (status 2)");
        let end = End::new(EndReason::Timeout, "not ready within 5 s");
        assert_eq!(end.to_string(), "not ready within 5 s");
        assert_eq!(
            End::new(EndReason::WorkerDied, "x").to_json().to_string(),
            r#"{"reason":"worker-died","detail":"x"}"#
        );
    }
}
