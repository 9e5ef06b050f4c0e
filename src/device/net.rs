// SPDX-License-Identifier: Apache-2.0
//! A virtio network device (virtio 1.2, 5.1) on a tap of the host.
//!
//! A packet goes between guest memory and the tap in one system call, its virtio header in front: the kernel
//! reads and checks what the guest says in it, and finishes checksums and long segments that are left to it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;

use super::io::{count, Io};
use super::kernel::{attach_tap, set_tap_header, set_tap_offload};
use super::link::Counters;
use super::queue::LONGEST;
use super::{Chain, Face, Fault, Queue, Served, VirtioDevice};
use crate::config::{Mac, NetConfig, VmName};
use crate::confine::DeviceCalls;
use crate::diagnostic::{kinds, Diagnostic};
use crate::memory::{Segment, Window};
use crate::text::errno_of;

kinds! {
    NO_TUN: Error "net-no-tun" in Functions {
        "the host's network devices for programs cannot be opened",
        cause: "the kernel has no CONFIG_TUN, or SELinux or the node's mode denies it",
        cure: "check `ls -lZ /dev/net/tun /dev/tun`; look for avc: denied in dmesg",
    }
    NO_TAP: Error "net-no-tap" in Functions {
        "a network device cannot have its tap",
        cause: "the tap is another user's or another VM's; or gunyahd, which gives up CAP_NET_ADMIN when it is up, cannot make one",
        cure: "make one that is for gunyahd's user, and only for this VM: ip tuntap add dev NAME mode tap user USER",
    }
    GONE: Warning "net-tap-gone" in Run {
        "a tap is gone; the guest's network device has no link until the VM starts again",
        cause: "somebody removed the interface",
        cure: "make it anew, persistent, and restart the VM",
    }
    DOWN: Warning "net-tap-down" in Run {
        "a tap takes no packets of the guest: they are dropped",
        cause: "the interface is down",
        cure: "ip link set NAME up",
    }
    NO_OFFLOAD: Warning "net-no-offload" in Run {
        "a tap does not take what its guest can do",
        cause: "somebody removed the interface",
        cure: "look at `ip -details link` on the host",
    }
}

/// Linux's node, and Android's.
const TUN: [&str; 2] = ["/dev/net/tun", "/dev/tun"];

// Queues.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const ENTRIES: u16 = LONGEST;

// Features. HOST: the guest leaves it to the host; GUEST: the host leaves it to the guest.
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_TSO6: u64 = 1 << 8;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TSO4: u64 = 1 << 11;
const HOST_TSO6: u64 = 1 << 12;
const HOST_ECN: u64 = 1 << 13;
const MRG_RXBUF: u64 = 1 << 15;
const STATUS: u64 = 1 << 16;

/// The features that the kernel finishes for the guest, whatever the tap.
const HOST: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
/// Features that the guest takes, and what they are to the tap: TUN_F_CSUM, _TSO4, _TSO6, _TSO_ECN.
const GUEST: [(u64, u32); 4] = [(GUEST_CSUM, 1), (GUEST_TSO4, 2), (GUEST_TSO6, 4), (GUEST_ECN, 8)];

// The configuration space: address, status, pairs of queues, MTU.
const CONFIG_STATUS: usize = 6;
const LINK_UP: u16 = 1;

/// Bytes of the header of a packet, and where in it is in how many buffers the packet lies.
const HEADER: u32 = 12;
const NUM_BUFFERS: u32 = 10;
/// Bytes of Ethernet's own header, with a VLAN's, and the least of them.
const ETHERNET: u32 = 18;
const SHORTEST: u32 = HEADER + 14;
/// The longest packet is an IPv4 one.
const LARGEST: u32 = HEADER + ETHERNET + 65535;
/// What a packet has at most where nobody says.
const COMMON_MTU: u16 = 1500;

/// A network device.
pub struct Net {
    tap: OwnedFd,
    /// The tap's name.
    name: String,
    mac: Mac,
    mtu: Option<u16>,
    /// The tap leaves to a guest what that can do.
    offloads: bool,
    receiver: Receiver,
    /// The tap is there no more.
    gone: bool,
}

