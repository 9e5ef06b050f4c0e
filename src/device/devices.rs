// SPDX-License-Identifier: Apache-2.0
//! All virtio devices of a VM: opened, placed on the bus, bound to the driver's doorbells.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gunyah::{Ioeventfd, Vm};
use nix::errno::Errno;
use nix::sys::eventfd::EventFd;

use super::mmio::{Mmio, INTERRUPT_ACK, QUEUE_NOTIFY};
use super::pci::{notify_offset, Cam, Pci};
use super::thread::{DeviceThread, THREAD};
use super::warnings::Warner;
use super::{
    console::VirtioConsole, disk::Disk, entropy::Entropy, net::Net, vhost_user::VhostUser,
    vsock::Vsock, VirtioDevice,
};
use crate::config::{Transport, VmConfig};
use crate::confine::DeviceCalls;
use crate::console::Console;
use crate::diagnostic::{Diagnostic, Step};
use crate::dtb::Devicetree;
use crate::launch::refused;
use crate::layout::{PCI_CAM_BASE, PCI_CAM_SIZE};
use crate::list::Listed;
use crate::memory::Window;
use crate::mpsc::{self, Receiver};
use crate::plan::{devices, Model, PlannedDevice};
use crate::status::control::DeviceStatus;
use crate::vcpu::{eventfd, Bus, Device};

use super::link::Order;

/// How long threads may take to end: what one is at may be a request of a slow disk.
const END: Duration = Duration::from_secs(2);

/// A VM's devices.
pub struct Devices {
    threads: Vec<(PlannedDevice, DeviceThread)>,
    calls: Vec<DeviceCalls>,
    warnings: Receiver<Diagnostic>,
    wake: Arc<EventFd>,
    /// Raised when a device finds that the guest is ready.
    ready: Arc<EventFd>,
    /// Takes the acknowledgements of interrupts, which nobody waits for, so that they cause no exit.
    swallowed: EventFd,
}

/// Opens the device `model` of `config`. None: what it is for is not there.
fn open(
    model: Model,
    config: &VmConfig,
    console: Option<&Console>,
    ready: &Arc<EventFd>,
) -> Result<Option<Box<dyn VirtioDevice>>, Diagnostic> {
    Ok(match model {
        Model::Console => match console {
            Some(console) => Some(Box::new(VirtioConsole::new(Arc::clone(console.port())))),
            None => None,
        },
        Model::Disk(index) => match config.disks.get(index) {
            Some(disk) => Some(Box::new(Disk::open(disk)?)),
            None => None,
        },
        Model::Net(index) => match config.nets.get(index) {
            Some(net) => Some(Box::new(Net::open(net, &config.name, index)?)),
            None => None,
        },
        Model::Vsock => match &config.vsock {
            Some(vsock) => {
                let port = config.ready.as_ref().and_then(|ready| ready.vsock_port);
                let ready = port.map(|port| (port, Arc::clone(ready)));
                Some(Box::new(Vsock::open(vsock, ready)?))
            }
            None => None,
        },
        Model::VhostUser(index) => match config.vhost_user.get(index) {
            Some(settings) => Some(Box::new(VhostUser::open(settings, &config.name, index)?)),
            None => None,
        },
        Model::Entropy => Some(Box::new(Entropy::open()?)),
    })
}

impl Devices {
    /// Opens every device of `config` and puts it on `bus`. Their threads give up capabilities if they are
    /// to be `confined`.
    ///
    /// # Errors
    /// The first that fails.
    pub fn prepare(
        config: &VmConfig,
        bus: &mut Bus,
        console: Option<&Console>,
        confined: bool,
    ) -> Result<Self, Diagnostic> {
        let failed = |errno: Errno| THREAD.case("an eventfd for the devices").errno(errno);
        let (sender, warnings) = mpsc::channel();
        let wake = Arc::new(eventfd().map_err(failed)?);
        let ready = Arc::new(eventfd().map_err(failed)?);
        let swallowed = eventfd().map_err(failed)?;
        let (threads, calls) = (Vec::new(), Vec::new());
        let mut all = Self { threads, calls, warnings, wake, ready, swallowed };
        let mut cam = Cam::default();
        for planned in devices(config) {
            let key = planned.model.key();
            let place = |fault: Diagnostic| fault.at(config.place(&key));
            let Some(device) = open(planned.model, config, console, &all.ready).map_err(place)?
            else {
                continue;
            };
            all.calls.push(device.calls());
            let warner = Warner::new(sender.clone(), Arc::clone(&all.wake));
            let thread = DeviceThread::start(key.clone(), device, warner, confined)?;
            let link = Arc::clone(&thread.link);
            let range = planned.registers;
            let registers: Arc<dyn Device> = match config.transport {
                Transport::Mmio => Arc::new(Mmio::new(link)),
                Transport::Pci => {
                    cam.add(&link, range.base);
                    Arc::new(Pci::new(link))
                }
            };
            bus.add(planned.model.name(), range.base, range.size, registers)?;
            all.threads.push((planned, thread));
        }
        if config.transport == Transport::Pci && !all.threads.is_empty() {
            bus.add("the PCI bus", PCI_CAM_BASE, PCI_CAM_SIZE, Arc::new(cam))?;
        }
        Ok(all)
    }

