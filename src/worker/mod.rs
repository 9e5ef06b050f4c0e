// SPDX-License-Identifier: Apache-2.0
//! The one process that owns one VM: it launches it, holds its fds and ends with it.

mod channel;

use std::os::fd::OwnedFd;

use crate::config::VmConfig;

pub use channel::{Report, Request};

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// The VM.
    pub config: VmConfig,
    /// Path of the Gunyah device, `/dev/gunyah`.
    pub device: std::path::PathBuf,
    /// The worker's end of the channel: a SOCK_SEQPACKET pair, one JSON message a packet.
    pub channel: OwnedFd,
}

/// Launches the VM and looks after it until it ends or is to stop; returns the exit code of the
/// process. Called in the freshly forked, single-threaded child.
pub fn run(_start: Start) -> i32 {
    0
}