/// What comes in: buffers that the driver gave and that wait for packets.
#[derive(Default)]
pub struct Receiver {
    /// A packet may lie in several buffers.
    merge: bool,
    /// Bytes that there must be before a packet is read: it may be so long.
    least: u64,
    buffers: Vec<Buffer>,
    /// Those of all buffers.
    segments: Vec<Segment>,
    /// Bytes of all buffers.
    room: u64,
    /// The driver has no more buffers; it kicks.
    starved: bool,
}

struct Buffer {
    head: u16,
    len: u32,
    segments: usize,
}

/// How a turn of the receiver ended.
#[derive(Debug)]
pub enum Turn {
    /// No more packets, or no more buffers.
    Idle,
    /// There may be more.
    More,
    /// The tap is of no more use.
    Gone(Errno),
}

impl Receiver {
    /// As a driver with these features wants it; `mtu`: what packets have at most, if they come as they were sent.
    pub fn new(features: u64, mtu: u16) -> Self {
        let long = features & (GUEST_TSO4 | GUEST_TSO6) != 0;
        let least = if long { LARGEST } else { HEADER + ETHERNET + u32::from(mtu) };
        Self { merge: features & MRG_RXBUF != 0, least: least.into(), ..Self::default() }
    }

    /// Whether a packet may be read: it has room, or as much as this driver ever gives, or in as many pieces as
    /// one call may take with another buffer.
    fn has_room(&self, queue: &Queue) -> bool {
        let half = usize::from(queue.size() / 2);
        let most = self.buffers.len() > half || self.segments.len() >= LONGEST.into();
        let enough = !self.merge || self.room >= self.least || most;
        !self.buffers.is_empty() && enough
    }

    /// Moves packets from `tap` to the driver's buffers.
    ///
    /// # Errors
    /// The ring is broken.
    pub fn receive(
        &mut self,
        tap: BorrowedFd<'_>,
        queue: &mut Queue,
        window: &Window,
        counters: &Counters,
        interrupt: impl Fn(),
    ) -> Result<Turn, Fault> {
        queue.want_no_kicks()?;
        for _ in 0..ENTRIES {
            if !self.has_room(queue) {
                if !self.take_buffer(queue, counters)? && !queue.want_kicks()? {
                    self.starved = true;
                    return Ok(Turn::Idle);
                }
                continue;
            }
            let len = match window.receive(tap, self.segments.iter().copied()) {
                Ok(len) => u32::try_from(len).unwrap_or(u32::MAX),
                Err(error) => match errno_of(&error) {
                    Errno::EAGAIN | Errno::EINTR => return Ok(Turn::Idle),
                    errno => return Ok(Turn::Gone(errno)),
                },
            };
            if len < HEADER {
                return Ok(Turn::Gone(Errno::EBADMSG));
            }
            self.give_back(len, queue, window)?;
            count(&counters.requests, 1);
            count(&counters.read, u64::from(len - HEADER));
            if queue.must_interrupt()? {
                interrupt();
            }
        }
        Ok(Turn::More)
    }

    /// Takes a buffer from the driver; false: there is none.
    fn take_buffer(&mut self, queue: &mut Queue, counters: &Counters) -> Result<bool, Fault> {
        let Some(chain) = queue.pop()? else { return Ok(false) };
        let (head, len) = (chain.head, chain.writable.len());
        if len < HEADER {
            count(&counters.errors, 1);
            queue.push(head, 0)?;
            return Ok(true);
        }
        let before = self.segments.len();
        self.segments.extend(chain.writable.segments());
        let segments = self.segments.len() - before;
        self.buffers.push(Buffer { head, len, segments });
        self.room += u64::from(len);
        Ok(true)
    }

