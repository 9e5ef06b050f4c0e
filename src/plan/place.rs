// SPDX-License-Identifier: Apache-2.0
//! Where kernel, initrd and devicetree lie in main memory.

use std::fmt;

use super::regions::{self, not_a_multiple};
use super::{devices, kernels, Host, LaunchPlan, PlannedKernel, Range};
use crate::config::VmConfig;
use crate::diagnostic::{kinds, Diagnostic};
use crate::image::{elf, ImageInfo, KernelInfo, KernelLayout};
use crate::layout::{DTB_MAX, DTB_SLOT, MEMORY_ALIGN};
use crate::text::Size;

/// An initrd lies in a 1 GiB aligned window of 32 GiB that covers the kernel (booting.rst).
const INITRD_WINDOW: u64 = 32 << 30;
const INITRD_WINDOW_ALIGN: u64 = 1 << 30;
/// A devicetree with its overlay up to this size is made in the resource manager's heap.
const OVERLAY_IN_PLACE: u64 = 16 << 10;
/// A64's `b` reaches this far (Arm ARM, C6.2.26).
const BRANCH_REACH: u64 = 128 << 20;

kinds! {
    OUTSIDE: Error "plan-outside" in Plan {
        "something goes past the end of main memory",
        cure: "give a larger memory.size or a smaller offset",
    }
    NO_ROOM: Error "plan-no-room" in Plan {
        "main memory has no room left",
        cure: "give a larger memory.size",
    }
    OVERLAP: Error "plan-overlap" in Plan {
        "two pieces of main memory overlap",
        cure: "leave the offsets out, or move one of them",
    }
    DTB_OFFSET: Error "plan-dtb-offset" in Plan {
        "dtb.offset is not a multiple of the host's page",
        cause: "the VM was written for a host with smaller pages; START answers EINVAL",
        cure: "round it, or leave it out",
    }
    DTB_FOLIO: Error "plan-dtb-folio" in Plan {
        "dtb.offset is not on a boundary of a huge page, and this kernel needs that",
        cause: "since android15-6.6 whole folios are handed over; 6.12 looks for the devicetree at the first byte of its folio (START answers EINVAL)",
        cure: "leave dtb.offset out, or make it a multiple of 2 MiB (32 MiB on a host with 16 KiB pages)",
    }
    DTB_SIZE: Error "plan-dtb-size" in Plan {
        "the devicetree is larger than Linux takes",
        cause: "arm64 Linux maps 2 MiB for it",
        cure: "give a smaller devicetree",
    }
    KERNEL_OFFSET: Error "plan-kernel-offset" in Plan {
        "kernel.offset is not a multiple of 2 MiB",
        cause: "an arm64 Image counts its text offset from a 2 MiB boundary",
        cure: "round it, or leave it out",
    }
    ENTRY: Error "plan-kernel-entry" in Plan {
        "the kernel's entry is too far from the base of main memory, or not a multiple of 4",
        cause: "the guest begins at the base of main memory, from where a branch reaches 128 MiB",
        cure: "give a smaller kernel.offset",
    }
    UNSIGNED: Warning "plan-firmware-unsigned" in Plan {
        "the kernel is not signed, and firmware refuses such kernels",
        cause: "pvmfw says `Footer magic is incorrect` and `Failed to verify the payload` on the guest's 16550 at 0x3f8, and the guest resets",
        cure: "sign the kernel (`avbtool add_hash_footer`) with the key that this device's pvmfw trusts, or leave `firmware` out",
    }
    WINDOW: Error "plan-initrd-window" in Plan {
        "the initrd is too far from the kernel",
        cause: "arm64 Linux takes an initrd within 32 GiB of the kernel",
        cure: "give an initrd.offset near the kernel",
    }
}

