// SPDX-License-Identifier: Apache-2.0
//! One VM: its files' headers, its plan and its devicetree, as a launch would have them.

use std::path::Path;

use gunyah::Dialect;

use super::{guest, Options, VmReport};
use crate::config::{self, HugePages, VmConfig, VmName};
use crate::diagnostic::{kinds, Diagnostic};
use crate::dtb::{self, Devicetree, Seeds};
use crate::image::{below, Images};
use crate::list::{self, Listed};
use crate::plan::{fits, plan, reserve_folios, Host, LaunchPlan, VHOST_VSOCK};

kinds! {
    NOTHING: Error "check-nothing" in Config {
        "nothing was checked: no config was found",
        cause: "the path is not that of the configs, or they are not named *.json",
        cure: "give the files, or the directory that has them",
    }
    NOT_STARTED: Warning "check-not-started" in Config {
        "a VM that is started at boot waits for one that is not",
        cure: "set `autostart` of the other VM, or start it by gunyahctl start",
    }
    NO_DISK: Warning "check-no-disk" in Config {
        "a disk's file is not there, or is a directory",
        cause: "it is made later on the device, or the path is wrong",
        cure: "check the path; give --root where the device's files are elsewhere",
    }
    NO_VHOST: Warning "check-no-vhost" in Config {
        "this machine cannot serve a VM's socket device",
        cause: "its kernel has no CONFIG_VHOST_VSOCK, or its module vhost_vsock is not loaded; or this is not the machine that the VM runs on",
        cure: "modprobe vhost_vsock; for another machine's files give --root",
    }
    SHARED_DISK: Warning "check-shared-disk" in Config {
        "two VMs have the same disk, and one of them writes it",
        cause: "a disk is locked: only one of them can run at a time",
        cure: "give each its own disk, or make it read-only in both",
    }
    SHARED_DEVICE: Warning "check-shared-device" in Config {
        "two VMs have the same tap, CID or backend",
        cause: "it is one VM's: only one of them can run at a time",
        cure: "give each its own",
    }
}

/// The order in which kernels are looked at: the first that a VM can run on is the one that is shown.
const ORDER: [Dialect; 5] =
    [Dialect::Ack61, Dialect::Ack66, Dialect::Ack612, Dialect::Lkml, Dialect::LkmlBase];

/// All that can be known of a VM, and all that is wrong with it.
pub(super) fn vm(config: VmConfig, options: &Options) -> (VmReport, Vec<Diagnostic>) {
    let mut report = VmReport {
        huge_pages: HugePages::default(),
        reserve: 0,
        kernels: Vec::new(),
        plan: None,
        dtb_source: None,
        warnings: Vec::new(),
        config,
    };
    let images = open(&report.config, options.root.as_deref());
    let config = &report.config;
    let wanted = |kernel: &Dialect| match options.kernel {
        Some(only) => only == *kernel,
        None => config.kernels.contains(kernel),
    };
    let kernels = ORDER.into_iter().filter(wanted).listed();
    let mut pinned = kernels.iter().filter(|kernel| !kernel.pages_on_demand()).peekable();
    if pinned.peek().is_some() {
        let lends = pinned.any(|kernel| kernel.lends());
        report.huge_pages = config.huge_pages(options.host.huge_page, lends);
    }
    let images = match images {
        Ok(images) => images,
        Err(problems) => return (report, sorted(problems)),
    };
    let mut built_config = None;
    for kernel in kernels {
        // Where there is none, its VMs say so at their start.
        let host = options.host.with(kernel).with_reserve(true);
        let faults = match launch(config, &images, &host) {
            Ok((plan, tree)) => {
                if kernel.pages_on_demand() {
                    report.reserve = reserve_folios(config, &host).iter().sum();
                }
                // The kernel's file is read for it, which takes a moment.
                let built = built_config.get_or_insert_with(|| match plan.devices.is_empty() {
                    true => None,
                    false => images.kernel.built_config(),
                });
                let guest = built.as_ref().map(|built| guest::warnings(config, &plan, built));
                let guest = guest.unwrap_or_default();
                let warnings = tree.warnings.iter().chain(&plan.warnings).chain(&guest);
                add_warnings(&mut report.warnings, warnings, report.plan.as_ref().map(|_| kernel));
                report.dtb_source.get_or_insert_with(|| tree.tree.to_source());
                if report.plan.is_none() {
                    report.plan = Some(plan);
                }
                Vec::new()
            }
            Err(faults) => sorted(faults),
        };
        report.kernels.push((kernel, faults));
    }
    // A file that names its kernels says that the VM runs on each.
    let promised = options.kernel.is_some() || config.kernels != config::kernels();
    if report.plan.is_some() && !promised {
        return (report, Vec::new());
    }
    let problems = problems(config, &report.kernels);
    (report, problems)
}

