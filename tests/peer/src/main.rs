// SPDX-License-Identifier: Apache-2.0
//! A bare-metal guest with the crate virtio-drivers: it tries every device that it finds as its command line
//! says, tells the result on the serial port, a line each, and powers off.
//!
//! Words of the command line: `irq`, wait for interrupts; `nopool`, use no pool, as a kernel that knows none;
//! `twice`, drive each device again after a reset; `wait`, begin when something is typed on the serial port;
//! `console`, `disk`, `entropy`, `net`, `vsock`, try devices of this kind.
#![no_std]
#![no_main]

mod console;
mod disk;
mod entropy;
mod fdt;
mod gic;
mod hal;
mod heap;
mod net;
mod platform;
mod vsock;

use core::arch::{asm, global_asm};
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::MmioTransport;
use virtio_drivers::transport::pci::bus::{Cam, DeviceFunction, MmioCam, PciRoot};
use virtio_drivers::transport::pci::{virtio_device_type, PciTransport};
use virtio_drivers::transport::{DeviceType, Transport};

use platform::Platform;

global_asm!(include_str!("boot.S"));

const UART: *mut u32 = 0x0900_0000 as *mut u32;
const SYSTEM_OFF: u64 = 0x8400_0008;

/// The serial port.
struct Uart;

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the PL011's data register.
            unsafe { UART.write_volatile(byte.into()) };
        }
        Ok(())
    }
}

impl Uart {
    /// Waits until something is typed.
    fn wait() {
        const FLAGS: usize = 0x18 / 4;
        const EMPTY: u32 = 1 << 4;
        // SAFETY: the PL011's flags.
        while unsafe { UART.add(FLAGS).read_volatile() } & EMPTY != 0 {}
    }
}

/// Prints a line.
#[macro_export]
macro_rules! say {
    ($($text:tt)*) => { $crate::line(format_args!($($text)*)) };
}

pub fn line(text: fmt::Arguments<'_>) {
    let _ = writeln!(Uart, "peer: {text}");
}

/// What is in the devicetree.
#[derive(Default)]
struct Found {
    words: &'static str,
    /// Registers and SPI of each device.
    mmio: [(u64, u64, u32, bool); 16],
    devices: usize,
    /// The CAM, and the SPI of each slot's INTA.
    cam: Option<u64>,
    interrupts: &'static [u8],
    /// Ranges of /memory.
    memory: &'static [u8],
    pool: Option<(u64, u64)>,
    /// The pool's range has a second node in /reserved-memory.
    twice: bool,
}

impl Found {
    fn has(&self, word: &str) -> bool {
        self.words.split(' ').any(|has| has == word)
    }
}

fn read(tree: &fdt::Fdt) -> Found {
    let mut found = Found::default();
    tree.walk(|path, name, value| match (path, name) {
        (["", "chosen"], "bootargs") => found.words = fdt::text(value),
        (["", "reserved-memory", node], "reg") if node.starts_with("pool@") => {
            found.pool = Some((fdt::pair(value, 0), fdt::pair(value, 2)));
        }
        (["", "memory"], "reg") => found.memory = value,
        (["", node], "reg") if node.starts_with("virtio_mmio@") => {
            let device = &mut found.mmio[found.devices];
            (device.0, device.1) = (fdt::pair(value, 0), fdt::pair(value, 2));
        }
        (["", node], "reg") if node.starts_with("pci@") => found.cam = Some(fdt::pair(value, 0)),
        (["", node], "interrupt-map") if node.starts_with("pci@") => found.interrupts = value,
        // It follows reg.
        (["", node], "interrupts") if node.starts_with("virtio_mmio@") => {
            let device = &mut found.mmio[found.devices];
            (device.2, device.3) = (fdt::cell(value, 1), fdt::cell(value, 2) == 1);
            found.devices += 1;
        }
        _ => {}
    });
    let pool = found.pool;
    tree.walk(|path, name, value| match (path, name) {
        (["", "reserved-memory", node], "reg") if !node.starts_with("pool@") => {
            found.twice |= pool == Some((fdt::pair(value, 0), fdt::pair(value, 2)));
        }
        _ => {}
    });
    found
}

