// SPDX-License-Identifier: Apache-2.0
//! The one process that owns one VM: it launches it, holds its fds and ends with it.

mod channel;
mod launch;
mod reporter;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{recv, MsgFlags};

use crate::config::{Scheduling, VmConfig};
use crate::error::{LaunchError, Step};

pub use channel::{Report, Request};
pub use launch::{launch, Launched};
pub use reporter::Reporter;

/// What a worker is started with.
#[derive(Debug)]
pub struct Start {
    /// The VM.
    pub config: VmConfig,
    /// Path of the Gunyah device, `/dev/gunyah`.
    pub device: PathBuf,
    /// The worker's end of the channel: a SOCK_SEQPACKET pair, one JSON message a packet.
    pub channel: OwnedFd,
}

/// Launches the VM and looks after it until it ends or is to stop; returns the exit code of the
/// process. Called in the freshly forked, single-threaded child.
pub fn run(start: Start) -> i32 {
    let tell = Reporter::new(start.channel);
    let launched = match launch(&start.config, &start.device, &tell, |_| Ok(())) {
        Ok(launched) => launched,
        Err(error) => {
            tell.send(&Report::Failed(error));
            tell.send(&Report::Closed);
            return 1;
        }
    };
    tell.send(&Report::Running {
        end_visible: start.config.vcpus.scheduling == Scheduling::Proxy,
    });
    let code = hold(&tell);
    // The last close of the VM's fds stops the guest and may block; the memory goes after it.
    let Launched { vm, memory, vcpus } = launched;
    drop((vcpus, vm));
    drop(memory);
    tell.send(&Report::Closed);
    code
}

/// Holds a VM that the hypervisor schedules. There is no way to ask such a guest to end, nor to
/// learn that it has ended; so every request closes it.
fn hold(tell: &Reporter) -> i32 {
    match next_request(tell) {
        Ok(Some(Request::Stop | Request::Close)) => 0,
        // The supervisor is gone, and so is everyone who could want this VM.
        Ok(None) => 1,
        Err(error) => {
            tell.send(&Report::Failed(error));
            1
        }
    }
}

fn next_request(tell: &Reporter) -> Result<Option<Request>, LaunchError> {
    let fail = |errno| LaunchError::new(Step::Run, "waiting for the supervisor").errno(errno);
    let mut packet = [0; 4096];
    loop {
        let mut fds = [PollFd::new(tell.channel().as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other.map_err(fail)?,
        };
        match recv(
            tell.channel().as_raw_fd(),
            &mut packet,
            MsgFlags::MSG_DONTWAIT,
        ) {
            Ok(0) => return Ok(None),
            Ok(size) => {
                if let Ok(request) = serde_json::from_slice(&packet[..size]) {
                    return Ok(Some(request));
                }
                log::warn!(
                    "a request that is not understood: {}",
                    String::from_utf8_lossy(&packet[..size])
                );
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(Errno::ECONNRESET) => return Ok(None),
            Err(errno) => return Err(fail(errno)),
        }
    }
}
