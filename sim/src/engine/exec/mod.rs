// SPDX-License-Identifier: Apache-2.0
//! The engine that executes guests instruction by instruction inside VCPU_RUN, with MMIO exits.
//!
//! One thread a vCPU, each with an arm64 CPU of its own on the registered memory itself. The
//! hypervisor's part is here: PSCI, the interrupt controller, faults, and the end of a guest that
//! cannot take its own exceptions.

mod clock;
mod cpu;
mod exception;
mod gic;
mod link;
mod mmio;
mod psci;
mod ram;
mod registers;
mod thread;
mod walk;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use gunyah::uapi;
use nix::errno::Errno;

use crate::{fdt, overlay};

use super::{Engine, EngineVm, Event, Events, Exit, Faults, RunPage, StartVm, VcpuExit};

use clock::Clock;
use gic::Gic;
use link::Link;
use ram::Ram;

/// Executes guests.
#[derive(Debug, Default)]
pub struct Exec;

/// What a VM's threads share.
struct Machine {
    ram: Ram,
    gic: Mutex<Gic>,
    clock: Arc<Clock>,
    /// By vCPU.
    links: Vec<Arc<Link>>,
    events: Events,
    /// Memory is given page by page.
    paged: bool,
    /// vCPUs that were added before START.
    early: Vec<u32>,
    /// The devicetree has a psci node: its calls are answered.
    psci: bool,
}

impl Machine {
    fn link(&self, vcpu: u32) -> Option<&Arc<Link>> {
        self.links.get(usize::try_from(vcpu).ok()?)
    }

    /// Works with the interrupt controller; then each CPU has its line.
    fn with_gic<T>(&self, work: impl FnOnce(&mut Gic) -> T) -> T {
        let mut gic = self.gic.lock().unwrap_or_else(PoisonError::into_inner);
        let value = work(&mut gic);
        for (cpu, link) in self.links.iter().enumerate() {
            link.set_line(gic.line(cpu));
        }
        value
    }

    /// The VM's end: reported once, and no CPU goes on. Up to 6.1 it is not reported at all where the
    /// guest switches off while another CPU sits in WFI: that one spins in the host's kernel for ever,
    /// if it was added before START [i].
    fn end(&self, exit: Exit) {
        let mut links = (0..).zip(&self.links);
        let waiting = links.find(|(vcpu, link)| link.is_idle() && self.early.contains(vcpu));
        match waiting.filter(|_| !self.paged && exit.exit_type == uapi::EXIT_TYPE_SYSTEM_OFF) {
            Some((vcpu, _)) => self.events.send(Event::Vcpu(vcpu, VcpuExit::Spins)),
            None => self.events.send(Event::Exited(exit)),
        }
        self.stop();
    }

    fn stop(&self) {
        for link in &self.links {
            link.stop();
        }
    }
}

struct ExecVm {
    machine: Option<Arc<Machine>>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine for Exec {
    fn name(&self) -> &'static str {
        "exec"
    }

    fn start(&mut self, vm: StartVm, events: Events) -> Box<dyn EngineVm> {
        match ExecVm::new(&vm, events.clone()) {
            Ok(running) => {
                events.send(Event::Started);
                Box::new(running)
            }
            Err(what) => {
                events.send(Event::Refused(Errno::ENODEV, what));
                Box::new(ExecVm { machine: None, threads: Vec::new() })
            }
        }
    }
}

impl ExecVm {
    fn new(vm: &StartVm, events: Events) -> Result<Self, String> {
        if !vm.guest.proxy {
            return Err("the exec engine runs proxy-scheduled VMs only".to_string());
        }
        let psci = add_overlay(vm)?;
        let links: Vec<_> = (0..vm.guest.cpus).map(|_| Arc::default()).collect();
        let machine = Arc::new(Machine {
            ram: Ram::map(vm)?,
            gic: Mutex::new(Gic::new(&vm.guest.doorbells, vm.guest.cpus)),
            clock: Arc::default(),
            links,
            events,
            paged: vm.paged.is_some(),
            early: vm.vcpus.clone(),
            psci,
        });
        if let Some(boot) = machine.links.first() {
            boot.power_on(vm.entry.pc, vm.entry.x0);
        }
        let mut threads = Vec::new();
        // All of them: a vCPU's descriptor may come after START.
        for vcpu in 0..vm.guest.cpus {
            let machine = Arc::clone(&machine);
            let context = vm.boot_context.clone();
            let thread = std::thread::Builder::new()
                .name(format!("vcpu-{vcpu}"))
                .spawn(move || thread::run(&machine, vcpu, &context))
                .map_err(|error| format!("thread of vCPU {vcpu}: {error}"))?;
            threads.push(thread);
        }
        Ok(Self { machine: Some(machine), threads })
    }

    fn link(&self, vcpu: u32) -> Option<&Arc<Link>> {
        self.machine.as_ref()?.link(vcpu)
    }
}

/// Does the resource manager's part on the devicetree in guest memory. True: it has a psci node.
fn add_overlay(vm: &StartVm) -> Result<bool, String> {
    let room = usize::try_from(vm.dtb_size).map_err(|error| error.to_string())?;
    let mut blob = vec![0; room];
    vm.read(vm.dtb_address, &mut blob)
        .map_err(|errno| format!("reading the devicetree: {errno}"))?;
    if !vm.guest.was_read {
        return Ok(true);
    }
    let mut tree = fdt::parse(&blob).map_err(|error| error.to_string())?;
    let psci = tree.root.child("psci").is_some();
    let placed = |region: &super::StartRegion| overlay::Placed {
        label: region.label,
        base: region.placed_at.unwrap_or(region.guest_phys_addr),
        size: region.size,
    };
    let mut all: Vec<_> = vm.regions.iter().filter(|of| of.main).map(placed).collect();
    // Where memory is given page by page, the guest's memory is what is lent.
    let further = |of: &&super::StartRegion| {
        !of.main && (vm.paged.is_none() || of.access == super::Access::Lend)
    };
    all.extend(vm.regions.iter().filter(further).map(placed));
    let given = match vm.paged {
        Some(_) => overlay::Given::ByFault,
        None => overlay::Given::Parcels,
    };
    // Any seed will do: nothing here is to be kept secret.
    overlay::apply(&mut tree, &all, given, 0x5eed).map_err(|error| error.to_string())?;
    let blob = tree.to_blob().map_err(|error| error.to_string())?;
    if blob.len() > room {
        return Err(format!(
            "devicetree: {} bytes with the overlay, {room} bytes of room",
            blob.len()
        ));
    }
    vm.write(vm.dtb_address, &blob).map_err(|errno| format!("writing the devicetree: {errno}"))?;
    Ok(psci)
}

impl EngineVm for ExecVm {
    fn runs_vcpus(&self) -> bool {
        true
    }

    fn run_vcpu(&mut self, vcpu: u32, page: Arc<RunPage>) {
        if let Some(link) = self.link(vcpu) {
            link.run(page);
        }
    }

    fn interrupt_vcpu(&mut self, vcpu: u32) {
        if let Some(link) = self.link(vcpu) {
            link.interrupt();
        }
    }

    fn faults(&self) -> Faults {
        Faults::Told
    }

    fn provide(&mut self, address: u64, size: u64) {
        if let Some(machine) = &self.machine {
            machine.ram.provide(address, size);
        }
    }

    fn interrupt_line(&mut self, label: u32, level: bool) {
        if let Some(machine) = &self.machine {
            machine.with_gic(|gic| gic.ring(label, level));
        }
    }

    fn stop(self: Box<Self>) {
        if let Some(machine) = &self.machine {
            machine.stop();
        }
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
