// SPDX-License-Identifier: Apache-2.0
//! The queue against drivers that keep its rules, and against those that do not.

use super::*;
use crate::device::fixture::{Driver, BASE, BUFFERS, INDIRECT, NEXT, SIZE, WRITE};

const INDIRECT_TOO: QueueRules = QueueRules { indirect: true, event_idx: false };
const EVENT_IDX: QueueRules = QueueRules { indirect: true, event_idx: true };
/// An indirect table.
const TABLE: u64 = BASE + 0x8000;

fn buffer(address: u64, len: u32) -> Segment {
    Segment { address, len }
}

/// What the queue says of the one request that `make` describes at descriptor 0.
fn fault(rules: QueueRules, make: impl Fn(&Driver)) -> Fault {
    let mut driver = Driver::new(8);
    make(&driver);
    driver.offer(0);
    driver.queue(rules).pop().unwrap_err()
}

#[test]
fn a_request_is_read_answered_and_given_back() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(QueueRules::default());
    assert!(queue.pop().unwrap().is_none());
    let question = [driver.buffer(b"how "), driver.buffer(b"are you?")];
    let answer = [driver.buffer(&[0; 3]), driver.buffer(&[0; 9])];
    driver.request(&question, &answer);

    let mut chain = queue.pop().unwrap().unwrap();
    assert_eq!((chain.head, chain.readable.len(), chain.writable.len()), (0, 12, 12));
    assert!(chain.readable.segments().eq(question));
    let mut bytes = [0; 20];
    assert_eq!(chain.readable.read(&mut bytes[..6]).unwrap(), 6);
    assert_eq!(chain.readable.read(&mut bytes[6..]).unwrap(), 6);
    assert_eq!(&bytes[..12], b"how are you?");
    assert!(chain.readable.is_empty());
    assert_eq!(chain.writable.write(b"fine,").unwrap(), 5);
    assert_eq!(chain.writable.write(b" thank you").unwrap(), 7, "no more room");
    let head = chain.head;
    queue.push(head, 12).unwrap();
    assert_eq!(driver.taken(), [(0, 12)]);
    assert_eq!(driver.bytes(answer[0].address, 12), b"fine, thank ");
    assert!(queue.pop().unwrap().is_none());
}

#[test]
fn bytes_are_split_wherever_it_is_wanted() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(QueueRules::default());
    driver.request(&[buffer(BUFFERS, 10), buffer(BUFFERS + 100, 10)], &[buffer(BUFFERS + 200, 1)]);
    let chain = queue.pop().unwrap().unwrap();
    let mut rest = chain.readable.clone();
    assert!(rest.split(0).is_empty());
    assert!(rest.split(4).segments().eq([buffer(BUFFERS, 4)]));
    let mut middle = rest.split(11);
    assert!(middle.segments().eq([buffer(BUFFERS + 4, 6), buffer(BUFFERS + 100, 5)]));
    assert!(middle.split(6).segments().eq([buffer(BUFFERS + 4, 6)]));
    assert!(middle.segments().eq([buffer(BUFFERS + 100, 5)]));
    assert!(rest.segments().eq([buffer(BUFFERS + 105, 5)]));
    assert_eq!(rest.split(99).len(), 5);
    assert!(rest.is_empty() && rest.segments().next().is_none());
    assert_eq!(chain.readable.len(), 20);
}

#[test]
fn an_indirect_table_is_read_after_what_stands_before_it() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(INDIRECT_TOO);
    driver.describe(3, BUFFERS, 16, NEXT, 5);
    // The flag "written by the device" says nothing of a table.
    driver.describe(5, TABLE + 4, 3 * 16, INDIRECT | WRITE, 0);
    for (index, flags) in [(0, NEXT), (1, NEXT | WRITE), (2, WRITE)] {
        let at = BUFFERS + 0x100 * u64::from(index + 1);
        driver.describe_in(TABLE + 4, index, at, 32, flags, index + 1);
    }
    driver.offer(3);
    let chain = queue.pop().unwrap().unwrap();
    assert_eq!(chain.head, 3);
    assert!(chain.readable.segments().eq([buffer(BUFFERS, 16), buffer(BUFFERS + 0x100, 32)]));
    assert_eq!(chain.writable.segments().count(), 2);
}

