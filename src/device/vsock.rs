// SPDX-License-Identifier: Apache-2.0
//! A virtio socket device (virtio 1.2, 5.10), by the kernel's vhost: the host's programs reach the guest by
//! AF_VSOCK and its CID. The kernel serves the queues; the guest's events are none.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, VsockAddr};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::driver::ACCESS_PLATFORM;
use super::io::Io;
use super::kernel::{
    own_vhost, set_vhost_cid, set_vhost_features, set_vhost_memory, set_vhost_queue,
    set_vhost_running, vhost_features,
};
use super::{Face, Fault, Served, VirtioDevice};
use crate::config::VsockConfig;
use crate::confine::DeviceCalls;
use crate::diagnostic::{kinds, Diagnostic};
use crate::list::Listed;
use crate::memory::Window;
use crate::plan::VHOST_VSOCK;
use crate::text::errno_of;

kinds! {
    NO_VHOST: Error "vsock-no-vhost" in Functions {
        "the host's kernel serves no vsock devices",
        cause: "it has no CONFIG_VHOST_VSOCK, its module vhost_vsock is not loaded, or SELinux denies the node, as Android's policy does",
        cure: "modprobe vhost_vsock; if there is no such module, take a kernel with CONFIG_VHOST_VSOCK, or leave `vsock` out of the file",
    }
    CID: Error "vsock-cid" in Functions {
        "the guest cannot have its CID",
        cause: "another VM has it",
        cure: "give each VM a CID of its own, or leave vsock.cid out",
    }
    REFUSED: Warning "vsock-refused" in Run {
        "the host's kernel does not serve the queues of the guest's vsock device; the device waits for its reset",
        cause: "the guest's driver left one out, or put one across two regions of memory",
        cure: "look at the guest's own log for the driver's messages, and for vhost in the host's dmesg",
    }
    UNREACHED: Warning "vsock-unreached" in Run {
        "nobody can ask whether the guest's port accepts: the VM does not get ready",
        cause: "SELinux denies vsock sockets, or the host's kernel lacks CONFIG_VSOCKETS",
        cure: "look for avc: denied in dmesg, or use ready.console_line",
    }
}

/// Queues: to the guest, from it, events.
const SERVED_BY_VHOST: usize = 2;
const ENTRIES: u16 = 128;

/// VIRTIO_VSOCK_F_SEQPACKET: the device's own feature that vhost may have.
const SEQPACKET: u64 = 1 << 1;

/// The first CID that is no machine of its own meaning, and how many are tried.
const FIRST_CID: u32 = 3;
const CIDS: u32 = 1024;

/// How often a port is tried.
const PERIOD: Duration = Duration::from_millis(50);

/// A socket device.
pub struct Vsock {
    node: File,
    cid: u32,
    /// vhost's.
    features: u64,
    /// What vhost was given stays mapped as long as it may use it.
    window: Option<Window>,
    probe: Option<Probe>,
}

/// Finds out when a port of the guest accepts.
struct Probe {
    port: u32,
    timer: TimerFd,
    /// Raised when it does.
    ready: Arc<EventFd>,
    /// On its way.
    socket: Option<OwnedFd>,
}

impl Vsock {
    /// The socket device of `config`; `ready` is raised when the guest accepts on the port beside it.
    ///
    /// # Errors
    /// The kernel has none, or the CID is another's.
    pub fn open(
        config: &VsockConfig,
        ready: Option<(u32, Arc<EventFd>)>,
    ) -> Result<Self, Diagnostic> {
        let opened = OpenOptions::new().read(true).write(true).open(VHOST_VSOCK);
        let node = opened.map_err(|error| no_vhost("opening", errno_of(&error)))?;
        own_vhost(node.as_fd()).map_err(|errno| no_vhost("VHOST_SET_OWNER to", errno))?;
        let features = vhost_features(node.as_fd())
            .map_err(|errno| no_vhost("VHOST_GET_FEATURES from", errno))?;
        let cid = choose(config.cid, |cid| set_vhost_cid(node.as_fd(), cid.into()))?;
        let probe = match ready {
            None => None,
            Some((port, ready)) => {
                let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
                let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags);
                let timer = timer.map_err(|errno| no_vhost("making a timer for", errno))?;
                Some(Probe { port, timer, ready, socket: None })
            }
        };
        Ok(Self { node, cid, features, window: None, probe })
    }

    fn run(&mut self, io: &Io) -> Result<(), Errno> {
        let node = self.node.as_fd();
        set_vhost_features(node, io.features & self.features & !ACCESS_PLATFORM)?;
        self.window = Some(io.window().clone());
        set_vhost_memory(node, io.window())?;
        for queue in 0..SERVED_BY_VHOST {
            let (Some(layout), Some(kick)) = (io.layout(queue), io.kick_fd(queue)) else {
                return Err(Errno::ENXIO);
            };
            let number = u32::try_from(queue).map_err(|_| Errno::EINVAL)?;
            set_vhost_queue(node, number, layout, io.window(), kick, io.interrupt_fd())?;
        }
        set_vhost_running(node, true)
    }
}