    /// Gives the buffers in which a packet of `len` bytes lies to the driver.
    fn give_back(&mut self, len: u32, queue: &mut Queue, window: &Window) -> Result<(), Fault> {
        let (mut left, mut used, mut segments) = (len, Vec::new(), 0);
        for buffer in &self.buffers {
            let here = left.min(buffer.len);
            used.push((buffer.head, here));
            segments += buffer.segments;
            self.room -= u64::from(buffer.len);
            left -= here;
            if left == 0 {
                break;
            }
        }
        let buffers = u16::try_from(used.len()).unwrap_or(u16::MAX).to_le_bytes();
        for (at, byte) in (NUM_BUFFERS..HEADER).zip(buffers) {
            write_byte(window, &self.segments, at, byte)?;
        }
        self.buffers.drain(..used.len());
        self.segments.drain(..segments);
        queue.push_all(&used)
    }
}

/// Writes the byte at `offset` of `segments`.
fn write_byte(
    window: &Window,
    segments: &[Segment],
    mut offset: u32,
    byte: u8,
) -> Result<(), Fault> {
    for segment in segments {
        if offset < segment.len {
            let address = segment.address.wrapping_add(offset.into());
            return Ok(window.write(address, &[byte])?);
        }
        offset -= segment.len;
    }
    Ok(())
}

impl Net {
    /// Opens the tap of `config`, the network device `index` of the VM named `vm`.
    ///
    /// # Errors
    /// There is none, or it is another's.
    pub fn open(config: &NetConfig, vm: &VmName, index: usize) -> Result<Self, Diagnostic> {
        let tun = open_tun()?;
        attach_tap(tun.as_fd(), &config.tap).map_err(|errno| no_tap(&config.tap, errno))?;
        let header = i32::try_from(HEADER).unwrap_or(0);
        set_tap_header(tun.as_fd(), header).map_err(|errno| no_tap(&config.tap, errno))?;
        let all = GUEST.iter().fold(0, |all, (_, flag)| all | flag);
        let offloads = set_tap_offload(tun.as_fd(), all).is_ok();
        let mac = config.mac.unwrap_or_else(|| Mac::of(vm, index));
        let mtu = config.mtu.and_then(|mtu| u16::try_from(mtu).ok());
        let mut net = Self::new(tun.into(), &config.tap, mac, mtu);
        net.offloads = offloads;
        net.leave_nothing();
        Ok(net)
    }

    /// On a tap that is attached already, or on what moves packets as one.
    pub fn new(tap: OwnedFd, name: &str, mac: Mac, mtu: Option<u16>) -> Self {
        let receiver = Receiver::default();
        let name = name.to_owned();
        Self { tap, name, mac, mtu, offloads: false, receiver, gone: false }
    }

    /// Until a driver has said what it takes, packets come as they were sent.
    fn leave_nothing(&self) {
        // Fails only where the tap is gone, which reading will tell.
        let _ = set_tap_offload(self.tap.as_fd(), 0);
    }

    /// Sends a packet, or drops it.
    ///
    /// # Errors
    /// The tap is gone.
    pub fn transmit(
        &self,
        chain: &Chain<'_>,
        counters: &Counters,
        warn: impl Fn(Diagnostic),
    ) -> Result<(), Errno> {
        let len = chain.readable.len();
        if !(SHORTEST..=LARGEST).contains(&len) {
            count(&counters.errors, 1);
            return Ok(());
        }
        let sent = chain.readable.send(self.tap.as_fd()).map_err(|error| errno_of(&error));
        let Err(errno) = sent else {
            count(&counters.written, u64::from(len - HEADER));
            return Ok(());
        };
        count(&counters.errors, 1);
        match errno {
            // A header that makes no sense; a packet in too many pieces; no room in the host.
            Errno::EINVAL | Errno::EMSGSIZE | Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => {
                Ok(())
            }
            Errno::EIO => {
                let cure = format!("ip link set {} up", self.name);
                warn(DOWN.case(format!("sending to {}", self.name)).errno(errno).cure(cure));
                Ok(())
            }
            errno => Err(errno),
        }
    }

    fn receive(&mut self, io: &mut Io) -> Result<Served, Fault> {
        let (window, link) = io.memory_and_link();
        let Some(queue) = io.queues.get_mut(RECEIVE).and_then(Option::as_mut) else {
            self.receiver.starved = true;
            return Ok(Served::All);
        };
        let (tap, counters) = (self.tap.as_fd(), link.counters());
        match self.receiver.receive(tap, queue, &window, counters, || link.interrupt())? {
            Turn::Idle => Ok(Served::All),
            Turn::More => Ok(Served::More),
            Turn::Gone(errno) => {
                self.lose(errno, io);
                Ok(Served::All)
            }
        }
    }

