// SPDX-License-Identifier: Apache-2.0
//! In place of the devices, where the program is built without the feature `devices`: the plan refuses files
//! that have any.

use std::os::fd::BorrowedFd;

use gunyah::Vm;

use crate::config::VmConfig;
use crate::confine::DeviceCalls;
use crate::console::Console;
use crate::diagnostic::{Diagnostic, Kind};
use crate::dtb::Devicetree;
use crate::memory::Window;
use crate::status::control::DeviceStatus;
use crate::vcpu::Bus;

/// No devices.
pub struct Devices;

impl Devices {
    /// There are none.
    pub fn prepare(
        _: &VmConfig,
        _: &mut Bus,
        _: Option<&Console>,
        _: bool,
    ) -> Result<Self, Diagnostic> {
        Ok(Self)
    }

    /// There are none to connect.
    pub fn connect(
        &self,
        _: &Vm,
        _: &VmConfig,
        _: &Devicetree,
        _: &Window,
    ) -> Result<(), Diagnostic> {
        Ok(())
    }

    /// None.
    pub fn calls(&self) -> &[DeviceCalls] {
        &[]
    }

    /// There is no thread.
    pub fn confine(&self) -> Result<(), Diagnostic> {
        Ok(())
    }

    /// Nothing ever has a warning.
    pub fn warnings_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// There is none.
    pub fn take_warning(&self) -> Option<Diagnostic> {
        None
    }

    /// Nothing ever tells.
    pub fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Never.
    pub fn take_ready(&self) -> bool {
        false
    }

    /// None.
    pub fn counters(&self) -> Vec<DeviceStatus> {
        Vec::new()
    }
}

pub(crate) const KINDS: &[&[&Kind]] = &[];
