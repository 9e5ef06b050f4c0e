// SPDX-License-Identifier: Apache-2.0
//! The guest's address space: every fixed address, size and alignment, each with its source.
//!
//! ```text
//! 0x0000_0000  device space: accesses trap to the worker (proxy-scheduled VMs)
//! 0x0001_0000  PCI: configuration of the bus, 16 MiB
//! 0x0200_0000  PCI: memory of its devices, 32 MiB
//! 0x0900_0000  serial port, where the config does not move it
//! 0x0a00_0000  virtio-mmio devices, 512 bytes each
//! 0x3ffd_0000  GIC redistributors, 128 KiB for each CPU, from here down
//! 0x3fff_0000  GIC distributor, 64 KiB
//! 0x4000_0000  device space ends; a page that belongs to QEMU's platform
//! 0x4000_1000  memory may begin on every platform
//! 0x7fc0_0000  firmware (pvmfw), 4 MiB, where a config has it and does not move it
//! 0x8000_0000  main memory, where the config does not move it
//! 0x10_0000_0000  end of the guest's address space
//! ```

/// The smallest page of an arm64 host, and the hypervisor's own. Sizes and addresses are multiples of
/// it; a host with larger pages asks for more, which the plan checks.
pub const PAGE: u64 = 4 << 10;

/// Main memory and arm64 Images begin at a multiple of this. The resource manager rounds other
/// addresses up without a word; Linux asks for it (Documentation/arch/arm64/booting.rst).
pub const MEMORY_ALIGN: u64 = 2 << 20;

/// Where main memory begins by default: where arm64 VMMs for Gunyah put it.
pub const MEMORY_BASE: u64 = 0x8000_0000;

/// Where Android's pvmfw is linked to run, and its bytes with its data: 4 MiB below [`MEMORY_BASE`], where
/// crosvm puts it.
pub const FIRMWARE_BASE: u64 = 0x7fc0_0000;
/// See [`FIRMWARE_BASE`].
pub const FIRMWARE_SIZE: u64 = 4 << 20;

/// Guest addresses below trap to the worker or belong to the interrupt controller. QEMU's platform has
/// them and the page behind in use: the resource manager refuses memory there (START answers ENODEV).
/// Other platforms have memory below, too: Qualcomm's from 0x2880_0000 on.
pub const DEVICE_SPACE_END: u64 = 1 << 30;

/// The first guest address for memory on any platform: 0 is none, and main memory is aligned.
pub const MEMORY_START: u64 = MEMORY_ALIGN;

/// Guest addresses have 36 bits.
pub const ADDRESS_END: u64 = 1 << 36;

/// The largest devicetree that arm64 Linux takes (booting.rst).
pub const DTB_MAX: u64 = 2 << 20;

/// Where there is room, the devicetree has so much to itself: a whole folio on a host with 4 KiB pages.
pub const DTB_SLOT: u64 = 2 << 20;

/// The serial port, where the config does not move it: where QEMU's `virt` machine has its PL011.
pub const SERIAL_BASE: u64 = 0x0900_0000;

/// The first virtio-mmio device, where QEMU's `virt` machine has it.
pub const VIRTIO_MMIO_BASE: u64 = 0x0a00_0000;
/// Bytes of each, as there: 256 of registers (virtio 1.2, 4.2.2) and as many of configuration.
pub const VIRTIO_MMIO_SIZE: u64 = 0x200;

/// The configuration of a PCI bus by CAM (PCI 3.0, 3.2.2.3.2: 24 bits), where crosvm puts it.
pub const PCI_CAM_BASE: u64 = 0x1_0000;
/// Bytes of it.
pub const PCI_CAM_SIZE: u64 = 16 << 20;
/// The memory of its devices, where crosvm has it.
pub const PCI_MEMORY_BASE: u64 = 0x200_0000;
/// Bytes of it.
pub const PCI_MEMORY_SIZE: u64 = 32 << 20;
/// Bytes of each device: a page of host and guest each for what is in it.
pub const PCI_BAR_SIZE: u64 = 0x4000;

/// The GIC distributor, where crosvm puts it.
pub const GICD_BASE: u64 = 0x3fff_0000;
/// Bytes of the distributor (GICv3 architecture).
pub const GICD_SIZE: u64 = 0x1_0000;
/// Bytes of one CPU's redistributor: two frames of 64 KiB (GICv3 without virtual LPIs). They lie below
/// the distributor, one beneath the other.
pub const GICR_SIZE: u64 = 0x2_0000;

/// Shared peripheral interrupts of a GIC: 1020 less the 32 private ones.
pub const SPIS: u32 = 988;
