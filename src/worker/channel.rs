// SPDX-License-Identifier: Apache-2.0
//! What supervisor and worker say to each other.

use crate::diagnostic::Diagnostic;
use crate::json::choice;
use crate::launch::Event;
use crate::status::control::DeviceStatus;
use crate::status::End;
use crate::text::words;

choice! {
    /// Worker to supervisor.
    Report {
        /// Something happened in the launch. Warnings come from a running VM, too.
        Launch(event: Event) = "launch",
        /// START has returned.
        Running {
            /// False: the driver cannot report the end of this VM.
            end_visible: bool,
        } = "running",
        /// The guest said that it is ready.
        Ready = "ready",
        /// What its devices have done so far.
        Devices(devices: Vec<DeviceStatus>) = "devices",
        /// The guest ended by itself.
        Ended(end: End) = "ended",
        /// A step failed; the worker gives everything back and exits.
        Failed(error: Diagnostic) = "failed",
        /// The VM is being closed; what that waits for now.
        Closing(closing: Closing) = "closing",
        /// All fds are closed and the memory is given back; the worker exits.
        Closed = "closed",
    }
}

words! {
    /// What a worker waits for that closes its VM.
    Closing {
        /// Its vCPU threads, to come out of the guest.
        Vcpus = "vcpus",
        /// The kernel: the last close.
        Kernel = "kernel",
        /// As [`Closing::Kernel`], and vCPU threads are in it that a signal does not bring out.
        Lost = "lost",
    }
}

choice! {
    /// Supervisor to worker.
    #[derive(Copy)]
    Request {
        /// Ask the guest to end, where there is a way to ask; then close.
        Stop = "stop",
        /// Close the VM now.
        Close = "close",
        /// Show the console to the client whose socket comes with this.
        Console {
            /// Sequence number in the ring of the first byte to show.
            first: u64,
        } = "console",
    }
}
