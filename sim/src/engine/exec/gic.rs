// SPDX-License-Identifier: Apache-2.0
//! As much of a GICv3 (Arm IHI 0069) as a guest with doorbells, timers and one CPU for all shared
//! interrupts needs.
//!
//! The distributor's and redistributors' registers are accepted anywhere in their window. Priorities
//! and groups have no effect. The CPU interface's system registers come as undefined instructions.

use crate::vm::Doorbell;

/// The window that the resource manager gives the GIC: redistributors, then the distributor.
pub const WINDOW: std::ops::Range<u64> = 0x3fe0_0000..0x4000_0000;
/// The distributor, as devicetrees in the field have it, and right below it the redistributors.
const DISTRIBUTOR: u64 = 0x3fff_0000;
/// A frame; a redistributor has two.
const FRAME: u64 = 0x1_0000;
// Offsets in the distributor, and in a redistributor's SGI frame.
const CTLR: u64 = 0x0;
const TYPER: u64 = 0x4;
const REDISTRIBUTOR_TYPER: u64 = 0x8;
const REDISTRIBUTOR_TYPER_HIGH: u64 = 0xc;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ISPENDR: u64 = 0x200;
const ICPENDR: u64 = 0x280;
const ISACTIVER: u64 = 0x300;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
const ICFGR: u64 = 0xc00;
const ICFGR_END: u64 = 0xd00;
const PIDR2: u64 = 0xffe8;
/// ITLinesNumber 7: 256 interrupts.
const TYPER_VALUE: u64 = 7;
/// GICv3.
const PIDR2_VALUE: u64 = 0x3b;
const INTERRUPTS: u32 = 256;
/// No interrupt is pending (INTID 1023).
const SPURIOUS: u64 = 1023;
/// First private peripheral interrupt; below are those that software generates.
const FIRST_PPI: u32 = 16;
/// First shared peripheral interrupt.
const FIRST_SPI: u32 = 32;
/// The EL1 virtual timer's interrupt (Arm BSA).
pub const VIRTUAL_TIMER: u32 = 27;
/// EOImode of ICC_CTLR: an end of interrupt does not deactivate it.
const EOI_MODE: u64 = 1 << 1;
/// ICC_SGI1R: to all but oneself.
const SGI_TO_OTHERS: u64 = 1 << 40;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Line {
    enabled: bool,
    /// Latched, until it is taken.
    pending: bool,
    /// Held high by its device.
    high: bool,
    active: bool,
    /// ICFGR's two bits.
    config: u8,
}

impl Line {
    fn wants(self) -> bool {
        self.enabled && (self.pending || self.high) && !self.active
    }
}

/// A CPU's own interrupts and its interface.
#[derive(Debug)]
struct Interface {
    private: Vec<Line>,
    group_enable: u64,
    priority_mask: u64,
    control: u64,
}

/// The GIC.
#[derive(Debug)]
pub struct Gic {
    bells: Vec<Doorbell>,
    /// From [`FIRST_SPI`] on.
    shared: Vec<Line>,
    cpus: Vec<Interface>,
    control: u64,
}

fn lines(from: u32, to: u32) -> Vec<Line> {
    // Those that software generates are edges, and stay so.
    (from..to)
        .map(|id| Line { config: if id < FIRST_PPI { 2 } else { 0 }, ..Line::default() })
        .collect()
}

impl Gic {
    /// With the doorbells' interrupts, for so many CPUs.
    pub fn new(bells: &[Doorbell], cpus: u32) -> Self {
        let interface = |_| Interface {
            private: lines(0, FIRST_SPI),
            group_enable: 0,
            priority_mask: 0,
            control: 0,
        };
        Self {
            bells: bells.to_vec(),
            shared: lines(FIRST_SPI, INTERRUPTS),
            cpus: (0..cpus.max(1)).map(interface).collect(),
            control: 0,
        }
    }