/// The CID that the file gives, or the first that nobody has, when `set` takes it.
fn choose(given: Option<u32>, set: impl Fn(u32) -> Result<(), Errno>) -> Result<u32, Diagnostic> {
    let mut cid = given.unwrap_or(FIRST_CID);
    loop {
        match set(cid) {
            Ok(()) => return Ok(cid),
            Err(Errno::EADDRINUSE) if given.is_none() && cid < FIRST_CID + CIDS => cid += 1,
            Err(errno) => {
                let fault = CID.case(format!("VHOST_VSOCK_SET_GUEST_CID to {cid}")).errno(errno);
                return Err(match errno {
                    Errno::EADDRINUSE => fault,
                    _ => fault.cause("the kernel refuses it"),
                });
            }
        }
    }
}

fn no_vhost(doing: &str, errno: Errno) -> Diagnostic {
    let fault = NO_VHOST.case(format!("{doing} {VHOST_VSOCK}")).errno(errno);
    match errno {
        Errno::EACCES | Errno::EPERM => fault
            .cause("SELinux or the node's mode denies it")
            .cure(format!("check `ls -lZ {VHOST_VSOCK}`; look for avc: denied in dmesg")),
        _ => fault,
    }
}

impl Probe {
    fn begin(&mut self) -> Result<(), Errno> {
        let every = Expiration::Interval(TimeSpec::from_duration(PERIOD));
        self.timer.set(every, TimerSetTimeFlags::empty())
    }

    fn end(&mut self) {
        self.socket = None;
        // A timer that is not set can be unset.
        let _ = self.timer.unset();
    }

    /// Looks at the last try, and makes another.
    fn turn(&mut self, cid: u32) -> Result<(), Errno> {
        // It does not block; that it has come is known.
        let _ = self.timer.wait();
        let accepted = match self.socket.take() {
            None => self.attempt(cid)?,
            Some(socket) => match answer(&socket) {
                Some(true) => true,
                Some(false) => self.attempt(cid)?,
                None => {
                    self.socket = Some(socket);
                    false
                }
            },
        };
        if accepted {
            self.end();
            // Fails only where it is raised already.
            let _ = self.ready.write(1);
        }
        Ok(())
    }

    /// Whether it is accepted at once; refusals are not errors.
    fn attempt(&mut self, cid: u32) -> Result<bool, Errno> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
        match connect(socket.as_raw_fd(), &VsockAddr::new(cid, self.port)) {
            Ok(()) => Ok(true),
            Err(Errno::EINPROGRESS) => {
                self.socket = Some(socket);
                Ok(false)
            }
            Err(errno @ (Errno::EPERM | Errno::EACCES)) => Err(errno),
            Err(_) => Ok(false),
        }
    }
}

/// Whether a connection was accepted; nothing is known yet.
fn answer(socket: &OwnedFd) -> Option<bool> {
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO).unwrap_or(0) == 0 {
        return None;
    }
    let found = fds[0].revents().unwrap_or(PollFlags::POLLERR);
    Some(!found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL))
}

