// SPDX-License-Identifier: Apache-2.0
//! `gunyahd check`: everything that can be known of configs without a device.
//!
//! ```text
//! inspect   one VM: its files, its plan, its devicetree
//! map       regions and what lies in them, by address
//! text      the report for people; with --dtb as comments around devicetree source
//! json      the report for programs
//! ```

mod guest;
mod inspect;
mod json;
mod map;
mod text;

pub(crate) use json::members as diagnostic_json;

use std::io::{self, Write};
use std::path::PathBuf;

use gunyah::Dialect;

use crate::config::{kernels, load_paths, HugePages, VmConfig};
use crate::diagnostic::{Diagnostic, Kind};
use crate::list::Listed;
use crate::plan::{Host, LaunchPlan};

/// What to check, and how to report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Files and directories.
    pub paths: Vec<PathBuf>,
    /// Print each VM's devicetree as source.
    pub dtb: bool,
    /// Print the report as JSON.
    pub json: bool,
    /// The host that the VMs are meant for.
    pub host: Host,
    /// The kernel that the VMs are meant for, by its driver's dialect. Absent: each that a VM's file allows.
    pub kernel: Option<Dialect>,
    /// Where the device's files are found: `/vendor/x` is looked for in `<root>/vendor/x`.
    pub root: Option<PathBuf>,
}

/// The host that `--page-size` means: `4K`, `16K` or `64K`.
pub fn host_with_pages(text: &str) -> Option<Host> {
    match text {
        "4K" => Some(Host::PAGES_4K),
        "16K" => Some(Host::PAGES_16K),
        "64K" => Some(Host::PAGES_64K),
        _ => None,
    }
}

/// The kernel that `--kernel` means.
pub fn kernel_named(text: &str) -> Option<Dialect> {
    kernels().into_iter().find(|kernel| kernel.name() == text)
}

/// Everything found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The host assumed.
    pub host: Host,
    /// Where the device's files were looked for, if not at `/`.
    pub root: Option<PathBuf>,
    /// Files read, good or not.
    pub files: usize,
    /// Every VM whose config has no mistake, in the order of the files.
    pub vms: Vec<VmReport>,
    /// Every problem, by directory, file and place.
    pub problems: Vec<Diagnostic>,
    /// Warnings of no VM in particular.
    pub warnings: Vec<Diagnostic>,
}

/// What is known of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmReport {
    /// Its config, as it was written.
    pub config: VmConfig,
    /// Kernels that it was checked for, each with why it cannot run there.
    pub kernels: Vec<(Dialect, Vec<Diagnostic>)>,
    /// Its plan, if it can be launched: for the first kernel where it can.
    pub plan: Option<LaunchPlan>,
    /// Devicetree source, if it can be launched.
    pub dtb_source: Option<String>,
    /// Warnings, which do not stop a launch.
    pub warnings: Vec<Diagnostic>,
    /// Huge pages that its first choice of backing takes from the pools, by page size in bytes.
    pub huge_pages: HugePages,
    /// Folios that it takes of the reserve on a kernel where it can be launched and that is its first choice.
    pub reserve: u64,
}

/// Pages that VMs take.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sums<T> {
    /// Pages of all VMs.
    pub all: T,
    /// Pages of those with `autostart`.
    pub autostart: T,
}

impl Report {
    /// Folios that all VMs take of the reserve together.
    pub fn reserve(&self) -> Sums<u64> {
        let mut sum = Sums::<u64>::default();
        for vm in &self.vms {
            sum.all = sum.all.saturating_add(vm.reserve);
            if vm.config.autostart {
                sum.autostart = sum.autostart.saturating_add(vm.reserve);
            }
        }
        sum
    }

    /// Huge pages that all VMs take together.
    pub fn huge_pages(&self) -> Sums<HugePages> {
        let mut sums = Sums::<HugePages>::default();
        for vm in &self.vms {
            for (size, pages) in vm.huge_pages.iter() {
                sums.all.add(size, pages);
                if vm.config.autostart {
                    sums.autostart.add(size, pages);
                }
            }
        }
        sums
    }
}

/// Checks without printing.
pub fn check(options: &Options) -> Report {
    let set = load_paths(&options.paths);
    let asleep =
        set.good().filter(|config| !config.autostart).map(|config| config.name.clone()).listed();
    let mut report = Report {
        host: options.host,
        root: options.root.clone(),
        files: set.files.len(),
        vms: Vec::new(),
        problems: set.problems,
        warnings: set.warnings,
    };
    for file in set.files {
        match file.config {
            Ok(config) => {
                let (mut vm, problems) = inspect::vm(config, options);
                vm.warnings.extend(inspect::waits(&vm.config, &asleep));
                vm.warnings.extend(inspect::no_disks(&vm.config, options.root.as_deref()));
                vm.warnings.extend(inspect::no_vhost(&vm.config, options.root.as_deref()));
                report.vms.push(vm);
                report.problems.extend(problems);
            }
            Err(problems) => report.problems.extend(problems),
        }
    }
    for index in 0..report.vms.len() {
        let warnings = inspect::shared_disks(&report.vms[index].config, &report.vms);
        report.vms[index].warnings.extend(warnings);
        let warnings = inspect::shared_devices(&report.vms[index].config, &report.vms);
        report.vms[index].warnings.extend(warnings);
    }
    report
}

/// Checks and prints. Returns the exit code: 0 if nothing is wrong, else 1.
///
/// # Errors
/// When `out` takes no more.
pub fn run(options: &Options, out: &mut impl Write) -> io::Result<i32> {
    let mut report = check(options);
    if report.files == 0 && report.problems.is_empty() {
        // Who checks a directory relies on what is in it.
        report.problems.push(inspect::NOTHING.case("no config was found"));
    }
    if options.json {
        writeln!(out, "{:#}", json::report(&report, options.dtb))?;
    } else {
        out.write_all(text::report(&report, options.dtb).as_bytes())?;
    }
    out.flush()?;
    Ok(i32::from(!report.problems.is_empty()))
}

/// Every kind of mistake that this folder finds.
pub(crate) const KINDS: &[&[&Kind]] = &[guest::KINDS, inspect::KINDS];