/// What is to be mended first: of a VM that can be launched on some kernels, all that is wrong on the
/// others; of one that can on none, all of the first kernel, and what the others cannot do at all.
fn problems(config: &VmConfig, kernels: &[(Dialect, Vec<Diagnostic>)]) -> Vec<Diagnostic> {
    let nowhere = kernels.iter().all(|(_, faults)| !faults.is_empty());
    let first = kernels.first().map(|(kernel, _)| *kernel);
    let mut problems: Vec<Diagnostic> = Vec::new();
    for (mut fault, of) in by_kernel(kernels) {
        let of_first = nowhere && of.first() == first.as_ref();
        let cannot = of.iter().any(|kernel| fits(config, *kernel).is_err());
        if !of_first {
            if nowhere && !cannot {
                continue;
            }
            fault.what = format!("on {}: {}", names(&of), fault.what);
        }
        problems.push(fault);
    }
    sorted(problems)
}

/// Where in the VM's file it is.
fn place(fault: &Diagnostic) -> Option<(usize, usize, &str)> {
    fault.place.as_ref().map(|place| (place.line, place.column, place.key.as_str()))
}

fn sorted(mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    list::sort(&mut problems, |a, b| place(a) < place(b));
    problems
}

/// Each fault once, with the kernels that have it.
pub(super) fn by_kernel(kernels: &[(Dialect, Vec<Diagnostic>)]) -> Vec<(Diagnostic, Vec<Dialect>)> {
    let mut grouped: Vec<(&Diagnostic, Vec<Dialect>)> = Vec::new();
    for (kernel, faults) in kernels {
        for fault in faults {
            match grouped.iter_mut().find(|(known, _)| *known == fault) {
                Some((_, kernels)) => kernels.push(*kernel),
                None => grouped.push((fault, vec![*kernel])),
            }
        }
    }
    grouped.into_iter().map(|(fault, kernels)| (fault.clone(), kernels)).listed()
}

pub(super) fn names(kernels: &[Dialect]) -> String {
    let names = kernels.iter().map(|kernel| kernel.name()).listed();
    names.join(", ")
}

/// Adds those that are not there yet; where they are of another kernel than the one that is shown, says
/// of which.
fn add_warnings<'a>(
    known: &mut Vec<Diagnostic>,
    more: impl Iterator<Item = &'a Diagnostic>,
    other: Option<Dialect>,
) {
    for warning in more {
        // The same of two kernels differs in its beginning alone.
        if known.iter().any(|known| known.name == warning.name && known.place == warning.place) {
            continue;
        }
        let mut warning = warning.clone();
        if let Some(kernel) = other {
            warning.what = format!("on {kernel}: {}", warning.what);
        }
        known.push(warning);
    }
}

/// The files of `config`, below `root`.
fn open(config: &VmConfig, root: Option<&Path>) -> Result<Images, Vec<Diagnostic>> {
    let images = Images::open(config, root)?;
    // A file that is larger than its memory is the plan's to refuse, and takes long to unpack.
    if images.info.kernel.size <= config.memory.size {
        images.verify_kernel(config).map_err(|wrong| vec![wrong])?;
    }
    Ok(images)
}

/// What a launch does before it takes memory: the plan and the devicetree.
fn launch(
    config: &VmConfig,
    images: &Images,
    host: &Host,
) -> Result<(LaunchPlan, Devicetree), Vec<Diagnostic>> {
    let given = images.dtb.as_deref();
    let plan = plan(config, &images.info, dtb::len_max(config, given), host)?;
    let tree = dtb::build(config, given, &plan, &Seeds::default())?;
    Ok((plan, tree))
}