#[test]
fn an_indirect_table_may_be_longer_than_the_queue() {
    let mut driver = Driver::new(2);
    let mut queue = driver.queue(INDIRECT_TOO);
    driver.describe(1, TABLE, 256 * 16, INDIRECT, 0);
    for index in 0..256 {
        let next = if index < 255 { NEXT } else { 0 };
        driver.describe_in(TABLE, index, BUFFERS, 1, next, index + 1);
    }
    driver.offer(1);
    assert_eq!(queue.pop().unwrap().unwrap().readable.len(), 256);
    // But not without end.
    driver.describe(1, TABLE, 257 * 16, INDIRECT, 0);
    driver.describe_in(TABLE, 255, BUFFERS, 1, NEXT, 256);
    driver.describe_in(TABLE, 256, BUFFERS, 1, 0, 0);
    driver.offer(1);
    assert_eq!(queue.pop().unwrap_err(), Fault::TooLong(256));
}

#[test]
fn all_entries_are_served_in_order_however_often_the_indices_wrap() {
    let mut driver = Driver::new(4);
    let mut queue = driver.queue(EVENT_IDX);
    for index in 0..4 {
        driver.describe(index, BUFFERS, u32::from(index) + 1, WRITE, 0);
    }
    for round in 0..40_000u32 {
        let heads = [round % 4, (round + 3) % 4, (round + 2) % 4];
        heads.iter().for_each(|head| driver.offer(u16::try_from(*head).unwrap()));
        for head in heads {
            let chain = queue.pop().unwrap().unwrap();
            assert_eq!((u32::from(chain.head), chain.writable.len()), (head, head + 1));
            let head = chain.head;
            queue.push(head, round).unwrap();
        }
        assert!(queue.pop().unwrap().is_none());
        assert_eq!(driver.taken(), heads.map(|head| (head, round)));
    }
}

#[test]
fn a_queue_is_refused_where_it_cannot_be() {
    let driver = Driver::new(8);
    let good = driver.layout;
    let refused = |layout: QueueLayout| {
        Queue::new(&driver.window, 128, layout, QueueRules::default()).unwrap_err()
    };
    for size in [0, 3, 256, 0x8000, u16::MAX] {
        assert_eq!(refused(QueueLayout { size, ..good }), Fault::Size(size));
    }
    let descriptors = good.descriptors + 8;
    let unaligned = refused(QueueLayout { descriptors, ..good });
    assert_eq!(unaligned, Fault::Unaligned("descriptor table", descriptors));
    let unaligned = refused(QueueLayout { driver: good.driver + 1, ..good });
    assert_eq!(unaligned, Fault::Unaligned("available ring", good.driver + 1));
    let unaligned = refused(QueueLayout { device: good.device + 2, ..good });
    assert_eq!(unaligned, Fault::Unaligned("used ring", good.device + 2));
    // The last byte of each is outside.
    let end = BASE + SIZE;
    let outside = |name, address, len| Fault::RingOutside(name, Outside { address, len });
    let at = end - 8 * 16 + 16;
    let answer = refused(QueueLayout { descriptors: at, ..good });
    assert_eq!(answer, outside("descriptor table", at, 128));
    let answer = refused(QueueLayout { driver: end - 20, ..good });
    assert_eq!(answer, outside("available ring", end - 20, 22));
    let answer = refused(QueueLayout { device: end - 68, ..good });
    assert_eq!(answer, outside("used ring", end - 68, 70));
    let answer = refused(QueueLayout { descriptors: u64::MAX - 15, ..good });
    assert_eq!(answer, outside("descriptor table", u64::MAX - 15, 128));
    let fits = QueueLayout { driver: end - 22, device: BASE, ..good };
    assert!(Queue::new(&driver.window, 8, fits, QueueRules::default()).is_ok());
}

