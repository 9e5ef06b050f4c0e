// SPDX-License-Identifier: Apache-2.0
//! The 16550A of PCs, registers a byte apart, as far as a console needs it.
//!
//! What is sent leaves at once, so the transmitter is always empty.

use super::port::Uart;
use crate::list;

// Receive FIFO of the 16550A.
const FIFO_DEPTH: usize = 16;

// Register numbers; the second names are those with LCR.DLAB set or for the other direction.
const RBR_THR_DLL: u64 = 0;
const IER_DLM: u64 = 1;
const IIR_FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const MSR: u64 = 6;
const SCR: u64 = 7;

const IER_RDI: u32 = 0x01;
const IER_THRI: u32 = 0x02;
const IER_RLSI: u32 = 0x04;

// IIR: what is pending, most urgent first, and the bits that say that the FIFOs are on.
const IIR_NONE: u32 = 0x01;
const IIR_RLSI: u32 = 0x06;
const IIR_RDI: u32 = 0x04;
const IIR_TIMEOUT: u32 = 0x0c;
const IIR_THRI: u32 = 0x02;
const IIR_FIFOS: u32 = 0xc0;

const FCR_ENABLE: u32 = 0x01;
const FCR_CLEAR_RX: u32 = 0x02;

const LCR_DLAB: u32 = 0x80;
const MCR_LOOP: u32 = 0x10;

const LSR_DR: u32 = 0x01;
const LSR_OE: u32 = 0x02;
const LSR_THRE_TEMT: u32 = 0x60;

// CTS, DSR, DCD: a terminal that is always there.
const MSR_ALWAYS: u32 = 0xb0;

/// The registers of one 16550A.
#[derive(Default)]
pub struct Ns16550 {
    received: Vec<u8>,
    divisor: [u32; 2],
    ier: u32,
    fcr: u32,
    lcr: u32,
    mcr: u32,
    scr: u32,
    overrun: bool,
    // IIR says "transmitter empty" once after each byte and each enabling.
    sent: bool,
}

impl Uart for Ns16550 {
    // Registers have a byte; past the eighth all reads as zero. Reading RBR takes a byte from the FIFO,
    // reading IIR and LSR clears what they said.
    fn read(&mut self, register: u64) -> u32 {
        let dlab = self.lcr & LCR_DLAB != 0;
        match register {
            RBR_THR_DLL if dlab => self.divisor[0],
            RBR_THR_DLL => list::take_first(&mut self.received).map_or(0, u32::from),
            IER_DLM if dlab => self.divisor[1],
            IER_DLM => self.ier,
            IIR_FCR => {
                let pending = self.pending();
                if pending == IIR_THRI {
                    self.sent = false;
                }
                pending | if self.fifos() { IIR_FIFOS } else { 0 }
            }
            LCR => self.lcr,
            MCR => self.mcr,
            LSR => {
                let overrun = if self.overrun { LSR_OE } else { 0 };
                self.overrun = false;
                let ready = if self.received.is_empty() { 0 } else { LSR_DR };
                LSR_THRE_TEMT | overrun | ready
            }
            MSR => self.modem_status(),
            SCR => self.scr,
            _ => 0,
        }
    }

    fn write(&mut self, register: u64, value: u32) -> Option<u8> {
        let value = value & 0xff;
        let dlab = self.lcr & LCR_DLAB != 0;
        match register {
            RBR_THR_DLL if dlab => self.divisor[0] = value,
            RBR_THR_DLL => {
                let byte = value.to_le_bytes()[0];
                self.sent = true;
                if self.mcr & MCR_LOOP == 0 {
                    return Some(byte);
                }
                self.receive(byte);
            }
            IER_DLM if dlab => self.divisor[1] = value,
            IER_DLM => {
                if value & !self.ier & IER_THRI != 0 {
                    self.sent = true;
                }
                // The upper bits do not exist: by that Linux knows a 16550A from an XScale.
                self.ier = value & 0x0f;
            }
            IIR_FCR => {
                // Turning the FIFOs on or off empties them, too.
                if value & FCR_CLEAR_RX != 0 || (value ^ self.fcr) & FCR_ENABLE != 0 {
                    self.received.clear();
                }
                self.fcr = value & 0xc9;
            }
            LCR => self.lcr = value,
            MCR => self.mcr = value & 0x1f,
            SCR => self.scr = value,
            _ => {}
        }
        None
    }

