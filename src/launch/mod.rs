// SPDX-License-Identifier: Apache-2.0
//! One launch, from a config to a VM that runs: the whole way in one place.
//!
//! ```text
//! progress    what it reports on its way
//! dialect     which driver it is
//! load        files' bytes into guest memory
//! kernel_log  what the kernel says when START fails
//! answers     what the driver's errnos mean
//! ```

mod answers;
mod dialect;
mod kernel_log;
mod load;
mod progress;

use std::io;
use std::path::Path;

use gunyah::uapi::{self, UserMemoryRegion};
use gunyah::{BootRegister, Dialect, Gunyah, Vcpu, Vm};

use crate::config::{Access, Scheduling, VmConfig};
use crate::diagnostic::{Diagnostic, Kind, Step};
use crate::dtb::{self, Devicetree};
use crate::image::{Images, KernelLayout};
use crate::list::Listed;
use crate::memory::{self, Allotment, Choice, GuestMemory, Pool};
use crate::plan::{fits, plan, Host, LaunchPlan, PlannedRegion};
use crate::text::{Count, Size};

use kernel_log::KernelLog;
use progress::Progress;

pub(crate) use answers::refused;
pub use dialect::probe;
pub use progress::{Event, Folios};

/// A VM that runs, and everything that it needs to go on.
#[derive(Debug)]
pub struct Launched<T> {
    pub vm: Vm,
    /// Mapped for as long as the VM lives.
    pub memory: GuestMemory,
    /// Proxy-scheduled vCPUs, by their index.
    pub vcpus: Vec<Vcpu>,
    /// Who gives the vCPUs their time.
    pub scheduling: Scheduling,
    /// What the driver speaks.
    pub dialect: Dialect,
    /// What `before_start` made.
    pub prepared: T,
}

/// Launches `config` on the driver of `device`, with its part of the `reserve`, as one of so many `launches` at
/// once; `report` hears of every step. `before_start` adds what has to be there when the guest begins, such
/// as interrupt lines. What it returns is dropped before the VM where START fails: android14-6.1 frees memory
/// that it still uses if the eventfd of an interrupt line outlives the VM.
///
/// An error is the step's that failed. Everything that was made before it is given back.
pub fn launch<T>(
    config: &VmConfig,
    device: &Path,
    reserve: Option<Allotment>,
    launches: usize,
    report: &dyn Fn(Vec<Event>),
    before_start: impl FnOnce(&Vm, &GuestMemory, &Devicetree) -> Result<T, Diagnostic>,
) -> Result<Launched<T>, Diagnostic> {
    let progress = Progress::new(report);
    // Before images are opened and memory is taken: what the driver cannot do needs neither.
    let (vm, dialect) = create(config, device, &progress)?;
    let timer_wakeups = dialect::timer_wakeups(&vm, dialect);
    let host = Host { timer_wakeups, ..memory::host(dialect).with_reserve(reserve.is_some()) };
    let launch = Launch { config, host, launches, progress };
    let open = || Images::open(config, None).map_err(first_of);
    let images = launch.progress.step(Step::Images, open, describe_images)?;
    images.read_ahead();
    let (plan, tree) = launch.decide(&images)?;
    let mut memory = launch.take_memory(&images, &plan, reserve)?;
    launch.load(&images, &tree.blob, &plan, &mut memory)?;
    // The files' bytes are in guest memory; their fds need not live as long as the guest.
    drop(images);

    launch.configure(&vm, &memory, &plan)?;
    let vcpus = launch.add_vcpus(&vm, &plan)?;
    // It may wait, for backends of devices.
    launch.progress.send();
    let prepared = before_start(&vm, &memory, &tree)?;
    launch.progress.report(Event::Starts);
    let log = KernelLog::from_now();
    let firmware = plan.firmware.is_some();
    let failed = |error| log.explain(answers::start_refused(dialect, firmware, &error));
    launch.progress.step(Step::Start, || vm.start().map_err(failed), |()| String::new())?;
    Ok(Launched { vm, memory, vcpus, scheduling: plan.scheduling, dialect, prepared })
}

