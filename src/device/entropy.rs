// SPDX-License-Identifier: Apache-2.0
//! A virtio entropy device (virtio 1.2, 5.4): the host's random bytes.

use std::fs::File;
use std::os::fd::AsFd;

use super::io::{count, Io};
use super::link::Counters;
use super::{Chain, Face, Fault, Served, VirtioDevice};
use crate::confine::DeviceCalls;
use crate::diagnostic::{kinds, Diagnostic};
use crate::text::errno_of;

kinds! {
    OPEN: Error "entropy-open" in Functions {
        "there is no randomness for the guest's entropy device",
        cause: "/dev/urandom is missing, or SELinux denies it",
        cure: "check `ls -lZ /dev/urandom`; look for avc: denied in dmesg",
    }
    READ: Warning "entropy-read" in Run {
        "the host gives the guest's entropy device no random bytes",
        cure: "look for random in dmesg",
    }
}

const RANDOM: &str = "/dev/urandom";
/// Requests that wait at a time: a driver has one.
const ENTRIES: u16 = 8;
/// Bytes that a request gets at most, so that none takes long. Linux asks for 64.
const MOST: u32 = 4096;

/// An entropy device.
pub struct Entropy {
    random: File,
}

impl Entropy {
    /// Opens the host's randomness.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open() -> Result<Self, Diagnostic> {
        let failed = |error| OPEN.case(format!("opening {RANDOM}")).errno(errno_of(&error));
        Ok(Self { random: File::open(RANDOM).map_err(failed)? })
    }

    /// Answers a request; returns the bytes that were written.
    pub fn answer(
        &self,
        chain: &mut Chain<'_>,
        counters: &Counters,
        warn: impl Fn(Diagnostic),
    ) -> u32 {
        let room = chain.writable.split(MOST);
        match room.read_from(self.random.as_fd(), 0) {
            Ok(()) => {
                count(&counters.read, room.len().into());
                room.len()
            }
            Err(error) => {
                count(&counters.errors, 1);
                warn(READ.case(format!("reading {RANDOM}")).errno(errno_of(&error)));
                0
            }
        }
    }
}

impl VirtioDevice for Entropy {
    fn face(&self) -> Face {
        Face { number: 4, features: 0, queues: vec![ENTRIES], config: Vec::new() }
    }

    fn calls(&self) -> DeviceCalls {
        DeviceCalls::ENTROPY
    }

    fn kicked(&mut self, queue: usize, io: &mut Io) -> Result<Served, Fault> {
        io.serve(queue, &mut |chain, link| {
            Ok(self.answer(chain, link.counters(), |warning| link.warn(warning)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fixture::{Driver, BUFFERS};
    use crate::device::QueueRules;
    use crate::memory::Segment;
    use std::cell::Cell;

    #[test]
    fn requests_are_filled_as_far_as_they_may() {
        let entropy = Entropy::open().unwrap();
        let counters = Counters::default();
        let mut driver = Driver::new(8);
        let mut queue = driver.queue(QueueRules::default());
        let buffers =
            [(0, 64), (0x1000, 100)].map(|(at, len)| Segment { address: BUFFERS + at, len });
        for (rooms, expected) in [
            (&buffers[..1], 64),
            (&buffers[..], 164),
            (&[Segment { address: BUFFERS, len: 0x4000 }][..], MOST),
        ] {
            driver.request(&[], rooms);
            let mut chain = queue.pop().unwrap().unwrap();
            assert_eq!(
                entropy.answer(&mut chain, &counters, |warning| panic!("{warning}")),
                expected
            );
        }
        let bytes = driver.bytes(BUFFERS, 4096);
        assert!(bytes.iter().filter(|byte| **byte == 0).count() < 100);
        assert_eq!(driver.bytes(BUFFERS + 4096, 100).len(), 100);
        assert_eq!(driver.bytes(BUFFERS + 0x1064, 64), [0; 64], "and no farther");
        // A request without room is none of ours, and hurts nobody.
        driver.request(&buffers[..1], &[]);
        let mut chain = queue.pop().unwrap().unwrap();
        assert_eq!(entropy.answer(&mut chain, &counters, |warning| panic!("{warning}")), 0);
    }

    #[test]
    fn a_host_without_randomness_is_a_warning() {
        let entropy = Entropy { random: File::open("/dev/null").unwrap() };
        let mut driver = Driver::new(8);
        let mut queue = driver.queue(QueueRules::default());
        driver.request(&[], &[Segment { address: BUFFERS, len: 64 }]);
        let mut chain = queue.pop().unwrap().unwrap();
        let name = Cell::new(String::new());
        let warn = |warning: Diagnostic| name.set(warning.name.to_string());
        assert_eq!(entropy.answer(&mut chain, &Counters::default(), warn), 0);
        assert_eq!(name.take(), "entropy-read");
        assert_eq!(OPEN.case("").name, "entropy-open");
    }
}