    // In loopback the outside is cut off.
    fn room(&self) -> usize {
        match self.mcr & MCR_LOOP {
            0 => self.depth().saturating_sub(self.received.len()),
            _ => 0,
        }
    }

    // Also what loopback sends.
    fn receive(&mut self, byte: u8) {
        match self.received.len() < self.depth() {
            true => self.received.push(byte),
            false => self.overrun = true,
        }
    }

    fn interrupt(&self) -> bool {
        self.pending() != IIR_NONE
    }
}

impl Ns16550 {
    fn depth(&self) -> usize {
        match self.fcr & FCR_ENABLE {
            0 => 1,
            _ => FIFO_DEPTH,
        }
    }

    fn fifos(&self) -> bool {
        self.fcr & FCR_ENABLE != 0
    }

    fn pending(&self) -> u32 {
        // FCR[7:6].
        let trigger = match self.fcr >> 6 {
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        };
        let level = self.received.len();
        // The timeout is taken as run out at once.
        let received = if self.fifos() && level < trigger { IIR_TIMEOUT } else { IIR_RDI };
        // Most urgent first: what enables it, whether it holds, what IIR says.
        let interrupts = [
            (IER_RLSI, self.overrun, IIR_RLSI),
            (IER_RDI, level > 0, received),
            (IER_THRI, self.sent, IIR_THRI),
        ];
        let pending = interrupts.iter().find(|(enable, holds, _)| self.ier & enable != 0 && *holds);
        pending.map_or(IIR_NONE, |(_, _, code)| *code)
    }

