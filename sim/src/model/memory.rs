// SPDX-License-Identifier: Apache-2.0
//! The memory ioctls: what they check, in which order, and what they pin.

use gunyah::uapi::{UserMemoryRegion, MEM_ALLOW_EXEC, MEM_ALLOW_READ, MEM_ALLOW_WRITE};
use nix::errno::Errno;

use crate::caller::{Caller, PageState, Piece};
use crate::vm::Access;

use super::Dialect;

const KNOWN_FLAGS: u32 = MEM_ALLOW_READ | MEM_ALLOW_WRITE | MEM_ALLOW_EXEC;

/// A registered region.
#[derive(Debug, Clone)]
pub struct Region {
    /// As the caller gave it.
    pub given: UserMemoryRegion,
    /// Share or lend.
    pub access: Access,
    /// Its backing; the open files keep the pages as pins do.
    pub pieces: Vec<Piece>,
    /// Pinned pages; None where the dialect pins later.
    pub pinned: Option<PageState>,
}

impl Region {
    /// Bytes charged to the caller's RLIMIT_MEMLOCK.
    pub fn charged(&self) -> u64 {
        if self.pinned.is_some() {
            self.given.memory_size
        } else {
            0
        }
    }

    /// One past the last guest address.
    pub fn guest_end(&self) -> u64 {
        // Checked when the region was registered.
        self.given.guest_phys_addr.saturating_add(self.given.memory_size)
    }

    /// Whether the guest range lies inside.
    pub fn contains(&self, address: u64, size: u64) -> bool {
        address >= self.given.guest_phys_addr
            && address.checked_add(size).is_some_and(|end| end <= self.guest_end())
    }
}

/// The part of these pieces that lies in `size` bytes from `begin` on.
pub fn part(pieces: &[Piece], begin: u64, size: u64) -> Vec<Piece> {
    let end = begin.saturating_add(size);
    let mut part = pieces.to_vec();
    part.retain_mut(|piece| {
        let first = piece.address.max(begin);
        let last = piece.address.saturating_add(piece.size).min(end);
        piece.offset = piece.offset.saturating_add(first.saturating_sub(piece.address));
        piece.address = first;
        piece.size = last.saturating_sub(first);
        piece.size > 0
    });
    part
}