/// Whether Linux would have the pool in its linear map: it lies in one range of /memory, and no other node
/// takes it out.
fn is_mapped(found: &Found, (base, size): (u64, u64)) -> bool {
    let mut ranges = found.memory.chunks_exact(16).map(|at| (fdt::pair(at, 0), fdt::pair(at, 2)));
    !found.twice && ranges.any(|(from, len)| from <= base && base + size <= from + len)
}

#[no_mangle]
extern "C" fn peer_main(devicetree: *const u8) {
    // SAFETY: the boot protocol.
    let found = read(&unsafe { fdt::Fdt::at(devicetree) });
    if let Some((base, size)) = found.pool.filter(|_| !found.has("nopool")) {
        match is_mapped(&found, (base, size)) {
            true => say!("pool of {size:#x}"),
            false => say!("pool of {size:#x} that no kernel would map"),
        }
        hal::use_pool(base);
    }
    if found.has("wait") {
        say!("waiting");
        Uart::wait();
    }
    for (index, (base, size, spi, edge)) in found.mmio[..found.devices].iter().enumerate() {
        let irq = found.has("irq");
        if irq {
            gic::enable(*spi, *edge);
        }
        let Some(header) = NonNull::new(*base as *mut _) else { continue };
        for _ in 0..1 + usize::from(found.has("twice")) {
            // SAFETY: the devicetree says that a device is there.
            match unsafe { MmioTransport::new(header, *size as usize) } {
                Ok(transport) => device(index, transport, &found, irq),
                Err(error) => say!("device {index}: {error}"),
            }
        }
    }
    if let Some(cam) = found.cam {
        // SAFETY: the devicetree says that a bus is there.
        pci(unsafe { MmioCam::new(cam as *mut u8, Cam::MmioCam) }, &found);
    }
    say!("done");
    off();
}

/// Tries every function of a bus.
fn pci(cam: MmioCam<'_>, found: &Found) {
    let mut root = PciRoot::new(cam);
    for index in 1..32 {
        let function = DeviceFunction { bus: 0, device: index, function: 0 };
        let id = root.enumerate_bus(0).find(|(at, _)| *at == function);
        if id.and_then(|(_, info)| virtio_device_type(&info)).is_none() {
            continue;
        }
        let irq = found.has("irq");
        // Ten cells each: the slot's address, its pin, the controller with an address, the SPI and its trigger.
        let entries = found.interrupts.chunks_exact(40);
        let mut own = entries.filter(|entry| fdt::cell(entry, 0) == u32::from(index) << 11);
        if let (true, Some(entry)) = (irq, own.next()) {
            gic::enable(fdt::cell(entry, 8), fdt::cell(entry, 9) == 1);
        }
        match PciTransport::new::<hal::Memory, _>(&mut root, function) {
            Ok(transport) => device(usize::from(index) - 1, transport, found, irq),
            Err(error) => say!("slot {index}: {error}"),
        }
    }
}

/// Tries one device. With a pool its addresses are the platform's affair, as in Linux; without it they are not.
fn device<T: Transport>(index: usize, transport: T, found: &Found, irq: bool) {
    match found.pool {
        Some(_) => drive(index, Platform::new(transport), found, irq),
        None => drive(index, transport, found, irq),
    }
}

fn drive<T: Transport>(index: usize, transport: T, found: &Found, irq: bool) {
    match transport.device_type() {
        DeviceType::Block if found.has("disk") => disk::try_it(index, transport, irq),
        DeviceType::Console if found.has("console") => console::try_it(index, transport, irq),
        DeviceType::EntropySource if found.has("entropy") => entropy::try_it(index, transport),
        DeviceType::Socket if found.has("vsock") => vsock::try_it(index, transport, irq),
        DeviceType::Network if found.has("net") => net::try_it(index, transport, irq),
        other => say!("device {index} is {other:?}"),
    }
}

fn off() -> ! {
    // SAFETY: PSCI.
    unsafe { asm!("hvc #0", in("x0") SYSTEM_OFF) };
    loop {}
}

#[no_mangle]
extern "C" fn peer_fault(syndrome: u64, at: u64, address: u64) -> ! {
    say!("exception {syndrome:#x} at {at:#x}, address {address:#x}");
    off()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("panic: {info}");
    off()
}
