// SPDX-License-Identifier: Apache-2.0
//! A network device between a driver that keeps the rules and a socket that moves packets as a tap does: what
//! is offered, when, and what comes is of bytes.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;

use gunyahd::config::{Mac, VmName};
use gunyahd::device::{Counters, Net, Queue, QueueLayout, QueueRules, Receiver, Turn};
use gunyahd::memory::{GuestMemory, Window};

const BASE: u64 = 0x4000_0000;
const SIZE: u64 = 0x4_0000;
/// Where the rings of each queue are, and how far they reach.
const RECEIVE: u64 = BASE;
const TRANSMIT: u64 = BASE + 0x4000;
const RINGS: usize = 0x8000;
/// Where a buffer's pieces are: so far apart, and the pieces of one.
const BUFFERS: u64 = BASE + 0x1_0000;
const BUFFER: u64 = 0x2000;
const PIECE: u64 = 0x800;
const SENT: u64 = BASE + 0x3_0000;

const ENTRIES: u16 = 16;
/// Descriptors of a buffer, and buffers.
const PIECES: u16 = 3;
const SLOTS: u16 = 5;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// Bytes of a packet's header, and where in it the number of its buffers is.
const HEADER: usize = 12;
const NUM_BUFFERS: usize = 10;
/// VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_GUEST_TSO4.
const MRG_RXBUF: u64 = 1 << 15;
const GUEST_TSO4: u64 = 1 << 7;

/// A driver's side of a queue.
struct Side {
    rings: u64,
    /// Requests offered, and taken back.
    offered: u16,
    taken: u16,
}

impl Side {
    fn new(rings: u64) -> Self {
        Self { rings, offered: 0, taken: 0 }
    }

    fn queue(&self, window: &Window) -> Queue {
        let (driver, device) = (self.rings + 0x1000, self.rings + 0x2000);
        let layout = QueueLayout { size: ENTRIES, descriptors: self.rings, driver, device };
        Queue::new(window, 256, layout, QueueRules::default()).expect("it is inside")
    }

    /// Offers pieces from the descriptor `head` on.
    fn offer(&mut self, window: &Window, head: u16, pieces: &[(u64, u32)], flags: u16) {
        for (index, (address, len)) in (head..).zip(pieces) {
            let last = usize::from(index - head) + 1 == pieces.len();
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend(len.to_le_bytes());
            bytes.extend((flags | if last { 0 } else { NEXT }).to_le_bytes());
            bytes.extend((index + 1).to_le_bytes());
            window.write(self.rings + 16 * u64::from(index), &bytes).expect("it is inside");
        }
        let slot = self.rings + 0x1004 + 2 * u64::from(self.offered % ENTRIES);
        window.store_u16(slot, head, Ordering::Relaxed).expect("it is inside");
        self.offered = self.offered.wrapping_add(1);
        window.store_u16(self.rings + 0x1002, self.offered, Ordering::Release).expect("inside");
    }

    /// The next request that was given back: its head and the bytes written.
    fn take(&mut self, window: &Window) -> Option<(u16, usize)> {
        let at = self.rings + 0x2000;
        if window.load_u16(at + 2, Ordering::Acquire) == Ok(self.taken) {
            return None;
        }
        let mut used = [0; 8];
        let slot = at + 4 + 8 * u64::from(self.taken % ENTRIES);
        window.read(slot, &mut used).expect("it is inside");
        self.taken = self.taken.wrapping_add(1);
        let [head, _, _, _, len @ ..] = used;
        Some((head.into(), usize::try_from(u32::from_le_bytes(len)).expect("it is small")))
    }
}

/// A device, its driver and the network.
struct Machine {
    window: Window,
    net: Net,
    /// The device's end of the socket once more, and the network's.
    near: OwnedFd,
    far: UnixDatagram,
    receiver: Receiver,
    merge: bool,
    queues: [Queue; 2],
    sides: [Side; 2],
    /// The pieces of each buffer that the device has.
    slots: [Option<Vec<(u64, u32)>>; SLOTS as usize],
    /// Packets on their way.
    packets: VecDeque<Vec<u8>>,
    counters: Counters,
}

