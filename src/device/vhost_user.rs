// SPDX-License-Identifier: Apache-2.0
//! A virtio device that another program serves, its backend, by vhost-user: a shared directory, a network of a
//! user's own, and whatever else has one.
//!
//! The protocol (QEMU's docs/interop/vhost-user.rst): requests on a Unix socket, fds with some of them. The
//! backend maps the memory that devices reach, and has the eventfds of kicks and interrupt.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    connect, recv, sendmsg, socket, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType,
    UnixAddr,
};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::driver::ACCESS_PLATFORM;
use super::io::{Io, RINGS};
use super::{Face, Fault, QueueLayout, Served, VirtioDevice};
use crate::config::{Backend, Mac, VhostUserConfig, VmName};
use crate::confine::DeviceCalls;
use crate::diagnostic::{kinds, Diagnostic};
use crate::memory::Window;

kinds! {
    NO_BACKEND: Error "vhost-user-no-backend" in Functions {
        "the backend of a vhost-user device cannot be reached",
        cause: "it is not running, or ended with its last VM; or the path is not its socket; or SELinux or the socket's mode denies it",
        cure: "start the backend before the VM, and at once again when it ends; check `ls -lZ` of the socket; look for avc: denied in dmesg",
    }
    UNFIT: Error "vhost-user-unfit" in Functions {
        "the backend of a vhost-user device does not do what it must",
        cause: "it serves another type of device, or fewer queues",
        cure: "compare `type` and `queues` with how the backend was started",
    }
    RESERVE: Warning "vhost-user-reserve" in Run {
        "the memory that a vhost-user device reaches is of the reserve, which no other program may map",
        cause: "all VMs' parts of the reserve are one file",
        cure: "lend the VM's memory, so that devices have a pool; or give memory.backing as `thp`",
    }
    LOST: Warning "vhost-user-lost" in Run {
        "the backend of a vhost-user device is gone; the guest's requests wait until it is back",
        cause: "it ended or crashed",
        cure: "start it again: it is found by itself; look at its own log",
    }
    BACK: Warning "vhost-user-back" in Run {
        "the backend of a vhost-user device is back; it knows nothing of what the guest had open",
        cause: "another process serves the device: what it held in its memory went with the last one",
        cure: "unmount a shared directory in the guest and mount it again; other devices go on by themselves",
    }
    CHANGED: Warning "vhost-user-changed" in Run {
        "the next backend of a vhost-user device lacks features that the guest was offered; it is not used",
        cause: "it is another program, an older version, or was started with other options",
        cure: "start the one of before, or restart the VM: it then takes this one",
    }
}

// Requests.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;

// Flags of a message: its version, whether it answers, whether it wants an answer.
const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// Bytes of a message before its payload, and of the longest payload that is answered.
const HEADER: usize = 12;
const PAYLOAD: usize = 12 + 256;

/// The feature that says that there are features of the protocol, and those that are used.
const PROTOCOL: u64 = 1 << 30;
const PROTOCOL_MQ: u64 = 1 << 0;
const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
const PROTOCOL_CONFIG: u64 = 1 << 9;

/// Features of a device's own type, and version 1.
const OWN: u64 = 0xff_ffff;
const VERSION_1: u64 = 1 << 32;

/// VIRTIO_NET_F_MAC
const NET_MAC: u64 = 1 << 5;

/// Ranges of memory that the protocol's table has.
const REGIONS: usize = 8;
const ENTRIES: u16 = 256;

/// How long a backend may take for a whole answer, and how often one that is gone is looked for.
const PATIENCE: Duration = Duration::from_secs(1);
const PERIOD: Duration = Duration::from_millis(200);

/// How long one may take to be there at a start.
const RESTART: Duration = Duration::from_secs(2);

/// A device that a backend serves.
pub struct VhostUser {
    settings: VhostUserConfig,
    /// What it offers the guest; a backend that comes back must have it, too.
    features: u64,
    config: Vec<u8>,
    backend: Option<Connection>,
    /// Set while there is none.
    timer: TimerFd,
    started: bool,
}