    fn modem_status(&self) -> u32 {
        if self.mcr & MCR_LOOP == 0 {
            return MSR_ALWAYS;
        }
        // Loopback: DTR to DSR, RTS to CTS, OUT1 to RI, OUT2 to DCD.
        let [dtr, rts, out1, out2] = [0, 1, 2, 3].map(|bit| (self.mcr >> bit) & 1);
        rts << 4 | dtr << 5 | out1 << 6 | out2 << 7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The steps of Linux's 8250 autoconfig(), with what it wants to see at each.
    #[test]
    fn linux_takes_it_for_a_16550a() {
        let mut uart = Ns16550::default();
        uart.write(IER_DLM, 0);
        assert_eq!(uart.read(IER_DLM) & 0x0f, 0);
        uart.write(IER_DLM, 0x0f);
        assert_eq!(uart.read(IER_DLM) & 0x0f, 0x0f, "the register is there");
        uart.write(IER_DLM, 0);

        uart.write(MCR, MCR_LOOP | 0x0a);
        assert_eq!(uart.read(MSR) & 0xf0, 0x90, "the loopback test");
        uart.write(MCR, 0);

        uart.write(LCR, 0xbf);
        uart.write(IIR_FCR, 0);
        uart.write(LCR, 0);
        uart.write(IIR_FCR, FCR_ENABLE);
        assert_eq!(uart.read(IIR_FCR) >> 6, 3, "FIFOs that work: a 16550A");

        for lcr in [0x80, 0xbf] {
            uart.write(LCR, lcr);
            assert_ne!(uart.read(IIR_FCR), 0, "no EFR: not a 16650");
        }
        uart.write(LCR, 0);
        let before = uart.read(IIR_FCR) >> 5;
        uart.write(IIR_FCR, FCR_ENABLE | 0x20);
        assert_eq!((before, uart.read(IIR_FCR) >> 5), (6, 6), "not a 16750");
        uart.write(IER_DLM, 0x40);
        assert_eq!(uart.read(IER_DLM), 0, "not an XScale");
    }

    // serial8250_THRE_test() and the TXEN test of startup.
    #[test]
    fn enabling_the_transmit_interrupt_raises_it_every_time() {
        let mut uart = Ns16550::default();
        for _ in 0..2 {
            uart.write(IER_DLM, IER_THRI);
            assert!(uart.interrupt());
            assert_eq!(uart.read(IIR_FCR) & 0x0f, IIR_THRI);
            assert_eq!(uart.read(IIR_FCR) & 0x0f, IIR_NONE, "said once");
            assert!(!uart.interrupt());
            uart.write(IER_DLM, 0);
        }
        uart.write(IER_DLM, IER_THRI);
        uart.read(IIR_FCR);
        assert_eq!(uart.write(RBR_THR_DLL, u32::from(b'x')), Some(b'x'));
        assert!(uart.interrupt());
    }

    #[test]
    fn earlycon_prints_before_anything_is_set_up() {
        let mut uart = Ns16550::default();
        // Linux's serial_putc waits for THRE and TEMT.
        assert_eq!(uart.read(LSR), LSR_THRE_TEMT);
        assert_eq!(uart.write(RBR_THR_DLL, u32::from(b'L')), Some(b'L'));
        assert_eq!(uart.read(LSR), LSR_THRE_TEMT);
        assert!(!uart.interrupt());
    }

    #[test]
    fn the_divisor_hides_data_and_interrupt_enable() {
        let mut uart = Ns16550::default();
        uart.write(LCR, LCR_DLAB | 3);
        assert_eq!(uart.write(RBR_THR_DLL, 0x0c), None);
        uart.write(IER_DLM, 0x01);
        assert_eq!((uart.read(RBR_THR_DLL), uart.read(IER_DLM)), (0x0c, 0x01));
        uart.write(LCR, 3);
        assert_eq!((uart.read(RBR_THR_DLL), uart.read(IER_DLM)), (0, 0));
    }

    #[test]
    fn received_bytes_raise_the_line_until_they_are_read() {
        let mut uart = Ns16550::default();
        uart.write(IIR_FCR, FCR_ENABLE | 0x40);
        uart.write(IER_DLM, IER_RDI);
        uart.receive(b'a');
        assert_eq!(uart.read(IIR_FCR), IIR_FIFOS | IIR_TIMEOUT);
        for byte in b"bcd" {
            uart.receive(*byte);
        }
        assert_eq!(uart.read(IIR_FCR), IIR_FIFOS | IIR_RDI);
        assert_eq!(uart.read(LSR) & LSR_DR, LSR_DR);
        let text = [(); 4].map(|()| uart.read(RBR_THR_DLL));
        assert_eq!(text, b"abcd".map(u32::from));
        assert_eq!(uart.read(LSR) & LSR_DR, 0);
        assert!(!uart.interrupt());
    }

    #[test]
    fn an_overrun_is_told_once_and_comes_first() {
        let mut uart = Ns16550::default();
        uart.write(IER_DLM, IER_RDI | IER_RLSI);
        uart.receive(b'a');
        assert_eq!(uart.room(), 0);
        uart.receive(b'b');
        assert_eq!(uart.read(IIR_FCR), IIR_RLSI);
        assert_eq!(uart.read(LSR) & LSR_OE, LSR_OE);
        assert_eq!(uart.read(LSR) & LSR_OE, 0);
        assert_eq!(uart.read(IIR_FCR), IIR_RDI);
    }

    #[test]
    fn clearing_the_fifo_forgets_what_came() {
        let mut uart = Ns16550::default();
        uart.write(IIR_FCR, FCR_ENABLE);
        uart.receive(b'a');
        uart.write(IIR_FCR, FCR_ENABLE | FCR_CLEAR_RX);
        assert_eq!(uart.read(LSR) & LSR_DR, 0);
        assert_eq!(uart.room(), FIFO_DEPTH);
    }

    #[test]
    fn loopback_keeps_bytes_inside_and_the_outside_away() {
        let mut uart = Ns16550::default();
        uart.write(MCR, MCR_LOOP);
        assert_eq!(uart.write(RBR_THR_DLL, u32::from(b'q')), None);
        assert_eq!(uart.room(), 0);
        assert_eq!(uart.read(RBR_THR_DLL), u32::from(b'q'));
        uart.write(SCR, 0x5a);
        assert_eq!((uart.read(SCR), uart.read(8)), (0x5a, 0));
    }
}
