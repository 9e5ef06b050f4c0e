// SPDX-License-Identifier: Apache-2.0
//! Arm's PL011 (DDI 0183, r1p5), as far as a console needs it.
//!
//! What is sent leaves at once, so the transmit FIFO is always empty. What the hardware would not do
//! before somebody enabled it, this one does: no firmware ran before the guest, and its first
//! instructions may print.

use super::port::Uart;
use crate::list;

// Receive FIFO of revision r1p5; Linux's amba-pl011 takes 32 for revisions from 3 on.
const FIFO_DEPTH: usize = 32;

// Register offsets.
const DR: u64 = 0x000;
const FR: u64 = 0x018;
const ILPR: u64 = 0x020;
const LCR_H: u64 = 0x02c;
const CR: u64 = 0x030;
const IFLS: u64 = 0x034;
const IMSC: u64 = 0x038;
const RIS: u64 = 0x03c;
const MIS: u64 = 0x040;
const ICR: u64 = 0x044;
const PERIPH_ID: u64 = 0xfe0;

/// The bits that exist of each register from ILPR to DMACR: ILPR, IBRD, FBRD, LCR_H, CR, IFLS and IMSC
/// keep what is written, RIS, MIS and ICR do not, DMACR does.
const WRITABLE: [u32; 11] = [0xff, 0xffff, 0x3f, 0xff, 0xff87, 0x3f, INT_ALL, 0, 0, 0, 0x7];