    /// Binds doorbells and kicks, and gives the devices the guest's memory; before START.
    pub fn connect(
        &self,
        vm: &Vm,
        config: &VmConfig,
        tree: &Devicetree,
        window: &Window,
    ) -> Result<(), Diagnostic> {
        for (planned, thread) in &self.threads {
            let (link, label) = (&thread.link, planned.label);
            vm.add_irqfd(link.line(), label, tree.trigger(config, planned)).map_err(|error| {
                let call = format!("VM_ADD_FUNCTION of irqfd of doorbell {label}");
                refused(Step::Functions, call, &error)
            })?;
            let base = planned.registers.base;
            let one = link.sizes.len() == 1;
            for (queue, number) in (0..link.sizes.len()).zip(0u64..) {
                let (offset, len, datamatch) = match config.transport {
                    Transport::Pci => (notify_offset(number), 0, None),
                    Transport::Mmio if one => (QUEUE_NOTIFY, 0, None),
                    // By value where there are several; the kicks that miss it come by an exit.
                    Transport::Mmio => (QUEUE_NOTIFY, 4, Some(number)),
                };
                if let Some(kick) = link.kick(queue) {
                    ioeventfd(vm, kick.as_fd(), base + offset, len, datamatch)?;
                }
            }
            if config.transport == Transport::Mmio {
                ioeventfd(vm, self.swallowed.as_fd(), base + INTERRUPT_ACK, 0, None)?;
            }
            // What it is told later it does later: nobody waits for it.
            drop(link.send(Order::Memory(window.clone())));
        }
        Ok(())
    }

    /// What their threads take of the worker's system calls.
    pub fn calls(&self) -> &[DeviceCalls] {
        &self.calls
    }

    /// Confines their threads, after the worker is confined.
    pub fn confine(&self) -> Result<(), Diagnostic> {
        // All at a time.
        let told = self.threads.iter().map(|(_, thread)| thread.link.send(Order::Confine));
        let told = told.listed();
        // Nothing comes only from a thread that is gone.
        told.into_iter().try_for_each(|done| done.recv().unwrap_or(Ok(())))
    }

    /// Readable when [`Devices::take_warning`] has something to say.
    pub fn warnings_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wake.as_fd())
    }

    /// What a device has found wrong, oldest first. To be called until it says `None`.
    pub fn take_warning(&self) -> Option<Diagnostic> {
        // It does not block.
        let _ = self.wake.read();
        self.warnings.try_recv().ok()
    }

    /// Readable when [`Devices::take_ready`] is true.
    pub fn ready_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.ready.as_fd())
    }

    /// Whether a device has found that the guest is ready, since this was asked last.
    pub fn take_ready(&self) -> bool {
        // It does not block.
        self.ready.read().is_ok()
    }

    /// What each has done.
    pub fn counters(&self) -> Vec<DeviceStatus> {
        let of = |(planned, thread): &(PlannedDevice, DeviceThread)| {
            let counters = thread.link.counters();
            let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            // Its configuration space is the CID (virtio 1.2, 5.10.4).
            let cid = (planned.model == Model::Vsock).then(|| thread.link.read_config(0, 8));
            DeviceStatus {
                device: planned.model.key(),
                requests: read(&counters.requests),
                read: read(&counters.read),
                written: read(&counters.written),
                errors: read(&counters.errors),
                interrupts: read(&counters.interrupts),
                exits: read(&counters.exits),
                cid,
            }
        };
        self.threads.iter().map(of).listed()
    }
}

impl Drop for Devices {
    /// Ends the threads; no vCPU runs any more. Also where the launch fails: the eventfds of interrupts are closed
    /// before the VM is. A thread that hangs in the host's storage stays.
    fn drop(&mut self) {
        self.threads.iter().for_each(|(_, thread)| thread.end());
        let begun = Instant::now();
        let running = || self.threads.iter().any(|(_, thread)| !thread.has_ended());
        while running() && begun.elapsed() < END {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn ioeventfd(
    vm: &Vm,
    eventfd: BorrowedFd<'_>,
    address: u64,
    len: u32,
    datamatch: Option<u64>,
) -> Result<(), Diagnostic> {
    let event = Ioeventfd { eventfd, address, len, datamatch };
    vm.add_ioeventfd(&event).map_err(|error| {
        let call = format!("VM_ADD_FUNCTION of ioeventfd at {address:#x}");
        refused(Step::Functions, call, &error)
    })
}
