// SPDX-License-Identifier: Apache-2.0
//! What the driver's errnos mean, by call. A kind's name is the call's step and the errno.

use std::io;

use gunyah::Dialect;
use nix::errno::Errno;

use crate::diagnostic::{kinds, Diagnostic, Kind, Step};
use crate::text::{errno_of, symbol};

const NO_FILES: &str =
    "this process (EMFILE) or the whole host (ENFILE) has as many files open as it may";
const MORE_FILES: &str =
    "raise `rlimit nofile` in the service's .rc, or fs.file-max; `ls /proc/PID/fd` shows who has them";
const NO_MEMORY: &str = "the host kernel, or this service's memory cgroup, is out of memory";
const MORE_MEMORY: &str =
    "leave more memory free, or give the VM less; dmesg and the cgroup's memory.events say which it was";
const SELINUX: &str =
    "the ioctl is not in the SELinux domain's allowxperm list, or another process made the VM";
const POLICY: &str = "use the policy of sepolicy/; look for avc: denied in dmesg";
const OTHER_DRIVERS: &str =
    "gunyahd needs the driver of android14-6.1 or later, or of LKML v7 to v14: take a newer kernel, or the vendor's own VM service for this one";
const STOP_OTHERS: &str =
    "stop the vendor's own VM service, or crosvm; if there is none, look for gh_rsc_mgr or gunyah_rsc_mgr in dmesg";
const SWAP_BACKED: &str = "this driver takes only swap-backed pages, and hugetlb pages are not";
const OTHER_BACKING: &str = "leave `backing` out, or use \"thp\"";
const CHECK: &str = "run `gunyahd check` on the VM's file";
const LOG_61: &str = "run `gunyahd check --dtb --kernel ack61` on the VM's file; `dmesg | grep -E 'gh_rsc_mgr|misc gunyah'` has the resource manager's words: `RM rejected message` with its number";
const LOG_NEWER: &str = "run `gunyahd check --dtb --kernel ack66` on the VM's file; `dmesg | grep -E 'gunyah_rsc_mgr|misc gunyah'` has the resource manager's words: `RM rejected message` with its number";

