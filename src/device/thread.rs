// SPDX-License-Identifier: Apache-2.0
//! A device's own thread: it waits for orders, kicks and what the device waits for, and gives each its turn.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use super::io::Io;
use super::link::{Link, Order, Sent};
use super::warnings::Warner;
use super::{Fault, Served, VirtioDevice};
use crate::confine;
use crate::diagnostic::{kinds, Diagnostic};
use crate::memory::Window;
use crate::mpsc::{self, Receiver};

kinds! {
    THREAD: Error "device-thread" in Functions {
        "the thread of a virtio device cannot be made",
        cause: "this process has as many files or threads as it may, or the host is out of memory",
        cure: "raise `rlimit nofile` or `rlimit nproc` in the service's .rc, or free memory",
    }
}

/// A device's thread.
pub(super) struct DeviceThread {
    pub link: Arc<Link>,
    handle: JoinHandle<()>,
}

impl DeviceThread {
    /// The thread of `device`, which is `key` in the VM's file.
    ///
    /// # Errors
    /// No eventfd or thread can be made, or its capabilities cannot be given up.
    pub fn start(
        key: String,
        device: Box<dyn VirtioDevice>,
        warner: Warner,
        confined: bool,
    ) -> Result<Self, Diagnostic> {
        let (sender, orders) = mpsc::channel();
        let name = key.clone();
        let failed = |errno| THREAD.case(format!("making the thread of {name}")).errno(errno);
        let link = Link::new(key.clone(), device.face(), device.rings(), sender, warner);
        let link = Arc::new(link.map_err(failed)?);
        let life = Life {
            device,
            link: Arc::clone(&link),
            orders,
            window: None,
            io: None,
            due: vec![false; link.sizes.len()],
        };
        let handle = confine::spawn(key, confined, &failed, Box::new(|| life.live()))?;
        Ok(Self { link, handle })
    }

    /// Tells it to end; [`DeviceThread::has_ended`] is true soon.
    pub fn end(&self) {
        drop(self.link.send(Order::End));
    }

    pub fn has_ended(&self) -> bool {
        self.handle.is_finished()
    }
}

struct Life {
    device: Box<dyn VirtioDevice>,
    link: Arc<Link>,
    orders: Receiver<Sent>,
    window: Option<Window>,
    /// While it is started and not broken.
    io: Option<Io>,
    /// Queues that have a turn, by number.
    due: Vec<bool>,
}

impl Life {
    fn live(mut self) {
        loop {
            let sources = self.wait();
            if self.link.wake().read().is_ok() {
                while let Ok((order, done)) = self.orders.try_recv() {
                    if let Order::End = order {
                        return;
                    }
                    // Nobody waits for the answer where the worker is at its end.
                    let _ = done.send(self.obey(order));
                }
            }
            self.serve(&sources);
        }
    }

    /// Until there is something to do; returns the numbers of the sources that are ready.
    fn wait(&mut self) -> Vec<usize> {
        let mut fds = vec![PollFd::new(self.link.wake().as_fd(), PollFlags::POLLIN)];
        let mut queues = Vec::new();
        let mut sources = Vec::new();
        if self.io.is_some() {
            for queue in 0..self.due.len() {
                if let Some(kick) = self.link.kick(queue).filter(|_| self.device.serves(queue)) {
                    fds.push(PollFd::new(kick.as_fd(), PollFlags::POLLIN));
                    queues.push((queue, kick));
                }
            }
            for (number, source) in self.device.sources() {
                fds.push(PollFd::new(source, PollFlags::POLLIN));
                sources.push(number);
            }
        }
        let busy = self.due.contains(&true);
        let timeout = if busy { PollTimeout::ZERO } else { PollTimeout::NONE };
        // What it fails with, no memory and a signal, the next turn may not meet.
        let _ = poll(&mut fds, timeout);
        // In the order in which they were put there.
        let mut ready = fds[1..].iter().map(|fd| fd.any().unwrap_or(false));
        for (queue, kick) in queues {
            if ready.next() == Some(true) {
                let _ = kick.read();
                self.due[queue] = true;
            }
        }
        sources.retain(|_| ready.next() == Some(true));
        sources
    }

