// SPDX-License-Identifier: Apache-2.0
//! A UART on the bus: its registers in front, the ring, the typed text and the interrupt behind. A virtio console
//! beside it prints to the same ring, and has the typed text while a driver has opened it.
//!
//! Each byte that the guest prints is an exit of its own and comes through here on the vCPU's thread:
//! one lock that is hardly ever contended, no allocation, and a system call only where somebody has
//! to be woken.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::ns16550::Ns16550;
use super::pl011::Pl011;
use super::ready::LinePattern;
use super::ring::Ring;
use crate::config::ConsoleDevice;
use crate::vcpu::{eventfd, Device, Width};

/// Bytes of typed text that wait for the guest; then the writer is held back.
const BACKLOG: usize = 4096;

/// The registers of a UART. What is sent leaves at once.
pub trait Uart: Send {
    /// Reads the register at `offset`.
    fn read(&mut self, offset: u64) -> u32;
    /// Writes a register; returns the byte that leaves the device, if one does.
    fn write(&mut self, offset: u64, value: u32) -> Option<u8>;
    /// Bytes that the receiver still takes.
    fn room(&self) -> usize;
    /// A byte arrives; one too many is dropped and raises the overrun.
    fn receive(&mut self, byte: u8);
    /// The level of the interrupt line.
    fn interrupt(&self) -> bool;
}

/// A console's UART, its wires and its memory.
pub struct Port {
    state: Mutex<State>,
    // To the guest, by the driver.
    interrupt: EventFd,
    // To the console's thread: there is output, or room for typed text.
    wake: EventFd,
    // To the worker: the guest is ready.
    ready: EventFd,
    // To the virtio console: there is typed text.
    typed: EventFd,
}

struct State {
    uart: Box<dyn Uart>,
    typed: Vec<u8>,
    output: Arc<Ring>,
    pattern: Option<LinePattern>,
    // A driver has opened the virtio console: typed text is for that.
    open: bool,
    // The interrupt line is up.
    raised: bool,
    // The console's thread is awake, or about to be.
    awake: bool,
}

impl Port {
    /// A UART of the kind `device` that prints to `output`; `pattern` is what makes the guest ready.
    ///
    /// # Errors
    /// No eventfd can be made.
    pub fn new(
        device: ConsoleDevice,
        output: Arc<Ring>,
        pattern: Option<LinePattern>,
    ) -> Result<Self, Errno> {
        let uart: Box<dyn Uart> = match device {
            ConsoleDevice::Pl011 => Box::<Pl011>::default(),
            ConsoleDevice::Ns16550 => Box::<Ns16550>::default(),
        };
        Ok(Self {
            state: Mutex::new(State {
                uart,
                typed: Vec::with_capacity(BACKLOG),
                output,
                pattern,
                open: false,
                raised: false,
                awake: false,
            }),
            interrupt: eventfd()?,
            wake: eventfd()?,
            ready: eventfd()?,
            typed: eventfd()?,
        })
    }