/// Decides a launch on `host`. The devicetree will have at most `dtb_len_max` bytes, room not
/// included. Errors are everything that keeps it from being launched, each at its key.
pub fn plan(
    config: &VmConfig,
    images: &ImageInfo,
    dtb_len_max: u64,
    host: &Host,
) -> Result<LaunchPlan, Vec<Diagnostic>> {
    let mut warnings = kernels::fits(config, host.dialect)?;
    if config.firmware.is_some() && !images.kernel.signed {
        let what = format!("kernel {} has no AVB footer", config.kernel.path.display());
        warnings.push(UNSIGNED.case(what).at(config.place("kernel.path")));
    }
    // Addresses mean nothing before the regions are right.
    let (regions, memory_entries) = regions::regions(config, images, host, &mut warnings)?;
    let mut memory = MainMemory { config, host, taken: Vec::new(), faults: Vec::new() };
    let devices = devices::devices(config);
    memory.faults.extend(devices::check(config, &devices, &regions));
    let kernel = memory.kernel(&images.kernel);
    let dtb_size = memory.dtb_size(dtb_len_max);
    let initrd_offset = config.initrd.as_ref().and_then(|initrd| initrd.offset);

    // What has an offset goes first: the rest lies around it.
    let fixed_dtb = memory.fixed_dtb(dtb_size);
    let fixed_initrd = initrd_offset
        .zip(images.initrd)
        .and_then(|(offset, size)| memory.take(("initrd", "initrd.offset"), offset, size));
    let free_initrd = images.initrd.filter(|_| initrd_offset.is_none());
    let dtb = match config.dtb.offset {
        Some(_) => fixed_dtb,
        None => memory.free_dtb(dtb_size, free_initrd),
    };
    let initrd = fixed_initrd.or_else(|| {
        let piece = ("initrd", "initrd.path");
        memory.take_highest(piece, free_initrd?, host.page_size)
    });
    memory.check_overlaps();
    // START hands over the devicetree's folios alone where the rest comes by fault.
    let memory_page = memory.slot().unwrap_or(host.page_size);
    if let (Some(kernel), Some(initrd)) = (&kernel, &initrd) {
        memory.check_window(kernel, initrd);
    }
    match (kernel, dtb) {
        (Some(kernel), Some(dtb)) if memory.faults.is_empty() => Ok(LaunchPlan {
            vm: config.name.clone(),
            dialect: host.dialect,
            scheduling: kernels::scheduling(config, host.dialect),
            pool: devices::pool_of(&regions),
            regions,
            devices,
            power_key: devices::power_key(config),
            kernel,
            firmware: config
                .firmware
                .as_ref()
                .map(|firmware| Range { base: firmware.base, size: firmware.size }),
            initrd,
            dtb,
            memory_entries: match host.dialect.pages_on_demand() {
                true => dtb.size.div_ceil(memory_page),
                false => memory_entries,
            },
            timer_wakeups: host.timer_wakeups,
            warnings,
        }),
        _ => Err(memory.faults),
    }
}

/// Whole slots for a devicetree that takes so much with its room.
fn slot_size(with_room: u64) -> u64 {
    with_room.next_multiple_of(DTB_SLOT)
}

/// What lies in main memory, and the key that places it.
type Piece = (&'static str, &'static str);

/// A range of guest addresses that is taken.
#[derive(Debug, Clone, Copy)]
struct Taken {
    piece: Piece,
    base: u64,
    end: u64,
}

impl fmt::Display for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, _) = self.piece;
        write!(f, "{what} {}", Range { base: self.base, size: self.end - self.base })
    }
}

/// Main memory, as it fills up.
struct MainMemory<'a> {
    config: &'a VmConfig,
    host: &'a Host,
    taken: Vec<Taken>,
    faults: Vec<Diagnostic>,
}

