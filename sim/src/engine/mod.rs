// SPDX-License-Identifier: Apache-2.0
//! Engines: what a START sets going behind the driver's model.
//!
//! The model has checked everything before an engine hears of a VM. [`Engine::start`] and the
//! methods of [`EngineVm`], but for [`EngineVm::stop`], are called on the simulator's one loop and
//! must not block: an engine that has long work to do starts a thread and reports by [`Events`].

#[cfg(feature = "exec")]
pub mod exec;
pub mod null;
pub mod qemu;
mod run_page;

use std::fmt;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

pub use crate::vm::{Access, Exit, StartRegion, StartVm, VmId};
pub use run_page::{MmioAccess, RunPage};

/// Which of a guest's page faults an engine reports, where memory is given page by page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// None, for nothing is executed: only the first instruction's is made.
    First,
    /// None, for the guest runs elsewhere: those of all its lent memory are made at the first VCPU_RUN.
    All,
    /// Each, by [`VcpuExit::Fault`].
    Told,
}

/// Why a VCPU_RUN came back, short of the VM's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VcpuExit {
    /// Access to an address without memory; the run page is filled in by the simulator.
    Mmio(MmioAccess),
    /// Access to memory that the guest does not have yet.
    Fault {
        /// Guest address.
        address: u64,
        /// A write.
        write: bool,
    },
    /// It spins in the host's kernel without an exit and never returns.
    Spins,
    /// Interrupted by [`EngineVm::interrupt_vcpu`] or immediate_exit: EINTR.
    Interrupted,
    /// Failed with an errno.
    Failed(Errno),
}

/// What an engine reports.
#[derive(Debug, Clone)]
pub enum Event {
    /// The VM runs: START answers 0.
    Started,
    /// The VM cannot run: START answers the errno and the VM is dead. The text goes to the record.
    Refused(Errno, String),
    /// The VM ended; every VCPU_RUN answers with it from now on.
    Exited(Exit),
    /// A vCPU that runs by [`EngineVm::run_vcpu`] stopped for a reason of its own.
    Vcpu(u32, VcpuExit),
    /// [`EngineVm::stop`] is back; sent by the session itself.
    Stopped,
    /// Console output of the guest, for the record.
    Console(Vec<u8>),
    /// Anything worth a line in the record.
    Note(String),
}

/// Where engines send their events, from any thread.
#[derive(Debug, Clone)]
pub struct Events {
    vm: VmId,
    sender: Sender<(VmId, Event)>,
    bell: Arc<EventFd>,
}

impl Events {
    /// Sends the event; ignored once the simulator has ended.
    pub fn send(&self, event: Event) {
        if self.sender.send((self.vm, event)).is_ok() {
            let _ = self.bell.write(1);
        }
    }
}

/// The simulator's end of [`Events`].
#[derive(Debug)]
pub struct EventQueue {
    sender: Sender<(VmId, Event)>,
    receiver: Receiver<(VmId, Event)>,
    bell: Arc<EventFd>,
}

impl EventQueue {
    /// An empty queue.
    pub fn new() -> Result<Self, Errno> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self { sender, receiver, bell: Arc::new(EventFd::from_value_and_flags(0, flags)?) })
    }

    /// A sender for one VM.
    pub fn sender(&self, vm: VmId) -> Events {
        Events { vm, sender: self.sender.clone(), bell: Arc::clone(&self.bell) }
    }

    /// Readable while events wait.
    pub fn bell(&self) -> &EventFd {
        &self.bell
    }

    /// All that wait.
    pub fn drain(&self) -> Vec<(VmId, Event)> {
        // Quiet first: an event sent in between rings again.
        let _ = self.bell.read();
        self.receiver.try_iter().collect()
    }
}

/// Makes VMs run.
pub trait Engine {
    /// The word of `--engine`.
    fn name(&self) -> &'static str;

    /// Starts a VM; answers with [`Event::Started`] or [`Event::Refused`], now or later. START's
    /// call is held until then.
    fn start(&mut self, vm: StartVm, events: Events) -> Box<dyn EngineVm>;
}

/// The engine of `--engine NAME[,KEY=VALUE…]`.
pub fn by_name(words: &str) -> Result<Box<dyn Engine>, String> {
    let (name, options) = words.split_once(',').unwrap_or((words, ""));
    let engine: Box<dyn Engine> = match name {
        "null" => Box::new(null::Null),
        "qemu" => Box::new(qemu::Qemu),
        #[cfg(feature = "exec")]
        "exec" => Box::new(exec::Exec),
        #[cfg(not(feature = "exec"))]
        "exec" => return Err("engine exec is not built in: cargo build --features exec".into()),
        _ => return Err(format!("engine {name:?}: one of null, qemu, exec")),
    };
    if options.is_empty() {
        Ok(engine)
    } else {
        Err(format!("engine {name} has no options, not {options:?}"))
    }
}

/// A VM at an engine.
pub trait EngineVm: Send {
    /// True: VCPU_RUN is handed over. False: it blocks until the VM ends.
    fn runs_vcpus(&self) -> bool {
        false
    }

    /// VCPU_RUN came in: run until there is an exit to report by [`Event::Vcpu`] or
    /// [`Event::Exited`]. After an MMIO exit the page holds the answer to it.
    fn run_vcpu(&mut self, vcpu: u32, page: Arc<RunPage>) {
        let _ = (vcpu, page);
    }

    /// The caller of VCPU_RUN was interrupted: stop the vCPU at an instruction boundary and report
    /// [`VcpuExit::Interrupted`], which nobody may be waiting for any more.
    fn interrupt_vcpu(&mut self, vcpu: u32) {
        let _ = vcpu;
    }

    /// Which page faults it reports.
    fn faults(&self) -> Faults {
        Faults::First
    }

    /// The guest has this memory now, by guest address and bytes.
    fn provide(&mut self, address: u64, size: u64) {
        let _ = (address, size);
    }

    /// The host fired the irqfd with this label, which is one of `IRQFD_FLAGS_LEVEL` or not.
    fn interrupt_line(&mut self, label: u32, level: bool) {
        let _ = (label, level);
    }

    /// Ends the VM and lets go of its memory. On a thread of its own, may block; only when it is
    /// back is the VM's memory given back. Events are ignored from then on.
    fn stop(self: Box<Self>);
}

impl fmt::Debug for dyn EngineVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineVm")
    }
}
