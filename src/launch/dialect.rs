// SPDX-License-Identifier: Apache-2.0
//! Which driver this is, asked first and by calls that change nothing.

use std::path::Path;

use gunyah::uapi::CAP_VCPU_TIMER_WAKEUP;
use gunyah::{Dialect, Gunyah, Vm};

use super::answers::refused;
use crate::diagnostic::{kinds, Diagnostic, Step};

kinds! {
    UNFIT: Error "dialect-unfit" in Dialect {
        "gunyahd does not speak this driver's dialect",
        cause: "it is the driver as posted to the mailing list since v15, where guest memory is a file of its own (VM_MAP_MEM)",
        cure: "use a kernel with Android's driver (android14-6.1 and later) or that of the mailing list's v7 to v14",
    }
}

/// Which driver is behind `device`, found by a VM that is closed again and never started.
///
/// # Errors
/// The device cannot be opened, has no VM to give, or is one that gunyahd cannot use.
pub fn probe(device: &Path) -> Result<Dialect, Diagnostic> {
    let path = device.display();
    let gunyah = Gunyah::open(device)
        .map_err(|error| refused(Step::Device, format!("opening {path}"), &error))?;
    let vm = gunyah
        .create_vm()
        .map_err(|error| refused(Step::CreateVm, format!("CREATE_VM on {path}"), &error))?;
    of(&vm)
}

/// Asks the driver behind a VM that has just been created.
pub(super) fn of(vm: &Vm) -> Result<Dialect, Diagnostic> {
    let found = vm.dialect();
    let dialect = found
        .map_err(|error| refused(Step::Dialect, "asking which calls the driver knows", &error))?;
    fit(dialect)
}

/// Whether the driver wakes vCPUs whose timers have run out, which newer ones can. One that may not be asked
/// is one that cannot: the hypervisor wakes them then.
pub(super) fn timer_wakeups(vm: &Vm, dialect: Dialect) -> bool {
    dialect == Dialect::Ack612 && vm.check_extension(CAP_VCPU_TIMER_WAKEUP).is_ok_and(|has| has > 0)
}

fn fit(dialect: Dialect) -> Result<Dialect, Diagnostic> {
    match dialect {
        Dialect::Lkml15 => Err(UNFIT.case(format!("the driver speaks {dialect}")).lasting()),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_without_regions_is_unfit() {
        for dialect in Dialect::ALL {
            match fit(dialect) {
                Ok(found) => assert_ne!(found, Dialect::Lkml15),
                Err(unfit) => {
                    assert_eq!((&*unfit.name, dialect), ("dialect-unfit", Dialect::Lkml15));
                }
            }
        }
    }
}