kinds! {
    DEVICE_ENOENT: Error "device-enoent" in Device { "there is no Gunyah device",
        cause: "no hypervisor is below, CONFIG_GUNYAH is off, the module is not loaded, or the driver is not up yet",
        cure: "look for `gunyah` in dmesg and /proc/misc; on a workstation run under gunyah-sim" }
    DEVICE_EACCES: Error "device-eacces" in Device { "the device may not be opened",
        cause: "the node's owner, mode or SELinux label does not let gunyahd in",
        cure: "put `/dev/gunyah 0660 system system` into ueventd.rc, use the policy of sepolicy/, then check `ls -lZ` the node" }
    DEVICE_EBUSY: Error "device-ebusy" in Device { "the device is in use",
        cause: "another program holds it exclusively",
        cure: STOP_OTHERS }
    DEVICE_ENODEV: Error "device-enodev" in Device { "the node is there, but no driver is behind it",
        cause: "the resource manager has not answered the driver",
        cure: "look for `gunyah` in dmesg" }
    DEVICE_EMFILE: Error "device-emfile" in Device { "no file can be opened", cause: NO_FILES, cure: MORE_FILES }
    DEVICE_ENOMEM: Error "device-enomem" in Device { "the host is out of memory", cause: NO_MEMORY, cure: MORE_MEMORY }

    CREATE_VM_ENOTTY: Error "create-vm-enotty" in CreateVm { "the driver does not know CREATE_VM",
        cause: "the driver is Qualcomm's earlier one (ioctl type 0xB2, on kernels before 6.1), or not Gunyah's at all",
        cure: OTHER_DRIVERS }
    CREATE_VM_EINVAL: Error "create-vm-einval" in CreateVm { "the driver wants another CREATE_VM",
        cause: "the driver is Qualcomm's earlier one (ioctl type 0xB2), as on 5.15 kernels, and has only the node's name in common",
        cure: OTHER_DRIVERS }
    CREATE_VM_ENODEV: Error "create-vm-enodev" in CreateVm { "the resource manager gives no VM",
        cause: "the resource manager has no VM id left, or does not answer",
        cure: "look for gh_rsc_mgr or gunyah_rsc_mgr in dmesg; VMs that never came down hold their ids until a reboot" }
    CREATE_VM_EBUSY: Error "create-vm-ebusy" in CreateVm { "the driver has as many VMs as it serves",
        cause: "another launcher has VMs, or one is still being taken down",
        cure: STOP_OTHERS }
    CREATE_VM_EACCES: Error "create-vm-eacces" in CreateVm { "CREATE_VM is not permitted", cause: SELINUX, cure: POLICY }
    CREATE_VM_EMFILE: Error "create-vm-emfile" in CreateVm { "no file can be opened", cause: NO_FILES, cure: MORE_FILES }
    CREATE_VM_ENOMEM: Error "create-vm-enomem" in CreateVm { "the host is out of memory", cause: NO_MEMORY, cure: MORE_MEMORY }

    DIALECT_EACCES: Error "dialect-eacces" in Dialect { "the driver may not be asked which calls it knows", cause: SELINUX, cure: POLICY }

    REGION_ENOMEM: Error "region-enomem" in Region { "the region's pages cannot be pinned",
        cause: "the pages exceed RLIMIT_MEMLOCK, or the kernel found no room for its list of pages (regions over 2 GiB)",
        cure: "put `rlimit memlock unlimited unlimited` or the capability IPC_LOCK into the service's .rc (by hand: ulimit -l unlimited); split what is over 2 GiB into several regions" }
    REGION_EEXIST: Error "region-eexist" in Region { "the region is there already",
        cause: "two regions have the same label, or their guest addresses overlap",
        cure: CHECK }
    REGION_EINVAL: Error "region-einval" in Region { "the driver refuses the region's values",
        cause: "an address or size is not a multiple of the host's page, or this dialect does not have one of the flags",
        cure: "run `gunyahd check --page-size` with the host's page size" }
    REGION_EOVERFLOW: Error "region-eoverflow" in Region { "guest address and size go past 64 bits", cause: "", cure: CHECK }
    REGION_ENOTTY: Error "region-enotty" in Region { "the driver does not know the call",
        cause: "the driver lacks the call, though it has others of its dialect",
        cure: "use \"access\": \"share\" or \"auto\"" }
    REGION_EACCES: Error "region-eacces" in Region { "registering memory is not permitted", cause: SELINUX, cure: POLICY }
    REGION_EFAULT: Error "region-efault" in Region { "the mapping is not there or not writable",
        cause: "pages ran out, or memory failed",
        cure: "look for `Memory failure` in dmesg, and at the memory cgroup's limits" }
    REGION_EIO: Error "region-eio" in Region { "the driver refuses these pages", cause: SWAP_BACKED, cure: OTHER_BACKING }
    REGION_EBUSY: Error "region-ebusy" in Region { "the pages are in use",
        cause: "another VM still has the pages, because its teardown has not ended",
        cure: "try again; if it stays, the resource manager has lost them until a reboot" }

    FIRMWARE_ENOTTY: Error "firmware-enotty" in Firmware { "the driver does not know SET_FW_CONFIG",
        cause: "the driver lacks the call, though it has others of its dialect",
        cure: "leave `firmware` out, or use a kernel with CONFIG_ANDROID_GUNYAH" }
    FIRMWARE_EACCES: Error "firmware-eacces" in Firmware { "SET_FW_CONFIG is not permitted", cause: SELINUX, cure: POLICY }

    DTB_CONFIG_EOVERFLOW: Error "dtb-config-eoverflow" in DtbConfig { "guest address and size go past 64 bits", cause: "", cure: CHECK }
    DTB_CONFIG_EACCES: Error "dtb-config-eacces" in DtbConfig { "SET_DTB_CONFIG is not permitted", cause: SELINUX, cure: POLICY }

    FUNCTIONS_ENOENT: Error "functions-enoent" in Functions { "the kernel has no support for this function",
        cause: "CONFIG_GUNYAH_VCPU or CONFIG_GUNYAH_IRQFD is off, or its module is not loaded",
        cure: "build them in, or load the modules" }
    FUNCTIONS_ENOTTY: Error "functions-enotty" in Functions { "the driver has no VM functions",
        cause: "the kernel has only the first part of the driver, without vCPUs",
        cure: "use \"scheduling\": \"hypervisor\", or a kernel with CONFIG_GUNYAH_VCPU" }
    FUNCTIONS_EEXIST: Error "functions-eexist" in Functions { "the function is there already", cause: "gunyahd added the function twice", cure: CHECK }
    FUNCTIONS_EMFILE: Error "functions-emfile" in Functions { "no file can be opened", cause: NO_FILES, cure: MORE_FILES }
    FUNCTIONS_ENOMEM: Error "functions-enomem" in Functions { "the host is out of memory", cause: NO_MEMORY, cure: MORE_MEMORY }

    BOOT_CONTEXT_ENOTTY: Error "boot-context-enotty" in BootContext { "the driver does not know SET_BOOT_CONTEXT",
        cause: "the driver knew the call a moment ago: this is a bug of gunyahd or of the driver",
        cure: "report it, with the kernel's version" }
    BOOT_CONTEXT_EINVAL: Error "boot-context-einval" in BootContext { "the VM takes no first registers any more",
        cause: "the VM was started already, or the register does not exist",
        cure: "report it, with the kernel's version" }
    BOOT_CONTEXT_EACCES: Error "boot-context-eacces" in BootContext { "SET_BOOT_CONTEXT is not permitted", cause: SELINUX, cure: POLICY }

    // Up to 6.1: all memory is handed over at START.
    START_ENODEV: Error "start-enodev" in Start { "the resource manager refused the VM",
        cause: "main memory is shared where a production resource manager takes only lent memory; the devicetree breaks a rule; a platform driver refuses the pages (`qcom_scm_assign_mem` in dmesg: the kernel needs a patch); or the resource manager has no memory left for many VMs",
        cure: LOG_61 }
    START_EINVAL: Error "start-einval" in Start { "the driver or the resource manager refused the VM's values",
        cause: "the devicetree breaks a rule of the resource manager; the pages are still another VM's; or the resource manager has no memory left for many VMs (it then calls the devicetree faulty)",
        cure: LOG_61 }
    START_ENOMEM: Error "start-enomem" in Start { "there is no memory for this VM's memory entries",
        cause: "the memory has too many small pages for the resource manager or the kernel; or a platform driver refuses the pages (`qcom_scm_assign_mem` in dmesg: the kernel needs a patch)",
        cure: "leave memory.backing out, which takes huge pages, or use fewer regions; after many teardowns, reboot" }
    START_EPERM: Error "start-eperm" in Start { "the resource manager denied the VM",
        cause: "the devicetree has /hypervisor; this host may not give the memory away; or the device takes signed VMs alone. If the log has nothing, SELinux denies it: the ioctl is not in the domain's allowxperm list",
        cure: LOG_61 }
    START_EIO: Error "start-eio" in Start { "the driver cannot reach the resource manager",
        cause: "the hypervisor's message queue failed",
        cure: "look for gunyah in dmesg; reboot the host" }
    START_EBUSY: Error "start-ebusy" in Start { "the resource manager is busy with the VM or its memory",
        cause: "another launcher's VM has the memory, or one is still being taken down",
        cure: STOP_OTHERS }
    START_EBADMSG: Error "start-ebadmsg" in Start { "the resource manager is in a state in which it does not start this VM",
        cause: "an earlier VM was not taken down to its end, and its number or its pages are lost until a reboot",
        cure: "try again; if it stays, reboot the host" }
    START_EACCES: Error "start-eacces" in Start { "START is not permitted", cause: SELINUX, cure: POLICY }
    START_ETIMEDOUT: Error "start-etimedout" in Start { "the resource manager did not answer",
        cause: "the resource manager handles one VM at a time, and a teardown may be under way",
        cure: "try again; look for gh_rsc_mgr or gunyah_rsc_mgr in dmesg" }

    START_FIRMWARE: Error "start-firmware" in Start { "the resource manager refused the VM with firmware",
        cause: "the boot loader gave the resource manager no firmware for protected VMs (EPERM from older ones, EINVAL from newer ones); the firmware is larger than firmware.size (EINVAL); or what keeps a VM without firmware from starting",
        cure: "look for `pvmfw` among the device's partitions; give a larger firmware.size; try without `firmware`" }

    // Since 6.6: the devicetree's range alone is handed over at START.
    NEWER_ENODEV: Error "start-newer-enodev" in Start { "the resource manager refused the VM",
        cause: "the resource manager cannot make the devicetree's vCPUs, doorbells or reserved memory; its overlay has too little room (dtb.room); or it has no memory left for many VMs",
        cure: LOG_NEWER }
    NEWER_EINVAL: Error "start-newer-einval" in Start { "the driver or the resource manager refused the VM's values",
        cause: "the devicetree breaks a rule; it does not begin a folio (6.12, `RM rejected message 5600000b. Error: 10`), which it does where gunyahd places it; the vm-config's size-max is too small; or the resource manager has no memory left for many VMs",
        cure: LOG_NEWER }
    NEWER_ENOMEM: Error "start-newer-enomem" in Start { "the devicetree's pages cannot be pinned or handed over",
        cause: "RLIMIT_MEMLOCK is too low (`Failed to allocate parcel for DTB: -12` in dmesg); or earlier VMs have lost pages until a reboot, for example after kill -9",
        cure: "put `rlimit memlock unlimited unlimited` or the capability IPC_LOCK into the service's .rc (by hand: ulimit -l unlimited); if that is so already, reboot" }
    NEWER_ENOENT: Error "start-newer-enoent" in Start { "the devicetree's range is in no region",
        cause: "this is a bug of gunyahd",
        cure: "report it, with the VM's file" }
    NEWER_EFAULT: Error "start-newer-efault" in Start { "the devicetree's pages are not mapped",
        cause: "pages ran out, or memory failed",
        cure: "look for `Memory failure` in dmesg, and at the memory cgroup's limits" }
    NEWER_EPERM: Error "start-newer-eperm" in Start { "the resource manager denied the VM",
        cause: "the devicetree has /hypervisor; this host may not give the memory away; or the device takes signed VMs alone. If the log has nothing, SELinux denies it: the ioctl is not in the domain's allowxperm list",
        cure: LOG_NEWER }
    NEWER_EOPNOTSUPP: Error "start-newer-eopnotsupp" in Start { "the resource manager is too old for this kernel's driver",
        cause: "the resource manager has neither demand paging nor the address layout, as the open-source one of 2023",
        cure: "use a newer firmware, or an android14-6.1 kernel" }
    NEWER_E2BIG: Error "start-newer-e2big" in Start { "there are too many lent regions",
        cause: "the driver's message has room for about 898",
        cure: "use fewer regions" }

    OTHER: Error "driver-other-errno" in Device { "the driver gave an answer that it is not known to give",
        cure: "look for gunyah and rsc_mgr in dmesg" }
}

