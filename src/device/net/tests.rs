// SPDX-License-Identifier: Apache-2.0
//! The receiver and the sender on a socket of packets, which moves them as a tap does.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};
use nix::unistd::{read, write};

use super::*;
use crate::device::fixture::{Driver, BUFFERS, INDIRECT, NEXT, WRITE};
use crate::device::QueueRules;

const MAC_1: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// The network's end of a tap, and the device on the other.
fn tap() -> (OwnedFd, Net) {
    let flags = SockFlag::SOCK_NONBLOCK;
    let (far, near) = socketpair(AddressFamily::Unix, SockType::Datagram, None, flags).unwrap();
    (far, Net::new(near, "tap7", MAC_1, None))
}

/// A packet of `len` bytes, header included.
fn packet(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..=250).cycle().take(len).collect();
    bytes[..len.min(12)].fill(0);
    bytes
}

/// Offers `count` buffers of `len` bytes, each a descriptor.
fn offer(driver: &mut Driver, first: u16, count: u16, len: u32) {
    for index in first..first + count {
        driver.describe(index, BUFFERS + u64::from(index) * 0x1000, len, WRITE, 0);
        driver.offer(index);
    }
}

struct Receiving {
    receiver: Receiver,
    driver: Driver,
    queue: Queue,
    counters: Counters,
    interrupts: Cell<u32>,
}

impl Receiving {
    fn new(features: u64) -> Self {
        let driver = Driver::new(64);
        let queue = driver.queue(QueueRules::default());
        let receiver = Receiver::new(features, 1500);
        let counters = Counters::default();
        Self { receiver, driver, queue, counters, interrupts: Cell::new(0) }
    }

    fn turn(&mut self, net: &Net) -> Turn {
        let interrupt = || self.interrupts.set(self.interrupts.get() + 1);
        let window = self.driver.window.clone();
        let (queue, counters) = (&mut self.queue, &self.counters);
        self.receiver.receive(net.tap.as_fd(), queue, &window, counters, interrupt).unwrap()
    }
}

#[test]
fn packets_come_one_a_buffer() {
    let (far, net) = tap();
    let mut it = Receiving::new(0);
    offer(&mut it.driver, 0, 4, 2048);
    for len in [60, 1514 + 12] {
        write(&far, &packet(len)).unwrap();
    }
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 60), (1, 1526)]);
    let got = it.driver.bytes(BUFFERS + 0x1000, 1526);
    assert_eq!(got[..12], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], "it lies in one buffer");
    assert_eq!(got[12..], packet(1526)[12..]);
    assert_eq!(it.interrupts.get(), 2);
    assert_eq!(it.counters.read.load(Ordering::Relaxed), 48 + 1514);
    assert!(!it.receiver.starved);
}

#[test]
fn a_driver_without_buffers_is_asked_for_kicks_and_loses_nothing() {
    let (far, net) = tap();
    let mut it = Receiving::new(0);
    write(&far, &packet(100)).unwrap();
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert!(it.receiver.starved && it.driver.device_flags() == 0);
    offer(&mut it.driver, 0, 1, 2048);
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 100)]);
}

#[test]
fn a_long_packet_lies_in_several_buffers_if_the_driver_takes_that() {
    let (far, net) = tap();
    let mut it = Receiving::new(MRG_RXBUF);
    offer(&mut it.driver, 0, 2, 512);
    write(&far, &packet(1300)).unwrap();
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [], "it might not have room yet");
    offer(&mut it.driver, 2, 4, 512);
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 512), (1, 512), (2, 276)]);
    let got: Vec<u8> =
        (0..3).flat_map(|at| it.driver.bytes(BUFFERS + at * 0x1000, 512)).take(1300).collect();
    assert_eq!(got[10..12], [3, 0], "in three buffers");
    assert_eq!(got[12..], packet(1300)[12..]);
    // What is left waits for the next one.
    assert_eq!((it.receiver.buffers.len(), it.receiver.room), (3, 1536));
}

#[test]
fn a_driver_of_few_small_buffers_gets_what_fits() {
    let (far, net) = tap();
    let mut it = Receiving::new(MRG_RXBUF | GUEST_TSO4);
    offer(&mut it.driver, 0, 33, 512);
    write(&far, &packet(600)).unwrap();
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 512), (1, 88)]);
}