#[test]
fn an_index_that_jumps_is_a_fault() {
    for (index, jump) in [(9, 9), (0xffff, 0xffff), (0x8000, 0x8000)] {
        let driver = Driver::new(8);
        let mut queue = driver.queue(EVENT_IDX);
        driver.publish(index);
        assert_eq!(queue.pop().unwrap_err(), Fault::Jump(jump, 8));
        assert_eq!(queue.want_kicks(), Err(Fault::Jump(jump, 8)));
    }
    // Back, too.
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(EVENT_IDX);
    driver.request(&[buffer(BUFFERS, 1)], &[]);
    assert!(queue.pop().unwrap().is_some());
    driver.publish(0);
    assert_eq!(queue.pop().unwrap_err(), Fault::Jump(0xffff, 8));
}

#[test]
fn descriptors_that_are_not_there_are_a_fault() {
    let mut driver = Driver::new(8);
    driver.offer(8);
    assert_eq!(driver.queue(INDIRECT_TOO).pop().unwrap_err(), Fault::NoDescriptor(8, 8));
    let next = fault(INDIRECT_TOO, |driver| driver.describe(0, BUFFERS, 1, NEXT, 0xffff));
    assert_eq!(next, Fault::NoDescriptor(0xffff, 8));
    let inside = fault(INDIRECT_TOO, |driver| {
        driver.describe(0, TABLE, 32, INDIRECT, 0);
        driver.describe_in(TABLE, 0, BUFFERS, 1, NEXT, 2);
    });
    assert_eq!(inside, Fault::NoDescriptor(2, 2));
}

#[test]
fn circles_end() {
    let own = fault(INDIRECT_TOO, |driver| driver.describe(0, BUFFERS, 1, NEXT, 0));
    assert_eq!(own, Fault::TooLong(8));
    let circle = fault(INDIRECT_TOO, |driver| {
        driver.describe(0, BUFFERS, 1, NEXT, 7);
        driver.describe(7, BUFFERS, 1, NEXT, 0);
    });
    assert_eq!(circle, Fault::TooLong(8));
    let inside = fault(INDIRECT_TOO, |driver| {
        driver.describe(0, TABLE, 32, INDIRECT, 0);
        driver.describe_in(TABLE, 0, BUFFERS, 1, NEXT, 1);
        driver.describe_in(TABLE, 1, BUFFERS, 1, NEXT, 0);
    });
    assert_eq!(inside, Fault::TooLong(256));
    let table = fault(INDIRECT_TOO, |driver| {
        driver.describe(0, driver.layout.descriptors, 16, INDIRECT, 0)
    });
    assert_eq!(table, Fault::Indirect, "a table that is its own entry");
}

#[test]
fn a_chain_as_long_as_the_queue_is_taken() {
    let mut driver = Driver::new(8);
    driver.request(&[buffer(BUFFERS, 1); 8], &[]);
    let mut queue = driver.queue(QueueRules::default());
    assert_eq!(queue.pop().unwrap().unwrap().readable.len(), 8);
}

#[test]
fn indirect_descriptors_have_their_place() {
    let unasked = fault(QueueRules::default(), |driver| driver.describe(0, TABLE, 16, INDIRECT, 0));
    assert_eq!(unasked, Fault::Indirect);
    let nested = fault(INDIRECT_TOO, |driver| {
        driver.describe(0, TABLE, 16, INDIRECT, 0);
        driver.describe_in(TABLE, 0, TABLE + 16, 16, INDIRECT, 0);
    });
    assert_eq!(nested, Fault::Indirect);
    let next = fault(INDIRECT_TOO, |driver| driver.describe(0, TABLE, 16, INDIRECT | NEXT, 1));
    assert_eq!(next, Fault::Indirect);
    for len in [0, 8, 17, 0xffff_ffff] {
        let size = fault(INDIRECT_TOO, |driver| driver.describe(0, TABLE, len, INDIRECT, 0));
        assert_eq!(size, Fault::IndirectSize(len));
    }
    let far = BASE + SIZE;
    let outside = fault(INDIRECT_TOO, |driver| driver.describe(0, far, 16, INDIRECT, 0));
    assert_eq!(outside, Fault::Outside(Outside { address: far, len: 16 }));
    let wraps = fault(INDIRECT_TOO, |driver| driver.describe(0, u64::MAX - 7, 32, INDIRECT, 0));
    assert!(matches!(wraps, Fault::Outside(_)), "{wraps}");
}

