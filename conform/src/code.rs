// SPDX-License-Identifier: Apache-2.0
//! Guests of a few instructions: arm64 machine code, entered at its first word with the MMU off.
//!
//! Encodings are of the Arm Architecture Reference Manual, A64 base instructions; each is told beside.

/// Where the guests store to be seen: below 1 GiB, which traps as MMIO.
pub const MMIO: u64 = 0x0900_0000;

const HVC: u32 = 0xd400_0002; // hvc #0
const BRANCH_TO_SELF: u32 = 0x1400_0000; // b .
/// An encoding that is undefined for good.
const UNDEFINED: u32 = 0x0000_0000; // udf #0

// PSCI 1.0 (Arm DEN 0022), functions of 32 bits.
const PSCI_VERSION: u64 = 0x8400_0000;
const PSCI_SYSTEM_OFF: u64 = 0x8400_0008;
const PSCI_SYSTEM_RESET: u64 = 0x8400_0009;

/// A register, x0 to x30.
pub type Register = u32;

/// Code that grows by one instruction a call.
#[derive(Debug, Clone, Default)]
pub struct Code(Vec<u32>);

impl Code {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn push(mut self, word: u32) -> Self {
        self.0.push(word);
        self
    }

    /// `movz`/`movk`: a register's value.
    pub fn set(self, register: Register, value: u64) -> Self {
        (0..4).fold(self, |code, part| {
            let immediate = u32::from(value.to_le_bytes()[part * 2])
                | u32::from(value.to_le_bytes()[part * 2 + 1]) << 8;
            let position = [0, 1, 2, 3][part] << 21;
            match (part, immediate) {
                (0, _) => code.push(0xd280_0000 | immediate << 5 | register),
                (_, 0) => code,
                _ => code.push(0xf280_0000 | position | immediate << 5 | register),
            }
        })
    }

    /// `strb`, `strh`, `str w` or `str x`: `size` bytes of `from` to the address in `at`.
    pub fn store(self, size: u32, from: Register, at: Register) -> Self {
        let operation = match size {
            1 => 0x3900_0000,
            2 => 0x7900_0000,
            4 => 0xb900_0000,
            _ => 0xf900_0000,
        };
        self.push(operation | at << 5 | from)
    }

    /// `ldrb`, `ldrh`, `ldr w` or `ldr x`: `size` bytes at the address in `at`.
    pub fn load(self, size: u32, to: Register, at: Register) -> Self {
        let operation = match size {
            1 => 0x3940_0000,
            2 => 0x7940_0000,
            4 => 0xb940_0000,
            _ => 0xf940_0000,
        };
        self.push(operation | at << 5 | to)
    }

    /// `add`: a small number more.
    pub fn add(self, register: Register, number: u32) -> Self {
        self.push(0x9100_0000 | (number & 0xfff) << 10 | register << 5 | register)
    }

    /// `mrs`: the exception level, in bits 3:2.
    pub fn current_el(self, to: Register) -> Self {
        self.push(0xd538_4240 | to)
    }

    /// `stp`: `from` and the register after it to the address in `at`.
    pub fn store_pair(self, from: Register, at: Register) -> Self {
        self.push(0xa900_0000 | (from + 1) << 10 | at << 5 | from)
    }

    /// `msr` and `isb`: where exceptions go, 2 KiB aligned.
    pub fn vectors(self, from: Register) -> Self {
        self.push(0xd518_c000 | from).push(0xd503_3fdf)
    }

    /// `mrs`: what the exception was.
    pub fn syndrome(self, to: Register) -> Self {
        self.push(0xd538_5200 | to)
    }

    /// `nop`s up to an offset in bytes.
    pub fn up_to(mut self, offset: usize) -> Self {
        self.0.resize(offset / 4, 0xd503_201f);
        self
    }

    /// `lsr`: the upper half of `from`.
    fn upper_half(self, to: Register, from: Register) -> Self {
        self.push(0xd360_fc00 | from << 5 | to)
    }

    /// Two stores of 4 bytes, which every engine has as MMIO exits: the lower half, the upper half.
    pub fn tell(self, register: Register) -> Self {
        self.set(9, MMIO).store(4, register, 9).upper_half(10, register).store(4, 10, 9)
    }

    fn psci(self, function: u64) -> Self {
        self.set(0, function).push(HVC)
    }

    /// PSCI_VERSION; the answer is in x0.
    pub fn psci_version(self) -> Self {
        self.psci(PSCI_VERSION)
    }

    /// SYSTEM_OFF, which does not come back.
    pub fn off(self) -> Self {
        self.psci(PSCI_SYSTEM_OFF).forever()
    }

    /// SYSTEM_RESET, which does not come back.
    pub fn reset(self) -> Self {
        self.psci(PSCI_SYSTEM_RESET).forever()
    }

    /// A loop that never ends.
    pub fn forever(self) -> Self {
        self.push(BRANCH_TO_SELF)
    }

    /// An instruction that does not exist; without vectors, exceptions without end.
    pub fn undefined(self) -> Self {
        self.push(UNDEFINED)
    }

    /// Its bytes, little endian as A64 always is.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_encodings_are_the_assemblers() {
        // As an assembler gives them for the comment's text.
        let code = Code::new()
            .set(1, 0x0900_0041) // mov x1, #0x41; movk x1, #0x900, lsl #16
            .store(1, 2, 1) // strb w2, [x1]
            .load(4, 3, 1) // ldr w3, [x1]
            .store(8, 4, 9) // str x4, [x9]
            .add(9, 8) // add x9, x9, #8
            .current_el(2) // mrs x2, CurrentEL
            .store_pair(2, 1) // stp x2, x3, [x1]
            .vectors(1) // msr vbar_el1, x1; isb
            .syndrome(3) // mrs x3, esr_el1
            .upper_half(10, 2) // lsr x10, x2, #32
            .up_to(56) // nop; nop
            .off(); // mov x0, #8; movk x0, #0x8400, lsl #16; hvc #0; b .
        assert_eq!(
            code.0,
            [
                0xd280_0821,
                0xf2a1_2001,
                0x3900_0022,
                0xb940_0023,
                0xf900_0124,
                0x9100_2129,
                0xd538_4242,
                0xa900_0c22,
                0xd518_c001,
                0xd503_3fdf,
                0xd538_5203,
                0xd360_fc4a,
                0xd503_201f,
                0xd503_201f,
                0xd280_0100,
                0xf2b0_8000,
                0xd400_0002,
                0x1400_0000,
            ]
        );
    }
}
