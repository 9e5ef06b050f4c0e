// SPDX-License-Identifier: Apache-2.0
//! The legacy vendor driver (ioctl type 0xB2), as far as telling it apart and holding a VM needs.

use nix::errno::Errno;

use crate::caller::Caller;
use crate::vm::VmId;

use super::{Model, State};

/// On the device: returns a VM fd.
pub const CREATE_VM: u32 = 0xb201;
/// On a VM fd, the id: returns a vCPU fd.
pub const CREATE_VCPU: u32 = 0xb240;
/// On a VM fd, `char[16]`.
pub const SET_FW_NAME: u32 = 0x4010_b241;
/// On a VM fd: how many vCPUs the image has.
pub const GET_VCPU_COUNT: u32 = 0xb243;
/// On a vCPU fd: boots the VM, returns at its end.
pub const VCPU_RUN: u32 = 0xb280;

impl Model {
    /// SET_FW_NAME.
    pub fn set_firmware_name(
        &mut self,
        id: VmId,
        caller: Caller,
        argument: u64,
    ) -> Result<i64, Errno> {
        let vm = self.get(id)?;
        let mut name = [0; 16];
        caller.read_bytes(argument, &mut name)?;
        vm.firmware_name = Some(name);
        Ok(0)
    }

    /// CREATE_VCPU: the image here has one.
    pub fn create_legacy_vcpu(&mut self, id: VmId, vcpu: u64) -> Result<u32, Errno> {
        let vm = self.get(id)?;
        if vcpu != 0 {
            return Err(Errno::EINVAL);
        }
        if vm.vcpus.insert(0, true).is_some() {
            return Err(Errno::EEXIST);
        }
        vm.open_files += 1;
        Ok(0)
    }

    /// The first VCPU_RUN boots: true. Without an image's name there is nothing to boot.
    pub fn boot_legacy(&mut self, id: VmId) -> Result<bool, Errno> {
        let vm = self.get(id)?;
        match vm.state {
            State::Configuring if vm.firmware_name.is_some() => {
                vm.state = State::Starting;
                Ok(true)
            }
            State::Starting | State::Running => Ok(false),
            _ => Err(Errno::ENODEV),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Dialect, Settings};

    #[test]
    fn an_image_is_named_then_booted() {
        let mut model = Model::new(Settings { dialect: Dialect::QcomB2, ..Settings::default() });
        let me = Caller::myself();
        let vm = model.create_vm(me, 0).unwrap();
        assert_eq!(model.create_legacy_vcpu(vm, 1), Err(Errno::EINVAL));
        assert_eq!(model.create_legacy_vcpu(vm, 0), Ok(0));
        assert_eq!(model.boot_legacy(vm), Err(Errno::ENODEV));
        let name = *b"trustedvm\0\0\0\0\0\0\0";
        let address = name.as_ptr() as u64;
        assert_eq!(model.set_firmware_name(vm, me, 8), Err(Errno::EFAULT));
        assert_eq!(model.set_firmware_name(vm, me, address), Ok(0));
        assert_eq!(model.boot_legacy(vm), Ok(true));
        assert_eq!(model.boot_legacy(vm), Ok(false));
    }
}
