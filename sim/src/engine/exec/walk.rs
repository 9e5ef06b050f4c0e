// SPDX-License-Identifier: Apache-2.0
//! The guest's translation tables (Arm ARM D8.2), walked to find the one that the guest does not have.

/// TTBR0_EL1, TTBR1_EL1 and TCR_EL1.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// By half of the address space.
    pub tables: [u64; 2],
    /// TCR_EL1.
    pub control: u64,
}

/// Bits of an address in a table's entry.
const ADDRESS: u64 = 0xffff_ffff_f000;
/// Both bits of an entry: it leads to a further table.
const TABLE: u64 = 3;

impl Translation {
    /// The first entry on the way to `address` that `read` does not have: where it lies.
    pub fn missing(&self, address: u64, read: impl Fn(u64) -> Option<u64>) -> Option<u64> {
        let upper = usize::try_from(address >> 55 & 1).ok()?;
        let (size, granule) = match upper {
            0 => (
                self.control & 0x3f,
                [12, 16, 14].get(usize::try_from(self.control >> 14 & 3).ok()?)?,
            ),
            _ => (
                self.control >> 16 & 0x3f,
                [0, 14, 12, 16].get(usize::try_from(self.control >> 30 & 3).ok()?)?,
            ),
        };
        let page: u64 = *granule;
        let stride = page.checked_sub(3)?;
        let bits = 64u64.checked_sub(size)?;
        let levels = bits.checked_sub(page)?.div_ceil(stride);
        let mut table = self.tables[upper] & ADDRESS;
        for level in (0..levels).rev() {
            let shift = page + level * stride;
            let index = (address & u64::MAX >> size) >> shift & ((1 << stride) - 1);
            let at = table + index * 8;
            let Some(entry) = read(at) else {
                return Some(at);
            };
            if entry & TABLE != TABLE {
                return None;
            }
            table = entry & ADDRESS & !((1 << page) - 1);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_that_is_not_there_is_found() {
        // 39 bits with pages of 4 KiB below, 48 above.
        let translation =
            Translation { tables: [0x1000, 0x5000], control: 25 | 16 << 16 | 0b10 << 30 };
        let read = |at| match at {
            0x1008 => Some(0x2003),
            0x2018 => Some(0x3003),
            0x3020 => Some(0x9703),
            0x1010 => Some(0x4003),
            0x5ff8 => Some(0x6003),
            _ => None,
        };
        let address = 1 << 30 | 3 << 21 | 4 << 12;
        assert_eq!(translation.missing(address, read), None);
        assert_eq!(translation.missing(2 << 30, read), Some(0x4000));
        assert_eq!(translation.missing(u64::MAX << 12, read), Some(0x6ff8));
    }
}
