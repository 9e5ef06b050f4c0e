// SPDX-License-Identifier: Apache-2.0
//! What an errno of the driver means to a person, per call.

use std::path::Path;

use nix::errno::Errno;

use super::device::Region;
use crate::error::{LaunchError, Step};

const MEMLOCK_CURE: &str =
    "`rlimit memlock unlimited unlimited` or the capability IPC_LOCK in the service's .rc \
     (by hand: ulimit -l unlimited)";

const FDS_CAUSE: &str =
    "this process (EMFILE) or the whole host (ENFILE) has as many files open as it may";
const FDS_CURE: &str =
    "a higher `rlimit nofile` in the service's .rc, or fs.file-max; `ls /proc/PID/fd` shows who has them";
const MEMORY_CAUSE: &str = "the host kernel, or this service's memory cgroup, is out of memory";
const MEMORY_CURE: &str =
    "less memory for other services, or a smaller VM; dmesg and the cgroup's memory.events say which it was";

pub(super) fn open(path: &Path, errno: Errno) -> LaunchError {
    let error = LaunchError::new(Step::Device, format!("opening {}", path.display())).errno(errno);
    match errno {
        Errno::ENOENT => error
            .cause("the kernel has no Gunyah driver, or it is not up: no hypervisor below, CONFIG_GUNYAH off, module not loaded")
            .cure("look for `gunyah` in dmesg and /proc/misc; on a workstation run under gunyah-sim"),
        Errno::EACCES | Errno::EPERM => error
            .cause("owner, mode or SELinux label of the node")
            .cure("`/dev/gunyah 0660 system system` in ueventd.rc, the policy of sepolicy/, then `ls -lZ` the node"),
        Errno::EBUSY => error
            .cause("another program holds the device exclusively")
            .cure("stop the vendor's own VM service, or crosvm"),
        Errno::EMFILE | Errno::ENFILE => error.cause(FDS_CAUSE).cure(FDS_CURE),
        Errno::ENOMEM => error.cause(MEMORY_CAUSE).cure(MEMORY_CURE),
        Errno::ENODEV | Errno::ENXIO => error
            .cause("the node is there but no driver is behind it")
            .cure("look for `gunyah` in dmesg: the resource manager may not have answered"),
        _ => error,
    }
}

pub(super) fn create_vm(path: &Path, errno: Errno) -> LaunchError {
    let error =
        LaunchError::new(Step::CreateVm, format!("CREATE_VM on {}", path.display())).errno(errno);
    match errno {
        Errno::ENOTTY => error
            .cause("this driver does not know the GH_ ioctls: another vendor's (type 0xB2), or not Gunyah at all")
            .cure("gunyahd needs the driver of LKML v7 or later, or of android14-6.1 or later"),
        Errno::EINVAL => error
            .cause("an old driver of another dialect")
            .cure("gunyahd needs the driver of LKML v7 or later, or of android14-6.1 or later"),
        Errno::ENODEV => error
            .cause("the resource manager has no VM id left or does not answer")
            .cure("look for gh_rm in dmesg; VMs that never came down hold their ids until a reboot"),
        Errno::EBUSY => error
            .cause("the driver serves as many VMs as it can, another launcher's among them, or is still taking one down")
            .cure("stop the vendor's own VM service, or crosvm; if there is none, look for gh_rm in dmesg"),
        Errno::EMFILE | Errno::ENFILE => error.cause(FDS_CAUSE).cure(FDS_CURE),
        Errno::ENOMEM => error.cause(MEMORY_CAUSE).cure(MEMORY_CURE),
        Errno::EPERM | Errno::EACCES => error
            .cause("SELinux: the ioctl is not in the domain's allowxperm list")
            .cure("use the policy of sepolicy/; look for avc: denied in dmesg"),
        _ => error,
    }
}

pub(super) fn region(call: &str, region: &Region, errno: Errno) -> LaunchError {
    let what = format!(
        "{call} of region {} ({:#x} bytes at guest {:#x}, mapped at {:#x})",
        region.label, region.size, region.base, region.address
    );
    let error = LaunchError::new(Step::Region, what).errno(errno);
    match errno {
        Errno::ENOMEM => error
            .cause("the pages to pin exceed RLIMIT_MEMLOCK, or the kernel found no room for its page list (regions over 2 GiB)")
            .cure(format!("{MEMLOCK_CURE}; split what is over 2 GiB into several regions")),
        Errno::EEXIST => error
            .cause("a label used twice, or guest addresses that overlap")
            .cure("`gunyahd check` on the VM's file"),
        Errno::EINVAL => error
            .cause("an address or size that is not a multiple of the host's page, or flags that this dialect does not have")
            .cure("`gunyahd check --page-size` with the host's page size"),
        Errno::EOVERFLOW => error.cause("guest address and size go past 64 bits"),
        Errno::ENOTTY => error
            .cause("this dialect cannot lend")
            .cure("\"access\": \"share\", or \"auto\""),
        Errno::EPERM | Errno::EACCES => error
            .cause("SELinux: the ioctl is not in the domain's allowxperm list, or another process made the VM")
            .cure("use the policy of sepolicy/; look for avc: denied in dmesg"),
        Errno::EFAULT => error
            .cause("the mapping is not there or not writable: pages ran out, or memory failed")
            .cure("look for `Memory failure` and for the memory cgroup's limits"),
        Errno::EIO => error
            .cause("this driver takes only swap-backed pages, and hugetlb pages are not")
            .cure("\"backing\": [\"thp\", \"base\"]"),
        Errno::EBUSY => error
            .cause("the pages are still given to another VM, whose teardown has not ended")
            .cure("try again; if it stays, the resource manager has lost them until a reboot"),
        _ => error,
    }
}