/// Opens the device, creates the VM and finds out which driver that is, and whether it can do what the
/// file asks.
fn create(
    config: &VmConfig,
    device: &Path,
    progress: &Progress<'_>,
) -> Result<(Vm, Dialect), Diagnostic> {
    let path = device.display();
    let open = || Gunyah::open(device);
    let call = format!("opening {path}");
    let gunyah = progress.call(Step::Device, call, open, |_| path.to_string())?;
    let create = || gunyah.create_vm();
    let call = format!("CREATE_VM on {path}");
    let vm = progress.call(Step::CreateVm, call, create, |_| String::new())?;
    let ask = || dialect::of(&vm);
    let dialect = progress.step(Step::Dialect, ask, Dialect::to_string)?;
    progress.report(Event::Dialect(dialect.name().to_owned()));
    // The plan has its warnings.
    fits(config, dialect).map_err(first_of)?;
    Ok((vm, dialect))
}

struct Launch<'a> {
    config: &'a VmConfig,
    host: Host,
    launches: usize,
    progress: Progress<'a>,
}

impl Launch<'_> {
    /// Decides every address, then builds the devicetree with them.
    fn decide(&self, images: &Images) -> Result<(LaunchPlan, Devicetree), Diagnostic> {
        let config = self.config;
        let decide = || {
            let given = images.dtb.as_deref();
            let len_max = dtb::len_max(config, given);
            let plan = plan(config, &images.info, len_max, &self.host).map_err(first_of)?;
            let tree = dtb::build(config, given, &plan, &load::seeds()?).map_err(first_of)?;
            Ok((plan, tree))
        };
        let describe = |(plan, _): &_| describe_plan(plan);
        let (plan, tree) = self.progress.step(Step::Plan, decide, describe)?;
        self.progress.warn(tree.warnings.iter().cloned());
        self.progress.warn(plan.warnings.iter().cloned());
        Ok((plan, tree))
    }

    /// Checks limits, pools and reserve, then maps and populates the plan's regions and loads their files.
    fn take_memory(
        &self,
        images: &Images,
        plan: &LaunchPlan,
        reserve: Option<Allotment>,
    ) -> Result<GuestMemory, Diagnostic> {
        let choose = || {
            let choice = memory::choose(plan, &self.host, Pool::read_for, reserve.as_ref())?;
            memory::raise_memlock(choice.pinned)?;
            Ok(choice)
        };
        let choice = self.progress.step(Step::Pool, choose, describe_pool)?;
        self.progress.warn(choice.warnings.iter().cloned());

        let allocate = || {
            let (mut memory, warnings) =
                GuestMemory::allocate(plan, &choice, &self.host, reserve, self.launches)?;
            load::regions(images, plan, &mut memory)?;
            Ok((memory, warnings))
        };
        let describe = |(memory, _): &_| describe_memory(plan, &choice, memory);
        let (memory, warnings) = self.progress.step(Step::Memory, allocate, describe)?;
        self.progress.warn(warnings);
        let (huge, of) = memory.huge();
        self.progress.report(Event::Folios(Folios { reserved: choice.reserve, huge, of }));
        if !choice.huge_pages.is_empty() {
            self.progress.report(Event::HugePages(choice.huge_pages));
        }
        Ok(memory)
    }

    /// Puts kernel, initrd and devicetree into guest memory.
    fn load(
        &self,
        images: &Images,
        blob: &[u8],
        plan: &LaunchPlan,
        memory: &mut GuestMemory,
    ) -> Result<(), Diagnostic> {
        let kernel = || load::kernel(images, plan, memory);
        let path = images.kernel.file.path.display();
        self.progress.step(Step::Kernel, kernel, |()| path.to_string())?;
        if let (Some(file), Some(range)) = (&images.initrd, plan.initrd) {
            let initrd = || load::file(file, Step::Initrd, range, memory);
            let path = file.path.display();
            self.progress.step(Step::Initrd, initrd, |()| path.to_string())?;
        }
        let dtb = || load::dtb(blob, plan, memory);
        let size = blob.len();
        let room = plan.dtb.size;
        let describe = |_: &()| format!("{size} bytes, {room} with room for the overlay");
        self.progress.step(Step::Dtb, dtb, describe)
    }

    /// Gives the VM its memory, its devicetree and, where it does not begin at the base of its memory, its
    /// first registers.
    fn configure(
        &self,
        vm: &Vm,
        memory: &GuestMemory,
        plan: &LaunchPlan,
    ) -> Result<(), Diagnostic> {
        let progress = &self.progress;
        for (index, (region, address)) in memory.regions().enumerate() {
            let register = || register(vm, region, address, index == 0, plan.dialect);
            let (label, base, size) = (region.label, region.base, region.size);
            let describe = |how: &_| format!("region {label} {base:#x}+{size:#x}, {how}");
            progress.step(Step::Region, register, describe)?;
        }
        if let Some(firmware) = plan.firmware {
            let configure = || vm.set_fw_config(firmware.base, firmware.size);
            let call = format!("VM_ANDROID_SET_FW_CONFIG of {firmware}");
            progress.call(Step::Firmware, call, configure, |()| firmware.to_string())?;
        }
        let dtb = plan.dtb;
        let configure = || vm.set_dtb_config(dtb.base, dtb.size);
        let call = format!("VM_SET_DTB_CONFIG of {dtb}");
        progress.call(Step::DtbConfig, call, configure, |()| dtb.to_string())?;
        if !plan.dialect.pages_on_demand() || plan.firmware.is_some() {
            // The guest begins at the first byte of main memory, or of its firmware, whatever the registers.
            return Ok(());
        }
        let base = dtb.base;
        let entry = plan.kernel.entry;
        let set = || {
            vm.set_boot_context(BootRegister::Pc, entry)?;
            vm.set_boot_context(BootRegister::X(0), base)
        };
        let call = format!("VM_SET_BOOT_CONTEXT of PC {entry:#x} and X0 {base:#x}");
        let describe = |_: &()| format!("PC {entry:#x}, X0 {base:#x}");
        progress.call(Step::BootContext, call, set, describe)
    }

    fn add_vcpus(&self, vm: &Vm, plan: &LaunchPlan) -> Result<Vec<Vcpu>, Diagnostic> {
        if plan.scheduling == Scheduling::Hypervisor {
            return Ok(Vec::new());
        }
        let add = || {
            let mut vcpus = Vec::new();
            for id in 0..self.config.vcpus.count {
                vcpus.push(add_vcpu(vm, id)?);
            }
            Ok(vcpus)
        };
        let describe = |vcpus: &Vec<_>| format!("{}", Count::of(vcpus.len(), "vCPU"));
        self.progress.step(Step::Functions, add, describe)
    }
}