/// Errnos that mean the same as another one, wherever that is known.
const SAME: &[(Errno, Errno)] = &[
    (Errno::EPERM, Errno::EACCES),
    (Errno::ENFILE, Errno::EMFILE),
    (Errno::ENXIO, Errno::ENODEV),
    (Errno::ENXIO, Errno::ENOENT),
    (Errno::EOPNOTSUPP, Errno::ENOENT),
];

/// What it means that `call`, made in `step`, failed.
pub(crate) fn refused(step: Step, call: impl Into<String>, error: &io::Error) -> Diagnostic {
    let errno = errno_of(error);
    let mut fault = said(kind_of(step, errno), call.into(), errno);
    fault.step = step;
    fault
}

/// What it means, then the call that failed.
fn said(kind: &Kind, call: String, errno: Errno) -> Diagnostic {
    kind.case(format!("{}: {call}", kind.summary())).errno(errno)
}

/// What it means that START failed on a driver of `dialect`.
pub(super) fn start_refused(dialect: Dialect, firmware: bool, error: &io::Error) -> Diagnostic {
    let fault = refused(Step::Start, "VM_START", error);
    let errno = errno_of(error);
    if firmware && matches!(errno, Errno::EPERM | Errno::EINVAL) {
        return said(&START_FIRMWARE, "VM_START".to_owned(), errno);
    }
    let name = format!("start-newer-{}", symbol(errno)).to_ascii_lowercase();
    match KINDS.iter().find(|kind| dialect.pages_on_demand() && kind.name() == name) {
        Some(kind) => said(kind, "VM_START".to_owned(), errno),
        None => fault,
    }
}