    /// The eventfd of the interrupt line, for the driver's irqfd.
    pub fn interrupt_fd(&self) -> BorrowedFd<'_> {
        self.interrupt.as_fd()
    }

    /// Becomes readable once the guest has printed what makes it ready.
    pub fn ready_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }

    /// Whether the guest has become ready; true once.
    pub fn take_ready(&self) -> bool {
        self.ready.read().is_ok()
    }

    /// A driver of the virtio console has come or gone: typed text goes to it, or to the UART.
    pub fn open(&self, open: bool) {
        let mut state = self.lock();
        state.open = open;
        if open && !state.typed.is_empty() {
            raise(&self.typed);
        }
        self.update(state, false);
    }

    /// The guest prints by the virtio console.
    pub fn print(&self, bytes: &[u8]) {
        let mut state = self.lock();
        bytes.iter().for_each(|byte| self.send(&mut state, *byte));
        self.update(state, !bytes.is_empty());
    }

    /// Readable when there is typed text for the virtio console. It stays so until it is read.
    pub fn typed_fd(&self) -> BorrowedFd<'_> {
        self.typed.as_fd()
    }

    /// Typed text is looked for from now on; `again`: there is more than was taken.
    pub fn look_for_typed(&self, again: bool) {
        match again {
            true => raise(&self.typed),
            false => drop(self.typed.read()),
        }
    }

    /// Bytes of typed text that wait for the virtio console.
    pub fn typed(&self) -> usize {
        let state = self.lock();
        if state.open {
            state.typed.len()
        } else {
            0
        }
    }

    /// Takes typed text for the virtio console; returns how many bytes there were.
    pub fn take_typed(&self, into: &mut [u8]) -> usize {
        let mut state = self.lock();
        let (waiting, taken) = (state.typed.len(), state.typed.len().min(into.len()));
        into[..taken].copy_from_slice(&state.typed[..taken]);
        state.typed.drain(..taken);
        let room = frees_half(waiting, state.typed.len());
        self.update(state, room);
        taken
    }

    /// Types `bytes`; returns how many of them were taken.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        let mut state = self.lock();
        let taken = bytes.len().min(BACKLOG - state.typed.len());
        state.typed.extend_from_slice(&bytes[..taken]);
        if state.open && taken > 0 {
            raise(&self.typed);
        }
        self.update(state, false);
        taken
    }

    /// Bytes that [`Port::type_in`] takes now. The console's thread is woken whenever the guest has taken
    /// half of a backlog.
    pub(super) fn room(&self) -> usize {
        BACKLOG - self.lock().typed.len()
    }

    /// The eventfd that wakes the console's thread.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Wakes the console's thread; only the first of many calls costs a system call.
    pub(super) fn wake(&self) {
        let state = self.lock();
        self.update(state, true);
    }

    /// From now on the console's thread wants to be woken again. To be called before it looks at
    /// what there is.
    pub(super) fn rearm(&self) {
        let _ = self.wake.read();
        self.lock().awake = false;
    }

    /// Whether the interrupt line is up.
    pub(super) fn raised(&self) -> bool {
        self.lock().raised
    }

    /// Rings the guest's doorbell again for a line that is up.
    pub(super) fn raise_again(&self) {
        raise(&self.interrupt);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Registers have no half-done states worth dying for.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // A byte leaves the guest.
    fn send(&self, state: &mut State, byte: u8) {
        state.output.push(byte);
        if state.pattern.as_mut().is_some_and(|p| p.feed(byte)) {
            state.pattern = None;
            raise(&self.ready);
        }
    }

    // After every change: typed text moves up, the line follows the registers, and the console's thread
    // is woken if it is to be, or has to look after one of these.
    fn update(&self, mut state: MutexGuard<'_, State>, wake: bool) {
        let State { uart, typed, open, .. } = &mut *state;
        let waiting = typed.len();
        let moving = if *open { 0 } else { waiting.min(uart.room()) };
        typed[..moving].iter().for_each(|byte| uart.receive(*byte));
        typed.drain(..moving);
        let room = frees_half(waiting, typed.len());
        let line = uart.interrupt();
        let rises = line && !state.raised;
        state.raised = line;
        let wake = (wake || rises || room) && !std::mem::replace(&mut state.awake, true);
        drop(state);
        if rises {
            raise(&self.interrupt);
        }
        if wake {
            raise(&self.wake);
        }
    }
}

impl Device for Port {
    fn read(&self, offset: u64, _: Width) -> u64 {
        let mut state = self.lock();
        let value = state.uart.read(offset);
        self.update(state, false);
        value.into()
    }

    fn write(&self, offset: u64, _: Width, value: u64) {
        let mut state = self.lock();
        // Registers have 32 bits at most.
        let value = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(0);
        let sent = state.uart.write(offset, value);
        if let Some(byte) = sent {
            self.send(&mut state, byte);
        }
        self.update(state, sent.is_some());
    }
}

/// The writer that was held back may go on.
fn frees_half(before: usize, now: usize) -> bool {
    before > BACKLOG / 2 && now <= BACKLOG / 2
}

