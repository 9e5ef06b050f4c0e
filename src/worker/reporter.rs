// SPDX-License-Identifier: Apache-2.0
//! Reports to the supervisor, and marks in the trace.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{sendmsg, MsgFlags};

use super::Report;
use crate::json::Json;

/// How often a report is sent at most, and the time between: a supervisor that is gone for good is
/// not waited for.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(2);

/// Sends reports. Nobody needs one that a supervisor that is gone does not take; the worker learns of that
/// by its channel, and ends.
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

    /// Whether there is a request, or the supervisor is gone: both end a VM that has not started yet.
    pub fn is_called(&self) -> bool {
        let mut fds = [PollFd::new(self.channel.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Sends one report.
    pub fn send(&self, report: Report) {
        self.send_all(vec![report]);
    }

    /// Sends reports in one packet, in their order.
    pub fn send_all(&self, reports: Vec<Report>) {
        let message = reports.to_json().to_string();
        let parts = [IoSlice::new(message.as_bytes())];
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