impl Machine {
    fn new(window: Window, features: u8) -> Self {
        let (near, far) = UnixDatagram::pair().expect("sockets");
        for socket in [&near, &far] {
            socket.set_nonblocking(true).expect("a socket");
        }
        let again = near.try_clone().expect("a socket");
        let mac = Mac::of(&VmName::new("vm").expect("a name"), 0);
        let merge = features & 1 != 0;
        let mut agreed = if merge { MRG_RXBUF } else { 0 };
        agreed |= if features & 2 != 0 { GUEST_TSO4 } else { 0 };
        window.write(BASE, &[0; RINGS]).expect("it is inside");
        let sides = [Side::new(RECEIVE), Side::new(TRANSMIT)];
        let queues = [sides[0].queue(&window), sides[1].queue(&window)];
        Self {
            queues,
            sides,
            window,
            net: Net::new(near.into(), "tap", mac, None),
            near: again.into(),
            far,
            receiver: Receiver::new(agreed, 1500),
            merge,
            slots: Default::default(),
            packets: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// The driver offers a buffer of up to three pieces.
    fn offer(&mut self, sizes: u8) {
        let Some(slot) = self.slots.iter().position(Option::is_none) else { return };
        let number = u16::try_from(slot).expect("it is small");
        let first = [1, 5, 11, 12, 60, 512, 1526, 2048];
        let second = [0, 1, 7, 12, 100, 512, 1024, 2048];
        let third = [0, 1, 12, 1000];
        let sizes = [
            first[usize::from(sizes & 7)],
            second[usize::from(sizes >> 3 & 7)],
            third[usize::from(sizes >> 6)],
        ];
        let places = (0..).map(|piece| BUFFERS + BUFFER * u64::from(number) + PIECE * piece);
        let pieces = places.zip(sizes).filter(|(_, size)| *size > 0).collect::<Vec<(u64, u32)>>();
        self.sides[0].offer(&self.window, number * PIECES, &pieces, WRITE);
        self.slots[slot] = Some(pieces);
    }

    /// A packet comes from the network.
    fn arrive(&mut self, len: usize, seed: u8) {
        let packet: Vec<u8> = (seed..=255).chain(0..=255).cycle().take(len).collect();
        match self.far.send(&packet) {
            Ok(_) => self.packets.push_back(packet),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// The device has a turn; what it gives back is what came. False: it has given up on its tap.
    fn receive(&mut self) -> bool {
        let interrupt = || {};
        let queue = &mut self.queues[0];
        let turn = self.receiver.receive(
            self.near.as_fd(),
            queue,
            &self.window,
            &self.counters,
            interrupt,
        );
        let gone = matches!(turn.expect("the driver keeps the rules"), Turn::Gone(_));
        while let Some(first) = self.sides[0].take(&self.window) {
            self.check_packet(first);
        }
        if gone {
            let odd = self.packets.pop_front().expect("a packet was odd");
            assert!(odd.len() < HEADER, "{} bytes", odd.len());
        }
        !gone
    }

    /// What is in a buffer that was given back, and the room that it had.
    fn content(&mut self, (head, len): (u16, usize)) -> (Vec<u8>, usize) {
        let slot = usize::from(head / PIECES);
        assert_eq!(head % PIECES, 0, "a head");
        let pieces = self.slots[slot].take().expect("it was offered, and not given back");
        let mut bytes = Vec::new();
        for (address, size) in pieces {
            let at = bytes.len();
            bytes.resize(at + usize::try_from(size).expect("it is small"), 0);
            self.window.read(address, &mut bytes[at..]).expect("it is inside");
        }
        let room = bytes.len();
        assert!(len <= room, "{len} bytes in {room}");
        bytes.truncate(len);
        (bytes, room)
    }

    /// The packet that begins in a buffer is the next one, as far as there was room.
    fn check_packet(&mut self, first: (u16, usize)) {
        let (mut bytes, room) = self.content(first);
        if bytes.is_empty() {
            return assert!(room < HEADER, "{room} bytes have room for a header");
        }
        let mut full = bytes.len() == room;
        let buffers = u16::from_le_bytes([bytes[NUM_BUFFERS], bytes[NUM_BUFFERS + 1]]);
        assert!(buffers == 1 || (self.merge && buffers <= SLOTS), "{buffers} buffers");
        for _ in 1..buffers {
            assert!(full, "a buffer before the last is not full");
            let next = self.sides[0].take(&self.window).expect("all of them at once");
            let (more, room) = self.content(next);
            full = more.len() == room;
            bytes.extend(more);
        }
        let mut packet = self.packets.pop_front().expect("a packet had come");
        assert!(bytes.len() == packet.len() || (full && bytes.len() < packet.len()));
        packet[NUM_BUFFERS..HEADER].copy_from_slice(&buffers.to_le_bytes());
        assert!(packet.starts_with(&bytes), "other bytes than came");
    }

    /// The driver sends a packet in two pieces; it comes out as it is, or not at all.
    fn send(&mut self, len: u32, cut: u32, seed: u8) {
        let packet: Vec<u8> = (seed..=255).chain(0..=255).cycle().take(len as usize).collect();
        self.window.write(SENT, &packet).expect("it is inside");
        let cut = cut.min(len);
        let pieces = [(SENT, cut), (SENT + u64::from(cut), len - cut)];
        let pieces: Vec<_> = pieces.into_iter().filter(|(_, len)| *len > 0).collect();
        self.sides[1].offer(&self.window, 0, &pieces, 0);
        let chain = self.queues[1].pop().expect("a good chain").expect("it was offered");
        let head = chain.head;
        let sent = self.net.transmit(&chain, &self.counters, |warning| panic!("{warning}"));
        assert_eq!(sent, Ok(()), "the network is there");
        self.queues[1].push(head, 0).expect("it is inside");
        let mut out = [0; 0x2000];
        let came = self.far.recv(&mut out).ok().map(|len| &out[..len]);
        assert_eq!(came, (len >= 26).then_some(&packet[..]), "{len} bytes");
    }
}

thread_local! {
    static WINDOW: RefCell<Option<Window>> = const { RefCell::new(None) };
}

/// Packets that go both ways.
pub fn net(bytes: &[u8]) {
    let window = WINDOW.with_borrow_mut(|kept| {
        let new = || GuestMemory::of(&[(BASE, SIZE)]).expect("memory").window(false, |_| true);
        kept.get_or_insert_with(new).clone()
    });
    let Some((features, mut steps)) = bytes.split_first() else { return };
    let mut machine = Machine::new(window, *features);
    while let Some(([step, low, high], rest)) = steps.split_first_chunk() {
        steps = rest;
        let word = u16::from_le_bytes([*low, *high]);
        match step % 4 {
            0 => machine.offer(*low),
            // None of the kernel's has less than a header.
            1 if word == u16::MAX => machine.arrive(5, *step),
            1 => machine.arrive(HEADER + usize::from(word % 4000), *step),
            2 if !machine.receive() => return,
            2 => {}
            _ => machine.send(u32::from(word % 4000) + 1, u32::from(*step), *step),
        }
    }
}

/// Packets in one buffer, in several, without room, and sent.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let (small, large, odd) = ([0, 0o55, 0], [0, 0o77, 0], [0, 2, 0]);
    let (short, long) = ([1, 60, 0], [1, 0, 8]);
    let turn = [2, 0, 0];
    let send = [3, 100, 0];
    vec![
        [&[0][..], &large, &small, &short, &long, &turn, &send].concat(),
        [&[1][..], &small, &odd, &small, &large, &long, &turn, &short, &turn].concat(),
        [&[3][..], &small, &small, &small, &small, &small, &long, &turn, &[3, 20, 0]].concat(),
        [&[1][..], &large, &[1, 255, 255], &turn].concat(),
    ]
}
