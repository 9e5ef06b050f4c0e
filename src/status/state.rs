// SPDX-License-Identifier: Apache-2.0
//! The states of a VM, and how a run ends.

use std::fmt;

use crate::diagnostic::{kinds, Kind};
use crate::json::record;
use crate::text::words;

kinds! {
    WATCHDOG: Error "end-watchdog" in Run {
        "the guest's watchdog has bitten",
        cause: "the guest hangs, or its CPUs get too little time to feed its watchdog",
        cure: "read what the guest printed last: gunyahctl log VM; look at the load of the host's CPUs",
    }
    HYPERVISOR_ERROR: Error "end-hypervisor-error" in Run {
        "the hypervisor ended the guest",
        cause: "the guest cannot take an exception: it faults before its vectors are set up, or in them; often it runs no code at all, or touches an address that it does not have",
        cure: "compare entry and addresses with `gunyahd check FILE`; give the guest a console, and `earlycon` in kernel.cmdline",
    }
    EXTERNAL_ABORT: Error "end-external-abort" in Run {
        "the guest took an asynchronous external abort",
        cause: "the guest wrote to an address behind which nothing answers, or memory is faulty",
        cure: "look for devices in the guest's devicetree that the VM does not have",
    }
    FORCE_STOPPED: Error "end-force-stopped" in Run {
        "the host stopped the VM by force",
        cause: "somebody else than gunyahd asked the resource manager for it",
        cure: "look at the kernel's log for who did: `dmesg | grep -i gunyah`",
    }
    LOAD_FAILED: Error "end-load-failed" in Run {
        "the resource manager could not load the VM",
        cause: "it refused the devicetree or the memory after START had returned",
        cure: "run `gunyahd check FILE`; the resource manager's own log has the reason",
    }
    CRASHED: Error "end-crashed" in Run {
        "the guest crashed",
        cause: "the driver says no more than that",
        cure: "read what the guest printed last: gunyahctl log VM",
    }
    UNREPORTED: Error "end-unreported" in Run {
        "the VM is gone without a word",
        cause: "the driver did not wake its vCPUs for the guest's end, or one of them hangs in the kernel",
        cure: "where it happens again, use a guest that powers off by its boot CPU after the others are off",
    }
}

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
    fn explained(self) -> Option<String> {
        Some(match self {
            Self::PowerOff => "the guest powered off".to_owned(),
            Self::Reset => "the guest reset itself".to_owned(),
            other => other.kind()?.summary(),
        })
    }

    /// The driver's word for a bad end.
    fn kind(self) -> Option<&'static Kind> {
        Some(match self {
            Self::Watchdog => &WATCHDOG,
            Self::HypervisorError => &HYPERVISOR_ERROR,
            Self::ExternalAbort => &EXTERNAL_ABORT,
            Self::ForceStopped => &FORCE_STOPPED,
            Self::LoadFailed => &LOAD_FAILED,
            Self::Crashed => &CRASHED,
            Self::Unreported => &UNREPORTED,
            Self::PowerOff
            | Self::Reset
            | Self::LaunchFailed
            | Self::Timeout
            | Self::WorkerDied
            | Self::Asked => return None,
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
            None => f.write_str(detail)?,
            Some(what) if detail.is_empty() => write!(f, "{reason}: {what}")?,
            Some(what) => write!(f, "{reason}: {what} ({detail})")?,
        }
        match reason.kind() {
            None => Ok(()),
            Some(kind) => write!(f, " [{}]", kind.name()),
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
        for (reason, name) in [
            (EndReason::Watchdog, "end-watchdog"),
            (EndReason::HypervisorError, "end-hypervisor-error"),
            (EndReason::ExternalAbort, "end-external-abort"),
            (EndReason::ForceStopped, "end-force-stopped"),
            (EndReason::LoadFailed, "end-load-failed"),
            (EndReason::Crashed, "end-crashed"),
            (EndReason::Unreported, "end-unreported"),
        ] {
            let text = End::new(reason, "status 2").to_string();
            assert!(text.ends_with(&format!(" (status 2) [{name}]")), "{text}");
        }
        assert_eq!(
            End::new(EndReason::WorkerDied, "x").to_json().to_string(),
            r#"{"reason":"worker-died","detail":"x"}"#
        );
    }
}
