// SPDX-License-Identifier: Apache-2.0
//! Why a guest does not get a page that it has touched. Drivers since 6.6 alone give pages that way, and
//! tell it by the errno in the exit, not by VCPU_RUN's own.

use nix::errno::Errno;

use crate::diagnostic::{kinds, Diagnostic};

const PAGE_TABLES: &str = "RLIMIT_MEMLOCK is reached; or the hypervisor's page-table heap is used up, which small pages do and only a reboot of the host mends (`Failed to map guest address` in dmesg)";

kinds! {
    EIO: Error "run-fault-eio" in Run {
        "the driver cannot give the guest a page that is not swap-backed, such as one of hugetlb",
        cause: "it takes only swap-backed pages; hugetlb pages and files are not",
        cure: "leave memory.backing out, or use \"thp\"",
    }
    ENOMEM: Error "run-fault-enomem" in Run {
        "there is no memory for a page that the guest touched",
        cause: PAGE_TABLES,
        cure: "put `rlimit memlock unlimited unlimited` or the capability IPC_LOCK into the service's .rc; if that is so already, reboot, and give the VM huge pages: leave memory.backing out, start it early",
    }
    ENODEV: Error "run-fault-enodev" in Run {
        "the resource manager has made no address space for the guest's memory",
        cause: "the region with the devicetree is shared, or none is lent",
        cure: "leave memory.access out, or use \"lend\"",
    }
    EPERM: Error "run-fault-eperm" in Run {
        "the guest touched memory in a way that its region forbids",
        cause: "the guest writes to a region without the permission",
        cure: "correct the region's `flags`, or the guest",
    }
    EFAULT: Error "run-fault-efault" in Run {
        "nothing is mapped where the guest's memory should be",
        cause: "the mapping of guest memory is gone, or its file was truncated",
        cure: "do not truncate a region's file while its VM runs",
    }
    EOPNOTSUPP: Error "run-fault-eopnotsupp" in Run {
        "the driver does not give pages of this kind by fault",
        cause: "the page is of contiguous memory (CMA), which is for authenticated VMs",
        cure: "leave memory.backing out",
    }
    OTHER: Error "run-fault-other" in Run {
        "the driver cannot give the guest a page that it has touched",
        cause: "the platform's driver (`qcom_scm_assign_mem` in dmesg) or the hypervisor refuses it",
        cure: "`dmesg | grep -E 'gunyah|qcom_scm'`",
    }
}

pub(super) fn failed(id: u32, address: u64, errno: Errno) -> Diagnostic {
    let kind = match errno {
        Errno::EIO => EIO,
        Errno::ENOMEM => ENOMEM,
        Errno::ENODEV => ENODEV,
        Errno::EPERM => EPERM,
        Errno::EFAULT => EFAULT,
        Errno::EOPNOTSUPP => EOPNOTSUPP,
        _ => OTHER,
    };
    let what = format!("the driver cannot give vCPU {id} the page at guest {address:#x}");
    kind.case(what).errno(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_cause() {
        for (errno, name) in [
            (Errno::EIO, "run-fault-eio"),
            (Errno::ENOMEM, "run-fault-enomem"),
            (Errno::ENODEV, "run-fault-enodev"),
            (Errno::EPERM, "run-fault-eperm"),
            (Errno::EFAULT, "run-fault-efault"),
            (Errno::EOPNOTSUPP, "run-fault-eopnotsupp"),
            (Errno::EINVAL, "run-fault-other"),
        ] {
            let fault = failed(1, 0x8000_0000, errno);
            assert_eq!((&*fault.name, fault.errno), (name, Some(errno as i32)));
        }
    }
}