    fn obey(&mut self, order: Order) -> Result<(), Diagnostic> {
        match order {
            Order::Memory(window) => self.window = Some(window),
            Order::Start(features, layouts) => {
                let Some(window) = self.window.clone() else { return Ok(()) };
                let device = &self.device;
                let made = Io::new(features, layouts, window, Arc::clone(&self.link), |queue| {
                    device.serves(queue)
                });
                match made {
                    Ok(mut io) => match self.device.start(&mut io) {
                        Ok(()) => {
                            self.io = Some(io);
                            // What was there before: a kick of then is not lost either.
                            self.due.fill(true);
                        }
                        Err(error) => self.fail(error),
                    },
                    Err(fault) => self.broken(fault, None),
                }
            }
            Order::Reset => self.reset(),
            Order::Confine => return confine::device(self.device.calls()),
            Order::End => {}
        }
        Ok(())
    }

    /// A turn for each queue that is due and each source that is ready.
    fn serve(&mut self, sources: &[usize]) {
        for queue in 0..self.due.len() {
            let Some(io) = self.io.as_mut().filter(|_| self.due[queue]) else { continue };
            match self.device.kicked(queue, io) {
                Ok(served) => self.due[queue] = served == Served::More,
                Err(fault) => self.broken(fault, Some(queue)),
            }
        }
        for source in sources {
            let Some(io) = self.io.as_mut() else { return };
            if let Err(fault) = self.device.ready(*source, io) {
                self.broken(fault, None);
            }
        }
    }

    fn broken(&mut self, fault: Fault, queue: Option<usize>) {
        let pool = self.window.as_ref().is_some_and(Window::is_pool);
        self.fail(fault.diagnostic(queue, pool));
    }

    /// The device is of no use until its driver resets it.
    fn fail(&mut self, why: Diagnostic) {
        self.link.warn(why);
        self.reset();
        self.link.fail();
    }

