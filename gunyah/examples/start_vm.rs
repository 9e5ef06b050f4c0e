// SPDX-License-Identifier: Apache-2.0
//! `start_vm DTB`: a VM whose guest says hello on a serial port and powers off.
//!
//! `dtc -O dtb -o start_vm.dtb gunyah/examples/start_vm.dts` makes the devicetree. Without a device, also on
//! x86-64: `gunyah-sim --engine exec -- start_vm start_vm.dtb`, with a simulator built with its feature
//! `exec` (docs/simulator.md).

use std::io::{Error, Result};
use std::time::Duration;

use gunyah::uapi::{ExitStatus, UserMemoryRegion, MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
use gunyah::{BootRegister, Exit, Gunyah, Resume, Vcpu};

/// The devicetree's /gunyah-vm-config/memory agrees with it.
const BASE: u64 = 0x8000_0000;
const SIZE: usize = 4 << 20;
const DTB: usize = 2 << 20;
/// Below 1 GiB, where accesses come out as MMIO.
const SERIAL: u64 = 0x0900_0000;

/// Writes each byte of the text after it to the serial port, then calls PSCI's SYSTEM_OFF.
const CODE: [u32; 9] = [
    0xd2a1_2001, //       movz x1, #0x900, lsl #16
    0x1000_0102, //       adr  x2, text
    0x3840_1443, // next: ldrb w3, [x2], #1
    0x3400_0063, //       cbz  w3, off
    0x3900_0023, //       strb w3, [x1]
    0x17ff_fffd, //       b    next
    0x52b0_8000, // off:  movz w0, #0x8400, lsl #16
    0x7280_0100, //       movk w0, #8
    0xd400_0002, //       hvc  #0
];
const TEXT: &[u8] = b"hello from the guest\n\0";

fn main() -> Result<()> {
    let path = std::env::args().nth(1).expect("usage: start_vm DTB");
    start(&std::fs::read(path)?)
}

/// Starts the VM with this devicetree and shows what its guest writes, until it ends.
pub fn start(dtb: &[u8]) -> Result<()> {
    assert!(dtb.len() < SIZE - DTB, "the devicetree is too large");
    let memory = guest_memory()?;
    let code = CODE.iter().flat_map(|word| word.to_le_bytes());
    let image: Vec<u8> = code.chain(TEXT.iter().copied()).collect();
    // SAFETY: both fit into the SIZE bytes of the mapping, which nobody else uses yet.
    unsafe {
        memory.copy_from_nonoverlapping(image.as_ptr(), image.len());
        memory.add(DTB).copy_from_nonoverlapping(dtb.as_ptr(), dtb.len());
    }

    let vm = Gunyah::open("/dev/gunyah")?.create_vm()?;
    let region = UserMemoryRegion {
        label: 0,
        flags: MEM_ALLOW_READ | MEM_ALLOW_WRITE | MEM_ALLOW_EXEC,
        guest_phys_addr: BASE,
        memory_size: SIZE as u64,
        userspace_addr: memory.addr() as u64,
    };
    // SAFETY: the mapping stays until the process ends, and is not touched from here on.
    match unsafe { vm.lend(&region) } {
        // SAFETY: as above.
        Err(error) if no_such_call(&error) => unsafe { vm.share(&region) }?, // LKML
        other => other?,
    }
    vm.set_dtb_config(BASE + DTB as u64, (SIZE - DTB) as u64)?;
    match vm.set_boot_context(BootRegister::Pc, BASE) {
        Err(error) if no_such_call(&error) => {} // LKML, android14-6.1
        other => other?,
    }
    let mut vcpu = vm.add_vcpu(0)?;
    vm.start()?;
    let status = run(&mut vcpu)?;
    println!("the VM has ended: {status}");
    Ok(())
}

/// Runs the CPU until the VM ends.
fn run(vcpu: &mut Vcpu) -> Result<ExitStatus> {
    let mut busy = 0;
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                // For a second at most.
                Some(libc::EBUSY | libc::EAGAIN) if busy < 1000 => {
                    busy += 1;
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                _ => return Err(error),
            },
        };
        busy = 0;
        match exit {
            Exit::MmioWrite { address: SERIAL, data, .. } => {
                print!("{}", char::from(data[0]));
                vcpu.resume(Resume::Handled);
            }
            // No device is there.
            Exit::MmioWrite { .. } => vcpu.resume(Resume::Handled),
            Exit::MmioRead { .. } => {
                vcpu.set_read_data([0; 8]);
                vcpu.resume(Resume::Handled);
            }
            Exit::Status(status) => return Ok(status),
            Exit::Unknown(0) => {}
            // The same would happen again.
            Exit::PageFault { .. } | Exit::Unknown(_) => {
                return Err(Error::other(format!("cannot handle {exit:?}")));
            }
        }
    }
}

fn no_such_call(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTTY)
}

/// Shared memory at a multiple of 2 MiB, in a mapping that is large enough to have one.
fn guest_memory() -> Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let nowhere = std::ptr::null_mut();
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(nowhere, 2 * SIZE, protection, flags, -1, 0) };
    match start {
        libc::MAP_FAILED => Err(Error::last_os_error()),
        // SAFETY: less than SIZE bytes further, so SIZE bytes follow.
        start => Ok(unsafe { start.cast::<u8>().add(start.align_offset(2 << 20)) }),
    }
}
