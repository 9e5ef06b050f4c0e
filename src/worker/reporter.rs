// SPDX-License-Identifier: Apache-2.0
//! Reports to the supervisor, and marks in the trace.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{sendmsg, MsgFlags};

use super::Report;

/// How often a report is sent at most, and the time between: a supervisor that is gone for good is
/// not waited for.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(2);

/// Sends reports. A supervisor that is gone takes its workers with it, so sending cannot fail in a
/// way that matters.
#[derive(Debug)]
pub struct Reporter {
    channel: OwnedFd,
}

impl Reporter {
    /// Reports to `channel`.
    pub fn new(channel: OwnedFd) -> Self {
        Self { channel }
    }

    pub fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// Sends one report.
    pub fn send(&self, report: &Report) {
        let Ok(message) = serde_json::to_vec(report) else {
            return;
        };
        let parts = [IoSlice::new(&message)];
        let channel = self.channel.as_raw_fd();
        for _ in 0..TRIES {
            match sendmsg::<()>(channel, &parts, &[], MsgFlags::MSG_NOSIGNAL, None) {
                Ok(_) => return,
                Err(Errno::EINTR) => {}
                // The kernel may be short of memory for a moment, and a worker whose word of running
                // is lost would be taken for one that hangs.
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}
