// SPDX-License-Identifier: Apache-2.0
//! What the run page says after VCPU_RUN. The page is the driver's: nothing in it is believed unseen.

use nix::errno::Errno;

use super::bus::Width;
use crate::status::EndReason;
use gunyah::uapi::{self, ExitMmio, ExitStatus, VcpuRun};

/// Why VCPU_RUN came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// The guest reads where no memory is.
    Read {
        /// Guest address.
        address: u64,
        /// Of the access.
        width: Width,
    },
    /// The guest writes there.
    Write {
        /// Guest address.
        address: u64,
        /// Of the access.
        width: Width,
        /// No wider than `width`.
        value: u64,
    },
    /// An access of a width that does not exist.
    BadAccess {
        /// Guest address.
        address: u64,
        /// Bytes, as the driver says.
        len: u32,
    },
    /// The VM's end.
    End {
        /// How.
        reason: EndReason,
        /// The driver's raw words.
        detail: String,
    },
    /// The driver could not give the guest a page.
    PageFault {
        /// Guest address.
        address: u64,
        /// What the driver's attempt answered.
        attempt: Errno,
    },
    /// A reason that is not known here.
    Unknown(u32),
}

/// Reads an exit out of a copy of the run page.
pub fn decode(run: &VcpuRun) -> Exit {
    match run.exit_reason {
        uapi::EXIT_MMIO => {
            // SAFETY: every bit pattern is a valid ExitMmio, and the whole union was copied.
            mmio(unsafe { &run.exit.mmio })
        }
        uapi::EXIT_STATUS => {
            // SAFETY: as above, for ExitStatus.
            let status = unsafe { &run.exit.status };
            Exit::End {
                reason: end_reason(status),
                detail: end_detail(status),
            }
        }
        uapi::EXIT_PAGE_FAULT => {
            // SAFETY: as above, for ExitPageFault.
            let fault = unsafe { &run.exit.page_fault };
            Exit::PageFault {
                address: fault.phys_addr,
                attempt: Errno::from_raw(fault.attempt.saturating_neg()),
            }
        }
        other => Exit::Unknown(other),
    }
}

fn mmio(mmio: &ExitMmio) -> Exit {
    let address = mmio.phys_addr;
    let Some(width) = Width::from_bytes(mmio.len) else {
        return Exit::BadAccess {
            address,
            len: mmio.len,
        };
    };
    if mmio.is_write == 0 {
        return Exit::Read { address, width };
    }
    Exit::Write {
        address,
        width,
        value: u64::from_le_bytes(mmio.data) & width.mask(),
    }
}

fn end_reason(end: &ExitStatus) -> EndReason {
    let by_type = match end.exit_type {
        uapi::EXIT_TYPE_WATCHDOG_BITE => Some(EndReason::Watchdog),
        uapi::EXIT_TYPE_HYP_ERROR => Some(EndReason::HypervisorError),
        uapi::EXIT_TYPE_ASYNC_EXT_ABORT => Some(EndReason::ExternalAbort),
        uapi::EXIT_TYPE_FORCE_STOPPED => Some(EndReason::ForceStopped),
        _ => None,
    };
    match (end.status, end.exit_type) {
        (uapi::STATUS_LOAD_FAILED, _) => EndReason::LoadFailed,
        (uapi::STATUS_EXITED, uapi::EXIT_TYPE_VM_EXIT | uapi::EXIT_TYPE_SYSTEM_OFF) => {
            EndReason::PowerOff
        }
        (uapi::STATUS_EXITED, uapi::EXIT_TYPE_SYSTEM_RESET | uapi::EXIT_TYPE_SYSTEM_RESET2) => {
            EndReason::Reset
        }
        // A type that is not known, or words that a crash adds.
        _ => by_type.unwrap_or(EndReason::Crashed),
    }
}

