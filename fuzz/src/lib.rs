// SPDX-License-Identifier: Apache-2.0
//! What is done with bytes that nobody has vouched for: one function a parser. None may panic, and
//! what they take must survive a round trip.

mod backend;
mod devices;
mod net;
mod queue;
mod seeds;
mod targets;

pub use queue::breaks;
pub use seeds::seeds;

/// A parser under attack.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// Feeds it.
    pub feed: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 14] = [
    Target { name: "config", feed: targets::config },
    Target { name: "dtb", feed: targets::dtb },
    Target { name: "image", feed: targets::image },
    Target { name: "elf", feed: targets::elf },
    Target { name: "gzip", feed: targets::gzip },
    Target { name: "control", feed: targets::control },
    Target { name: "console", feed: targets::console },
    Target { name: "property", feed: targets::property },
    Target { name: "vcpu-run", feed: targets::vcpu_run },
    Target { name: "queue", feed: queue::queue },
    Target { name: "disk", feed: devices::disk },
    Target { name: "virtio-console", feed: devices::console },
    Target { name: "net", feed: net::net },
    Target { name: "vhost-user", feed: backend::answers },
];
