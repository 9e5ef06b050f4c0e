// SPDX-License-Identifier: Apache-2.0
//! What a person should know when a VM is closed.

use crate::diagnostic::{kinds, Diagnostic};

kinds! {
    // Seen.
    DEADLY: Warning "run-hypervisor-close" in Stop {
        "a VM is closed that the hypervisor schedules and that has not ended by itself",
        cause: "the open-source resource manager dies of it: if the next start hangs in START, that is why, and only a reboot of the host helps",
        cure: "leave vcpus.scheduling out, or set it to \"proxy\", where the driver has vCPUs",
    }
}

/// For a VM that the hypervisor schedules, whose end nobody can see.
pub(super) fn by_hypervisor() -> Diagnostic {
    DEADLY.case("closing a VM that the hypervisor schedules and that has not ended by itself")
}

#[cfg(test)]
mod tests {
    #[test]
    fn its_danger_has_a_name() {
        assert_eq!(super::by_hypervisor().name, "run-hypervisor-close");
    }
}
