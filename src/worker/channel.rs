// SPDX-License-Identifier: Apache-2.0
//! What supervisor and worker say to each other.

use serde::{Deserialize, Serialize};

use crate::diagnostic::Diagnostic;
use crate::launch::Event;
use crate::status::control::DeviceStatus;
use crate::status::End;

/// Worker to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// Something happened in the launch. Warnings come from a running VM, too.
    Launch(Event),
    /// START has returned.
    Running {
        /// False: the driver cannot report the end of this VM.
        end_visible: bool,
    },
    /// The guest said that it is ready.
    Ready,
    /// What its devices have done so far.
    Devices(Vec<DeviceStatus>),
    /// The guest ended by itself.
    Ended(End),
    /// A step failed; the worker gives everything back and exits.
    Failed(Diagnostic),
    /// The VM is being closed; what that waits for now.
    Closing(Closing),
    /// All fds are closed and the memory is given back; the worker exits.
    Closed,
}

/// What a worker waits for that closes its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Closing {
    /// Its vCPU threads, to come out of the guest.
    Vcpus,
    /// The kernel: the last close.
    Kernel,
    /// As [`Closing::Kernel`], and vCPU threads are in it that a signal does not bring out.
    Lost,
}

/// Supervisor to worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Ask the guest to end, where there is a way to ask; then close.
    Stop,
    /// Close the VM now.
    Close,
    /// Show the console to the client whose socket comes with this.
    Console {
        /// Sequence number in the ring of the first byte to show.
        first: u64,
    },
}
