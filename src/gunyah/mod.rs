// SPDX-License-Identifier: Apache-2.0
//! The driver: create a VM, register its regions, configure and start it.

pub mod uapi;