    /// A line as a CPU sees it.
    fn at(&mut self, cpu: usize, interrupt: u32) -> Option<&mut Line> {
        match interrupt.checked_sub(FIRST_SPI) {
            Some(shared) => self.shared.get_mut(usize::try_from(shared).ok()?),
            None => self.cpus.get_mut(cpu)?.private.get_mut(usize::try_from(interrupt).ok()?),
        }
    }

    /// The interrupt that a CPU would take. All shared ones go to the boot CPU.
    fn first(&self, cpu: usize) -> Option<u32> {
        let interface = self.cpus.get(cpu).filter(|of| of.group_enable & 1 != 0)?;
        let shared: &[Line] = if cpu == 0 { &self.shared } else { &[] };
        let all = interface.private.iter().chain(shared);
        (0..).zip(all).find_map(|(id, line)| line.wants().then_some(id))
    }

    /// Whether a CPU's interrupt line is high.
    pub fn line(&self, cpu: usize) -> bool {
        self.first(cpu).is_some()
    }

    /// The host rang a doorbell. One of an edge irqfd with a level interrupt stays high for ever: the
    /// hypervisor clears it for neither side.
    pub fn ring(&mut self, label: u32, level_irqfd: bool) {
        let bell = self.bells.iter().find(|bell| bell.label == label).copied();
        let Some((level, (kind, number))) = bell.and_then(|of| Some((of.level, of.interrupt?)))
        else {
            return;
        };
        // devicetree binding arm,gic-v3: 0 SPI, 1 PPI.
        let first = if kind == 0 { FIRST_SPI } else { FIRST_PPI };
        let Some(line) = number.checked_add(first).and_then(|id| self.at(0, id)) else {
            return;
        };
        match level && !level_irqfd {
            true => line.high = true,
            false => line.pending = true,
        }
    }

    /// The line of a CPU's virtual timer.
    pub fn set_timer(&mut self, cpu: usize, high: bool) {
        if let Some(line) = self.at(cpu, VIRTUAL_TIMER) {
            line.high = high;
        }
    }

    /// The CPU whose redistributor is there.
    fn redistributor(&self, address: u64) -> usize {
        let below = DISTRIBUTOR.saturating_sub(address).saturating_sub(1) / (2 * FRAME);
        let below = usize::try_from(below).unwrap_or(usize::MAX);
        self.cpus.len().saturating_sub(1).saturating_sub(below)
    }

    /// The lines behind a register of `bits` a line.
    fn behind(&self, address: u64, base: u64, bits: u64) -> Option<(usize, u32)> {
        let first = u32::try_from((address % FRAME - base) * 8 / bits).ok()?;
        match address >= DISTRIBUTOR {
            true => Some((0, first)),
            false => (first < FIRST_SPI).then(|| (self.redistributor(address), first)),
        }
    }

    /// A register's value.
    pub fn read(&mut self, address: u64) -> u64 {
        let offset = address % FRAME;
        let distributor = address >= DISTRIBUTOR;
        match offset {
            CTLR if distributor => self.control,
            TYPER if distributor => TYPER_VALUE,
            PIDR2 => PIDR2_VALUE,
            REDISTRIBUTOR_TYPER if !distributor => self.redistributor_type(address),
            REDISTRIBUTOR_TYPER_HIGH if !distributor => self.redistributor_type(address) >> 32,
            ISENABLER..ICENABLER => self.bits(address, ISENABLER, |line| line.enabled),
            ICENABLER..ISPENDR => self.bits(address, ICENABLER, |line| line.enabled),
            ISPENDR..ICPENDR => self.bits(address, ISPENDR, |line| line.pending || line.high),
            ICPENDR..ISACTIVER => self.bits(address, ICPENDR, |line| line.pending || line.high),
            ISACTIVER..ICACTIVER => self.bits(address, ISACTIVER, |line| line.active),
            ICACTIVER..IPRIORITYR => self.bits(address, ICACTIVER, |line| line.active),
            ICFGR..ICFGR_END => self.configs(address),
            _ => 0,
        }
    }