/// Registers `region`, mapped at `address`; says how. With [`Access::Auto`], main memory is lent where
/// the driver can lend, because a production resource manager refuses it shared, and newer drivers do
/// not make it executable; other regions are shared.
fn register(
    vm: &Vm,
    region: &PlannedRegion,
    address: u64,
    main: bool,
    dialect: Dialect,
) -> Result<&'static str, Diagnostic> {
    let bit = |set: bool, bit: u32| if set { bit } else { 0 };
    let argument = UserMemoryRegion {
        label: region.label,
        flags: bit(region.flags.read, uapi::MEM_ALLOW_READ)
            | bit(region.flags.write, uapi::MEM_ALLOW_WRITE)
            | bit(region.flags.execute, uapi::MEM_ALLOW_EXEC),
        guest_phys_addr: region.base,
        memory_size: region.size,
        userspace_addr: address,
    };
    let failed = |call: &str, error: io::Error| {
        let (label, size, base) = (region.label, region.size, region.base);
        let call =
            format!("{call} of region {label} ({base:#x}+{size:#x}, mapped at {address:#x})");
        refused(Step::Region, call, &error)
    };
    let lend = match region.access {
        Access::Auto => main && dialect.lends(),
        Access::Lend => true,
        Access::Share => false,
    };
    if lend {
        // SAFETY: GuestMemory keeps the mapping until the VM is gone, and nobody touches it between START
        // and then.
        return match unsafe { vm.lend(&argument) } {
            Ok(()) => Ok("lent"),
            Err(error) => Err(failed("VM_ANDROID_LEND_USER_MEM", error)),
        };
    }
    // SAFETY: as above.
    match unsafe { vm.share(&argument) } {
        Ok(()) => Ok("shared"),
        Err(error) => Err(failed("VM_SET_USER_MEM_REGION", error)),
    }
}

