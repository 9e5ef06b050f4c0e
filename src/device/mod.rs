// SPDX-License-Identifier: Apache-2.0
//! Virtio devices.

mod queue;

pub use queue::{Chain, Fault, Layout, Queue, Readable, Rules, Writable};
