// SPDX-License-Identifier: Apache-2.0
//! Virtio devices: what a guest has besides its memory and its serial port.
//!
//! ```text
//! vCPU thread -> bus -> transport (mmio, pci): registers, features, queues' places
//!                          | orders: start, reset
//! driver, by ioeventfd -> kick -> device's thread: queues -> the host's file, tap, socket
//!                                     |-> interrupt -> driver, by irqfd
//! ```
//!
//! A device is a file of this folder with a type that is a [`VirtioDevice`]; it knows nothing of its
//! transport. It lives on a thread of its own, which waits for kicks and for what the device waits for.

mod console;
mod devices;
mod disk;
mod driver;
mod entropy;
#[cfg(test)]
mod fixture;
mod io;
mod kernel;
mod link;
mod mmio;
mod net;
mod pci;
mod queue;
mod thread;
mod vhost_user;
mod vsock;
mod warnings;

use std::os::fd::BorrowedFd;

use crate::confine::DeviceCalls;
use crate::diagnostic::{Diagnostic, Kind};

pub use console::VirtioConsole;
pub use devices::Devices;
pub use disk::Disk;
pub use entropy::Entropy;
pub use io::{count, Io};
pub use link::{Counters, Link};
pub use net::{Net, Receiver, Turn};
pub use queue::{Chain, Fault, Queue, QueueLayout, QueueRules, Readable, Writable};
pub use vhost_user::VhostUser;

/// What a driver sees of a device before it takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Face {
    /// The device's type (virtio 1.2, 5): 2 is a block device.
    pub number: u32,
    /// Features of its type, bits 0 to 23 and 50 to 63. Those of rings and transports are not its own.
    pub features: u64,
    /// For each queue, how many descriptors it may have: a power of two.
    pub queues: Vec<u16>,
    /// Its configuration space.
    pub config: Vec<u8>,
}

/// How much of a queue was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// All that was there; the driver kicks for more.
    All,
    /// As much as one turn may take. The rest has another turn, without a kick.
    More,
}

/// A device. Called by its thread alone, but for [`VirtioDevice::face`] before that is there.
pub trait VirtioDevice: Send {
    /// What the driver sees; asked once, before the guest runs.
    fn face(&self) -> Face;

    /// Which of the rings' features it offers: all, where its queues are ours.
    fn rings(&self) -> u64 {
        io::RINGS
    }

    /// The system calls that its thread takes besides waiting, memory and its own end.
    fn calls(&self) -> DeviceCalls;

    /// The driver is ready: `io` has what it agreed on. Kicks are served from now on, beginning with a
    /// turn for each queue.
    ///
    /// # Errors
    /// The device cannot work: the driver is told to reset it, and the error is logged as a warning.
    fn start(&mut self, _io: &mut Io) -> Result<(), Diagnostic> {
        Ok(())
    }

    /// Whether kicks of `queue` come to [`VirtioDevice::kicked`]; those of vhost go elsewhere.
    fn serves(&self, _queue: usize) -> bool {
        true
    }

    /// Serves a queue: at most as many requests as it has descriptors, so that orders are never kept
    /// waiting by a driver that adds more and more. What goes wrong with the host's file is the guest's
    /// I/O error and a warning ([`Link::warn`]).
    ///
    /// # Errors
    /// The ring itself is broken: the driver is told to reset the device, and the fault is logged.
    fn kicked(&mut self, queue: usize, io: &mut Io) -> Result<Served, Fault>;

    /// What it waits for besides kicks, and whether it wants to now; the number says what it is to
    /// [`VirtioDevice::ready`].
    fn sources(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        Vec::new()
    }

    /// A source is readable; only while the device is started.
    ///
    /// # Errors
    /// As [`VirtioDevice::kicked`].
    fn ready(&mut self, _source: usize, _io: &mut Io) -> Result<(), Fault> {
        Ok(())
    }

    /// The driver resets it. Nothing of `io` is to be touched any more.
    fn reset(&mut self) {}
}

/// Everything that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] = &[
    queue::KINDS,
    thread::KINDS,
    disk::KINDS,
    entropy::KINDS,
    net::KINDS,
    vsock::KINDS,
    vhost_user::KINDS,
];