#[test]
fn buffers_are_inside_and_have_bytes() {
    let empty = fault(INDIRECT_TOO, |driver| driver.describe(0, BUFFERS, 0, 0, 0));
    assert_eq!(empty, Fault::Empty);
    for (address, len) in
        [(BASE + SIZE - 4, 5), (BASE - 1, 1), (u64::MAX, 2), (0, 0xffff_ffff), (BASE, 0xffff_ffff)]
    {
        let outside = fault(INDIRECT_TOO, |driver| driver.describe(0, address, len, WRITE, 0));
        assert_eq!(outside, Fault::Outside(Outside { address, len: len.into() }));
    }
    let order = fault(INDIRECT_TOO, |driver| {
        driver.describe(0, BUFFERS, 1, NEXT, 1);
        driver.describe(1, BUFFERS, 1, NEXT | WRITE, 2);
        driver.describe(2, BUFFERS, 1, 0, 0);
    });
    assert_eq!(order, Fault::ReadAfterWrite);
}

#[test]
fn four_gigabytes_in_all_are_too_many() {
    let largest = 16 << 20;
    let mut driver = Driver::with_memory(8, u64::from(largest) + SIZE);
    driver.describe(0, TABLE, 256 * 16, INDIRECT, 0);
    for index in 0..256 {
        let next = if index < 255 { NEXT } else { 0 };
        let len = if index < 255 { largest } else { largest - 1 };
        driver.describe_in(TABLE, index, BUFFERS, len, next, index + 1);
    }
    driver.offer(0);
    let taken = driver.queue(INDIRECT_TOO).pop().unwrap().unwrap().readable.len();
    assert_eq!(taken, u32::MAX);
    driver.describe_in(TABLE, 255, BUFFERS, largest, 0, 0);
    assert_eq!(driver.queue(INDIRECT_TOO).pop().unwrap_err(), Fault::TooLarge);
}

#[test]
fn a_descriptor_is_read_once_whatever_the_guest_does_meanwhile() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(INDIRECT_TOO);
    let text = driver.buffer(b"as it was checked");
    driver.request(&[text], &[]);
    let mut chain = queue.pop().unwrap().unwrap();
    // The driver goes back on its word.
    driver.describe(0, u64::MAX - 3, 0xffff_ffff, NEXT | INDIRECT, 0xffff);
    driver.publish(0xffff);
    let mut bytes = [0; 17];
    assert_eq!(chain.readable.read(&mut bytes).unwrap(), 17);
    assert_eq!(&bytes, b"as it was checked");
}

#[test]
fn kicks_and_interrupts_without_event_idx_follow_flags() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(QueueRules::default());
    assert_eq!(queue.must_interrupt(), Ok(false), "nothing was given back");
    queue.push(0, 0).unwrap();
    assert_eq!(queue.must_interrupt(), Ok(true));
    assert_eq!(queue.must_interrupt(), Ok(false), "told already");
    driver.flags(1);
    queue.push(0, 0).unwrap();
    assert_eq!(queue.must_interrupt(), Ok(false));
    queue.want_no_kicks().unwrap();
    assert_eq!(driver.device_flags(), 1);
    driver.request(&[buffer(BUFFERS, 1)], &[]);
    assert_eq!(queue.want_kicks(), Ok(true), "it came without a kick");
    assert_eq!(driver.device_flags(), 0);
    assert!(queue.pop().unwrap().is_some());
    assert_eq!(queue.want_kicks(), Ok(false));
}