    /// Affinity, number, and whether it is the last.
    fn redistributor_type(&self, address: u64) -> u64 {
        let cpu = self.redistributor(address);
        let last = u64::from(cpu + 1 == self.cpus.len());
        let cpu = u64::try_from(cpu).unwrap_or(0);
        cpu << 32 | cpu << 8 | last << 4
    }

    fn bits(&mut self, address: u64, base: u64, of: impl Fn(&Line) -> bool) -> u64 {
        let Some((cpu, first)) = self.behind(address, base, 1) else {
            return 0;
        };
        (0..32)
            .filter(|bit| self.at(cpu, first + bit).is_some_and(|line| of(line)))
            .fold(0, |value, bit| value | 1 << bit)
    }

    fn configs(&mut self, address: u64) -> u64 {
        let Some((cpu, first)) = self.behind(address, ICFGR, 2) else {
            return 0;
        };
        (0..16).fold(0, |value, index| {
            let config = self.at(cpu, first + index).map_or(0, |line| line.config);
            value | u64::from(config) << (2 * index)
        })
    }

    /// Sets a register.
    pub fn write(&mut self, address: u64, value: u64) {
        match address % FRAME {
            // Reserved bits, RWP among them, read as zero: a write is done at once.
            CTLR if address >= DISTRIBUTOR => self.control = value & 0x37,
            ISENABLER..ICENABLER => self.set(address, ISENABLER, value, |line| line.enabled = true),
            ICENABLER..ISPENDR => self.set(address, ICENABLER, value, |line| line.enabled = false),
            ISPENDR..ICPENDR => self.set(address, ISPENDR, value, |line| line.pending = true),
            ICPENDR..ISACTIVER => self.set(address, ICPENDR, value, |line| line.pending = false),
            ISACTIVER..ICACTIVER => self.set(address, ISACTIVER, value, |line| line.active = true),
            ICACTIVER..IPRIORITYR => {
                self.set(address, ICACTIVER, value, |line| line.active = false);
            }
            ICFGR..ICFGR_END => self.configure(address, value),
            _ => {}
        }
    }

    fn set(&mut self, address: u64, base: u64, value: u64, to: impl Fn(&mut Line)) {
        let Some((cpu, first)) = self.behind(address, base, 1) else {
            return;
        };
        for bit in (0..32).filter(|bit| value & 1 << bit != 0) {
            if let Some(line) = self.at(cpu, first + bit) {
                to(line);
            }
        }
    }

    /// Only the upper of the two bits can be written, and none of those that software generates.
    fn configure(&mut self, address: u64, value: u64) {
        let Some((cpu, first)) = self.behind(address, ICFGR, 2) else {
            return;
        };
        for index in (0..16).filter(|index| first + index >= FIRST_PPI) {
            if let Some(line) = self.at(cpu, first + index) {
                line.config = u8::from(value >> (2 * index) & 2 != 0) << 1;
            }
        }
    }

    /// A system register of the CPU interface, read; None: not one of them.
    pub fn read_system(&mut self, cpu: usize, register: u32) -> Option<u64> {
        let interface = self.cpus.get(cpu)?;
        match register {
            ICC_IAR1 => Some(self.take(cpu)),
            ICC_PMR => Some(interface.priority_mask),
            ICC_IGRPEN1 => Some(interface.group_enable),
            // System registers are in use, and cannot be turned off.
            ICC_SRE => Some(7),
            // 5 bits of priority, 16 bits of interrupt id.
            ICC_CTLR => Some(4 << 8 | interface.control),
            ICC_BPR1 | ICC_RPR | ICC_HPPIR1 | ICC_IGRPEN0 => Some(0),
            register if is_active_priorities(register) => Some(0),
            _ => None,
        }
    }

    fn take(&mut self, cpu: usize) -> u64 {
        let Some(id) = self.first(cpu) else {
            return SPURIOUS;
        };
        if let Some(line) = self.at(cpu, id) {
            line.pending = false;
            line.active = true;
        }
        u64::from(id)
    }

