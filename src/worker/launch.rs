// SPDX-License-Identifier: Apache-2.0
//! One launch, from config to a VM that runs: the whole way in one place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::errno::Errno;

use super::channel::Report;
use super::reporter::Reporter;
use crate::config::{Scheduling, VmConfig};
use crate::driver::{Granted, Gunyah, Vm};
use crate::dtb::{Draft, DtbProblem, Seeds};
use crate::error::{LaunchError, Step};
use crate::image::{Images, KernelLayout};
use crate::memory::{self, size_text, GuestMemory, Pool};
use crate::plan::{plan, LaunchPlan};

/// A VM that runs, and everything that it needs to go on.
#[derive(Debug)]
pub struct Launched {
    /// The VM's fd.
    pub vm: Vm,
    /// Its memory, mapped for as long as it lives.
    pub memory: GuestMemory,
    /// Proxy-scheduled vCPUs, by their index.
    pub vcpus: Vec<gunyah::Vcpu>,
}

/// Launches `config`, telling every step.
///
/// `before_start` adds what has to be there when the guest begins, such as interrupt lines.
///
/// # Errors
/// The step that failed. Everything that was made before it is given back.
pub fn launch(
    config: &VmConfig,
    device: &Path,
    tell: &Reporter,
    before_start: impl FnOnce(&Vm) -> Result<(), LaunchError>,
) -> Result<Launched, LaunchError> {
    let images = tell.step(Step::Images, || open(config), describe_images)?;
    let host = memory::host();
    let (draft, plan) = tell.step(
        Step::Plan,
        || {
            let draft = draft(config, &images)?;
            let plan = plan(config, &images.info, draft.facts().blob_len_max, &host).map_err(
                |problems| {
                    first_of(
                        Step::Plan,
                        problems
                            .iter()
                            .map(|p| format!("{}: {}; cure: {}", p.key, p.what, p.cure)),
                    )
                },
            )?;
            Ok((draft, plan))
        },
        |(_, plan)| describe_plan(plan),
    )?;
    tell.warn(draft.warnings().iter().map(ToString::to_string));
    tell.warn(plan.warnings.iter().cloned());

    let choice = tell.step(
        Step::Pool,
        || {
            memory::raise_memlock(
                plan.regions
                    .iter()
                    .map(|region| region.size)
                    .fold(0, u64::saturating_add),
            )?;
            memory::choose(&plan, &host, Pool::read)
        },
        |choice| {
            let pages: Vec<_> = choice
                .huge_pages
                .iter()
                .map(|(page, count)| format!("{count} pages of {}", size_text(*page)))
                .collect();
            if pages.is_empty() {
                "no huge pages of the pool needed".to_owned()
            } else {
                pages.join(", ")
            }
        },
    )?;
    tell.warn(choice.warnings.iter().cloned());

    let (mut memory, warnings) = tell.step(
        Step::Memory,
        || {
            let (mut memory, warnings) = GuestMemory::allocate(&plan, &choice, &host)?;
            images.load_regions(&plan, &mut memory)?;
            Ok((memory, warnings))
        },
        |_| {
            let each: Vec<_> = plan
                .regions
                .iter()
                .zip(&choice.backings)
                .map(|(region, backing)| {
                    format!(
                        "region {} {} {backing}",
                        region.label,
                        size_text(region.size)
                    )
                })
                .collect();
            each.join(", ")
        },
    )?;
    tell.warn(warnings);
    if !choice.huge_pages.is_empty() {
        tell.send(&Report::HugePages(choice.huge_pages));
    }

    tell.step(
        Step::Kernel,
        || images.load_kernel(&plan, &mut memory),
        |()| images.kernel.open.path.display().to_string(),
    )?;
    if let Some(initrd) = &plan.initrd {
        tell.step(
            Step::Initrd,
            || images.load_initrd(&plan, &mut memory),
            |()| initrd.path.display().to_string(),
        )?;
    }
    tell.step(
        Step::Dtb,
        || write_dtb(&draft, &plan, &mut memory),
        |size| format!("{size} bytes, {} with room for the overlay", plan.dtb.size),
    )?;
    // The files' bytes are in guest memory; their fds need not live as long as the guest.
    drop(images);

    let gunyah = tell.step(
        Step::Device,
        || Gunyah::open(device),
        |_| device.display().to_string(),
    )?;
    let vm = tell.step(Step::CreateVm, || gunyah.create_vm(), |_| String::new())?;
    drop(gunyah);
    for (index, (region, planned)) in memory.regions().enumerate() {
        let main = index == 0;
        tell.step(
            Step::Region,
            || vm.register(&region, planned.access, main),
            |granted| {
                let how = match granted {
                    Granted::Shared => "shared",
                    Granted::Lent => "lent",
                };
                format!(
                    "region {} at {:#x}, {}, {how}",
                    region.label,
                    region.base,
                    size_text(region.size)
                )
            },
        )?;
    }
    tell.step(
        Step::DtbConfig,
        || vm.set_dtb_config(plan.dtb.base, plan.dtb.size),
        |()| format!("{:#x}+{:#x}", plan.dtb.base, plan.dtb.size),
    )?;
    let vcpus = match plan.scheduling {
        Scheduling::Hypervisor => Vec::new(),
        Scheduling::Proxy => tell.step(
            Step::Functions,
            || {
                (0..plan.vcpus)
                    .map(|id| vm.add_vcpu(id))
                    .collect::<Result<Vec<_>, _>>()
            },
            |vcpus| format!("{} vCPUs", vcpus.len()),
        )?,
    };
    before_start(&vm)?;
    tell.step(Step::Start, || vm.start(), |()| String::new())?;
    Ok(Launched { vm, memory, vcpus })
}