#[test]
fn kicks_and_interrupts_with_event_idx_follow_indices() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(EVENT_IDX);
    driver.flags(1);
    driver.used_event(0);
    queue.push(0, 0).unwrap();
    assert_eq!(queue.must_interrupt(), Ok(true), "0 was passed; the flag says nothing");
    driver.used_event(3);
    for expected in [false, false, true, false] {
        queue.push(0, 0).unwrap();
        assert_eq!(queue.must_interrupt(), Ok(expected));
    }
    driver.used_event(6);
    for _ in 0..4 {
        queue.push(0, 0).unwrap();
    }
    assert_eq!(queue.must_interrupt(), Ok(true), "several at once");
    queue.want_no_kicks().unwrap();
    assert_eq!(driver.device_flags(), 0, "the flag is not used");
    assert_eq!((queue.want_kicks(), driver.available_event()), (Ok(false), 0));
    driver.request(&[buffer(BUFFERS, 1)], &[]);
    assert_eq!((queue.want_kicks(), driver.available_event()), (Ok(true), 0));
    assert!(queue.pop().unwrap().is_some());
    assert_eq!((queue.want_kicks(), driver.available_event()), (Ok(false), 1));
}

#[test]
fn an_interrupt_is_not_lost_where_the_index_wraps() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(EVENT_IDX);
    driver.used_event(0xffff);
    for _ in 0..0xffff {
        queue.push(0, 0).unwrap();
    }
    assert_eq!(queue.must_interrupt(), Ok(false));
    queue.push(0, 0).unwrap();
    assert_eq!(queue.must_interrupt(), Ok(true));
    assert_eq!(driver.taken(), [], "the index is 0 again");
    // Whatever is wished for lies within a whole round.
    for _ in 0..0x1_0000 {
        queue.push(0, 0).unwrap();
    }
    driver.used_event(0xffff);
    assert_eq!(queue.must_interrupt(), Ok(true));
    driver.used_event(0x1234);
    for _ in 0..0x1_0005 {
        queue.push(0, 0).unwrap();
    }
    assert_eq!(queue.must_interrupt(), Ok(true));
}

#[test]
fn a_broken_ring_has_a_name_and_one_outside_the_pool_another() {
    let outside = Fault::Outside(Outside { address: 0x8000_0000, len: 16 });
    let lent = outside.diagnostic(Some(0), true);
    assert_eq!(lent.name, "device-outside-pool");
    assert!(lent.cause.contains("DMA_RESTRICTED_POOL"), "{lent}");
    assert!(lent.what.starts_with("queue 0: 0x10 bytes at guest 0x80000000"), "{lent}");
    let ring = Fault::RingOutside("used ring", Outside { address: 0, len: 70 });
    assert_eq!(ring.diagnostic(None, true).name, "device-outside-pool");
    for fault in [ring, outside, Fault::Empty, Fault::Jump(9, 8)] {
        assert_eq!(fault.diagnostic(None, false).name, "device-queue-broken");
    }
    assert_eq!(Fault::Empty.diagnostic(None, true).name, "device-queue-broken");
}

#[test]
fn a_request_goes_to_a_file_and_comes_from_one() {
    use std::os::fd::AsFd;
    let memfd = rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(QueueRules::default());
    let out = [driver.buffer(b"one "), driver.buffer(b"two")];
    let room = [buffer(BUFFERS + 0x100, 5), buffer(BUFFERS + 0x200, 2)];
    driver.request(&out, &room);
    let mut chain = queue.pop().unwrap().unwrap();
    chain.readable.write_to(memfd.as_fd(), 3).unwrap();
    chain.writable.split(7).read_from(memfd.as_fd(), 3).unwrap();
    assert_eq!(driver.bytes(BUFFERS + 0x100, 5), b"one t");
    assert_eq!(driver.bytes(BUFFERS + 0x200, 2), b"wo");
}