/// A backend that answers.
struct Connection {
    socket: OwnedFd,
    features: u64,
    protocol: u64,
}

impl Connection {
    /// Reaches the backend at its socket, and agrees with it on the protocol.
    fn open(settings: &VhostUserConfig) -> Result<Self, Errno> {
        // One that blocked would wait for room in the backend's backlog, and hold up the worker.
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(socket.as_raw_fd(), &UnixAddr::new(settings.socket.as_path())?)?;
        let mut this = Self { socket, features: 0, protocol: 0 };
        this.send(SET_OWNER, 0, &[], &[])?;
        this.features = this.get(GET_FEATURES)?;
        if this.features & PROTOCOL != 0 {
            let used = PROTOCOL_MQ | PROTOCOL_REPLY_ACK | PROTOCOL_CONFIG;
            let protocol = this.get(GET_PROTOCOL_FEATURES)? & used;
            this.send(SET_PROTOCOL_FEATURES, 0, &protocol.to_le_bytes(), &[])?;
            this.protocol = protocol;
        }
        Ok(this)
    }

    fn send(&self, request: u32, flags: u32, payload: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
        let len = u32::try_from(payload.len()).map_err(|_| Errno::EMSGSIZE)?;
        let mut message = words(&[request, flags | VERSION, len]);
        message.extend_from_slice(payload);
        let parts = [std::io::IoSlice::new(&message)];
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights };
        let how = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match sendmsg::<()>(self.socket.as_raw_fd(), &parts, rights, how, None)? {
            sent if sent == message.len() => Ok(()),
            _ => Err(Errno::EAGAIN),
        }
    }

    /// Fills `bytes`; EPIPE: the backend has hung up; ETIMEDOUT: it has not answered `until` then.
    fn fill(&self, mut bytes: &mut [u8], until: Instant) -> Result<(), Errno> {
        while !bytes.is_empty() {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            let left = until.saturating_duration_since(Instant::now());
            let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            if left.is_zero() || poll(&mut fds, patience)? == 0 {
                return Err(Errno::ETIMEDOUT);
            }
            match recv(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(Errno::EPIPE),
                Ok(len) => bytes = bytes.get_mut(len..).unwrap_or_default(),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// The payload of the answer to `request`.
    fn answer(&self, request: u32) -> Result<Vec<u8>, Errno> {
        let mut header = [0; HEADER];
        let until = Instant::now() + PATIENCE;
        self.fill(&mut header, until)?;
        let word = |at: usize| {
            let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            u32::from_le_bytes(bytes.unwrap_or_default())
        };
        let (of, flags, len) = (word(0), word(4), usize::try_from(word(8)).unwrap_or(PAYLOAD + 1));
        if of != request || flags & REPLY == 0 || len > PAYLOAD {
            return Err(Errno::EPROTO);
        }
        let mut payload = vec![0; len];
        self.fill(&mut payload, until)?;
        Ok(payload)
    }

    fn number(&self, request: u32) -> Result<u64, Errno> {
        let payload = self.answer(request)?;
        Ok(u64::from_le_bytes(payload.try_into().map_err(|_| Errno::EPROTO)?))
    }

    fn get(&self, request: u32) -> Result<u64, Errno> {
        self.send(request, 0, &[], &[])?;
        self.number(request)
    }

    /// Sets something; the backend says that it has done so, if it can.
    fn set(&self, request: u32, payload: &[u8], fds: &[RawFd]) -> Result<(), Errno> {
        if self.protocol & PROTOCOL_REPLY_ACK == 0 {
            return self.send(request, 0, payload, fds);
        }
        self.send(request, NEED_REPLY, payload, fds)?;
        match self.number(request)? {
            0 => Ok(()),
            _ => Err(Errno::EREMOTEIO),
        }
    }

    /// The configuration space, of `len` bytes; `None`: the backend has none.
    fn config(&self, len: usize) -> Result<Option<Vec<u8>>, Errno> {
        if self.protocol & PROTOCOL_CONFIG == 0 || len == 0 {
            return Ok(None);
        }
        let size = u32::try_from(len).map_err(|_| Errno::EMSGSIZE)?;
        // Offset, size, flags, room for the bytes.
        let mut payload = words(&[0, size, 0]);
        payload.resize(12 + len, 0);
        self.send(GET_CONFIG, 0, &payload, &[])?;
        let answer = self.answer(GET_CONFIG)?;
        Ok(answer.get(12..12 + len).map(<[u8]>::to_vec))
    }

    /// Gives it memory and queues, from where the guest's rings stand.
    fn run(&self, io: &Io, queues: usize) -> Result<(), Errno> {
        let protocol = self.features & PROTOCOL;
        let agreed = io.features & self.features & !ACCESS_PLATFORM | protocol;
        self.set(SET_FEATURES, &agreed.to_le_bytes(), &[])?;
        self.set_memory(io.window())?;
        for queue in 0..queues {
            let Some(layout) = io.layout(queue) else { continue };
            self.set_queue(queue, layout, io)?;
        }
        Ok(())
    }

    fn set_memory(&self, window: &Window) -> Result<(), Errno> {
        let (mut regions, mut fds) = (Vec::new(), Vec::new());
        for file in window.files() {
            let memfd = file.memfd.ok_or(Errno::EACCES)?;
            // It lies at the file's begin.
            regions.extend_from_slice(&longs(&[file.guest, file.size, file.host, 0]));
            fds.push(memfd.as_raw_fd());
        }
        if fds.len() > REGIONS {
            return Err(Errno::E2BIG);
        }
        let count = u64::try_from(fds.len()).map_err(|_| Errno::E2BIG)?;
        // A count of 32 bits, and as many of padding.
        let mut payload = longs(&[count]);
        payload.extend_from_slice(&regions);
        self.set(SET_MEM_TABLE, &payload, &fds)
    }

    fn set_queue(&self, queue: usize, layout: QueueLayout, io: &Io) -> Result<(), Errno> {
        let index = u32::try_from(queue).map_err(|_| Errno::EINVAL)?;
        let state = |value: u32| words(&[index, value]);
        let (window, entries) = (io.window(), u64::from(layout.size));
        let place = |address: u64, len: u64| window.host_address(address, len).ok_or(Errno::EFAULT);
        let addresses = [
            u64::from(index),
            place(layout.descriptors, 16 * entries)?,
            place(layout.device, 6 + 8 * entries)?,
            place(layout.driver, 6 + 2 * entries)?,
            0,
        ];
        // What was answered before: nothing, or what the last backend did. What that had begun is begun again.
        let base = window.load_u16(layout.device + 2, Ordering::Acquire);
        let base = base.map_err(|_| Errno::EFAULT)?;
        let kick = io.kick_fd(queue).ok_or(Errno::EINVAL)?;
        self.set(SET_VRING_NUM, &state(layout.size.into()), &[])?;
        self.set(SET_VRING_BASE, &state(base.into()), &[])?;
        self.set(SET_VRING_ADDR, &longs(&addresses), &[])?;
        let number = u64::from(index).to_le_bytes();
        self.set(SET_VRING_CALL, &number, &[io.interrupt_fd().as_raw_fd()])?;
        self.set(SET_VRING_KICK, &number, &[kick.as_raw_fd()])?;
        if self.features & PROTOCOL != 0 {
            self.set(SET_VRING_ENABLE, &state(1), &[])?;
        }
        Ok(())
    }

    /// Has it leave the queues and the memory alone.
    fn stop(&self, queues: usize) -> Result<(), Errno> {
        for index in (0..queues).filter_map(|queue| u32::try_from(queue).ok()) {
            let state = words(&[index, 0]);
            if self.features & PROTOCOL != 0 {
                self.set(SET_VRING_ENABLE, &state, &[])?;
            }
            self.send(GET_VRING_BASE, 0, &state, &[])?;
            self.answer(GET_VRING_BASE)?;
        }
        Ok(())
    }
}

/// Numbers of 32 bits as messages have them.
fn words(numbers: &[u32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes
}

/// Numbers of 64 bits as messages have them.
fn longs(numbers: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    bytes
}

impl VhostUser {
    /// The vhost-user device `index` of the VM named `vm`.
    ///
    /// # Errors
    /// Its backend is not there, or does not serve such a device.
    pub fn open(settings: &VhostUserConfig, vm: &VmName, index: usize) -> Result<Self, Diagnostic> {
        let path = settings.socket.display();
        let failed = |errno| unreached(settings, errno);
        let backend = once_started(|| Connection::open(settings)).map_err(failed)?;
        if backend.features & VERSION_1 == 0 {
            let what = format!("the backend at {path} does not know virtio 1");
            return Err(UNFIT.case(what).cause("it is too old").cure("take a newer one"));
        }
        let bytes = settings.r#type.config_bytes();
        let (config, more) = match backend.config(bytes).map_err(failed)? {
            Some(config) => (config, 0),
            None => own_config(settings, vm, index),
        };
        let features = backend.features & (OWN | RINGS) | more;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map_err(failed)?;
        let settings = settings.clone();
        Ok(Self { settings, features, config, backend: Some(backend), timer, started: false })
    }

    fn queues(&self) -> usize {
        let queues = self.settings.queues.unwrap_or(self.settings.r#type.queues());
        usize::try_from(queues).unwrap_or(0)
    }

    /// The backend does not answer: it is looked for until it is back.
    fn lose(&mut self, errno: Errno, io: Option<&Io>) {
        self.backend = None;
        if let Some(io) = io {
            io.link().warn(lost(&self.settings, errno));
        }
        let every = Expiration::Interval(TimeSpec::from_duration(PERIOD));
        // Fails only without memory in the kernel; the driver's reset is another chance.
        let _ = self.timer.set(every, TimerSetTimeFlags::empty());
    }

    fn run(&mut self, io: &Io) -> Result<(), Diagnostic> {
        let Some(backend) = &self.backend else { return Ok(()) };
        match backend.run(io, self.queues()) {
            Ok(()) => Ok(()),
            Err(Errno::EACCES) => {
                let what = format!("giving memory to {}", self.settings.socket.display());
                Err(RESERVE.case(what))
            }
            // All of it is inside.
            Err(Errno::EFAULT) => Err(Fault::Split.diagnostic(None, io.window().is_pool())),
            Err(errno) => {
                self.lose(errno, Some(io));
                Ok(())
            }
        }
    }

    /// Looks whether a backend is there again.
    fn seek(&mut self, io: &Io) -> Result<(), Diagnostic> {
        // It does not block; that it has come is known.
        let _ = self.timer.wait();
        let path = self.settings.socket.display();
        let backend = match Connection::open(&self.settings) {
            Ok(backend) => backend,
            // Once a minute, for as long as it is away.
            Err(errno) => {
                io.link().warn(lost(&self.settings, errno));
                return Ok(());
            }
        };
        let lacks = self.features & !backend.features & !NET_MAC;
        if lacks != 0 {
            let what = format!("the next backend at {path} lacks features {lacks:#x}: not used");
            io.link().warn(CHANGED.case(what));
            return Ok(());
        }
        let back = BACK.case(format!("the backend at {path} is back, without what was open"));
        let _ = self.timer.unset();
        self.backend = Some(backend);
        self.run(io)?;
        if self.backend.is_none() {
            return Ok(());
        }
        io.link().warn(back);
        // What the last one was told may be told again, and what it answered without a word.
        (0..self.queues()).for_each(|queue| io.link().kick_by_exit(queue as u64));
        io.interrupt();
        Ok(())
    }
}

/// Why a backend cannot be had at a start.
fn unreached(settings: &VhostUserConfig, errno: Errno) -> Diagnostic {
    let path = settings.socket.display();
    let fault = match errno {
        Errno::EPROTO | Errno::ETIMEDOUT | Errno::EPIPE | Errno::EREMOTEIO => {
            UNFIT.case(format!("talking to the backend at {path}"))
        }
        Errno::EAGAIN => NO_BACKEND
            .case(format!("connecting to {path}"))
            .cause("its backlog is full: it hangs, or serves another VM")
            .cure("restart it; give each device a backend of its own"),
        _ => NO_BACKEND.case(format!("connecting to {path}")),
    };
    fault.errno(errno)
}

/// Tries `connect` until there is somebody: one that ended with its last VM may just be starting again.
fn once_started<T>(mut connect: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let until = Instant::now() + RESTART;
    loop {
        match connect() {
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::EAGAIN) if Instant::now() < until => {
                std::thread::sleep(PERIOD);
            }
            answer => return answer,
        }
    }
}

fn lost(settings: &VhostUserConfig, errno: Errno) -> Diagnostic {
    let path = settings.socket.display();
    LOST.case(format!("the backend at {path} is gone, and the guest's requests wait")).errno(errno)
}

/// What the guest finds where the backend has no configuration space, and the features that go with it.
fn own_config(settings: &VhostUserConfig, vm: &VmName, index: usize) -> (Vec<u8>, u64) {
    let mut config = vec![0; settings.r#type.config_bytes()];
    let mut put = |at: usize, bytes: &[u8]| {
        config.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    match settings.r#type {
        Backend::Fs => {
            put(0, settings.tag.as_deref().unwrap_or("").as_bytes());
            // Queues for requests: all but the one for urgent ones.
            let queues = settings.queues.unwrap_or(Backend::Fs.queues()).saturating_sub(1);
            put(36, &queues.to_le_bytes());
            (config, 0)
        }
        Backend::Net => {
            put(0, &Mac::of(vm, index.saturating_add(0x100)).0);
            // The link is up; one pair of queues.
            put(6, &[1, 0, 1, 0]);
            (config, NET_MAC)
        }
        _ => (config, 0),
    }
}

impl VirtioDevice for VhostUser {
    fn face(&self) -> Face {
        Face {
            number: self.settings.r#type.number(),
            features: self.features & OWN,
            queues: vec![ENTRIES; self.queues()],
            config: self.config.clone(),
        }
    }

    fn rings(&self) -> u64 {
        self.features & RINGS
    }

    fn calls(&self) -> DeviceCalls {
        DeviceCalls::VHOST_USER
    }

    fn start(&mut self, io: &mut Io) -> Result<(), Diagnostic> {
        self.started = true;
        self.run(io)
    }

    fn serves(&self, _: usize) -> bool {
        false
    }

    fn kicked(&mut self, _: usize, _: &mut Io) -> Result<Served, Fault> {
        Ok(Served::All)
    }

    fn sources(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        match &self.backend {
            // It says nothing that it is not asked for: it hangs up.
            Some(backend) => vec![(0, backend.socket.as_fd())],
            None => vec![(1, self.timer.as_fd())],
        }
    }

    fn ready(&mut self, _: usize, io: &mut Io) -> Result<(), Fault> {
        if self.backend.is_some() {
            self.lose(Errno::EPIPE, Some(io));
        } else if let Err(error) = self.seek(io) {
            io.link().warn(error);
        }
        Ok(())
    }

    fn reset(&mut self) {
        if !std::mem::take(&mut self.started) {
            return;
        }
        let stopped = self.backend.as_ref().map(|backend| backend.stop(self.queues()));
        if let Some(Err(errno)) = stopped {
            self.lose(errno, None);
        }
    }
}

#[cfg(test)]
mod tests;