#[test]
fn buffers_in_many_pieces_are_no_more_than_one_call_takes() {
    const TABLE: u64 = BUFFERS + 0x4_0000;
    let (far, net) = tap();
    let mut it = Receiving::new(MRG_RXBUF);
    it.driver = Driver::new(256);
    it.queue = it.driver.queue(QueueRules { indirect: true, event_idx: false });
    for index in 0..255 {
        let next = if index < 254 { NEXT } else { 0 };
        it.driver.describe_in(TABLE, index, BUFFERS, 1, WRITE | next, index + 1);
    }
    // 255 bytes each: the longest packet would lie in six of them.
    for index in 0..8 {
        it.driver.describe(index, TABLE, 255 * 16, INDIRECT, 0);
        it.driver.offer(index);
    }
    for len in [60, 300] {
        write(&far, &packet(len)).unwrap();
    }
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 60), (1, 255), (2, 45)]);
}

#[test]
fn buffers_of_gigabytes_are_counted() {
    const TABLE: u64 = BUFFERS + 0x4_0000;
    let (far, net) = tap();
    let mut it = Receiving::new(MRG_RXBUF);
    it.driver = Driver::with_memory(8, 32 << 20);
    it.queue = it.driver.queue(QueueRules { indirect: true, event_idx: false });
    offer(&mut it.driver, 0, 1, 100);
    // The same memory again and again: as much as a request may have.
    for index in 0..256 {
        let next = if index < 255 { NEXT } else { 0 };
        let len = if index < 255 { 1 << 24 } else { (1 << 24) - 1 };
        it.driver.describe_in(TABLE, index, BUFFERS + 0x8_0000, len, WRITE | next, index + 1);
    }
    it.driver.describe(1, TABLE, 256 * 16, INDIRECT, 0);
    it.driver.offer(1);
    for len in [60, 70] {
        write(&far, &packet(len)).unwrap();
    }
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 60), (1, 70)]);
    assert_eq!(it.receiver.room, 0);
}

#[test]
fn a_buffer_without_room_for_a_header_is_given_back_empty() {
    let (far, net) = tap();
    let mut it = Receiving::new(0);
    offer(&mut it.driver, 0, 1, 11);
    offer(&mut it.driver, 1, 1, 2048);
    write(&far, &packet(60)).unwrap();
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.taken(), [(0, 0), (1, 60)]);
    assert_eq!(it.counters.errors.load(Ordering::Relaxed), 1);
}

#[test]
fn a_header_may_lie_in_pieces() {
    let (far, net) = tap();
    let mut it = Receiving::new(0);
    it.driver.describe(0, BUFFERS, 11, NEXT | WRITE, 1);
    it.driver.describe(1, BUFFERS + 0x1000, 100, WRITE, 0);
    it.driver.offer(0);
    write(&far, &packet(60)).unwrap();
    assert!(matches!(it.turn(&net), Turn::Idle));
    assert_eq!(it.driver.bytes(BUFFERS + 10, 2), [1, 0]);
    assert_eq!(it.driver.bytes(BUFFERS + 0x1000, 2), [0, 12]);
}

#[test]
fn a_turn_ends_while_a_driver_still_gives_buffers() {
    let (_far, net) = tap();
    let mut it = Receiving::new(0);
    it.driver = Driver::new(256);
    it.queue = it.driver.queue(QueueRules::default());
    for index in 0..256 {
        it.driver.describe(index, BUFFERS, 4, WRITE, 0);
        it.driver.offer(index);
    }
    assert!(matches!(it.turn(&net), Turn::More));
    assert_eq!(it.driver.taken().len(), 256);
}

fn sending(driver: &mut Driver, len: usize) -> Segment {
    let bytes = packet(len);
    driver.buffer(&bytes)
}

#[test]
fn packets_are_sent_whole_and_others_dropped() {
    let (far, net) = tap();
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(QueueRules::default());
    let counters = Counters::default();
    for (lens, sent) in [
        (vec![12, 48], Some(60)),
        (vec![5, 7, 1514], Some(1526)),
        (vec![25], None),
        (vec![40_000, 40_000], None),
    ] {
        let parts: Vec<Segment> = lens.iter().map(|len| sending(&mut driver, *len)).collect();
        driver.request(&parts, &[]);
        let chain = queue.pop().unwrap().unwrap();
        net.transmit(&chain, &counters, |warning| panic!("{warning}")).unwrap();
        let mut bytes = [0; 2048];
        let got = read(&far, &mut bytes).ok();
        assert_eq!(got, sent, "{lens:?}");
    }
    assert_eq!(counters.errors.load(Ordering::Relaxed), 2);
    assert_eq!(counters.written.load(Ordering::Relaxed), 48 + 1514);
}

