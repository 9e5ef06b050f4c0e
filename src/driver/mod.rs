// SPDX-License-Identifier: Apache-2.0
//! The driver: create a VM, register its regions, configure and start it.

mod advice;
mod device;

pub use device::{Granted, Gunyah, Region, Vm};