impl VirtioDevice for Vsock {
    fn face(&self) -> Face {
        let config = u64::from(self.cid).to_le_bytes().to_vec();
        let queues = vec![ENTRIES; SERVED_BY_VHOST + 1];
        Face { number: 19, features: self.features & SEQPACKET, queues, config }
    }

    fn calls(&self) -> DeviceCalls {
        match self.probe {
            None => DeviceCalls::VSOCK,
            Some(_) => DeviceCalls::VSOCK_PROBE,
        }
    }

    fn start(&mut self, io: &mut Io) -> Result<(), Diagnostic> {
        self.run(io).map_err(|errno| {
            let _ = set_vhost_running(self.node.as_fd(), false);
            REFUSED.case("giving vhost the queues").errno(errno)
        })?;
        if let Some(Err(errno)) = self.probe.as_mut().map(Probe::begin) {
            io.link().warn(UNREACHED.case("setting a timer").errno(errno));
        }
        Ok(())
    }

    fn serves(&self, queue: usize) -> bool {
        queue >= SERVED_BY_VHOST
    }

    fn kicked(&mut self, _: usize, _: &mut Io) -> Result<Served, Fault> {
        // Buffers for events, of which there is none: a guest is not moved to another host.
        Ok(Served::All)
    }

    fn sources(&self) -> Vec<(usize, BorrowedFd<'_>)> {
        self.probe.iter().map(|probe| (0, probe.timer.as_fd())).listed()
    }

    fn ready(&mut self, _: usize, io: &mut Io) -> Result<(), Fault> {
        let cid = self.cid;
        if let Some(Err(errno)) = self.probe.as_mut().map(|probe| probe.turn(cid)) {
            let what = format!("connecting to port {}", self.probe.as_ref().map_or(0, |p| p.port));
            io.link().warn(UNREACHED.case(what).errno(errno));
        }
        Ok(())
    }

    fn reset(&mut self) {
        // Fails only where the kernel has closed it.
        let _ = set_vhost_running(self.node.as_fd(), false);
        if let Some(probe) = &mut self.probe {
            probe.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn the_first_free_cid_is_taken_and_a_given_one_insisted_on() {
        let taken = [3, 4];
        let tried = RefCell::new(Vec::new());
        let set = |cid: u32| {
            tried.borrow_mut().push(cid);
            if taken.contains(&cid) {
                Err(Errno::EADDRINUSE)
            } else {
                Ok(())
            }
        };
        assert_eq!(choose(None, set).unwrap(), 5);
        assert_eq!(*tried.borrow(), [3, 4, 5]);
        assert_eq!(choose(Some(9), set).unwrap(), 9);
        let fault = choose(Some(4), set).unwrap_err();
        assert_eq!(fault.name, "vsock-cid");
        assert!(fault.to_string().contains("another VM has it"), "{fault}");
        let all = choose(None, |_| Err(Errno::EADDRINUSE)).unwrap_err();
        assert!(all.to_string().contains("1027"), "{all}");
        let refused = choose(None, |_| Err(Errno::EINVAL)).unwrap_err();
        assert!(refused.to_string().contains("refuses"), "{refused}");
    }

    #[test]
    fn a_host_without_vhost_is_told_what_it_lacks() {
        let fault = no_vhost("opening", Errno::ENOENT);
        assert_eq!(fault.name, "vsock-no-vhost");
        assert!(fault.to_string().contains("CONFIG_VHOST_VSOCK"), "{fault}");
        let denied = no_vhost("opening", Errno::EACCES).to_string();
        assert!(denied.contains("SELinux") && !denied.contains("CONFIG"), "{denied}");
        assert_eq!(REFUSED.case("").name, "vsock-refused");
        assert_eq!(UNREACHED.case("").name, "vsock-unreached");
    }

    #[test]
    fn a_connection_tells_whether_it_is_accepted() {
        use std::net::{TcpListener, TcpStream};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let accepted = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(answer(&accepted.into()), Some(true));
        let flags = SockFlag::SOCK_NONBLOCK;
        let (near, far) =
            nix::sys::socket::socketpair(AddressFamily::Unix, SockType::Stream, None, flags)
                .unwrap();
        drop(far);
        assert_eq!(answer(&near), Some(false), "it hung up");
    }
}