#[test]
fn a_tap_that_is_down_or_gone_has_a_name() {
    let mut driver = Driver::new(8);
    let mut queue = driver.queue(QueueRules::default());
    let counters = Counters::default();
    let names = RefCell::new(Vec::new());
    let warn = |warning: Diagnostic| names.borrow_mut().push(warning.to_string());
    let mut send = |net: &Net| {
        let part = sending(&mut driver, 60);
        driver.request(&[part], &[]);
        let chain = queue.pop().unwrap().unwrap();
        net.transmit(&chain, &counters, warn)
    };
    // Nobody has the other end: the tap is gone.
    let (far, net) = tap();
    drop(far);
    assert!(send(&net).is_err());
    // EIO, a tap's answer while it is down, is not to be had of a socket, but of a file of the kernel's.
    let down = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let net = Net::new(down.into(), "tap7", MAC_1, None);
    assert_eq!(send(&net), Ok(()));
    let names = names.borrow();
    assert!(names.len() == 1 && names[0].contains("net-tap-down"), "{names:?}");
    assert!(names[0].contains("ip link set tap7 up"), "{names:?}");
    assert_eq!(GONE.case("").name, "net-tap-gone");
    assert_eq!(NO_OFFLOAD.case("").name, "net-no-offload");
    assert_eq!(NO_TUN.case("").name, "net-no-tun");
}

#[test]
fn a_tap_that_cannot_be_had_says_why() {
    for (errno, why) in [
        (Errno::EPERM, "may make none"),
        (Errno::EBUSY, "another VM"),
        (Errno::EINVAL, "is no tap"),
        (Errno::ENOMEM, "refuses"),
    ] {
        let fault = no_tap("tap7", errno);
        assert_eq!(fault.name, "net-no-tap");
        assert!(fault.to_string().contains(why), "{fault}");
    }
}

#[test]
fn its_face_has_what_the_file_says() {
    let (_far, mut net) = tap();
    let face = net.face();
    assert_eq!((face.number, face.config.len()), (1, 12));
    assert_eq!(face.config, [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0]);
    assert_eq!(face.features & (MTU | GUEST_CSUM | GUEST_TSO4), 0);
    (net.offloads, net.mtu) = (true, Some(9000));
    let face = net.face();
    assert_eq!(face.features & (MTU | GUEST_CSUM | GUEST_TSO4), MTU | GUEST_CSUM | GUEST_TSO4);
    assert_eq!(face.config[10..], [0x28, 0x23]);
}

#[test]
fn addresses_differ_and_stay() {
    let name = |text| VmName::new(text).unwrap();
    let all = [("a", 0), ("a", 1), ("b", 0)].map(|(vm, index)| Mac::of(&name(vm), index));
    assert!(all[0] != all[1] && all[1] != all[2] && all[0] != all[2]);
    assert_eq!(all[0], Mac::of(&name("a"), 0));
    assert!(all.iter().all(|mac| mac.0[0] == 2));
}

/// A tap of the kernel's own, in a network of this thread. Only root may make one.
#[test]
fn a_real_tap_leaves_to_the_guest_what_that_can_do_and_is_one_vms() {
    std::thread::spawn(|| {
        let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
        if !own || open_tun().is_err() {
            eprintln!("SKIPPED: no tap can be made: needs root and /dev/net/tun");
            return;
        }
        let vm = VmName::new("vm").unwrap();
        let config = NetConfig { tap: "tap7".to_owned(), mac: None, mtu: Some(1400) };
        let net = Net::open(&config, &vm, 0).unwrap();
        assert!(net.offloads, "since Linux 2.6.27");
        assert_eq!((net.mac, net.mtu), (Mac::of(&vm, 0), Some(1400)));
        let busy = Net::open(&config, &vm, 1).err().unwrap();
        assert_eq!(busy.name, "net-no-tap");
        assert!(busy.to_string().contains("EBUSY"), "{busy}");
        let none = NetConfig { tap: "lo".to_owned(), ..config };
        let none = Net::open(&none, &vm, 0).err().unwrap();
        assert!(none.to_string().contains("is no tap"), "{none}");
        // It is not up.
        let mut driver = Driver::new(8);
        let mut queue = driver.queue(QueueRules::default());
        let part = sending(&mut driver, 60);
        driver.request(&[part], &[]);
        let chain = queue.pop().unwrap().unwrap();
        let warned = Cell::new(false);
        let warn = |warning: Diagnostic| warned.set(warning.name == "net-tap-down");
        assert_eq!(net.transmit(&chain, &Counters::default(), warn), Ok(()));
        assert!(warned.get());
    })
    .join()
    .unwrap();
}
