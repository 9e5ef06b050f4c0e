// SPDX-License-Identifier: Apache-2.0
//! As much of a GICv3 (Arm IHI 0069) as one CPU with shared peripheral interrupts needs.
//!
//! The distributor's and redistributor's registers are accepted anywhere in their window; only
//! enables matter. The CPU interface's system registers come as undefined instructions.

use crate::vm::Doorbell;

/// The window that the resource manager gives the GIC: redistributors, then the distributor.
pub const WINDOW: std::ops::Range<u64> = 0x3fe0_0000..0x4000_0000;
/// The distributor, as devicetrees in the field have it.
const DISTRIBUTOR: u64 = 0x3fff_0000;
const DISTRIBUTOR_SIZE: u64 = 0x1_0000;
// Offsets in the distributor, and in a redistributor's SGI frame.
const CTLR: u64 = 0x0;
const TYPER: u64 = 0x4;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const PIDR2: u64 = 0xffe8;
/// ITLinesNumber 7: 256 interrupts.
const TYPER_VALUE: u64 = 7;
/// GICv3.
const PIDR2_VALUE: u64 = 0x3b;
const INTERRUPTS: u32 = 256;
/// No interrupt is pending (INTID 1023).
const SPURIOUS: u64 = 1023;
/// First shared peripheral interrupt.
const FIRST_SPI: u32 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Line {
    label: u32,
    interrupt: u32,
    pending: bool,
    active: bool,
}

/// The GIC.
#[derive(Debug)]
pub struct Gic {
    lines: Vec<Line>,
    enabled: Vec<bool>,
    control: u64,
    group_enable: u64,
    priority_mask: u64,
}

impl Gic {
    /// With the doorbells' interrupts.
    pub fn new(doorbells: &[Doorbell]) -> Self {
        let lines = doorbells
            .iter()
            .filter_map(|bell| {
                let (kind, number) = bell.interrupt?;
                // devicetree binding arm,gic-v3: 0 SPI, 1 PPI.
                let interrupt = match kind {
                    0 => number.checked_add(FIRST_SPI)?,
                    _ => number.checked_add(16)?,
                };
                (interrupt < INTERRUPTS).then_some(Line {
                    label: bell.label,
                    interrupt,
                    pending: false,
                    active: false,
                })
            })
            .collect();
        Self {
            lines,
            enabled: vec![false; usize::try_from(INTERRUPTS).unwrap_or(0)],
            control: 0,
            group_enable: 0,
            priority_mask: 0,
        }
    }

    fn is_enabled(&self, interrupt: u32) -> bool {
        usize::try_from(interrupt)
            .ok()
            .and_then(|index| self.enabled.get(index))
            .is_some_and(|&enabled| enabled)
    }

    /// Whether the CPU's interrupt line is high.
    pub fn line(&self) -> bool {
        self.group_enable & 1 != 0
            && self
                .lines
                .iter()
                .any(|line| line.pending && !line.active && self.is_enabled(line.interrupt))
    }

    /// A doorbell rang; returns [`Gic::line`].
    pub fn ring(&mut self, label: u32) -> bool {
        for line in self.lines.iter_mut().filter(|line| line.label == label) {
            line.pending = true;
        }
        self.line()
    }

    /// A register's value.
    pub fn read(&self, address: u64) -> u64 {
        let offset = address % DISTRIBUTOR_SIZE;
        let distributor = address >= DISTRIBUTOR;
        match offset {
            CTLR if distributor => self.control,
            TYPER if distributor => TYPER_VALUE,
            PIDR2 => PIDR2_VALUE,
            // The last redistributor, of CPU 0.
            0x8 if !distributor => 1 << 4,
            ISENABLER..ICENABLER => self.enables(offset - ISENABLER),
            _ => 0,
        }
    }

    fn enables(&self, offset: u64) -> u64 {
        let first = usize::try_from(offset * 8).unwrap_or(usize::MAX);
        (0..32)
            .filter(|bit| {
                first
                    .checked_add(*bit)
                    .and_then(|index| self.enabled.get(index))
                    .is_some_and(|&enabled| enabled)
            })
            .fold(0, |value, bit| value | 1 << bit)
    }

    /// Sets a register.
    pub fn write(&mut self, address: u64, value: u64) {
        let offset = address % DISTRIBUTOR_SIZE;
        let set = |gic: &mut Self, base: u64, to: bool| {
            let first = usize::try_from((offset - base) * 8).unwrap_or(usize::MAX);
            for bit in (0..32).filter(|bit| value & (1 << bit) != 0) {
                if let Some(enabled) =
                    first.checked_add(bit).and_then(|index| gic.enabled.get_mut(index))
                {
                    *enabled = to;
                }
            }
        };
        match offset {
            // Reserved bits, RWP among them, read as zero: a write is done at once.
            CTLR if address >= DISTRIBUTOR => self.control = value & 0x37,
            ISENABLER..ICENABLER => set(self, ISENABLER, true),
            ICENABLER..0x200 => set(self, ICENABLER, false),
            _ => {}
        }
    }