fn add_vcpu(vm: &Vm, id: u32) -> Result<Vcpu, Diagnostic> {
    vm.add_vcpu(id).map_err(|error| {
        let call = format!("VM_ADD_FUNCTION of vCPU {id}");
        refused(Step::Functions, call, &error)
    })
}

/// A launch reports the first fault; `gunyahd check` is for all of them. It begins with its step: of a
/// place in the VM's file only the key is kept, because a property has room for 91 bytes.
fn first_of(faults: Vec<Diagnostic>) -> Diagnostic {
    let more = faults.len().saturating_sub(1);
    let first = faults.into_iter().next();
    let mut first = first.unwrap_or_else(|| answers::OTHER.case("nothing is known to be wrong"));
    if let Some(place) = first.place.take().filter(|place| !place.key.is_empty()) {
        first.what = format!("{}: {}", place.key, first.what);
    }
    if more > 0 {
        first.what.push_str(&format!(" (and {more} more: `gunyahd check` lists all)"));
    }
    first
}

fn describe_images(images: &Images) -> String {
    let kernel = &images.info.kernel;
    let format = match (&kernel.layout, kernel.gzip) {
        (_, true) => "gzip'ed arm64 Image",
        (KernelLayout::Image(_), false) => "arm64 Image",
        (KernelLayout::Elf(_), false) => "ELF",
    };
    let mut text = format!("{format} of {} bytes", kernel.size);
    if let Some(size) = images.info.initrd {
        text.push_str(&format!(", initrd of {size} bytes"));
    }
    text
}

fn describe_plan(plan: &LaunchPlan) -> String {
    let mut text = format!("entry {:#x}, ", plan.kernel.entry);
    if let Some(firmware) = plan.firmware {
        text = format!("firmware {firmware}, kernel {:#x}, ", plan.kernel.entry);
    }
    if let Some(initrd) = &plan.initrd {
        text.push_str(&format!("initrd {:#x}, ", initrd.base));
    }
    let (dtb, entries) = (plan.dtb.base, Count(plan.memory_entries, "memory entry"));
    text.push_str(&format!("dtb {dtb:#x}, {entries} at most"));
    if plan.timer_wakeups {
        text.push_str(", the driver wakes vCPUs by their timers");
    }
    text
}

fn describe_pool(choice: &Choice) -> String {
    let pages = choice.huge_pages.iter();
    let mut each =
        pages.map(|(page, count)| format!("{} of {}", Count(count, "page"), Size(page))).listed();
    if choice.reserve > 0 {
        each.push(format!("{} of the reserve", Count(choice.reserve, "folio")));
    }
    if each.is_empty() {
        return "no huge pages of the pool needed".to_owned();
    }
    each.join(", ")
}

fn describe_memory(plan: &LaunchPlan, choice: &Choice, memory: &GuestMemory) -> String {
    let regions = plan.regions.iter().zip(&choice.backings);
    let each: Vec<_> = regions
        .map(|(region, backing)| {
            let (label, size) = (region.label, Size(region.size));
            format!("region {label} {size} {backing}")
        })
        .listed();
    let each = each.join(", ");
    match memory.huge() {
        (_, 0) => each,
        (huge, of) => format!("{each}; {huge} of {of} folios are huge"),
    }
}

/// Everything that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] = &[dialect::KINDS, load::KINDS, answers::KINDS];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn a_launch_reports_its_first_fault_by_step_and_key() {
        let text = r#"{"name": "vm", "memory": {"size": "4M"}, "kernel": {"path": "/Image"}}"#;
        let config = parse(Path::new("vm.json"), text).unwrap();
        let fault = |what: &str| answers::OTHER.case(what).at(config.place("memory.size"));
        let first = first_of(vec![fault("one"), fault("two"), fault("three")]);
        let text = first.to_string();
        let begin = "device: memory.size: one (and 2 more: `gunyahd check` lists all); ";
        assert!(text.starts_with(begin), "{text}");
    }
}