fn open(config: &VmConfig) -> Result<Images, LaunchError> {
    Images::open(config).map_err(|problems| {
        let more = problems.len().saturating_sub(1);
        let mut first = match problems.into_iter().next() {
            Some(problem) => problem.error,
            None => LaunchError::new(Step::Images, "the files cannot be used"),
        };
        if more > 0 {
            first.what = format!("{} (and {more} more)", first.what);
        }
        first
    })
}

fn draft(config: &VmConfig, images: &Images) -> Result<Draft, LaunchError> {
    match &images.dtb {
        Some(bytes) => Draft::given(bytes, config),
        None => Draft::generated(config),
    }
    .map_err(|problems| dtb_error(&problems))
}

fn dtb_error(problems: &[DtbProblem]) -> LaunchError {
    first_of(
        Step::Dtb,
        problems
            .iter()
            .filter(|problem| !problem.is_warning())
            .map(ToString::to_string),
    )
    .lasting()
}

// A launch tells the first problem; all of them are what `gunyahd check` is for.
fn first_of(step: Step, problems: impl Iterator<Item = String>) -> LaunchError {
    let mut problems = problems.peekable();
    let first = problems.next().unwrap_or_default();
    match problems.count() {
        0 => LaunchError::new(step, first),
        more => LaunchError::new(
            step,
            format!("{first} (and {more} more: `gunyahd check` lists all)"),
        ),
    }
}

fn write_dtb(
    draft: &Draft,
    plan: &LaunchPlan,
    memory: &mut GuestMemory,
) -> Result<usize, LaunchError> {
    let finished = draft
        .finish(plan, &seeds()?)
        .map_err(|problems| dtb_error(&problems))?;
    let size = finished.blob.len();
    let room = memory.bytes_mut(Step::Dtb, plan.dtb.base, plan.dtb.size)?;
    let Some(start) = room.get_mut(..size) else {
        return Err(LaunchError::new(
            Step::Dtb,
            format!(
                "the devicetree has {size} bytes, {} were planned",
                plan.dtb.size
            ),
        ));
    };
    start.copy_from_slice(&finished.blob);
    Ok(size)
}

fn seeds() -> Result<Seeds, LaunchError> {
    const SOURCE: &str = "/dev/urandom";
    let mut bytes = [0; 40];
    File::open(SOURCE)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| {
            LaunchError::new(Step::Dtb, format!("reading {SOURCE} for the guest's seeds"))
                .errno(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        })?;
    let mut rng = [0; 32];
    let mut kaslr = [0; 8];
    rng.copy_from_slice(&bytes[..32]);
    kaslr.copy_from_slice(&bytes[32..]);
    Ok(Seeds {
        rng,
        kaslr: u64::from_ne_bytes(kaslr),
    })
}

fn describe_images(images: &Images) -> String {
    let kernel = &images.info.kernel;
    let format = match (&kernel.layout, kernel.gzip) {
        (_, true) => "gzip'ed arm64 Image",
        (KernelLayout::Image(_), false) => "arm64 Image",
        (KernelLayout::Elf(_), false) => "ELF",
    };
    let initrd = images
        .info
        .initrd
        .map_or_else(String::new, |size| format!(", initrd of {size} bytes"));
    format!("{format} of {} bytes{initrd}", kernel.size)
}

fn describe_plan(plan: &LaunchPlan) -> String {
    let initrd = plan
        .initrd
        .as_ref()
        .map_or_else(String::new, |initrd| format!("initrd {:#x}, ", initrd.base));
    format!(
        "entry {:#x}, {initrd}dtb {:#x}, {} memory entries at most",
        plan.kernel.entry, plan.dtb.base, plan.memory_entries
    )
}
