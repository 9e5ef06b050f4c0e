// SPDX-License-Identifier: Apache-2.0
//! A virtio console (virtio 1.2, 5.3): Linux's `hvc0`. It has one port, which every driver knows; what is printed
//! and typed is the serial port's as well ([`crate::console`]).

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::io::{count, Io};
use super::link::Counters;
use super::{Chain, Face, Fault, Served, VirtioDevice};
use crate::confine::DeviceCalls;
use crate::console::Port;
use crate::diagnostic::Diagnostic;

// Queues.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

const ENTRIES: u16 = 64;
/// Bytes copied at a time.
const PIECE: usize = 1024;
/// Bytes of a request that are printed at most, so that none takes long: no driver has so long lines.
const LONGEST: u32 = 1 << 20;

/// A virtio console.
pub struct VirtioConsole {
    port: Arc<Port>,
}

impl VirtioConsole {
    /// The virtio console beside `port`.
    pub fn new(port: Arc<Port>) -> Self {
        Self { port }
    }

    /// Prints a request.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn print(&self, chain: &mut Chain<'_>, counters: &Counters) -> Result<u32, Fault> {
        let mut bytes = [0; PIECE];
        let mut text = chain.readable.split(LONGEST);
        while !text.is_empty() {
            let len = text.read(&mut bytes)?;
            self.port.print(&bytes[..len]);
            count(&counters.written, len as u64);
        }
        if !chain.readable.is_empty() {
            count(&counters.errors, 1);
        }
        Ok(0)
    }

    /// Types into a request; returns the bytes that were written.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn type_in(&self, chain: &mut Chain<'_>, counters: &Counters) -> Result<u32, Fault> {
        let mut bytes = [0; PIECE];
        let mut typed = 0u32;
        while !chain.writable.is_empty() {
            let room = usize::try_from(chain.writable.len()).map_or(PIECE, |room| room.min(PIECE));
            let len = self.port.take_typed(&mut bytes[..room]);
            if len == 0 {
                break;
            }
            chain.writable.write(&bytes[..len])?;
            count(&counters.read, len as u64);
            typed = typed.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        }
        Ok(typed)
    }

    fn receive(&self, io: &mut Io) -> Result<Served, Fault> {
        let waits = || self.port.typed() > 0;
        io.serve_while(RECEIVE, &waits, &mut |chain, link| self.type_in(chain, link.counters()))
    }
}

impl VirtioDevice for VirtioConsole {
    fn face(&self) -> Face {
        // No size, one port, no early write.
        Face { number: 3, features: 0, queues: vec![ENTRIES; 2], config: vec![0; 12] }
    }

    fn calls(&self) -> DeviceCalls {
        DeviceCalls::CONSOLE
    }

    fn start(&mut self, _: &mut Io) -> Result<(), Diagnostic> {
        self.port.open(true);
        Ok(())
    }

    fn kicked(&mut self, queue: usize, io: &mut Io) -> Result<Served, Fault> {
        match queue {
            TRANSMIT => io.serve(TRANSMIT, &mut |chain, link| self.print(chain, link.counters())),
            _ => self.receive(io),
        }
    }

    fn sources(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        vec![(RECEIVE, self.port.typed_fd())]
    }