impl MainMemory<'_> {
    fn base(&self) -> u64 {
        self.config.memory.base
    }

    /// The parser keeps it within the guest's 36 bits.
    fn end(&self) -> u64 {
        self.base().saturating_add(self.config.memory.size)
    }

    fn fault(&mut self, fault: Diagnostic, key: &str) {
        self.faults.push(fault.at(self.config.place(key)));
    }

    /// Takes `size` bytes at `offset`.
    fn take(&mut self, piece: Piece, offset: u64, size: u64) -> Option<Range> {
        let ((what, key), all) = (piece, self.config.memory.size);
        if offset.checked_add(size).is_none_or(|end| end > all) {
            let what = format!(
                "{what} of {size:#x} bytes at offset {offset:#x} goes past the {all:#x} bytes of main memory"
            );
            self.fault(OUTSIDE.case(what), key);
            return None;
        }
        Some(self.push(piece, self.base() + offset, size))
    }

    /// Takes the highest free `size` bytes at a multiple of `align`.
    fn take_highest(&mut self, piece: Piece, size: u64, align: u64) -> Option<Range> {
        if let Some(base) = self.find(size, align) {
            return Some(self.push(piece, base, size));
        }
        let (what, key) = piece;
        let taken = self.taken.iter().map(|range| range.end - range.base);
        let what = format!(
            "no room for the {what}: it needs {size:#x} bytes, and {:#x} of the {:#x} bytes of main memory are taken",
            taken.fold(0, u64::saturating_add),
            self.config.memory.size
        );
        self.fault(NO_ROOM.case(what), key);
        None
    }

    fn push(&mut self, piece: Piece, base: u64, size: u64) -> Range {
        let end = base + size;
        self.taken.push(Taken { piece, base, end });
        Range { base, size }
    }

    fn find(&self, size: u64, align: u64) -> Option<u64> {
        let mut top = self.end();
        loop {
            let base = top.checked_sub(size)? / align * align;
            if base < self.base() {
                return None;
            }
            let in_the_way =
                self.taken.iter().filter(|range| range.base < base + size && base < range.end);
            // Below the lowest of them, so that the search goes down past all.
            match in_the_way.map(|range| range.base).min() {
                None => return Some(base),
                Some(lower) => top = lower,
            }
        }
    }

    /// Bytes of the devicetree's range, with its room.
    fn dtb_size(&mut self, len_max: u64) -> Option<u64> {
        if len_max > DTB_MAX {
            let what = format!("{len_max} bytes, at most {} are allowed", Size(DTB_MAX));
            self.fault(DTB_SIZE.case(what), "dtb");
            return None;
        }
        let with_room = len_max.checked_add(self.config.dtb.room)?;
        // Above that the resource manager makes the overlay inside the range, and needs twice as much.
        let twice = if with_room > OVERLAY_IN_PLACE { len_max } else { 0 };
        with_room.checked_add(twice)?.checked_next_multiple_of(self.host.page_size)
    }

    /// The devicetree has a slot of its own, or must have.
    fn slot(&self) -> Option<u64> {
        let slotted = kernels::slotted(self.config.memory.size, self.host);
        slotted.then_some(self.host.folio())
    }

    fn fixed_dtb(&mut self, size: Option<u64>) -> Option<Range> {
        let (offset, size) = self.config.dtb.offset.zip(size)?;
        if offset % self.host.page_size != 0 {
            let what = not_a_multiple(offset, self.host);
            self.fault(DTB_OFFSET.case(what), "dtb.offset");
            return None;
        }
        let slot = self.slot().filter(|_| self.host.dialect.pages_on_demand());
        let address = self.base().saturating_add(offset);
        if let Some(folio) = slot.filter(|folio| address % folio != 0) {
            let what = format!(
                "{address:#x}, where dtb.offset puts it, is not a multiple of {}",
                Size(folio)
            );
            self.fault(DTB_FOLIO.case(what), "dtb.offset");
            return None;
        }
        let size = if slot.is_some() { slot_size(size) } else { size };
        self.take(("devicetree", "dtb.offset"), offset, size)
    }

    /// In a slot of its own. Where a driver can do without and the slot would leave the initrd no room,
    /// on the highest pages.
    fn free_dtb(&mut self, size: Option<u64>, initrd_size: Option<u64>) -> Option<Range> {
        let (piece, page) = (("devicetree", "dtb"), self.host.page_size);
        let compact = size?;
        let Some(folio) = self.slot() else {
            return self.take_highest(piece, compact, page);
        };
        let slot = slot_size(compact);
        let fits = self.find(slot, folio).is_some_and(|base| {
            self.push(piece, base, slot);
            let fits = initrd_size.is_none_or(|size| self.find(size, page).is_some());
            self.taken.pop();
            fits
        });
        match fits || self.host.dialect.pages_on_demand() {
            true => self.take_highest(piece, slot, folio),
            false => self.take_highest(piece, compact, page),
        }
    }

    fn kernel(&mut self, info: &KernelInfo) -> Option<PlannedKernel> {
        let offset = self.config.kernel.offset.unwrap_or(0);
        let (segments, entry) = match &info.layout {
            KernelLayout::Elf(executable) => self.elf(executable, offset)?,
            KernelLayout::Image(_) if offset % MEMORY_ALIGN != 0 => {
                let what = format!("{offset:#x} is not a multiple of 2 MiB");
                self.fault(KERNEL_OFFSET.case(what), "kernel.offset");
                return None;
            }
            KernelLayout::Image(header) => {
                let at = offset.saturating_add(header.text_offset);
                let base = self.take(("kernel", "kernel.path"), at, header.image_size)?.base;
                let segment = elf::Load {
                    file_offset: 0,
                    file_size: info.size,
                    address: base,
                    memory_size: header.image_size,
                };
                (vec![segment], base)
            }
        };
        Some(PlannedKernel { segments, entry, size: info.size, branch: self.branch(entry)? })
    }

    /// Addresses inside main memory are kept; others are moved so that the lowest segment lies at the
    /// offset (a vmlinux has its virtual ones there).
    fn elf(&mut self, executable: &elf::Executable, offset: u64) -> Option<(Vec<elf::Load>, u64)> {
        let (first, last) = (executable.loads.first()?, executable.loads.last()?);
        let kept = self.config.kernel.offset.is_none()
            && first.address >= self.base()
            && last.address.saturating_add(last.memory_size) <= self.end();
        let (from, offset) = if kept { (self.base(), 0) } else { (first.address, offset) };
        let moved = |address: u64| address.saturating_sub(from).saturating_add(offset);
        let mut segments = Vec::new();
        for load in &executable.loads {
            let piece = ("kernel segment", "kernel.path");
            let range = self.take(piece, moved(load.address), load.memory_size)?;
            segments.push(elf::Load { address: range.base, ..*load });
        }
        Some((segments, self.base().checked_add(moved(executable.entry))?))
    }

    /// The instruction at the base of main memory, if the guest begins there and the entry is elsewhere.
    /// The outer `None` is a fault.
    fn branch(&mut self, entry: u64) -> Option<Option<u32>> {
        let distance = entry - self.base();
        let elsewhere = self.host.dialect.pages_on_demand() || self.config.firmware.is_some();
        if distance == 0 || elsewhere {
            return Some(None);
        }
        let words = u32::try_from(distance / 4)
            .ok()
            .filter(|_| distance % 4 == 0 && distance < BRANCH_REACH);
        let Some(words) = words else {
            let what = format!("the kernel's entry is {distance:#x} bytes into main memory");
            self.fault(ENTRY.case(what), "kernel.offset");
            return None;
        };
        self.take(("branch to the kernel's entry", "kernel.offset"), 0, 4)?;
        // `b`, its distance in words.
        Some(Some(0x1400_0000 | words))
    }

    fn check_overlaps(&mut self) {
        let mut taken = self.taken.clone();
        taken.sort_by_key(|range| range.base);
        for pair in taken.windows(2) {
            let (low, high) = (pair[0], pair[1]);
            if low.end > high.base {
                let what = format!("{high} overlaps {low}");
                self.fault(OVERLAP.case(what), high.piece.1);
            }
        }
    }

    fn check_window(&mut self, kernel: &PlannedKernel, initrd: &Range) {
        let (Some(first), Some(last)) = (kernel.segments.first(), kernel.segments.last()) else {
            return;
        };
        let low = first.address.min(initrd.base) / INITRD_WINDOW_ALIGN * INITRD_WINDOW_ALIGN;
        let high = (last.address + last.memory_size).max(initrd.base + initrd.size);
        if high - low > INITRD_WINDOW {
            let what = format!(
                "initrd at {:#x} is not within 32 GiB of the kernel at {:#x}",
                initrd.base, first.address
            );
            self.fault(WINDOW.case(what), "initrd");
        }
    }
}
