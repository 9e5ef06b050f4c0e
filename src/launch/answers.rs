// SPDX-License-Identifier: Apache-2.0
//! What the driver's errnos mean, by call. A kind's name is the call's step and the errno.

use std::io;

use nix::errno::Errno;

use crate::diagnostic::{kinds, Diagnostic, Kind, Step};

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
    "gunyahd needs the driver of LKML v7 or later, or of android14-6.1 or later";
const STOP_OTHERS: &str =
    "stop the vendor's own VM service, or crosvm; if there is none, look for gh_rm in dmesg";
const SWAP_BACKED: &str = "this driver takes swap-backed pages alone, and hugetlb pages are not";
const OTHER_BACKING: &str = "use \"backing\": [\"thp\", \"base\"]";
const CHECK: &str = "run `gunyahd check` on the VM's file";
const CHECK_DTB: &str = "run `gunyahd check --dtb` on the VM's file; look for gh_rm in dmesg";

kinds! {
    DEVICE_ENOENT: Error "device-enoent" in Device { "there is no Gunyah device",
        cause: "no hypervisor is below, CONFIG_GUNYAH is off, the module is not loaded, or the driver is not up yet",
        cure: "look for `gunyah` in dmesg and /proc/misc; on a workstation run under gunyah-sim" }
    DEVICE_EACCES: Error "device-eacces" in Device { "the device may not be opened",
        cause: "owner, mode or SELinux label of the node",
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
        cause: "it is another vendor's (ioctl type 0xB2), or not Gunyah's at all",
        cure: OTHER_DRIVERS }
    CREATE_VM_EINVAL: Error "create-vm-einval" in CreateVm { "the driver wants another CREATE_VM",
        cause: "it is too old",
        cure: OTHER_DRIVERS }
    CREATE_VM_ENODEV: Error "create-vm-enodev" in CreateVm { "the resource manager gives no VM",
        cause: "it has no VM id left, or does not answer",
        cure: "look for gh_rm in dmesg; VMs that never came down hold their ids until a reboot" }
    CREATE_VM_EBUSY: Error "create-vm-ebusy" in CreateVm { "the driver has as many VMs as it serves",
        cause: "another launcher has VMs, or one is still being taken down",
        cure: STOP_OTHERS }
    CREATE_VM_EACCES: Error "create-vm-eacces" in CreateVm { "CREATE_VM is not permitted", cause: SELINUX, cure: POLICY }
    CREATE_VM_EMFILE: Error "create-vm-emfile" in CreateVm { "no file can be opened", cause: NO_FILES, cure: MORE_FILES }
    CREATE_VM_ENOMEM: Error "create-vm-enomem" in CreateVm { "the host is out of memory", cause: NO_MEMORY, cure: MORE_MEMORY }

    REGION_ENOMEM: Error "region-enomem" in Region { "the region's pages cannot be pinned",
        cause: "they exceed RLIMIT_MEMLOCK, or the kernel found no room for its list of pages (regions over 2 GiB)",
        cure: "put `rlimit memlock unlimited unlimited` or the capability IPC_LOCK into the service's .rc (by hand: ulimit -l unlimited); split what is over 2 GiB into several regions" }
    REGION_EEXIST: Error "region-eexist" in Region { "the region is there already",
        cause: "a label used twice, or guest addresses that overlap",
        cure: CHECK }
    REGION_EINVAL: Error "region-einval" in Region { "the driver refuses the region's values",
        cause: "an address or size that is not a multiple of the host's page, or flags that this dialect does not have",
        cure: "run `gunyahd check --page-size` with the host's page size" }
    REGION_EOVERFLOW: Error "region-eoverflow" in Region { "guest address and size go past 64 bits", cause: "", cure: CHECK }
    REGION_ENOTTY: Error "region-enotty" in Region { "the driver does not know the call",
        cause: "this dialect cannot lend",
        cure: "use \"access\": \"share\" or \"auto\"" }
    REGION_EACCES: Error "region-eacces" in Region { "registering memory is not permitted", cause: SELINUX, cure: POLICY }
    REGION_EFAULT: Error "region-efault" in Region { "the mapping is not there or not writable",
        cause: "pages ran out, or memory failed",
        cure: "look for `Memory failure` in dmesg, and at the memory cgroup's limits" }
    REGION_EIO: Error "region-eio" in Region { "the driver refuses these pages", cause: SWAP_BACKED, cure: OTHER_BACKING }
    REGION_EBUSY: Error "region-ebusy" in Region { "the pages are in use",
        cause: "they are still given to another VM, whose teardown has not ended",
        cure: "try again; if it stays, the resource manager has lost them until a reboot" }

    DTB_CONFIG_EOVERFLOW: Error "dtb-config-eoverflow" in DtbConfig { "guest address and size go past 64 bits", cause: "", cure: CHECK }
    DTB_CONFIG_EACCES: Error "dtb-config-eacces" in DtbConfig { "SET_DTB_CONFIG is not permitted", cause: SELINUX, cure: POLICY }

    FUNCTIONS_ENOENT: Error "functions-enoent" in Functions { "the kernel has no support for this function",
        cause: "CONFIG_GUNYAH_VCPU or CONFIG_GUNYAH_IRQFD is off, or its module is not loaded",
        cure: "build them in, or load the modules" }
    FUNCTIONS_ENOTTY: Error "functions-enotty" in Functions { "the driver has no VM functions",
        cause: "it is the first part of the driver alone, without vCPUs",
        cure: "use \"scheduling\": \"hypervisor\", or a kernel with CONFIG_GUNYAH_VCPU" }
    FUNCTIONS_EEXIST: Error "functions-eexist" in Functions { "the function is there already", cause: "it was added twice", cure: CHECK }
    FUNCTIONS_EMFILE: Error "functions-emfile" in Functions { "no file can be opened", cause: NO_FILES, cure: MORE_FILES }
    FUNCTIONS_ENOMEM: Error "functions-enomem" in Functions { "the host is out of memory", cause: NO_MEMORY, cure: MORE_MEMORY }

    START_ENODEV: Error "start-enodev" in Start { "the resource manager refused the VM",
        cause: "its devicetree (/chosen first, /gunyah-vm-config/vcpus, a GIC), its address, or main memory that is shared where only lent is taken",
        cure: "run `gunyahd check --dtb` on the VM's file; use \"access\": \"lend\"; look for gh_rm in dmesg" }
    START_EINVAL: Error "start-einval" in Start { "the driver or the resource manager refused the VM's values",
        cause: "the devicetree's range is not inside one region, a region has no permissions, or the devicetree breaks a rule of the resource manager",
        cure: CHECK_DTB }
    START_ENOMEM: Error "start-enomem" in Start { "there is no memory for this VM's memory entries",
        cause: "the resource manager or the kernel ran out of it",
        cure: "use huge pages (\"backing\": [\"hugetlb\"]) or fewer regions; reboot after many teardowns" }
    START_EIO: Error "start-eio" in Start { "the driver refuses the VM's pages", cause: SWAP_BACKED, cure: OTHER_BACKING }
    START_EACCES: Error "start-eacces" in Start { "START is not permitted", cause: SELINUX, cure: POLICY }
    START_ETIMEDOUT: Error "start-etimedout" in Start { "the resource manager did not answer",
        cause: "it handles one VM at a time, and a teardown may be under way",
        cure: "try again; look for gh_rm in dmesg" }

    OTHER: Error "driver-other-errno" in Device { "the driver gave an answer that it is not known to give",
        cure: "look for gunyah and gh_rm in dmesg" }
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
    let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    let mut fault = kind_of(step, errno).case(call).errno(errno);
    fault.step = step;
    fault
}

