// SPDX-License-Identifier: Apache-2.0
//! All regions of a VM.

use std::sync::Arc;

use super::allocate::{allocate, Allocated, Means};
use super::choice::Choice;
use super::mapping::Mapping;
use super::reserve::Allotment;
use super::threads::{part, share, threads, worth};
use super::window::Window;
use crate::config::{Access, Backing, Permissions};
use crate::diagnostic::{kinds, Diagnostic};
use crate::plan::{Host, LaunchPlan, PlannedRegion};

kinds! {
    OUTSIDE: Error "memory-outside" in Memory {
        "bytes to be loaded are not inside one region",
        cause: "the plan is wrong: this is a bug of gunyahd",
        cure: "report it, with the VM's file",
    }
}

/// Parts of a file are whole pages of any host.
const PART_OF_A_FILE: usize = 64 << 10;

/// A VM's memory, mapped here and nowhere else. Dropping it gives every page back.
#[derive(Debug)]
pub struct GuestMemory {
    regions: Vec<(PlannedRegion, Arc<Mapping>)>,
    /// Transparent huge pages, and how many there could be.
    huge: (u64, u64),
    /// How many threads may work on it.
    threads: usize,
}

impl GuestMemory {
    /// Maps and, where asked, populates every region of `plan` with the backings of `choice`. Also
    /// returns what a person should know. After an error nothing stays mapped. The `reserve` is closed:
    /// nothing else of it can be mapped later. With used folios of it, what files' bytes belong into is
    /// whatever it was: all of [`LaunchPlan::from_files`] is to be loaded. It is one of so many `launches` at once.
    pub fn allocate(
        plan: &LaunchPlan,
        choice: &Choice,
        host: &Host,
        reserve: Option<Allotment>,
        launches: usize,
    ) -> Result<(Self, Vec<Diagnostic>), Diagnostic> {
        let mut regions = Vec::with_capacity(plan.regions.len());
        let mut warnings = Vec::new();
        let mut huge = (0, 0);
        let size = plan.regions.iter().map(|region| region.size).fold(0, u64::saturating_add);
        let threads = threads(size, launches);
        let mut means = Means { host, reserve, written: plan.from_files(), threads };
        for (region, backing) in plan.regions.iter().zip(&choice.backings) {
            let name = format!("gunyah:{}:{}", plan.vm, region.label);
            let Allocated { mapping, huge: (got, of), warning } =
                allocate(&name, region, *backing, &mut means)?;
            warnings.extend(warning);
            regions.push((region.clone(), Arc::new(mapping)));
            huge = (huge.0 + got, huge.1 + of);
        }
        Ok((Self { regions, huge, threads }, warnings))
    }

    /// How many transparent huge pages it has, and how many there could be.
    pub fn huge(&self) -> (u64, u64) {
        self.huge
    }

    /// Memory of base pages without a plan, for programs that try devices alone: guest address and size of
    /// each region.
    pub fn of(regions: &[(u64, u64)]) -> Result<Self, Diagnostic> {
        let region = |(label, (base, size)): (u32, &(u64, u64))| {
            let region = PlannedRegion {
                key: "memory".to_owned(),
                label,
                base: *base,
                size: *size,
                access: Access::Share,
                flags: Permissions::ALL,
                backing: vec![Backing::Base],
                huge_page: Host::PAGES_4K.huge_page,
                prefault: true,
                file: None,
            };
            let host = &Host::PAGES_4K;
            let mut means = Means { host, reserve: None, written: Vec::new(), threads: 1 };
            let made = allocate("devices", &region, Backing::Base, &mut means)?;
            Ok((region, Arc::new(made.mapping)))
        };
        let regions: Result<_, Diagnostic> = (0..).zip(regions).map(region).collect();
        Ok(Self { regions: regions?, huge: (0, 0), threads: 1 })
    }

    /// The bytes of guest memory from `base` on, for loading. Only before there is a [`Window`] and before
    /// START: then they are the guest's, and lent ones may not be touched at all.
    pub fn bytes_mut(&mut self, base: u64, size: u64) -> Result<&mut [u8], Diagnostic> {
        let found = self.regions.iter_mut().find_map(|(region, mapping)| {
            let from = usize::try_from(base.checked_sub(region.base)?).ok()?;
            let to = from.checked_add(usize::try_from(size).ok()?)?;
            Arc::get_mut(mapping)?.bytes_mut().get_mut(from..to)
        });
        let what = || format!("guest {base:#x}+{size:#x} is not inside one region");
        found.ok_or_else(|| OUTSIDE.case(what()))
    }