    /// The tap is gone: so is the guest's link.
    fn lose(&mut self, errno: Errno, io: &Io) {
        self.gone = true;
        io.link().warn(GONE.case(format!("the tap {}", self.name)).errno(errno));
        io.configure(CONFIG_STATUS, &0u16.to_le_bytes());
    }
}

impl VirtioDevice for Net {
    fn face(&self) -> Face {
        let mut features = HOST | MAC | MRG_RXBUF | STATUS;
        if self.offloads {
            features |= GUEST.iter().fold(0, |all, (feature, _)| all | feature);
        }
        let mut config = self.mac.0.to_vec();
        for half in [LINK_UP, 1, self.mtu.unwrap_or(0)] {
            config.extend_from_slice(&half.to_le_bytes());
        }
        if self.mtu.is_some() {
            features |= MTU;
        }
        Face { number: 1, features, queues: vec![ENTRIES; 2], config }
    }

    fn calls(&self) -> DeviceCalls {
        DeviceCalls::NET
    }

    fn start(&mut self, io: &mut Io) -> Result<(), Diagnostic> {
        let features = io.features;
        self.receiver = Receiver::new(features, self.mtu.unwrap_or(COMMON_MTU));
        let taken = GUEST.iter().filter(|(feature, _)| features & feature != 0);
        let offload = taken.fold(0, |all, (_, flag)| all | flag);
        if let (false, Err(errno)) = (self.gone, set_tap_offload(self.tap.as_fd(), offload)) {
            let what = format!("TUNSETOFFLOAD of {offload:#x} to {}", self.name);
            io.link().warn(NO_OFFLOAD.case(what).errno(errno));
        }
        Ok(())
    }

    fn kicked(&mut self, queue: usize, io: &mut Io) -> Result<Served, Fault> {
        if queue != TRANSMIT {
            self.receiver.starved = false;
            return if self.gone { Ok(Served::All) } else { self.receive(io) };
        }
        let mut lost = None;
        let gone = self.gone;
        let served = io.serve(TRANSMIT, &mut |chain, link| {
            match gone || lost.is_some() {
                true => count(&link.counters().errors, 1),
                false => {
                    let warn = |warning| link.warn(warning);
                    lost = self.transmit(chain, link.counters(), warn).err();
                }
            }
            Ok(0)
        })?;
        if let Some(errno) = lost {
            self.lose(errno, io);
        }
        Ok(served)
    }

    fn sources(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        match self.gone || self.receiver.starved {
            true => Vec::new(),
            false => vec![(RECEIVE, self.tap.as_fd())],
        }
    }

    fn ready(&mut self, _: usize, io: &mut Io) -> Result<(), Fault> {
        // What is left makes the tap readable again.
        self.receive(io).map(drop)
    }

    fn reset(&mut self) {
        self.receiver = Receiver::default();
        self.leave_nothing();
    }
}

fn open_tun() -> Result<File, Diagnostic> {
    let open = |path: &str| {
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
    };
    let [linux, android] = TUN;
    let opened = match open(linux) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => open(android),
        opened => opened,
    };
    let what = || format!("opening {linux} or {android}");
    opened.map_err(|error| NO_TUN.case(what()).errno(errno_of(&error)))
}

fn no_tap(tap: &str, errno: Errno) -> Diagnostic {
    let cause = match errno {
        Errno::EPERM => {
            "no interface has this name and gunyahd may make none, or it is another user's"
        }
        Errno::EBUSY => "another VM or another program has it",
        Errno::EINVAL => "the interface of this name is no tap, or one of several queues",
        _ => "the kernel refuses it",
    };
    let cure = format!("ip tuntap add dev {tap} mode tap user USER; ip link set {tap} up");
    NO_TAP.case(format!("attaching to the tap {tap}")).errno(errno).cause(cause).cure(cure)
}

#[cfg(test)]
mod tests;