    fn ready(&mut self, _: usize, io: &mut Io) -> Result<(), Fault> {
        self.port.look_for_typed(false);
        let served = self.receive(io)?;
        if served == Served::More {
            self.port.look_for_typed(true);
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.port.open(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConsoleConfig;
    use crate::config::ConsoleDevice;
    use crate::console::{Console, Options, Ring};
    use crate::device::fixture::{Driver, BUFFERS};
    use crate::device::{Queue, QueueRules};
    use crate::memory::Segment;
    use std::sync::atomic::Ordering;
    use std::time::{Duration, Instant};

    struct Guest {
        driver: Driver,
        queue: Queue,
        counters: Counters,
        console: Console,
        device: VirtioConsole,
        ring: Arc<Ring>,
    }

    fn guest() -> Guest {
        let ring = Arc::new(Ring::create("hvc", 64 << 10).unwrap());
        let config = ConsoleConfig {
            device: ConsoleDevice::Pl011,
            base: 0x0900_0000,
            label: 5,
            interrupt: 5,
            virtio: false,
        };
        let console = Console::start("hvc", &config, &ring, Options::default()).unwrap();
        let driver = Driver::new(8);
        let queue = driver.queue(QueueRules::default());
        let device = VirtioConsole::new(Arc::clone(console.port()));
        Guest { driver, queue, counters: Counters::default(), console, device, ring }
    }

    /// Types and waits until it is there.
    fn type_line(guest: &Guest, text: &str) {
        let before = guest.console.port().typed();
        guest.console.type_line(text);
        let deadline = Instant::now() + Duration::from_secs(10);
        while guest.console.port().typed() != before + text.len() + 1 {
            assert!(Instant::now() < deadline, "{text} never came");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_is_printed_is_in_the_ring() {
        let mut guest = guest();
        let long = vec![b'.'; 3000];
        let text = [
            guest.driver.buffer(b"hello "),
            guest.driver.buffer(b"guest\n"),
            guest.driver.buffer(&long),
        ];
        guest.driver.request(&text, &[]);
        let mut chain = guest.queue.pop().unwrap().unwrap();
        assert_eq!(guest.device.print(&mut chain, &guest.counters), Ok(0));
        let printed = guest.ring.tail();
        assert!(printed.starts_with(b"hello guest\n...") && printed.len() == 3012);
        assert_eq!(guest.counters.written.load(Ordering::Relaxed), 3012);
    }

    #[test]
    fn a_request_prints_so_much_and_no_more() {
        let mut guest = guest();
        let text = Segment { address: BUFFERS, len: 0xf_0000 };
        guest.driver.request(&[text; 8], &[]);
        let mut chain = guest.queue.pop().unwrap().unwrap();
        assert_eq!(guest.device.print(&mut chain, &guest.counters), Ok(0));
        assert_eq!(guest.ring.end(), u64::from(LONGEST));
        assert_eq!(guest.counters.errors.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_is_typed_fills_the_drivers_buffers() {
        let mut guest = guest();
        guest.console.port().open(true);
        type_line(&guest, "poweroff");
        let room = |at: u64, len| Segment { address: BUFFERS + at, len };
        guest.driver.request(&[], &[room(0, 4), room(0x100, 1)]);
        let mut chain = guest.queue.pop().unwrap().unwrap();
        assert_eq!(guest.device.type_in(&mut chain, &guest.counters), Ok(5));
        guest.driver.request(&[], &[room(0x200, 4096)]);
        let mut chain = guest.queue.pop().unwrap().unwrap();
        assert_eq!(guest.device.type_in(&mut chain, &guest.counters), Ok(4));
        let bytes = |at: u64, len| guest.driver.bytes(BUFFERS + at, len);
        assert_eq!([bytes(0, 4), bytes(0x100, 1), bytes(0x200, 5)].concat(), b"poweroff\r\0");
        assert_eq!(guest.console.port().typed(), 0);
    }

    #[test]
    fn a_request_without_room_takes_nothing() {
        let mut guest = guest();
        guest.console.port().open(true);
        type_line(&guest, "x");
        guest.driver.request(&[Segment { address: BUFFERS, len: 1 }], &[]);
        let mut chain = guest.queue.pop().unwrap().unwrap();
        assert_eq!(guest.device.type_in(&mut chain, &guest.counters), Ok(0));
        assert_eq!(guest.console.port().typed(), 2);
    }

    #[test]
    fn its_face_is_that_of_one_port() {
        let face = guest().device.face();
        assert_eq!((face.number, face.features, face.config.len()), (3, 0, 12));
        assert_eq!(face.queues, [64, 64]);
    }
}