    /// A system register of the CPU interface, written. False: not one of them.
    pub fn write_system(&mut self, cpu: usize, register: u32, value: u64) -> bool {
        let Some(interface) = self.cpus.get_mut(cpu) else {
            return false;
        };
        let split = interface.control & EOI_MODE != 0;
        match register {
            ICC_EOIR1 if split => {}
            ICC_EOIR1 | ICC_DIR => self.deactivate(cpu, value),
            ICC_PMR => interface.priority_mask = value & 0xff,
            ICC_IGRPEN1 => interface.group_enable = value & 1,
            ICC_CTLR => interface.control = value & EOI_MODE,
            ICC_SGI1R => self.generate(cpu, value),
            ICC_SRE | ICC_BPR1 | ICC_IGRPEN0 => {}
            register if is_active_priorities(register) => {}
            _ => return false,
        }
        true
    }

    fn deactivate(&mut self, cpu: usize, value: u64) {
        let line = u32::try_from(value & 0xff_ffff).ok().and_then(|id| self.at(cpu, id));
        if let Some(line) = line {
            line.active = false;
        }
    }

    /// An interrupt to the CPUs of a list, which all have affinity 0.0.0.N here.
    fn generate(&mut self, from: usize, value: u64) {
        let Ok(id) = u32::try_from(value >> 24 & 15) else {
            return;
        };
        for cpu in 0..self.cpus.len() {
            let to = match value & SGI_TO_OTHERS != 0 {
                true => cpu != from,
                false => cpu < 16 && value & 1 << cpu != 0,
            };
            if let Some(line) = self.at(cpu, id).filter(|_| to) {
                line.pending = true;
            }
        }
    }
}

/// Op0, op1, CRn, CRm, op2 as they stand in MRS and MSR, bits 20 to 5.
const fn system(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}
const ICC_PMR: u32 = system(3, 0, 4, 6, 0);
const ICC_AP0R0: u32 = system(3, 0, 12, 8, 4);
const ICC_AP1R0: u32 = system(3, 0, 12, 9, 0);
const ICC_DIR: u32 = system(3, 0, 12, 11, 1);
const ICC_RPR: u32 = system(3, 0, 12, 11, 3);
const ICC_SGI1R: u32 = system(3, 0, 12, 11, 5);
const ICC_IAR1: u32 = system(3, 0, 12, 12, 0);
const ICC_EOIR1: u32 = system(3, 0, 12, 12, 1);
const ICC_HPPIR1: u32 = system(3, 0, 12, 12, 2);
const ICC_BPR1: u32 = system(3, 0, 12, 12, 3);
const ICC_CTLR: u32 = system(3, 0, 12, 12, 4);
const ICC_SRE: u32 = system(3, 0, 12, 12, 5);
const ICC_IGRPEN0: u32 = system(3, 0, 12, 12, 6);
const ICC_IGRPEN1: u32 = system(3, 0, 12, 12, 7);

