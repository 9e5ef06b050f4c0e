// SPDX-License-Identifier: Apache-2.0
//! The driver: create a VM, register its regions, configure and start it.

mod device;

pub(crate) use device::{ioctl, ioctl_once};
pub use device::{Gunyah, Vm};