/// Disks that are not there, below `root`. Devices of another machine are not looked for.
pub(super) fn no_disks(config: &VmConfig, root: Option<&Path>) -> Vec<Diagnostic> {
    let disks = config.disks.iter().enumerate();
    let disks = disks.map(|(index, disk)| (index, &disk.path, below(root, &disk.path)));
    disks
        .filter(|(_, given, path)| !given.starts_with("/dev") && (!path.exists() || path.is_dir()))
        .map(|(index, _, path)| {
            let wrong = if path.is_dir() { "is a directory" } else { "is not there" };
            let what = format!("{} {wrong}", path.display());
            NO_DISK.case(what).at(config.place(&format!("disks[{index}].path")))
        })
        .listed()
}

/// What the socket device lacks here; of another machine, whose files are below `root`, it is not known.
pub(super) fn no_vhost(config: &VmConfig, root: Option<&Path>) -> Option<Diagnostic> {
    let lacks = config.vsock.is_some() && root.is_none() && !Path::new(VHOST_VSOCK).exists();
    lacks.then(|| NO_VHOST.case(format!("{VHOST_VSOCK} is not there")).at(config.place("vsock")))
}

/// Disks of `config` that one of `others` has, too, where either writes.
pub(super) fn shared_disks(config: &VmConfig, vms: &[VmReport]) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    for (index, disk) in config.disks.iter().enumerate() {
        let mut other = vms.iter().map(|vm| &vm.config).filter(|other| other.name != config.name);
        let found = other.find(|other| {
            let mut theirs = other.disks.iter();
            theirs.any(|their| their.path == disk.path && !(their.readonly && disk.readonly))
        });
        if let Some(other) = found {
            let what = format!("{} is a disk of {}, too", disk.path.display(), other.name);
            let place = config.place(&format!("disks[{index}].path"));
            warnings.push(SHARED_DISK.case(what).at(place));
        }
    }
    warnings
}

/// Taps, CID and backends of `config` that one of `others` has, too.
pub(super) fn shared_devices(config: &VmConfig, vms: &[VmReport]) -> Vec<Diagnostic> {
    let mine = own_devices(config);
    let mut warnings = Vec::new();
    for (key, device) in &mine {
        let mut other = vms.iter().map(|vm| &vm.config).filter(|other| other.name != config.name);
        let found = other.find(|other| own_devices(other).iter().any(|(_, their)| their == device));
        if let Some(other) = found {
            let what = format!("{device} is of {}, too", other.name);
            warnings.push(SHARED_DEVICE.case(what).at(config.place(key)));
        }
    }
    warnings
}

/// What no other VM can have while this one runs, each with its key.
fn own_devices(config: &VmConfig) -> Vec<(String, String)> {
    let nets = config.nets.iter().enumerate();
    let nets = nets.map(|(index, net)| (format!("nets[{index}].tap"), format!("tap {}", net.tap)));
    let cid = config.vsock.as_ref().and_then(|vsock| vsock.cid);
    let cid = cid.map(|cid| ("vsock.cid".to_owned(), format!("CID {cid}")));
    let backends = config.vhost_user.iter().enumerate().map(|(index, backend)| {
        let key = format!("vhost_user[{index}].socket");
        (key, format!("socket {}", backend.socket.display()))
    });
    nets.chain(cid).chain(backends).listed()
}

/// What a VM that is started at boot waits for until somebody starts it.
pub(super) fn waits(config: &VmConfig, asleep: &[VmName]) -> Vec<Diagnostic> {
    let after = config.start.after.iter().enumerate();
    after
        .filter(|(_, wanted)| config.autostart && asleep.contains(&wanted.vm))
        .map(|(index, wanted)| {
            let what = format!("waits for {}, which is not started at boot", wanted.vm);
            let place = config.place(&format!("start.after[{index}]"));
            NOT_STARTED.case(what).at(place)
        })
        .listed()
}
