// SPDX-License-Identifier: Apache-2.0
//! A simulated `/dev/gunyah` for development machines, at the system-call boundary.
//!
//! ```text
//! intercept   a program's open and ioctl calls come here     (seccomp user notification)
//! caller      the memory, descriptors and limits behind a call
//! model       the driver and the resource manager: checks, errnos, books
//! engine      what a started VM does: nothing, or really run
//! session     the loop that brings them together
//! record, script, control   what happened, what shall happen, asking meanwhile
//! peers       a property service and a log daemon
//! ```

pub mod caller;
pub mod console;
pub mod control;
pub mod engine;
pub mod intercept;
pub mod model;
pub mod options;
pub mod peers;
pub mod record;
pub mod script;
pub mod session;
pub mod uevents;

/// Bytes of a base page here.
pub fn page_size() -> u64 {
    // SAFETY: sysconf with a constant touches no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}