// PeriphID0-3 and PCellID0-3, a byte a register: part 0x011, designer 0x41, revision 3.
const IDS: [u8; 8] = [0x11, 0x10, 0x34, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

// FR. The modem inputs are wired as a terminal that is always there.
const FR_CTS_DSR_DCD: u32 = 0x007;
const FR_RXFE: u32 = 0x010;
const FR_RXFF: u32 = 0x040;
const FR_TXFE: u32 = 0x080;

const LCR_H_FEN: u32 = 0x10;
const CR_LBE: u32 = 0x080;

// RIS, MIS, IMSC, ICR.
const INT_RX: u32 = 0x010;
const INT_TX: u32 = 0x020;
const INT_RT: u32 = 0x040;
const INT_OE: u32 = 0x400;
const INT_ALL: u32 = 0x7ff;

/// The registers of one PL011.
pub struct Pl011 {
    received: Vec<u8>,
    // What the guest wrote to the registers of WRITABLE.
    settings: [u32; WRITABLE.len()],
    // TX and error interrupts: RX and RT follow from the FIFO alone, so none of them is ever lost.
    latched: u32,
}

impl Default for Pl011 {
    fn default() -> Self {
        let received = Vec::with_capacity(FIFO_DEPTH);
        let mut uart = Self { received, settings: [0; WRITABLE.len()], latched: 0 };
        uart.write(CR, 0x300);
        uart.write(IFLS, 0x12);
        uart
    }
}

impl Uart for Pl011 {
    // Registers have 32 bits; reading DR takes a byte from the FIFO.
    fn read(&mut self, offset: u64) -> u32 {
        let value = match offset & !3 {
            DR => list::take_first(&mut self.received).map_or(0, u32::from),
            FR => self.flags(),
            RIS => self.raw_interrupts(),
            MIS => self.raw_interrupts() & self.setting(IMSC),
            register => match index(register, PERIPH_ID, IDS.len()) {
                Some(at) => u32::from(IDS[at]),
                None => self.setting(register),
            },
        };
        // A narrow read in the middle of a register sees its upper bytes.
        value >> (8 * (offset & 3))
    }

    fn write(&mut self, register: u64, value: u32) -> Option<u8> {
        match register {
            DR => {
                self.latched |= INT_TX;
                let byte = value.to_le_bytes()[0];
                if self.setting(CR) & CR_LBE == 0 {
                    return Some(byte);
                }
                self.receive(byte);
            }
            ICR => self.latched &= !value,
            // There are no errors to clear in RSR/ECR. The rest is read-only or reserved.
            _ => {
                if let Some(at) = index(register, ILPR, WRITABLE.len()) {
                    self.settings[at] = value & WRITABLE[at];
                }
            }
        }
        None
    }

    fn room(&self) -> usize {
        self.depth().saturating_sub(self.received.len())
    }

    fn receive(&mut self, byte: u8) {
        match self.room() {
            0 => self.latched |= INT_OE,
            _ => self.received.push(byte),
        }
    }

    fn interrupt(&self) -> bool {
        self.raw_interrupts() & self.setting(IMSC) != 0
    }
}

impl Pl011 {
    /// What a register from ILPR to DMACR keeps; others read as zero.
    fn setting(&self, register: u64) -> u32 {
        index(register, ILPR, WRITABLE.len()).map_or(0, |at| self.settings[at])
    }

    fn depth(&self) -> usize {
        match self.setting(LCR_H) & LCR_H_FEN {
            0 => 1,
            _ => FIFO_DEPTH,
        }
    }

    fn flags(&self) -> u32 {
        let empty = if self.received.is_empty() { FR_RXFE } else { 0 };
        let full = if self.room() == 0 { FR_RXFF } else { 0 };
        FR_CTS_DSR_DCD | FR_TXFE | empty | full
    }

    fn raw_interrupts(&self) -> u32 {
        // IFLS.RXIFLSEL: 1/8, 1/4, 1/2, 3/4, 7/8 of the FIFO.
        let eighths = match (self.setting(IFLS) >> 3) & 7 {
            0 => 1,
            1 => 2,
            2 => 4,
            3 => 6,
            _ => 7,
        };
        let trigger = (self.depth() * eighths / 8).max(1);
        let level = self.received.len();
        let rx = if level >= trigger { INT_RX } else { 0 };
        // The timeout is taken as run out at once: nobody waits 32 bit times for a typed byte.
        let rt = if level > 0 { INT_RT } else { 0 };
        self.latched | rx | rt
    }
}

/// The place of a register among the `count` ones from `first` on.
fn index(register: u64, first: u64, count: usize) -> Option<usize> {
    let at = usize::try_from(register.checked_sub(first)? / 4).ok()?;
    (register % 4 == 0 && at < count).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_are_those_that_the_amba_bus_looks_for() {
        let mut uart = Pl011::default();
        let id = |uart: &mut Pl011, base: u64| {
            (0..4).fold(0u32, |id, i| id | uart.read(base + 4 * i) << (8 * i))
        };
        // Linux: id 0x00041011 under mask 0x000fffff, and the cell id of every PrimeCell.
        assert_eq!(id(&mut uart, 0xfe0) & 0x000f_ffff, 0x0004_1011);
        assert_eq!(id(&mut uart, 0xff0), 0xb105_f00d);
    }

    #[test]
    fn earlycon_prints_before_anything_is_set_up() {
        let mut uart = Pl011::default();
        // Linux's pl011_putc: waits while FR.TXFF, writes DR, waits while FR.BUSY.
        assert_eq!(uart.read(FR) & 0x20, 0);
        assert_eq!(uart.write(DR, u32::from(b'L')), Some(b'L'));
        assert_eq!(uart.read(FR) & 0x08, 0);
        assert_eq!(uart.read(CR) & 1, 0, "Linux reads no baud rate from it");
        assert!(!uart.interrupt());
    }

    #[test]
    fn a_received_byte_raises_the_line_until_it_is_read() {
        let mut uart = Pl011::default();
        uart.write(LCR_H, 0x70);
        uart.write(IMSC, INT_RX | INT_RT);
        assert_eq!(uart.read(FR) & FR_RXFE, FR_RXFE);
        uart.receive(b'x');
        assert!(uart.interrupt());
        assert_eq!(uart.read(MIS), INT_RT);
        assert_eq!(uart.read(FR) & FR_RXFE, 0);
        assert_eq!(uart.read(DR), u32::from(b'x'));
        assert!(!uart.interrupt());
        assert_eq!(uart.read(DR), 0, "an empty FIFO reads as zero");
    }

    #[test]
    fn the_receive_interrupt_follows_the_trigger_level() {
        let mut uart = Pl011::default();
        uart.write(LCR_H, LCR_H_FEN);
        for byte in 0..15 {
            uart.receive(byte);
        }
        assert_eq!(uart.read(RIS), INT_RT, "half of 32 is the default level");
        uart.receive(15);
        assert_eq!(uart.read(RIS), INT_RT | INT_RX);
        uart.write(IFLS, 0x20);
        assert_eq!(uart.read(RIS), INT_RT);
    }

    #[test]
    fn without_its_fifo_it_holds_one_byte_and_reports_an_overrun() {
        let mut uart = Pl011::default();
        assert_eq!(uart.room(), 1);
        uart.receive(b'a');
        assert_eq!((uart.room(), uart.read(FR) & FR_RXFF), (0, FR_RXFF));
        uart.receive(b'b');
        assert_eq!(uart.read(RIS) & INT_OE, INT_OE);
        assert_eq!(uart.read(DR), u32::from(b'a'));
        uart.write(ICR, INT_ALL);
        assert_eq!(uart.read(RIS), 0);
    }

    // What Linux's driver does to send: writes, unmasks TX, is interrupted, masks TX again.
    #[test]
    fn the_transmit_interrupt_comes_after_a_byte_and_goes_by_icr() {
        let mut uart = Pl011::default();
        uart.write(IMSC, INT_TX);
        assert!(!uart.interrupt(), "nothing was sent yet");
        assert_eq!(uart.write(DR, 0x141), Some(0x41));
        assert!(uart.interrupt());
        uart.write(ICR, INT_TX);
        assert!(!uart.interrupt());
        uart.write(DR, 0x42);
        uart.write(IMSC, 0);
        assert!(!uart.interrupt());
        assert_eq!(uart.read(RIS), INT_TX);
    }

    #[test]
    fn loopback_sends_to_itself() {
        let mut uart = Pl011::default();
        uart.write(CR, 0x381);
        assert_eq!(uart.write(DR, u32::from(b'q')), None);
        assert_eq!(uart.read(DR), u32::from(b'q'));
    }

    #[test]
    fn settings_read_back_and_unknown_registers_are_quiet() {
        let mut uart = Pl011::default();
        for (register, written, read) in [
            (0x24, 0x1_0027, 0x27),
            (0x28, 0xff, 0x3f),
            (LCR_H, 0x170, 0x70),
            (CR, 0xffff_ffff, 0xff87),
            (IFLS, 0xff, 0x3f),
            (IMSC, 0xffff, 0x7ff),
            (0x48, 0xff, 0x7),
            (ILPR, 0x1ff, 0xff),
            (FR, 0, 0x97),
            (0x80, 0xff, 0),
            (0xffc + 4, 1, 0),
        ] {
            assert_eq!(uart.write(register, written), None);
            assert_eq!(uart.read(register), read, "{register:#x}");
        }
    }
}
