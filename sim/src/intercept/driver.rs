// SPDX-License-Identifier: Apache-2.0
//! The driver's calls by name, as scripts and the record have them.

use gunyah::uapi;

use crate::model::legacy;

/// The call that opens the device's path.
pub const OPEN: &str = "OPEN";

/// Kind of file, command, name.
const CALLS: &[(&str, u32, &str)] = &[
    ("device", uapi::CREATE_VM, "CREATE_VM"),
    ("vm", uapi::VM_SET_USER_MEM_REGION, "VM_SET_USER_MEM_REGION"),
    ("vm", uapi::VM_ANDROID_LEND_USER_MEM, "VM_ANDROID_LEND_USER_MEM"),
    ("vm", uapi::VM_SET_DTB_CONFIG, "VM_SET_DTB_CONFIG"),
    ("vm", uapi::VM_ANDROID_SET_FW_CONFIG, "VM_ANDROID_SET_FW_CONFIG"),
    ("vm", uapi::VM_SET_BOOT_CONTEXT, "VM_SET_BOOT_CONTEXT"),
    ("vm", uapi::VM_ANDROID_RECLAIM_REGION, "VM_ANDROID_RECLAIM_REGION"),
    ("vm", uapi::VM_ANDROID_MAP_CMA_MEM, "VM_ANDROID_MAP_CMA_MEM"),
    ("vm", uapi::VM_ANDROID_SET_AUTH_TYPE, "VM_ANDROID_SET_AUTH_TYPE"),
    ("vm", uapi::CHECK_EXTENSION, "CHECK_EXTENSION"),
    ("vm", uapi::VM_START, "VM_START"),
    ("vm", uapi::VM_ADD_FUNCTION, "VM_ADD_FUNCTION"),
    ("vm", uapi::VM_REMOVE_FUNCTION, "VM_REMOVE_FUNCTION"),
    ("vcpu", uapi::VCPU_RUN, "VCPU_RUN"),
    ("vcpu", uapi::VCPU_MMAP_SIZE, "VCPU_MMAP_SIZE"),
    ("device", legacy::CREATE_VM, "LEGACY_CREATE_VM"),
    ("vm", legacy::SET_FW_NAME, "LEGACY_SET_FW_NAME"),
    ("vm", legacy::GET_VCPU_COUNT, "LEGACY_GET_VCPU_COUNT"),
    ("vm", legacy::CREATE_VCPU, "LEGACY_CREATE_VCPU"),
    ("vcpu", legacy::VCPU_RUN, "LEGACY_VCPU_RUN"),
];

/// The call's name on a file of this kind, or None where such a file has no such call.
pub fn name(kind: &str, command: u32) -> Option<&'static str> {
    CALLS.iter().find(|(of, number, _)| *of == kind && *number == command).map(|(_, _, name)| *name)
}

/// Any other command on our files.
pub const UNKNOWN: &str = "UNKNOWN";

/// All names, in the long form.
pub fn names() -> impl Iterator<Item = &'static str> {
    [OPEN, UNKNOWN].into_iter().chain(CALLS.iter().map(|(_, _, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_its_name_on_its_own_files_alone() {
        assert_eq!(name("vm", uapi::VM_START), Some("VM_START"));
        assert_eq!(name("vcpu", uapi::VM_START), None);
        assert_eq!(name("vm", 0x47ff), None);
        assert_eq!(names().next(), Some("OPEN"));
    }
}