fn kind_of(step: Step, errno: Errno) -> &'static Kind {
    let named = |errno: Errno| {
        let name = format!("{step}-{errno:?}").to_lowercase();
        KINDS.iter().find(|kind| kind.name == name)
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
        "region-enomem",
        "region-eexist",
        "region-einval",
        "region-eoverflow",
        "region-enotty",
        "region-eacces",
        "region-efault",
        "region-eio",
        "region-ebusy",
        "dtb-config-eoverflow",
        "dtb-config-eacces",
        "functions-enoent",
        "functions-enotty",
        "functions-eexist",
        "functions-emfile",
        "functions-enomem",
        "start-enodev",
        "start-einval",
        "start-enomem",
        "start-eio",
        "start-eacces",
        "start-etimedout",
    ];

    #[test]
    fn a_call_and_an_errno_have_a_name_a_cause_and_a_cure() {
        for name in ANSWERS {
            let kind = KINDS.iter().find(|kind| kind.name == *name).unwrap();
            let (_, errno) = name.rsplit_once('-').unwrap();
            let called = |raw: &i32| format!("{:?}", Errno::from_raw(*raw)) == errno.to_uppercase();
            let errno = Errno::from_raw((1..200).find(called).unwrap());
            let error = io::Error::from_raw_os_error(errno as i32);
            let fault = refused(kind.step, "the call", &error);
            assert_eq!(fault.name, *name);
            assert_eq!(fault.errno, Some(errno as i32));
            assert!(!fault.cure.is_empty(), "{fault}");
        }
        assert_eq!(KINDS.len(), ANSWERS.len() + 1);
    }

    #[test]
    fn errnos_that_mean_the_same_have_one_name() {
        let name = |step, errno: Errno| {
            let error = io::Error::from_raw_os_error(errno as i32);
            let fault = refused(step, "the call", &error);
            assert_eq!(fault.step, step);
            fault.name
        };
        assert_eq!(name(Step::Device, Errno::EPERM), "device-eacces");
        assert_eq!(name(Step::Device, Errno::ENXIO), "device-enodev");
        assert_eq!(name(Step::Functions, Errno::ENXIO), "functions-enoent");
        assert_eq!(name(Step::Functions, Errno::EOPNOTSUPP), "functions-enoent");
        assert_eq!(name(Step::CreateVm, Errno::ENFILE), "create-vm-emfile");
        assert_eq!(name(Step::Start, Errno::EBADF), "driver-other-errno");
    }
}