/// The checks that need only the argument: flags first, then size and addresses.
pub fn check_argument(region: &UserMemoryRegion) -> Result<(), Errno> {
    if region.flags & !KNOWN_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let page = crate::page_size();
    let aligned = |value: u64| value % page == 0;
    if region.memory_size == 0
        || !aligned(region.memory_size)
        || !aligned(region.userspace_addr)
        || !aligned(region.guest_phys_addr)
    {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Guest ranges do not overlap. Up to 6.1 labels are unique, too; since 6.6 nobody compares them, but
/// a range that wraps is EINVAL.
pub fn check_against(
    dialect: Dialect,
    regions: &[Region],
    new: &UserMemoryRegion,
) -> Result<(), Errno> {
    let new_end = new.guest_phys_addr.saturating_add(new.memory_size);
    let labels_clash = |region: &Region| !dialect.since_66() && region.given.label == new.label;
    let clash = regions.iter().any(|region| {
        labels_clash(region)
            || (new.guest_phys_addr < region.guest_end() && region.given.guest_phys_addr < new_end)
    });
    if clash {
        return Err(Errno::EEXIST);
    }
    let wraps = new.guest_phys_addr.checked_add(new.memory_size).is_none();
    if wraps && dialect.since_66() {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Charges and pins, or only records, as the dialect does. `charged`: bytes that this caller's VMs
/// have pinned already.
pub fn take(
    dialect: Dialect,
    caller: &Caller,
    given: UserMemoryRegion,
    access: Access,
    charged: u64,
) -> Result<Region, Errno> {
    let pins = dialect.pins_at_ioctl();
    if pins && !caller.memlock()?.allows(charged, given.memory_size) {
        return Err(Errno::ENOMEM);
    }
    let pieces = match caller.pieces(given.userspace_addr, given.memory_size) {
        Ok(pieces) => pieces,
        // Newer drivers look at the range only when the guest faults.
        Err(_) if !pins => Vec::new(),
        Err(errno) => return Err(errno),
    };
    let pinned = pins.then(|| caller.pin(&pieces).map_err(|error| error.errno)).transpose()?;
    Ok(Region { given, access, pieces, pinned })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region() -> UserMemoryRegion {
        UserMemoryRegion {
            label: 1,
            flags: 7,
            guest_phys_addr: 0x8000_0000,
            memory_size: 0x10_0000,
            userspace_addr: 0x7000_0000,
        }
    }

    fn registered() -> Vec<Region> {
        vec![Region { given: region(), access: Access::Share, pieces: Vec::new(), pinned: None }]
    }

    #[test]
    fn size_and_addresses_are_page_aligned_and_size_is_not_zero() {
        assert_eq!(check_argument(&region()), Ok(()));
        let broken: [fn(&mut UserMemoryRegion); 4] = [
            |region| region.memory_size = 0,
            |region| region.memory_size += 1,
            |region| region.userspace_addr += 8,
            |region| region.guest_phys_addr += 0x200,
        ];
        for spoil in broken {
            let mut spoilt = region();
            spoil(&mut spoilt);
            assert_eq!(check_argument(&spoilt), Err(Errno::EINVAL), "{spoilt:?}");
        }
    }

    #[test]
    fn unknown_flags_are_einval_and_a_range_may_wrap_up_to_61() {
        let mut wrong = region();
        wrong.flags = 8;
        wrong.guest_phys_addr = u64::MAX - 0xfff;
        assert_eq!(check_argument(&wrong), Err(Errno::EINVAL));
        wrong.flags = 0;
        assert_eq!(check_argument(&wrong), Ok(()));
        assert_eq!(check_against(Dialect::Ack61, &[], &wrong), Ok(()));
        let newer = check_against(Dialect::Ack66, &[], &wrong);
        assert_eq!(newer, Err(Errno::EINVAL));
        // The label is checked first.
        let older = check_against(Dialect::Ack61, &registered(), &wrong);
        assert_eq!(older, Err(Errno::EEXIST));
    }

    #[test]
    fn a_label_or_a_byte_used_twice_is_eexist() {
        let check = |new: &UserMemoryRegion| check_against(Dialect::Ack61, &registered(), new);
        let mut other = region();
        assert_eq!(check(&other), Err(Errno::EEXIST));
        other.guest_phys_addr = 0x9000_0000;
        assert_eq!(check(&other), Err(Errno::EEXIST));
        // Since 6.6 ranges alone are compared.
        let newer = check_against(Dialect::Ack612, &registered(), &other);
        assert_eq!(newer, Ok(()));
        other.label = 2;
        assert_eq!(check(&other), Ok(()));
        other.guest_phys_addr = 0x800f_f000;
        assert_eq!(check(&other), Err(Errno::EEXIST));
        other.guest_phys_addr = 0x8010_0000;
        assert_eq!(check(&other), Ok(()));
        other.guest_phys_addr = 0x7ff0_0000;
        assert_eq!(check(&other), Ok(()));
        other.memory_size += 0x1000;
        assert_eq!(check(&other), Err(Errno::EEXIST));
    }

    #[test]
    fn older_drivers_pin_and_newer_ones_only_record() {
        let caller = Caller::myself();
        let mut nowhere = region();
        nowhere.userspace_addr = 0x1000;
        let pin = take(Dialect::Ack61, &caller, nowhere, Access::Share, 0);
        assert!(matches!(pin.unwrap_err(), Errno::EFAULT | Errno::ENOMEM));
        let record = take(Dialect::Ack66, &caller, nowhere, Access::Lend, 0).unwrap();
        assert_eq!(record.charged(), 0);
    }
}