fn end_detail(end: &ExitStatus) -> String {
    let status = match end.status {
        uapi::STATUS_LOAD_FAILED => "load failed",
        uapi::STATUS_EXITED => "exited",
        uapi::STATUS_CRASHED => "crashed",
        _ => "unknown",
    };
    let exit_type = match end.exit_type {
        uapi::EXIT_TYPE_VM_EXIT => "VM exit",
        uapi::EXIT_TYPE_SYSTEM_OFF => "PSCI SYSTEM_OFF",
        uapi::EXIT_TYPE_SYSTEM_RESET => "PSCI SYSTEM_RESET",
        uapi::EXIT_TYPE_SYSTEM_RESET2 => "PSCI SYSTEM_RESET2",
        uapi::EXIT_TYPE_WATCHDOG_BITE => "watchdog bite",
        uapi::EXIT_TYPE_HYP_ERROR => "hypervisor error",
        uapi::EXIT_TYPE_ASYNC_EXT_ABORT => "asynchronous external abort",
        uapi::EXIT_TYPE_FORCE_STOPPED => "force stopped",
        _ => "unknown",
    };
    let used = usize::try_from(end.reason_size).unwrap_or(usize::MAX);
    let reason: Vec<String> = end
        .reason
        .iter()
        .take(used)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(
        "status {} ({status}), exit type {} ({exit_type}){}{}",
        end.status,
        end.exit_type,
        if reason.is_empty() { "" } else { ", reason " },
        reason.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use gunyah::uapi::{ExitPageFault, VcpuExit};
    use proptest::prelude::*;

    fn run(exit_reason: u32, exit: VcpuExit) -> VcpuRun {
        VcpuRun {
            immediate_exit: 0,
            padding: [0; 7],
            exit_reason,
            padding1: 0,
            exit,
        }
    }

    fn status(status: u32, exit_type: u16, reason_size: u32) -> Exit {
        decode(&run(
            uapi::EXIT_STATUS,
            VcpuExit {
                status: ExitStatus {
                    status,
                    exit_type,
                    padding: 0,
                    reason_size,
                    reason: [1, 2, 3, 4, 5, 6, 7, 8],
                },
            },
        ))
    }

    #[test]
    fn every_end_has_its_reason() {
        use EndReason::*;
        for (code, exit_type, reason) in [
            (2, 0, PowerOff),
            (2, 1, PowerOff),
            (2, 2, Reset),
            (2, 3, Reset),
            (2, 4, Watchdog),
            (2, 5, HypervisorError),
            (2, 6, ExternalAbort),
            (2, 7, ForceStopped),
            (2, 99, Crashed),
            (1, 0, LoadFailed),
            (1, 5, LoadFailed),
            (3, 0, Crashed),
            (3, 1, Crashed),
            (3, 4, Watchdog),
            (9, 0, Crashed),
        ] {
            match status(code, exit_type, 0) {
                Exit::End { reason: found, .. } => {
                    assert_eq!(found, reason, "status {code}, exit type {exit_type}");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_detail_keeps_the_drivers_own_words() {
        let detail = |exit| match exit {
            Exit::End { detail, .. } => detail,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            detail(status(2, 1, 0)),
            "status 2 (exited), exit type 1 (PSCI SYSTEM_OFF)"
        );
        assert_eq!(
            detail(status(2, 3, 3)),
            "status 2 (exited), exit type 3 (PSCI SYSTEM_RESET2), reason 01 02 03"
        );
        assert!(detail(status(7, 77, u32::MAX)).ends_with(
            "status 7 (unknown), exit type 77 (unknown), reason 01 02 03 04 05 06 07 08"
        ));
    }

    #[test]
    fn mmio_carries_only_the_bytes_of_its_width() {
        let mmio = |len, is_write| {
            decode(&run(
                uapi::EXIT_MMIO,
                VcpuExit {
                    mmio: ExitMmio {
                        phys_addr: 0x0900_0000,
                        data: [0x41, 1, 2, 3, 4, 5, 6, 7],
                        len,
                        is_write,
                        resume_action: 0,
                    },
                },
            ))
        };
        let address = 0x0900_0000;
        assert_eq!(
            mmio(1, 1),
            Exit::Write {
                address,
                width: Width::Byte,
                value: 0x41
            }
        );
        assert_eq!(
            mmio(2, 7),
            Exit::Write {
                address,
                width: Width::Half,
                value: 0x0141
            }
        );
        assert_eq!(
            mmio(8, 0),
            Exit::Read {
                address,
                width: Width::Double
            }
        );
        for len in [0, 3, 5, 16, u32::MAX] {
            assert_eq!(mmio(len, 0), Exit::BadAccess { address, len });
        }
    }

    #[test]
    fn a_page_fault_names_its_errno() {
        let fault = |attempt| {
            decode(&run(
                uapi::EXIT_PAGE_FAULT,
                VcpuExit {
                    page_fault: ExitPageFault {
                        phys_addr: 0x8000_0000,
                        attempt,
                        resume_action: 0,
                    },
                },
            ))
        };
        for (attempt, errno) in [(-5, Errno::EIO), (i32::MIN, Errno::UnknownErrno)] {
            assert_eq!(
                fault(attempt),
                Exit::PageFault {
                    address: 0x8000_0000,
                    attempt: errno
                }
            );
        }
    }

    proptest! {
        #[test]
        fn any_page_decodes(bytes in proptest::array::uniform32(any::<u8>()), reason in 0u32..6) {
            // SAFETY: VcpuRun is plain old data of at least this size.
            let mut page: VcpuRun = unsafe { std::mem::zeroed() };
            page.exit_reason = reason;
            let len = size_of::<VcpuExit>().min(bytes.len());
            // SAFETY: `len` is no more than either side has.
            unsafe {
                let exit = std::ptr::from_mut(&mut page.exit).cast::<u8>();
                exit.copy_from_nonoverlapping(bytes.as_ptr(), len);
            }
            let _ = decode(&page);
        }
    }
}