    fn reset(&mut self) {
        self.device.reset();
        self.io = None;
        self.due.fill(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confine::DeviceCalls;
    use crate::device::{Face, QueueLayout};
    use crate::memory::GuestMemory;
    use crate::vcpu::eventfd;

    /// What a device was told, in order.
    type Told = mpsc::Sender<String>;

    struct Recorder(Told);

    impl VirtioDevice for Recorder {
        fn face(&self) -> Face {
            Face { number: 4, features: 0, queues: vec![8, 8], config: vec![7] }
        }

        fn calls(&self) -> DeviceCalls {
            DeviceCalls::ENTROPY
        }

        fn start(&mut self, io: &mut Io) -> Result<(), Diagnostic> {
            self.0.send(format!("start {:#x}", io.features)).unwrap();
            Ok(())
        }

        fn kicked(&mut self, queue: usize, _: &mut Io) -> Result<Served, Fault> {
            self.0.send(format!("kicked {queue}")).unwrap();
            Ok(Served::All)
        }

        fn reset(&mut self) {
            self.0.send("reset".to_owned()).unwrap();
        }
    }

    const BASE: u64 = 0x8000_0000;

    #[test]
    fn a_warning_says_whose_it_is() {
        let (sender, warnings) = mpsc::channel();
        let warner = Warner::new(sender, Arc::new(eventfd().unwrap()));
        let face = Face { number: 4, features: 0, queues: vec![8], config: vec![] };
        let link = Link::new("disks[1]".to_owned(), face, 0, mpsc::channel().0, warner).unwrap();
        link.warn(THREAD.case("a request of the guest failed"));
        assert_eq!(warnings.recv().unwrap().what, "disks[1]: a request of the guest failed");
    }

    fn layouts(driver: u64) -> Vec<Option<QueueLayout>> {
        let queue = QueueLayout { size: 8, descriptors: BASE, driver, device: BASE + 0x2000 };
        vec![Some(queue), None]
    }

    struct Bench {
        thread: DeviceThread,
        told: mpsc::Receiver<String>,
        warnings: mpsc::Receiver<Diagnostic>,
    }

    fn bench() -> Bench {
        let (teller, told) = mpsc::channel();
        let (sender, warnings) = mpsc::channel();
        let warner = Warner::new(sender, Arc::new(eventfd().unwrap()));
        let device = Box::new(Recorder(teller));
        let thread = DeviceThread::start("entropy".to_owned(), device, warner, false).unwrap();
        let memory = GuestMemory::of(&[(BASE, 0x4000)]).unwrap();
        thread.link.order(Order::Memory(memory.for_devices())).unwrap();
        Bench { thread, told, warnings }
    }

    #[test]
    fn a_queue_has_a_turn_at_the_start_and_at_each_kick_until_the_reset() {
        let Bench { thread, told, .. } = bench();
        let next = || told.recv().unwrap();
        thread.link.order(Order::Start(1 << 32, layouts(BASE + 0x1000))).unwrap();
        assert_eq!(next(), "start 0x100000000");
        // A turn each; the second has no queue, which is the device's to see.
        assert_eq!([next(), next()], ["kicked 0", "kicked 1"]);
        thread.link.kick_by_exit(1);
        assert_eq!(next(), "kicked 1");
        thread.link.kick_by_exit(u64::MAX);
        thread.link.order(Order::Reset).unwrap();
        thread.link.kick_by_exit(0);
        assert_eq!(next(), "reset");
        thread.end();
        while !thread.has_ended() {
            std::thread::yield_now();
        }
        // Nobody waits for one that is gone.
        thread.link.order(Order::Reset).unwrap();
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn a_queue_outside_memory_leaves_a_device_that_wants_its_reset() {
        let Bench { thread, told, warnings } = bench();
        let start = || thread.link.order(Order::Start(1 << 32, layouts(BASE + 0x10_0000)));
        start().unwrap();
        assert_eq!(told.recv().unwrap(), "reset");
        assert!(thread.link.is_broken());
        let warning = warnings.recv().unwrap();
        assert_eq!(warning.name, "device-queue-broken");
        assert!(warning.what.starts_with("entropy: "), "{}", warning.what);
        assert_eq!(thread.link.take_status(), 3, "its configuration says so");
        assert_eq!(thread.link.take_status(), 1);
        // The same again is not told again.
        start().unwrap();
        assert!(warnings.try_recv().is_err());
        thread.end();
    }

    /// As a device of vhost's or of a backend's.
    #[test]
    fn a_queue_that_another_serves_is_checked_too() {
        let (sender, _) = mpsc::channel();
        let warner = Warner::new(mpsc::channel().0, Arc::new(eventfd().unwrap()));
        let face = Face { number: 4, features: 0, queues: vec![8, 8], config: vec![] };
        let link = Arc::new(Link::new("vsock".to_owned(), face, 0, sender, warner).unwrap());
        let window = GuestMemory::of(&[(BASE, 0x4000)]).unwrap().for_devices();
        let io = |layouts| Io::new(0, layouts, window.clone(), Arc::clone(&link), |_| false);
        let good = layouts(BASE + 0x1000);
        assert!(io(good.clone()).unwrap().queues.iter().all(Option::is_none));
        let used = |device| good[0].map(|queue| QueueLayout { device, ..queue });
        // It begins inside.
        let outside = io(vec![used(BASE + 0x3ffc), None]).err().unwrap();
        assert!(matches!(outside, Fault::RingOutside("used ring", at) if at.len == 70));
        let small = good[0].map(|queue| QueueLayout { size: 16, ..queue });
        assert_eq!(io(vec![None, small]).err(), Some(Fault::Size(16)));
    }

    #[test]
    fn it_has_a_name_when_it_cannot_be() {
        assert_eq!(THREAD.case("x").name, "device-thread");
    }
}
