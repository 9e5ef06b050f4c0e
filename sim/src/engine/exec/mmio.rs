// SPDX-License-Identifier: Apache-2.0
//! Loads and stores that a hypervisor can finish for the guest: those whose syndrome is valid.
//!
//! The architecture describes an access to the hypervisor only when it moves one general register
//! and writes no address back (ESR_EL2.ISS of a data abort, ISV). All others get an abort.

/// An access, as its instruction says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Bytes: 1, 2, 4 or 8.
    pub len: u32,
    /// The general register; 31 is zero.
    pub register: u8,
    /// A store.
    pub write: bool,
    /// Bits to which a loaded value's sign is extended; None: zeros.
    signed: Option<u32>,
}

// Encodings: Arm ARM C4.1.94, "Loads and Stores". Bits 29 to 24 and 21 tell the forms apart.
const UNSIGNED_OFFSET: u32 = 0x3900_0000;
const OTHER_OFFSET: u32 = 0x3800_0000;
const FORM: u32 = 0x3f00_0000;
/// STLR and LDAR, and their LORegion kin; the exclusive ones have bit 23 clear, CAS bit 21 set.
const ORDERED: u32 = 0x0880_0000;
const ORDERED_FORM: u32 = 0x3fa0_0000;

impl Access {
    /// None: no syndrome.
    pub fn decode(instruction: u32) -> Option<Self> {
        let size = instruction >> 30;
        let plain = Self {
            len: 1 << size,
            register: u8::try_from(instruction & 0x1f).ok()?,
            write: false,
            signed: None,
        };
        if instruction & ORDERED_FORM == ORDERED {
            let write = instruction & 1 << 22 == 0;
            return Some(Self { write, ..plain });
        }
        let register_offset = instruction & 1 << 21 != 0;
        match (instruction & FORM, instruction >> 10 & 3) {
            (UNSIGNED_OFFSET, _) => {}
            // Unscaled and unprivileged; 1 and 3 write the address back.
            (OTHER_OFFSET, 0 | 2) if !register_offset => {}
            (OTHER_OFFSET, 2) => {}
            _ => return None,
        }
        match (instruction >> 22 & 3, size) {
            (0, _) => Some(Self { write: true, ..plain }),
            (1, _) => Some(plain),
            (2, 0..=2) => Some(Self { signed: Some(64), ..plain }),
            (3, 0..=1) => Some(Self { signed: Some(32), ..plain }),
            // A prefetch, or nothing at all.
            _ => None,
        }
    }

    /// The part of a register that is stored.
    pub fn stored(&self, register: u64) -> u64 {
        register & self.mask()
    }

    /// What the register gets for the bytes that were read.
    pub fn loaded(&self, value: u64) -> u64 {
        let value = value & self.mask();
        let Some(bits) = self.signed else {
            return value;
        };
        let negative = value & (self.mask() ^ self.mask() >> 1) != 0;
        let extended = if negative { value | !self.mask() } else { value };
        extended & u64::MAX >> (64 - bits)
    }

    fn mask(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(instruction: u32) -> (u32, u8, bool) {
        let access = Access::decode(instruction).unwrap();
        (access.len, access.register, access.write)
    }

    #[test]
    fn single_registers_have_a_syndrome() {
        assert_eq!(access(0x3900_0022), (1, 2, true)); // strb w2, [x1]
        assert_eq!(access(0x7900_003f), (2, 31, true)); // strh wzr, [x1]
        assert_eq!(access(0xb940_1823), (4, 3, false)); // ldr w3, [x1, #24]
        assert_eq!(access(0xf900_0041), (8, 1, true)); // str x1, [x2]
        assert_eq!(access(0xb85f_c020), (4, 0, false)); // ldur w0, [x1, #-4]
        assert_eq!(access(0xb862_6820), (4, 0, false)); // ldr w0, [x1, x2]
        assert_eq!(access(0x88df_fc20), (4, 0, false)); // ldar w0, [x1]
        assert_eq!(access(0x089f_fc20), (1, 0, true)); // stlrb w0, [x1]
    }

    #[test]
    fn others_have_none() {
        for instruction in [
            0xa940_0820, // ldp x0, x2, [x1]
            0x2900_0820, // stp w0, w2, [x1]
            0xb840_4420, // ldr w0, [x1], #4
            0xb840_4c20, // ldr w0, [x1, #4]!
            0x885f_7c20, // ldxr w0, [x1]
            0x3d40_0020, // ldr b0, [x1]
            0xb820_0020, // ldadd w0, w0, [x1]
            0x88a0_7c20, // cas w0, w0, [x1]
            0xf980_0020, // prfm pldl1keep, [x1]
            0xd503_201f, // nop
        ] {
            assert_eq!(Access::decode(instruction), None, "{instruction:#x}");
        }
    }

    #[test]
    fn loads_extend_as_they_say() {
        let loaded = |instruction, value| Access::decode(instruction).unwrap().loaded(value);
        assert_eq!(loaded(0x3940_0020, 0xaaff), 0xff); // ldrb w0, [x1]
        assert_eq!(loaded(0x3980_0020, 0xff), u64::MAX); // ldrsb x0, [x1]
        assert_eq!(loaded(0x39c0_0020, 0x80), 0xffff_ff80); // ldrsb w0, [x1]
        assert_eq!(loaded(0x39c0_0020, 0x7f), 0x7f);
        assert_eq!(loaded(0xb980_0020, 0x8000_0000), 0xffff_ffff_8000_0000); // ldrsw x0, [x1]
        assert_eq!(loaded(0xf940_0020, u64::MAX), u64::MAX); // ldr x0, [x1]
        let store = Access::decode(0x7900_0020).unwrap(); // strh w0, [x1]
        assert_eq!(store.stored(0x1234_5678), 0x5678);
    }
}
