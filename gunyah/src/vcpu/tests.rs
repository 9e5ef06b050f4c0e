// SPDX-License-Identifier: Apache-2.0
//! The run page, played by a file; what needs the driver is tried in the simulator.

#![allow(clippy::unwrap_used)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use super::*;
use crate::uapi::{VcpuExit, EXIT_MMIO, EXIT_PAGE_FAULT, EXIT_STATUS};

/// A page whose other side is `File`: an anonymous file of the temporary folder.
fn page() -> (Vcpu, File) {
    let path = std::env::temp_dir().join(format!(
        "gunyah-run-page-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    file.set_len(4096).unwrap();
    let fd = OwnedFd::from(file.try_clone().unwrap());
    let page = Arc::new(RunPage::map_bytes(fd.as_fd(), 4096).unwrap());
    let vcpu = Vcpu { page, fd, resume_at: MMIO_RESUME, end: None };
    (vcpu, file)
}

fn byte(file: &File, offset: u64) -> u8 {
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0]
}

fn run(exit_reason: u32, exit: VcpuExit) -> Exit {
    Exit::decode(&VcpuRun { immediate_exit: 0, padding: [0; 7], exit_reason, padding1: 0, exit })
}

#[test]
fn answers_land_where_the_driver_looks() {
    let (mut vcpu, file) = page();
    vcpu.set_read_data([1, 2, 3, 4, 5, 6, 7, 8]);
    vcpu.resume(Resume::Fault);
    assert_eq!((byte(&file, 24), byte(&file, 31)), (1, 8));
    assert_eq!(byte(&file, 37), uapi::RESUME_FAULT);
    vcpu.resume_at = FAULT_RESUME;
    vcpu.resume(Resume::Retry);
    assert_eq!(byte(&file, 28), uapi::RESUME_RETRY);
}

#[test]
fn immediate_exit_reaches_the_page_and_does_not_keep_it() {
    let (vcpu, file) = page();
    let exit = vcpu.immediate_exit();
    assert!(exit.set(true));
    assert_eq!(byte(&file, 0), 1);
    assert!(exit.clone().set(false));
    assert_eq!(byte(&file, 0), 0);
    drop(vcpu);
    assert!(!exit.set(true));
    assert_eq!(byte(&file, 0), 0);
}

/// What the driver does to the page in one VCPU_RUN, and what that call answers.
fn answered(vcpu: &mut Vcpu, file: &File, reason: u32, errno: Option<i32>) -> io::Result<Exit> {
    vcpu.page.clear_exit();
    let mut before = [0xff; 4];
    file.read_exact_at(&mut before, 8).unwrap();
    assert_eq!(before, [0; 4], "an exit of an earlier call");
    if reason != 0 {
        file.write_all_at(&reason.to_ne_bytes(), 8).unwrap();
    }
    let answer = errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)));
    vcpu.exit_of(answer)
}

#[test]
fn an_exit_behind_an_interruption_is_not_lost() {
    let (mut vcpu, file) = page();
    file.write_all_at(&0x0900_0000_u64.to_ne_bytes(), 16).unwrap();
    file.write_all_at(&4_u32.to_ne_bytes(), 32).unwrap();
    let read = Exit::MmioRead { address: 0x0900_0000, len: 4 };
    let exit = answered(&mut vcpu, &file, EXIT_MMIO, Some(libc::EINTR)).unwrap();
    assert_eq!(exit, read);
    // Its page still has that access; a call without an exit has none.
    let interrupted = answered(&mut vcpu, &file, 0, Some(libc::EINTR)).unwrap_err();
    assert_eq!(interrupted.raw_os_error(), Some(libc::EINTR));
    // Other errors come before the driver looks at the guest.
    let refused = answered(&mut vcpu, &file, EXIT_MMIO, Some(libc::EINVAL)).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(answered(&mut vcpu, &file, 0, None).unwrap(), Exit::Unknown(0));
}

#[test]
fn an_end_is_told_again_though_the_page_does_not_say_it_again() {
    let (mut vcpu, file) = page();
    file.write_all_at(&2_u32.to_ne_bytes(), 16).unwrap();
    let end = answered(&mut vcpu, &file, EXIT_STATUS, Some(libc::EINTR)).unwrap();
    assert!(matches!(end, Exit::Status(ExitStatus { status: 2, .. })), "{end:?}");
    assert_eq!(answered(&mut vcpu, &file, 0, None).unwrap(), end);
}

#[test]
fn another_file_is_not_a_vcpu() {
    let fd = OwnedFd::from(File::open("/dev/null").unwrap());
    let error = Vcpu::map(fd).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
}

#[test]
fn exits_decode() {
    let mmio = |len, is_write| {
        let mmio = ExitMmio {
            phys_addr: 0x0900_0000,
            data: [0x41, 1, 2, 3, 4, 5, 6, 7],
            len,
            is_write,
            resume_action: 0,
        };
        run(EXIT_MMIO, VcpuExit { mmio })
    };
    let address = 0x0900_0000;
    let data = [0x41, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(mmio(4, 0), Exit::MmioRead { address, len: 4 });
    let write = Exit::MmioWrite { address, len: 1, data };
    assert_eq!(mmio(1, 1), write);
    for (attempt, errno) in [(-libc::EIO, libc::EIO), (i32::MIN, i32::MAX)] {
        let page_fault = ExitPageFault { phys_addr: 0x8000_0000, attempt, resume_action: 0 };
        let address = 0x8000_0000;
        assert_eq!(
            run(EXIT_PAGE_FAULT, VcpuExit { page_fault }),
            Exit::PageFault { address, errno }
        );
    }
    let status = ExitStatus {
        status: 2,
        exit_type: 3,
        padding: 0,
        reason_size: 3,
        reason: [1, 2, 3, 4, 5, 6, 7, 8],
    };
    assert_eq!(run(EXIT_STATUS, VcpuExit { status }), Exit::Status(status));
    assert_eq!(run(77, VcpuExit { status }), Exit::Unknown(77));
    assert_eq!(
        status.to_string(),
        "status 2 (exited), exit type 3 (PSCI SYSTEM_RESET2), reason 01 02 03"
    );
    let nothing = ExitStatus { exit_type: 1, reason_size: 8, reason: [0; 8], ..status };
    assert_eq!(nothing.to_string(), "status 2 (exited), exit type 1 (PSCI SYSTEM_OFF)");
    let strange = ExitStatus { status: 7, exit_type: 77, reason_size: u32::MAX, ..status };
    assert_eq!(
        strange.to_string(),
        "status 7 (unknown), exit type 77 (unknown), reason 01 02 03 04 05 06 07 08"
    );
}
