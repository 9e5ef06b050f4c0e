// SPDX-License-Identifier: Apache-2.0
//! Launcher and supervisor of secondary virtual machines on the Gunyah hypervisor.
//!
//! One way leads through this crate, a folder a step, and data never flows back up:
//!
//! ```text
//! config   JSON text        -> VmConfig      every mistake has file, line, column
//! image    file headers     -> ImageInfo     arm64 Image, ELF, gzip
//! plan     VmConfig + infos -> LaunchPlan    pure: addresses, regions, DTB room
//! memory   LaunchPlan       -> GuestMemory   pools checked, pages populated
//! image, dtb                -> bytes in it   kernel, initrd, devicetree
//! gunyah   GuestMemory      -> Vm, running   create, register, configure, start
//! vcpu     Vm               -> exits         only for proxy-scheduled VMs
//! status   every step       -> properties, log, control socket
//! ```

pub mod check;
pub mod cli;
pub mod client;
pub mod config;
pub mod confine;
pub mod console;
#[cfg_attr(not(feature = "devices"), path = "device/none.rs")]
pub mod device;
pub mod diagnostic;
pub mod doctor;
pub mod dtb;
pub mod explain;
pub mod image;
pub mod import;
pub mod json;
pub mod launch;
pub mod layout;
pub mod list;
pub mod memory;
mod mpsc;
mod packed;
pub mod plan;
mod process;
pub mod status;
pub mod supervisor;
pub mod terminal;
pub mod text;
pub mod vcpu;
pub mod worker;