    /// Fills `size` bytes of guest memory from `base` on, as [`GuestMemory::bytes_mut`] has them, by several
    /// threads: `fill` gets a part, and how many bytes are before it.
    pub fn fill(
        &mut self,
        base: u64,
        size: u64,
        fill: impl Fn(u64, &mut [u8]) -> Result<(), Diagnostic> + Sync,
    ) -> Result<(), Diagnostic> {
        let threads = self.threads;
        let room = self.bytes_mut(base, size)?;
        let threads = worth(room.len(), threads);
        let part = part(room.len(), threads, PART_OF_A_FILE);
        let offsets = (0..).step_by(part);
        share(offsets.zip(room.chunks_mut(part)), threads, |(offset, room)| fill(offset, room))
    }

    /// What devices may reach: the pool where there is one, because the rest is lent; else all that the guest
    /// shares.
    pub fn for_devices(&self) -> Window {
        let pool = self.regions.iter().any(|(region, _)| region.is_pool());
        self.window(pool, |region| match pool {
            true => region.is_pool(),
            false => region.access != Access::Lend,
        })
    }

    /// The regions that `reaches` picks; `pool`: the rest is lent.
    pub fn window(&self, pool: bool, reaches: impl Fn(&PlannedRegion) -> bool) -> Window {
        let regions = self.regions.iter().filter(|(region, _)| reaches(region));
        Window::new(regions.map(|(region, mapping)| (region.base, Arc::clone(mapping))), pool)
    }

    /// The regions in the order of registration, each with the address of its mapping in this process.
    pub fn regions(&self) -> impl Iterator<Item = (&PlannedRegion, u64)> {
        self.regions.iter().map(|(region, mapping)| (region, mapping.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_by_guest_address_within_a_region() {
        let base = 0x8000_0000;
        let end = base + 0x2000;
        let mut memory = GuestMemory::of(&[(base, 0x2000)]).unwrap();
        let last = memory.bytes_mut(end - 4, 4).unwrap();
        last.copy_from_slice(b"last");
        assert_eq!(memory.bytes_mut(end - 5, 5).unwrap(), b"\0last");
        for (base, size) in [(end - 4, 5), (base - 1, 5), (u64::MAX, 5)] {
            let outside = memory.bytes_mut(base, size).unwrap_err();
            assert_eq!(outside.name, "memory-outside");
        }
    }

    #[test]
    fn threads_fill_each_byte_from_its_own_place() {
        let (base, size) = (0x1234_5000, (8 << 20) + 17);
        let mut memory = GuestMemory::of(&[(0x1200_0000, 16 << 20)]).unwrap();
        // Of what is at an offset, a byte that few others have.
        let byte = |at: u64| u8::try_from((at ^ at >> 8 ^ at >> 16) & 0xff).unwrap();
        for threads in [1, 4] {
            memory.threads = threads;
            memory.bytes_mut(base, size).unwrap().fill(0);
            let fill = |offset, room: &mut [u8]| {
                (offset..).zip(room).for_each(|(at, room)| *room = byte(at));
                Ok(())
            };
            memory.fill(base, size, fill).unwrap();
            let bytes = memory.bytes_mut(base, size).unwrap();
            let wrong = (0..).zip(bytes).find(|(at, found)| **found != byte(*at));
            assert_eq!(wrong, None, "by {threads}");
            let refused = memory.fill(base, size, |_, _| Err(OUTSIDE.case("a part")));
            assert_eq!(refused.unwrap_err().what, "a part");
        }
        assert_eq!(memory.fill(0, 1, |_, _| Ok(())).unwrap_err().name, "memory-outside");
    }

    #[test]
    fn nothing_is_loaded_once_devices_reach_it() {
        let mut memory = GuestMemory::of(&[(0, 0x1000)]).unwrap();
        let window = memory.for_devices();
        assert_eq!(memory.bytes_mut(0, 1).unwrap_err().name, "memory-outside");
        drop(window);
        assert!(memory.bytes_mut(0, 1).is_ok());
    }
}
