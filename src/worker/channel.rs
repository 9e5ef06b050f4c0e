// SPDX-License-Identifier: Apache-2.0
//! What supervisor and worker say to each other.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::diagnostic::{Diagnostic, Step};
use crate::launch::Event;
use crate::status::End;

/// Worker to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// A step of the launch is done.
    Step {
        /// Which.
        step: Step,
        /// Microseconds that it took.
        micros: u64,
        /// For the log: "region 0 256 MiB hugetlb".
        detail: String,
    },
    /// The dialect of the driver, by its name.
    Dialect(String),
    /// Huge pages that the VM has taken, by page size in bytes.
    HugePages(BTreeMap<u64, u64>),
    /// Something that a person should know and that does not stop the launch.
    Warning(String),
    /// START has returned.
    Running {
        /// False: the driver has no way to tell the end of this VM.
        end_visible: bool,
    },
    /// The guest said that it is ready.
    Ready,
    /// The guest ended by itself.
    Ended(End),
    /// A step failed; the worker gives everything back and exits.
    Failed(Diagnostic),
    /// All fds are closed and the memory is given back; the worker exits.
    Closed,
}

impl From<Event> for Report {
    fn from(event: Event) -> Self {
        match event {
            Event::Step { step, took, detail } => Report::Step {
                step,
                micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                detail,
            },
            Event::Dialect(dialect) => Report::Dialect(dialect.name().to_owned()),
            Event::HugePages(pages) => Report::HugePages(pages),
            Event::Warning(warning) => Report::Warning(warning.to_string()),
        }
    }
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
