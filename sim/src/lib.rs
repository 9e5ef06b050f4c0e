// SPDX-License-Identifier: Apache-2.0
//! A simulated `/dev/gunyah` for development machines, at the system-call boundary.
//!
//! From the lowest to the highest; each imports only what stands above it in this list, and of the
//! product only the crate `gunyah` (`tests/layers.rs`):
//!
//! ```text
//! caller      the memory, descriptors and limits behind a call
//! fdt         devicetrees
//! vm          a VM as the model hands it to an engine
//! overlay     what the resource manager adds to a guest's devicetree
//! model       the driver and the resource manager: checks, errnos, books
//! engine      what a started VM does: nothing, or really run; it does not know the model
//! intercept   a program's open and ioctl calls arrive here   (seccomp user notification)
//! script      the commands of scripts and of the control socket
//! peers       a property service and a log daemon
//! uevents, console, record, options   what goes out and what comes in
//! control     the socket for commands
//! session     the loop that brings them together
//! ```

pub mod caller;
pub mod console;
pub mod control;
pub mod engine;
pub mod fdt;
pub mod intercept;
pub mod model;
pub mod options;
pub mod overlay;
pub mod peers;
pub mod record;
pub mod script;
pub mod session;
pub mod uevents;
pub mod vm;

/// Bytes of a base page here.
pub fn page_size() -> u64 {
    // SAFETY: sysconf with a constant touches no memory.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(4096)
}