pub(super) fn dtb_config(base: u64, size: u64, errno: Errno) -> LaunchError {
    let error = LaunchError::new(
        Step::DtbConfig,
        format!("VM_SET_DTB_CONFIG of {size:#x} bytes at guest {base:#x}"),
    )
    .errno(errno);
    match errno {
        Errno::EOVERFLOW => error.cause("guest address and size go past 64 bits"),
        Errno::EPERM | Errno::EACCES => error
            .cause("SELinux: the ioctl is not in the domain's allowxperm list")
            .cure("use the policy of sepolicy/; look for avc: denied in dmesg"),
        _ => error,
    }
}

pub(super) fn add_function(what: &str, errno: Errno) -> LaunchError {
    let error =
        LaunchError::new(Step::Functions, format!("VM_ADD_FUNCTION of {what}")).errno(errno);
    match errno {
        Errno::ENOENT | Errno::ENXIO | Errno::EOPNOTSUPP => error
            .cause("the kernel has no support for this function")
            .cure("CONFIG_GUNYAH_VCPU and CONFIG_GUNYAH_IRQFD, or their modules loaded"),
        Errno::EMFILE | Errno::ENFILE => error.cause(FDS_CAUSE).cure(FDS_CURE),
        Errno::ENOMEM => error.cause(MEMORY_CAUSE).cure(MEMORY_CURE),
        Errno::EEXIST => error
            .cause("added twice")
            .cure("`gunyahd check` on the VM's file"),
        Errno::ENOTTY => error
            .cause("this driver has no VM functions")
            .cure("\"scheduling\": \"hypervisor\", or a kernel with CONFIG_GUNYAH_VCPU"),
        _ => error,
    }
}

pub(super) fn start(errno: Errno) -> LaunchError {
    let error = LaunchError::new(Step::Start, "VM_START").errno(errno);
    match errno {
        Errno::ENODEV => error
            .cause("the resource manager refused the VM: its devicetree (/chosen first, /gunyah-vm-config/vcpus, a GIC), its address, or main memory that is shared where only lent is taken")
            .cure("`gunyahd check --dtb` on the VM's file; \"access\": \"lend\"; gh_rm in dmesg"),
        Errno::EINVAL => error
            .cause("the devicetree's range is not inside one region, a region has no permissions, or the devicetree breaks a rule of the resource manager")
            .cure("`gunyahd check --dtb` on the VM's file; gh_rm in dmesg"),
        Errno::ENOMEM => error
            .cause("the resource manager or the kernel ran out of memory for this VM's memory entries")
            .cure("huge pages (\"backing\": [\"hugetlb\"]), fewer regions, a reboot after many teardowns"),
        Errno::EIO => error
            .cause("this driver takes only swap-backed pages, and hugetlb pages are not")
            .cure("\"backing\": [\"thp\", \"base\"]"),
        Errno::EPERM | Errno::EACCES => error
            .cause("SELinux, or another process made the VM")
            .cure("use the policy of sepolicy/; look for avc: denied in dmesg"),
        Errno::ETIMEDOUT => error
            .cause("the resource manager did not answer")
            .cure("gh_rm in dmesg; it handles one VM at a time, and a teardown may be under way"),
        _ => error.cure("gh_rm in dmesg"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_call_is_known_to_answer_has_a_cause_and_a_cure() {
        use Errno::{
            EACCES, EBUSY, EEXIST, EINVAL, EMFILE, ENFILE, ENODEV, ENOENT, ENOMEM, ENOTTY, EPERM,
        };
        let path = Path::new("/dev/gunyah");
        let opened =
            [ENOENT, EACCES, EPERM, EBUSY, EMFILE, ENFILE, ENOMEM, ENODEV].map(|e| open(path, e));
        let created = [
            ENOTTY, EINVAL, ENODEV, ENOMEM, EBUSY, EMFILE, ENFILE, EPERM, EACCES,
        ]
        .map(|errno| create_vm(path, errno));
        let added =
            [ENOENT, EEXIST, ENOTTY, EMFILE, ENOMEM].map(|errno| add_function("vCPU 0", errno));
        for error in opened.iter().chain(&created).chain(&added) {
            assert!(!error.cause.is_empty(), "{error}");
            assert!(!error.cure.is_empty(), "{error}");
        }
    }
}