fn kind_of(step: Step, errno: Errno) -> &'static Kind {
    let named = |errno: Errno| {
        let name = format!("{step}-{}", symbol(errno)).to_ascii_lowercase();
        KINDS.iter().copied().find(|kind| kind.name() == name)
    };
    let mut same = SAME.iter().filter(|(other, _)| *other == errno);
    named(errno).or_else(|| same.find_map(|(_, errno)| named(*errno))).unwrap_or(&OTHER)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each call's answers, as far as they are known.
    const ANSWERS: &[&str] = &[
        "device-enoent",
        "device-eacces",
        "device-ebusy",
        "device-enodev",
        "device-emfile",
        "device-enomem",
        "create-vm-enotty",
        "create-vm-einval",
        "create-vm-enodev",
        "create-vm-ebusy",
        "create-vm-eacces",
        "create-vm-emfile",
        "create-vm-enomem",
        "dialect-eacces",
        "region-enomem",
        "region-eexist",
        "region-einval",
        "region-eoverflow",
        "region-enotty",
        "region-eacces",
        "region-efault",
        "region-eio",
        "region-ebusy",
        "firmware-enotty",
        "firmware-eacces",
        "dtb-config-eoverflow",
        "dtb-config-eacces",
        "functions-enoent",
        "functions-enotty",
        "functions-eexist",
        "functions-emfile",
        "functions-enomem",
        "boot-context-enotty",
        "boot-context-einval",
        "boot-context-eacces",
        "start-enodev",
        "start-einval",
        "start-enomem",
        "start-eperm",
        "start-eio",
        "start-ebusy",
        "start-ebadmsg",
        "start-eacces",
        "start-etimedout",
    ];
    /// What START answers besides, or in another sense, since 6.6.
    const NEWER: &[&str] = &[
        "start-newer-enodev",
        "start-newer-einval",
        "start-newer-enomem",
        "start-newer-enoent",
        "start-newer-efault",
        "start-newer-eperm",
        "start-newer-eopnotsupp",
        "start-newer-e2big",
    ];

    fn errno_named(name: &str) -> Errno {
        let (_, errno) = name.rsplit_once('-').unwrap();
        let called = |raw: &i32| format!("{:?}", Errno::from_raw(*raw)) == errno.to_uppercase();
        Errno::from_raw((1..200).find(called).unwrap())
    }

    #[test]
    fn start_means_another_thing_on_another_driver() {
        let on = |dialect, errno: Errno| {
            start_refused(dialect, false, &io::Error::from_raw_os_error(errno as i32))
        };
        for name in NEWER {
            for dialect in [Dialect::Ack66, Dialect::Ack612] {
                let fault = on(dialect, errno_named(name));
                assert_eq!((&*fault.name, fault.step), (*name, Step::Start));
                assert_eq!(fault.errno, Some(errno_named(name) as i32));
            }
        }
        for (dialect, errno, name, log) in [
            (Dialect::Ack61, Errno::ENODEV, "start-enodev", "gh_rsc_mgr"),
            (Dialect::Lkml, Errno::EINVAL, "start-einval", "gh_rsc_mgr"),
            (Dialect::Ack66, Errno::ENODEV, "start-newer-enodev", "gunyah_rsc_mgr"),
            (Dialect::Ack612, Errno::EINVAL, "start-newer-einval", "gunyah_rsc_mgr"),
            // The same everywhere.
            (Dialect::Ack612, Errno::EBADMSG, "start-ebadmsg", "reboot"),
        ] {
            let fault = on(dialect, errno);
            assert_eq!(fault.name, name);
            assert!(fault.cure.contains(log), "{fault}");
        }
    }

    #[test]
    fn start_with_firmware_means_the_firmware_first() {
        for errno in [Errno::EPERM, Errno::EINVAL] {
            let error = io::Error::from_raw_os_error(errno as i32);
            let fault = start_refused(Dialect::Ack66, true, &error);
            assert_eq!((&*fault.name, fault.errno), ("start-firmware", Some(errno as i32)));
        }
        let error = io::Error::from_raw_os_error(Errno::ENOMEM as i32);
        assert_eq!(start_refused(Dialect::Ack61, true, &error).name, "start-enomem");
    }

    #[test]
    fn a_call_and_an_errno_have_a_name_a_cause_and_a_cure() {
        for name in ANSWERS {
            let kind = KINDS.iter().find(|kind| kind.name() == *name).unwrap();
            let errno = errno_named(name);
            let error = io::Error::from_raw_os_error(errno as i32);
            let fault = refused(kind.step, "the call", &error);
            assert_eq!(fault.name, *name);
            assert_eq!(fault.errno, Some(errno as i32));
            assert!(!fault.cure.is_empty(), "{fault}");
        }
        assert_eq!(KINDS.len(), ANSWERS.len() + NEWER.len() + 2);
    }

    #[test]
    fn errnos_that_mean_the_same_have_one_name() {
        let name = |step, errno: Errno| {
            let error = io::Error::from_raw_os_error(errno as i32);
            let fault = refused(step, "the call", &error);
            assert_eq!(fault.step, step);
            fault.name.clone()
        };
        assert_eq!(name(Step::Device, Errno::EPERM), "device-eacces");
        assert_eq!(name(Step::Device, Errno::ENXIO), "device-enodev");
        assert_eq!(name(Step::Functions, Errno::ENXIO), "functions-enoent");
        assert_eq!(name(Step::Functions, Errno::EOPNOTSUPP), "functions-enoent");
        assert_eq!(name(Step::CreateVm, Errno::ENFILE), "create-vm-emfile");
        assert_eq!(name(Step::Start, Errno::EBADF), "driver-other-errno");
    }
}
