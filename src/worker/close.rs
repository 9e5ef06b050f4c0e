// SPDX-License-Identifier: Apache-2.0
//! What a person should know when a VM is closed.

use crate::diagnostic::{kinds, Diagnostic};

kinds! {
    // Seen.
    DEADLY: Warning "run-hypervisor-close" in Stop {
        "a hypervisor-scheduled VM is closed whose guest may still run",
        cause: "the open-source resource manager crashes then: if the next start hangs in START, that is why, and only a reboot of the host helps",
        cure: "let the guest power itself off first; where the driver has vCPUs, leave vcpus.scheduling out",
    }
}

/// For a VM that the hypervisor schedules, whose end nobody can see.
pub(super) fn by_hypervisor() -> Diagnostic {
    DEADLY.case("closing a hypervisor-scheduled VM whose guest may still run")
}

#[cfg(test)]
mod tests {
    #[test]
    fn its_danger_has_a_name() {
        assert_eq!(super::by_hypervisor().name, "run-hypervisor-close");
    }
}