    /// A system register of the CPU interface, read; None: not one of them.
    pub fn read_system(&mut self, register: u32) -> Option<u64> {
        match register {
            ICC_IAR1 => {
                let group = self.group_enable & 1 != 0;
                let enabled: Vec<_> = self
                    .lines
                    .iter()
                    .map(|line| group && self.is_enabled(line.interrupt))
                    .collect();
                let taken = self
                    .lines
                    .iter_mut()
                    .zip(enabled)
                    .find(|(line, enabled)| *enabled && line.pending && !line.active);
                Some(taken.map_or(SPURIOUS, |(line, _)| {
                    line.pending = false;
                    line.active = true;
                    u64::from(line.interrupt)
                }))
            }
            ICC_PMR => Some(self.priority_mask),
            ICC_IGRPEN1 => Some(self.group_enable),
            // System registers are in use, and cannot be turned off.
            ICC_SRE => Some(7),
            // 5 bits of priority, 16 bits of interrupt id.
            ICC_CTLR => Some(4 << 8),
            ICC_BPR1 | ICC_RPR | ICC_HPPIR1 => Some(0),
            _ => None,
        }
    }

    /// A system register of the CPU interface, written. False: not one of them.
    pub fn write_system(&mut self, register: u32, value: u64) -> bool {
        match register {
            ICC_EOIR1 => {
                for line in &mut self.lines {
                    if u64::from(line.interrupt) == value {
                        line.active = false;
                    }
                }
            }
            ICC_PMR => self.priority_mask = value & 0xff,
            ICC_IGRPEN1 => self.group_enable = value & 1,
            ICC_SRE | ICC_CTLR | ICC_BPR1 | ICC_DIR | ICC_SGI1R => {}
            _ => return false,
        }
        true
    }
}

/// Op0, op1, CRn, CRm, op2 as they stand in MRS and MSR, bits 20 to 5.
const fn system(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}
const ICC_PMR: u32 = system(3, 0, 4, 6, 0);
const ICC_DIR: u32 = system(3, 0, 12, 11, 1);
const ICC_RPR: u32 = system(3, 0, 12, 11, 3);
const ICC_SGI1R: u32 = system(3, 0, 12, 11, 5);
const ICC_IAR1: u32 = system(3, 0, 12, 12, 0);
const ICC_EOIR1: u32 = system(3, 0, 12, 12, 1);
const ICC_HPPIR1: u32 = system(3, 0, 12, 12, 2);
const ICC_BPR1: u32 = system(3, 0, 12, 12, 3);
const ICC_CTLR: u32 = system(3, 0, 12, 12, 4);
const ICC_SRE: u32 = system(3, 0, 12, 12, 5);
const ICC_IGRPEN1: u32 = system(3, 0, 12, 12, 7);

/// A decoded MRS or MSR instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemAccess {
    /// As [`Gic::read_system`] takes it.
    pub register: u32,
    /// The general register.
    pub general: u8,
    /// MRS.
    pub read: bool,
}

/// MRS and MSR (register) of the architecture's C6.2.
pub fn decode(instruction: u32) -> Option<SystemAccess> {
    if instruction & 0xffd0_0000 != 0xd510_0000 {
        return None;
    }
    Some(SystemAccess {
        register: instruction >> 5 & 0xffff,
        general: u8::try_from(instruction & 0x1f).ok()?,
        read: instruction & (1 << 21) != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gic() -> Gic {
        Gic::new(&[Doorbell { label: 5, interrupt: Some((0, 5)) }])
    }

    #[test]
    fn a_doorbell_is_taken_once_per_ring() {
        let mut gic = gic();
        assert!(!gic.ring(5));
        gic.write_system(ICC_IGRPEN1, 1);
        // SPI 5 is interrupt 37: second word, bit 5.
        gic.write(DISTRIBUTOR + ISENABLER + 4, 1 << 5);
        assert_eq!(gic.read(DISTRIBUTOR + ISENABLER + 4), 1 << 5);
        assert!(gic.line());
        assert_eq!(gic.read_system(ICC_IAR1), Some(37));
        assert!(!gic.line());
        assert_eq!(gic.read_system(ICC_IAR1), Some(SPURIOUS));
        assert!(!gic.ring(5));
        gic.write_system(ICC_EOIR1, 37);
        assert!(gic.line());
        gic.write(DISTRIBUTOR + ICENABLER + 4, 1 << 5);
        assert!(!gic.line());
        assert!(!gic.ring(6));
    }

    #[test]
    fn instructions_are_taken_apart() {
        // mrs x3, S3_0_C12_C12_0
        let read = decode(0xd538_cc03).unwrap();
        assert_eq!(read, SystemAccess { register: ICC_IAR1, general: 3, read: true });
        // msr S3_0_C12_C12_1, x3
        let write = decode(0xd518_cc23).unwrap();
        assert_eq!((write.register, write.read), (ICC_EOIR1, false));
        // hvc #0
        assert_eq!(decode(0xd400_0002), None);
    }
}
