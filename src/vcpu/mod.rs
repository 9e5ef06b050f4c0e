// SPDX-License-Identifier: Apache-2.0
//! Proxy-scheduled vCPUs: run loops and MMIO.

mod bus;

pub use bus::{Bus, BusError, Device, Width};