/// ICC_AP0R0 to 3 and ICC_AP1R0 to 3: no priority is active here, and what is written is lost.
fn is_active_priorities(register: u32) -> bool {
    (ICC_AP0R0..ICC_AP0R0 + 4).contains(&register) || (ICC_AP1R0..ICC_AP1R0 + 4).contains(&register)
}

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
        let bell = |label, level| Doorbell { label, interrupt: Some((0, label)), level };
        let mut gic = Gic::new(&[bell(5, false), bell(7, true)], 2);
        gic.write_system(0, ICC_IGRPEN1, 1);
        gic.write_system(1, ICC_IGRPEN1, 1);
        gic
    }

    #[test]
    fn a_doorbell_is_taken_once_per_ring() {
        let mut gic = gic();
        gic.ring(5, false);
        assert!(!gic.line(0));
        // SPI 5 is interrupt 37: second word, bit 5.
        gic.write(DISTRIBUTOR + ISENABLER + 4, 1 << 5);
        assert_eq!(gic.read(DISTRIBUTOR + ISENABLER + 4), 1 << 5);
        assert!(gic.line(0) && !gic.line(1));
        assert_eq!(gic.read_system(0, ICC_IAR1), Some(37));
        assert!(!gic.line(0));
        assert_eq!(gic.read_system(0, ICC_IAR1), Some(SPURIOUS));
        gic.ring(5, false);
        assert!(!gic.line(0));
        gic.write_system(0, ICC_EOIR1, 37);
        assert!(gic.line(0));
        gic.write(DISTRIBUTOR + ICENABLER + 4, 1 << 5);
        assert!(!gic.line(0));
        gic.ring(6, false);
        assert!(!gic.line(0));
    }

    #[test]
    fn a_level_interrupt_of_an_edge_irqfd_never_ends() {
        let mut gic = gic();
        gic.write(DISTRIBUTOR + ISENABLER + 4, 1 << 7);
        for (level_irqfd, again) in [(true, false), (false, true)] {
            gic.ring(7, level_irqfd);
            assert_eq!(gic.read_system(0, ICC_IAR1), Some(39));
            gic.write_system(0, ICC_EOIR1, 39);
            assert_eq!(gic.line(0), again);
        }
    }

    #[test]
    fn triggers_are_stored() {
        let mut gic = gic();
        // 16 to a register; the upper bit of two is writable.
        gic.write(DISTRIBUTOR + ICFGR + 8, 0b1101);
        assert_eq!(gic.read(DISTRIBUTOR + ICFGR + 8), 0b1000);
        assert_eq!(gic.read(DISTRIBUTOR + ICFGR), 0xaaaa_aaaa);
        gic.write(DISTRIBUTOR + ICFGR, 0);
        assert_eq!(gic.read(DISTRIBUTOR + ICFGR), 0xaaaa_aaaa);
    }

    #[test]
    fn each_cpu_has_its_private_interrupts() {
        let mut gic = gic();
        let redistributors = DISTRIBUTOR - 4 * FRAME;
        assert_eq!(gic.read(redistributors + REDISTRIBUTOR_TYPER), 0);
        assert_eq!(gic.read(redistributors + 2 * FRAME + REDISTRIBUTOR_TYPER), 1 << 32 | 0x110);
        gic.write(redistributors + 3 * FRAME + ISENABLER, 1 << VIRTUAL_TIMER | 1 << 2);
        gic.set_timer(1, true);
        gic.set_timer(0, true);
        assert!(!gic.line(0) && gic.line(1));
        assert_eq!(gic.read_system(1, ICC_IAR1), Some(27));
        gic.write_system(1, ICC_EOIR1, 27);
        assert!(gic.line(1), "the timer holds it high");
        gic.set_timer(1, false);
        assert!(!gic.line(1));
        // SGI 2 by list to CPU 1, to oneself, to all others.
        for (from, value, rings) in
            [(0, 2, true), (1, 2, true), (0, SGI_TO_OTHERS, true), (1, SGI_TO_OTHERS, false)]
        {
            gic.write_system(from, ICC_SGI1R, 2 << 24 | value);
            assert_eq!(gic.line(1), rings);
            gic.take(1);
            gic.write_system(1, ICC_EOIR1, 2);
        }
    }

    #[test]
    fn with_split_ends_the_second_deactivates() {
        let mut gic = gic();
        gic.write_system(0, ICC_CTLR, EOI_MODE);
        assert_eq!(gic.read_system(0, ICC_CTLR), Some(4 << 8 | EOI_MODE));
        gic.write(DISTRIBUTOR + ISENABLER + 4, 1 << 5);
        gic.ring(5, false);
        gic.take(0);
        gic.ring(5, false);
        gic.write_system(0, ICC_EOIR1, 37);
        assert!(!gic.line(0));
        gic.write_system(0, ICC_DIR, 37);
        assert!(gic.line(0));
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
