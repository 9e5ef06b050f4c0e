// SPDX-License-Identifier: Apache-2.0
//! The MMIO bus: guest address ranges, and the devices behind them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::diagnostic::{kinds, Diagnostic};
use crate::status::logger;

/// Width of an access in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Byte = 1,
    Half = 2,
    Word = 4,
    Double = 8,
}

impl Width {
    /// `None` unless `bytes` is 1, 2, 4 or 8.
    pub fn from_bytes(bytes: u32) -> Option<Self> {
        let widths = [Self::Byte, Self::Half, Self::Word, Self::Double];
        widths.into_iter().find(|width| *width as u32 == bytes)
    }

    pub fn bytes(self) -> u64 {
        self as u64
    }

    /// The bits of a value that an access of this width carries.
    pub fn mask(self) -> u64 {
        u64::MAX >> (64 - 8 * self.bytes())
    }
}

/// A device behind a range of guest addresses. Called by all vCPU threads.
pub trait Device: Send + Sync {
    /// The guest reads at `offset` from the range's start.
    fn read(&self, offset: u64, width: Width) -> u64;
    /// The guest writes; bits of `value` beyond `width` are zero.
    fn write(&self, offset: u64, width: Width, value: u64);
}

kinds! {
    OVERLAP: Error "vcpu-device-overlap" in Functions {
        "two of the guest's devices are at one address",
        cause: "the file gives both the same addresses",
        cure: "give one of them another `base`",
    }
}

/// All devices of one VM.
pub struct Bus {
    vm: String,
    slots: Vec<Slot>,
    // Addresses without a device that were accessed and logged.
    misses: Mutex<Vec<u64>>,
}

struct Slot {
    range: Range<u64>,
    name: &'static str,
    device: Arc<dyn Device>,
}

/// Addresses without a device that are remembered and logged once each; a guest that probes everything
/// must not fill the log.
const MISSES_LOGGED: usize = 16;

impl Bus {
    /// A bus of `vm` without devices.
    pub fn new(vm: impl Into<String>) -> Self {
        Self { vm: vm.into(), slots: Vec::new(), misses: Mutex::default() }
    }

    /// Puts a device at `base`, `size` bytes long.
    ///
    /// # Errors
    /// Another device is there. A range that passes the end of the address space overlaps all.
    pub fn add(
        &mut self,
        name: &'static str,
        base: u64,
        size: u64,
        device: Arc<dyn Device>,
    ) -> Result<(), Diagnostic> {
        let end = base.checked_add(size);
        let clash = self
            .slots
            .iter()
            .find(|slot| end.is_none_or(|end| slot.range.start < end && base < slot.range.end));
        match (end, clash) {
            (Some(end), None) => {
                let range = base..end;
                self.slots.push(Slot { range, name, device });
                Ok(())
            }
            (_, clash) => Err(OVERLAP.case(format!(
                "{name} {base:#x}+{size:#x} overlaps {}",
                clash.map_or("the end of the address space", |slot| slot.name)
            ))),
        }
    }

    /// A guest's read; `None` where nothing is.
    pub fn read(&self, address: u64, width: Width) -> Option<u64> {
        let Some((device, offset)) = self.find(address, width) else {
            self.miss(address, width, "read");
            return None;
        };
        Some(device.read(offset, width) & width.mask())
    }

    /// A guest's write; false where nothing is.
    pub fn write(&self, address: u64, width: Width, value: u64) -> bool {
        let Some((device, offset)) = self.find(address, width) else {
            self.miss(address, width, "write");
            return false;
        };
        device.write(offset, width, value & width.mask());
        true
    }

    // A handful of devices at most: a walk is faster than any index.
    fn find(&self, address: u64, width: Width) -> Option<(&dyn Device, u64)> {
        let end = address.checked_add(width.bytes())?;
        self.slots
            .iter()
            .find(|slot| slot.range.start <= address && end <= slot.range.end)
            .map(|slot| (&*slot.device, address - slot.range.start))
    }

    #[cold]
    fn miss(&self, address: u64, width: Width, what: &str) {
        let mut misses = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
        if misses.len() >= MISSES_LOGGED || misses.contains(&address) {
            return;
        }
        misses.push(address);
        let last = misses.len() == MISSES_LOGGED;
        drop(misses);
        logger::warn!(
            "{}: the guest's {what} of {} bytes at {address:#x} finds no device{}",
            self.vm,
            width.bytes(),
            if last { "; no more addresses are logged" } else { "" }
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Last(Mutex<(u64, u64)>);

    impl Device for Last {
        fn read(&self, offset: u64, _: Width) -> u64 {
            0xaabb_ccdd_eeff_0000 | offset
        }

        fn write(&self, offset: u64, _: Width, value: u64) {
            *self.0.lock().unwrap() = (offset, value);
        }
    }

    fn bus() -> (Bus, Arc<Last>) {
        let device = Arc::new(Last(Mutex::new((0, 0))));
        let mut bus = Bus::new("vm");
        bus.add("last", 0x0900_0000, 0x1000, device.clone()).unwrap();
        (bus, device)
    }

    #[test]
    fn an_access_reaches_its_device_by_offset_and_width() {
        let (bus, device) = bus();
        assert_eq!(bus.read(0x0900_0018, Width::Half), Some(0x18));
        assert_eq!(bus.read(0x0900_0018, Width::Word), Some(0xeeff_0018));
        assert!(bus.write(0x0900_0ffc, Width::Byte, 0x1234));
        assert_eq!(*device.0.lock().unwrap(), (0xffc, 0x34));
        assert!(bus.misses.lock().unwrap().is_empty());
    }

    #[test]
    fn outside_across_and_wrapping_accesses_find_no_device() {
        let (bus, device) = bus();
        assert_eq!(bus.read(0x0901_0000, Width::Word), None);
        assert!(!bus.write(0x0900_0ffe, Width::Word, 1), "across the end");
        assert_eq!(bus.read(u64::MAX - 1, Width::Double), None);
        let misses = [0x0901_0000, 0x0900_0ffe, u64::MAX - 1];
        assert_eq!(*bus.misses.lock().unwrap(), misses);
        assert_eq!(*device.0.lock().unwrap(), (0, 0));
    }

    #[test]
    fn only_so_many_addresses_are_remembered() {
        let (bus, _) = bus();
        for address in 0..1000 {
            bus.read(address, Width::Byte);
        }
        assert_eq!(bus.misses.lock().unwrap().len(), MISSES_LOGGED);
    }

    #[test]
    fn overlapping_and_wrapping_ranges_are_refused() {
        let (mut bus, device) = bus();
        let clash = bus.add("b", 0x0900_0fff, 1, device.clone()).unwrap_err();
        assert_eq!(clash.name, "vcpu-device-overlap");
        assert_eq!(clash.what, "b 0x9000fff+0x1 overlaps last");
        assert!(bus.add("d", u64::MAX, 2, device.clone()).is_err());
        assert!(bus.add("e", 0x0900_1000, 8, device).is_ok());
    }
}