fn raise(fd: &EventFd) {
    // Fails only where the count is full, and then it is raised already.
    let _ = fd.write(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(device: ConsoleDevice, pattern: Option<&str>) -> (Port, Arc<Ring>) {
        let ring = Arc::new(Ring::create("port", 4096).unwrap());
        let port = Port::new(device, Arc::clone(&ring), pattern.map(LinePattern::new)).unwrap();
        (port, ring)
    }

    fn count(fd: &EventFd) -> u64 {
        fd.read().unwrap_or(0)
    }

    #[test]
    fn what_is_printed_is_in_the_ring_and_wakes_once() {
        for (device, data) in [(ConsoleDevice::Pl011, 0), (ConsoleDevice::Ns16550, 0)] {
            let (port, ring) = port(device, Some("o g*t"));
            for byte in b"hello guest\n" {
                port.write(data, Width::Byte, u64::from(*byte));
            }
            assert_eq!(ring.tail(), b"hello guest\n");
            assert_eq!((count(&port.wake), count(&port.ready)), (1, 1));
            port.rearm();
            port.write(data, Width::Word, 0xffff_ff41);
            assert_eq!((count(&port.wake), count(&port.ready)), (1, 0));
            assert_eq!(ring.tail().last(), Some(&b'A'));
        }
    }

    #[test]
    fn typed_text_comes_in_order_however_long_and_raises_the_line_once() {
        let (port, _) = port(ConsoleDevice::Ns16550, None);
        port.write(2, Width::Byte, 1);
        port.write(1, Width::Byte, 1);
        let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
        assert_eq!(port.type_in(&text), 1000);
        assert!(port.raised());
        let mut read: Vec<u8> = Vec::new();
        while port.read(5, Width::Byte) & 1 != 0 {
            read.push(port.read(0, Width::Byte).to_le_bytes()[0]);
        }
        assert_eq!(read, text);
        assert!(!port.raised());
        assert_eq!(count(&port.interrupt), 1);
    }

    #[test]
    fn a_full_backlog_holds_back_and_wakes_when_half_of_it_is_free() {
        let (port, _) = port(ConsoleDevice::Pl011, None);
        let taken = port.type_in(&[b'x'; 2 * BACKLOG]);
        assert_eq!((taken, port.room()), (BACKLOG, 1), "one went on to the UART");
        assert_eq!(port.type_in(b"yy"), 1);
        port.rearm();
        for _ in 0..BACKLOG / 2 - 1 {
            port.read(0, Width::Word);
        }
        assert_eq!(count(&port.wake), 0);
        port.read(0, Width::Word);
        assert_eq!(count(&port.wake), 1);
    }

    #[test]
    fn a_line_that_rises_again_is_told_again() {
        let (port, _) = port(ConsoleDevice::Pl011, None);
        port.write(0x38, Width::Word, 0x50);
        for expected in [b'a', b'b'] {
            port.type_in(&[expected]);
            assert_eq!(count(&port.interrupt), 1);
            assert_eq!(port.read(0, Width::Half), u64::from(expected));
        }
        port.type_in(b"c");
        port.raise_again();
        assert_eq!(count(&port.interrupt), 2);
    }

    #[test]
    fn a_virtio_console_prints_to_the_same_ring_and_makes_ready() {
        let (port, ring) = port(ConsoleDevice::Pl011, Some("up"));
        port.write(0, Width::Byte, u64::from(b'e'));
        port.print(b"arly, then u");
        port.print(b"");
        assert_eq!(count(&port.ready), 0);
        port.print(b"p\n");
        assert_eq!(ring.tail(), b"early, then up\n");
        assert_eq!((count(&port.wake), count(&port.ready)), (1, 1));
    }

    #[test]
    fn typed_text_goes_where_the_driver_is() {
        let (port, _) = port(ConsoleDevice::Pl011, None);
        port.type_in(b"a");
        assert_eq!((port.read(0, Width::Word), port.typed()), (u64::from(b'a'), 0));
        port.open(true);
        assert_eq!(count(&port.typed), 0, "nothing is there yet");
        port.type_in(b"bcd");
        assert_eq!((count(&port.typed), port.typed()), (1, 3));
        assert_eq!(port.read(0x18, Width::Word) & 0x10, 0x10, "not for the UART");
        let mut bytes = [0; 2];
        assert_eq!((port.take_typed(&mut bytes), &bytes), (2, b"bc"));
        port.open(false);
        assert_eq!(port.typed(), 0);
        assert_eq!(port.read(0, Width::Word), u64::from(b'd'), "the rest is the UART's again");
        port.type_in(b"efghijklmnopqrstuvw");
        port.open(true);
        assert_eq!((count(&port.typed), port.typed()), (1, 18), "one is in the UART");
    }

    #[test]
    fn a_full_backlog_of_the_virtio_console_holds_back_as_well() {
        let (port, _) = port(ConsoleDevice::Pl011, None);
        port.open(true);
        assert_eq!((port.type_in(&[b'x'; 2 * BACKLOG]), port.room()), (BACKLOG, 0));
        port.rearm();
        port.take_typed(&mut [0; BACKLOG / 2 - 1]);
        assert_eq!(count(&port.wake), 0);
        port.take_typed(&mut [0; 1]);
        assert_eq!(count(&port.wake), 1);
    }

    #[test]
    fn narrow_reads_see_their_part_of_a_register() {
        let (port, _) = port(ConsoleDevice::Pl011, None);
        port.write(0x30, Width::Word, 0x0301);
        assert_eq!(port.read(0x30, Width::Byte) & 0xff, 0x01);
        assert_eq!(port.read(0x31, Width::Byte), 0x03);
    }
}
