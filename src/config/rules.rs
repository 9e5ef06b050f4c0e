// SPDX-License-Identifier: Apache-2.0
//! What several keys of one file must keep together. Each rule is called where the keys that it looks
//! at could be read; it returns mistakes with their keys, as seen from its section.

use std::fmt;
use std::time::Duration;

use super::compound::item_key;
use super::keys::TWICE;
use super::names::VmName;
use super::sections::*;
use super::words::{Backend, Backing, Scheduling};
use crate::diagnostic::{kinds, Diagnostic};
use crate::layout::{ADDRESS_END, GICD_BASE, GICD_SIZE, GICR_SIZE, PAGE};
use crate::list::Listed;
use crate::text::{Count, Size, Span};

kinds! {
    CONFLICT: Error "config-conflict" in Config {
        "two keys do not fit each other",
        cure: "change one of them; docs/config.md says what each needs",
    }
    OVERLAP: Error "config-overlap" in Config {
        "two ranges of guest addresses overlap",
        cure: "move one of them",
    }
    BEYOND: Error "config-beyond" in Config {
        "something ends or lies beyond the memory that it must be in",
        cure: "move it, or make it smaller",
    }
}

/// A key and what is wrong with it.
type Mistake = (String, Diagnostic);

fn of(key: &str, mistake: Diagnostic) -> Mistake {
    (key.to_owned(), mistake)
}

fn conflict(key: &str, what: impl Into<String>, cure: &'static str) -> Mistake {
    of(key, CONFLICT.case(what).cure(cure))
}

/// Labels are unique; ranges end within guest memory and do not overlap.
pub(super) fn ranges(
    memory: &MemoryConfig,
    regions: &[RegionConfig],
    firmware: &Option<FirmwareConfig>,
) -> Vec<Mistake> {
    let mut ranges = Vec::new();
    let mut add = |key, label, base, size| ranges.push(Range { key, label, base, size });
    add("memory".to_owned(), memory.label, memory.base, memory.size);
    for (index, region) in regions.iter().enumerate() {
        add(item_key("regions", index), region.label, region.base, region.size);
    }
    if let Some(firmware) = firmware {
        add("firmware".to_owned(), firmware.label, firmware.base, firmware.size);
    }
    let mut mistakes = Vec::new();
    let mut earlier: Vec<Range> = Vec::new();
    for range in ranges {
        let base = format!("{}.base", range.key);
        if let Some(other) = earlier.iter().find(|other| other.label == range.label) {
            let what = format!("{} is the label of {} too", range.label, other.key);
            let mistake = TWICE.case(what).cure("give each region its own label");
            mistakes.push((format!("{}.label", range.key), mistake));
        }
        if range.end() > ADDRESS_END {
            let what = format!(
                "{range} ends beyond the 36 bits of guest addresses, which end at {ADDRESS_END:#x}"
            );
            mistakes.push((base, BEYOND.case(what)));
            continue;
        }
        if let Some(other) = earlier.iter().find(|other| range.overlaps(other)) {
            let what = format!("{range} overlaps {other} of {}", other.key);
            mistakes.push((base, OVERLAP.case(what)));
        }
        earlier.push(range);
    }
    mistakes
}

struct Range {
    key: String,
    label: u32,
    base: u64,
    size: u64,
}

impl Range {
    fn end(&self) -> u64 {
        self.base.saturating_add(self.size)
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.base < other.end() && other.base < self.end()
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.base, self.size)
    }
}

pub(super) fn kernel_offset(memory: &MemoryConfig, kernel: &KernelConfig) -> Option<Mistake> {
    offset("kernel.offset", kernel.offset, memory)
}

pub(super) fn initrd_offset(
    memory: &MemoryConfig,
    initrd: &Option<InitrdConfig>,
) -> Option<Mistake> {
    offset("initrd.offset", initrd.as_ref()?.offset, memory)
}

pub(super) fn dtb_offset(memory: &MemoryConfig, dtb: &DtbConfig) -> Option<Mistake> {
    offset("dtb.offset", dtb.offset, memory)
}

/// What is placed by hand begins inside main memory.
fn offset(key: &str, offset: Option<u64>, memory: &MemoryConfig) -> Option<Mistake> {
    let offset = offset.filter(|offset| *offset >= memory.size)?;
    let size = Size(memory.size);
    let what = format!("{offset:#x} is beyond main memory, which has {size:#}");
    Some(of(key, BEYOND.case(what)))
}

/// A huge page size means something only to `hugetlb`.
pub(super) fn page_size(backing: &[Option<Backing>], page_size: &Option<u64>) -> Option<Mistake> {
    let pool = |backing: &Option<Backing>| matches!(backing, None | Some(Backing::Hugetlb));
    (page_size.is_some() && !backing.iter().any(pool)).then(|| {
        let what = "is for hugetlb, which `backing` does not name";
        let cure = "add \"hugetlb\" to `backing`, or remove `page_size`";
        conflict("page_size", what, cure)
    })
}

/// As many entries as the scheduling takes.
pub(super) fn affinity(
    count: &u32,
    scheduling: &Option<Scheduling>,
    affinity: &[Vec<u32>],
) -> Vec<Mistake> {
    affinity_of(*count, scheduling.unwrap_or(Scheduling::Proxy), affinity)
}

pub(super) fn affinity_of(
    count: u32,
    scheduling: Scheduling,
    affinity: &[Vec<u32>],
) -> Vec<Mistake> {
    let given = affinity.len();
    let all = usize::try_from(count).is_ok_and(|count| count == given);
    let (fits, cure) = match scheduling {
        Scheduling::Proxy => (all || given <= 1, "give one entry for all vCPUs or one for each"),
        Scheduling::Hypervisor => (all || given == 0, "give one entry for each vCPU"),
    };
    let mut mistakes = Vec::new();
    if !fits {
        let (given, vcpus) = (Count::of(given, "entry"), Count(count.into(), "vCPU"));
        let what = format!("has {given} for {vcpus}");
        mistakes.push(conflict("affinity", what, cure));
    }
    for (index, cpus) in affinity.iter().enumerate() {
        if scheduling == Scheduling::Hypervisor && cpus.len() != 1 {
            let mistake = CONFLICT
                .case(format!("has {}", Count::of(cpus.len(), "host CPU")))
                .cause("the hypervisor binds a vCPU to one host CPU")
                .cure("give one host CPU, or set vcpus.scheduling to \"proxy\"");
            mistakes.push((item_key("affinity", index), mistake));
        }
    }
    mistakes
}

/// Only threads have a niceness.
pub(super) fn nice(scheduling: &Option<Scheduling>, nice: &i8) -> Option<Mistake> {
    nice_of(scheduling.unwrap_or(Scheduling::Proxy), *nice)
}

pub(super) fn nice_of(scheduling: Scheduling, nice: i8) -> Option<Mistake> {
    (nice != 0 && scheduling == Scheduling::Hypervisor).then(|| {
        let what =
            "is for the threads of proxy-scheduled vCPUs, and the hypervisor schedules these";
        let cure = "set vcpus.scheduling to \"proxy\", or remove `nice`";
        conflict("nice", what, cure)
    })
}

/// A console needs vCPUs whose MMIO comes to the host.
pub(super) fn console_scheduling(
    console: &Option<ConsoleConfig>,
    vcpus: &VcpuConfig,
) -> Option<Mistake> {
    console_of(vcpus.scheduling.unwrap_or(Scheduling::Proxy), console.is_some())
}

pub(super) fn console_of(scheduling: Scheduling, console: bool) -> Option<Mistake> {
    (console && scheduling == Scheduling::Hypervisor).then(|| {
        let mistake = CONFLICT
            .case("needs proxy-scheduled vCPUs")
            .cause("the MMIO of other vCPUs does not come to the host")
            .cure("set vcpus.scheduling to \"proxy\", or remove `console`");
        of("console", mistake)
    })
}

/// The keys of the virtio devices that a file has.
pub(super) fn device_keys(
    disks: &[DiskConfig],
    nets: &[NetConfig],
    vsock: &Option<VsockConfig>,
    vhost_user: &[VhostUserConfig],
    entropy: &bool,
    console: &Option<ConsoleConfig>,
) -> Vec<&'static str> {
    let all = [
        (VIRTIO_CONSOLE, console.as_ref().is_some_and(|console| console.virtio)),
        ("disks", !disks.is_empty()),
        ("nets", !nets.is_empty()),
        ("vsock", vsock.is_some()),
        ("vhost_user", !vhost_user.is_empty()),
        ("entropy", *entropy),
    ];
    all.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).listed()
}

/// The key of the device that is a console's, which has a rule of its own.
const VIRTIO_CONSOLE: &str = "console.virtio";

/// Virtio devices need what a console does.
pub(super) fn devices_scheduling(
    disks: &[DiskConfig],
    nets: &[NetConfig],
    vsock: &Option<VsockConfig>,
    vhost_user: &[VhostUserConfig],
    entropy: &bool,
    vcpus: &VcpuConfig,
) -> Vec<Mistake> {
    let keys = device_keys(disks, nets, vsock, vhost_user, entropy, &None);
    devices_of(vcpus.scheduling.unwrap_or(Scheduling::Proxy), keys)
}

pub(super) fn devices_of(scheduling: Scheduling, keys: Vec<&'static str>) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for key in keys {
        if scheduling == Scheduling::Hypervisor && key != VIRTIO_CONSOLE {
            let mistake = CONFLICT
                .case("takes proxy-scheduled vCPUs")
                .cause("the MMIO of other vCPUs does not come to the host")
                .cure(format!("set vcpus.scheduling to \"proxy\", or remove `{key}`"));
            mistakes.push(of(key, mistake));
        }
    }
    mistakes
}

/// Without devices nobody uses a pool.
pub(super) fn pool_size(
    memory: &MemoryConfig,
    disks: &[DiskConfig],
    nets: &[NetConfig],
    vsock: &Option<VsockConfig>,
    vhost_user: &[VhostUserConfig],
    entropy: &bool,
    console: &Option<ConsoleConfig>,
) -> Option<Mistake> {
    let none = device_keys(disks, nets, vsock, vhost_user, entropy, console).is_empty();
    (memory.pool.is_some() && none).then(|| {
        let what = "is for virtio devices, and the VM has none";
        conflict("memory.pool", what, "add a device, or remove `pool`")
    })
}

/// A tap is one device's, and so is a disk that one of them writes: the second could not be opened.
pub(super) fn devices_twice(disks: &[DiskConfig], nets: &[NetConfig]) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (index, disk) in disks.iter().enumerate() {
        let clashes =
            |other: &DiskConfig| other.path == disk.path && !(other.readonly && disk.readonly);
        if let Some(first) = disks[..index].iter().position(clashes) {
            let what = format!("{} is the disk of disks[{first}], too", disk.path.display());
            let cure = "give each its own disk, or make it read-only in both";
            let key = format!("{}.path", item_key("disks", index));
            mistakes.push((key, TWICE.case(what).cure(cure)));
        }
    }
    for (index, net) in nets.iter().enumerate() {
        if let Some(first) = nets[..index].iter().position(|other| other.tap == net.tap) {
            let what = format!("{} is the tap of nets[{first}], too", net.tap);
            let key = format!("{}.tap", item_key("nets", index));
            mistakes.push((key, TWICE.case(what).cure("give each its own tap")));
        }
    }
    mistakes
}

/// A generated devicetree has its interrupt controller in device space too.
pub(super) fn console_base(
    console: &Option<ConsoleConfig>,
    vcpus: &VcpuConfig,
    dtb: &DtbConfig,
) -> Option<Mistake> {
    let base = console.as_ref()?.base;
    let start = GICD_BASE - GICR_SIZE * u64::from(vcpus.count);
    let end = GICD_BASE + GICD_SIZE;
    (dtb.path.is_none() && base < end && base + PAGE > start).then(|| {
        let what = format!(
            "{base:#x} lies in the interrupt controller of a generated devicetree, {start:#x}+{:#x}",
            end - start
        );
        of("console.base", OVERLAP.case(what))
    })
}

/// A console line needs a console.
pub(super) fn ready_console(
    ready: &Option<ReadyConfig>,
    console: &Option<ConsoleConfig>,
) -> Option<Mistake> {
    let waits = ready.as_ref()?.console_line.is_some();
    (waits && console.is_none()).then(|| {
        let what = "waits for a line of a console, and the VM has none";
        let cure = "add `console`, or remove `console_line`";
        conflict("ready.console_line", what, cure)
    })
}

/// A guest is asked to end in one way.
pub(super) fn stop_by(console_line: &Option<String>, power_key: &bool) -> Option<Mistake> {
    match (console_line.is_some(), power_key) {
        (true, true) => {
            let what = "the guest is asked by `console_line` already";
            Some(conflict("power_key", what, "remove one of the two"))
        }
        (false, false) => {
            let what = "neither it nor `power_key` says how the guest is asked to end";
            let cure = "give `\"power_key\": true` or a `console_line`, or remove `stop`: the VM is then closed without asking";
            Some(conflict("console_line", what, cure))
        }
        _ => None,
    }
}

/// A shared directory has a tag, and nothing else has.
pub(super) fn tag(backend: &Backend, tag: &Option<String>) -> Option<Mistake> {
    match (*backend == Backend::Fs, tag) {
        (true, None) => {
            let what = "a shared directory has a tag, by which the guest mounts it";
            Some(conflict("tag", what, "add `tag`"))
        }
        (false, Some(_)) => {
            let what = "is for shared directories, whose `type` is \"fs\"";
            Some(conflict("tag", what, "remove it"))
        }
        _ => None,
    }
}

/// A port takes a socket device.
pub(super) fn ready_vsock(
    ready: &Option<ReadyConfig>,
    vsock: &Option<VsockConfig>,
) -> Option<Mistake> {
    let waits = ready.as_ref()?.vsock_port.is_some();
    (waits && vsock.is_none()).then(|| {
        let what = "is a port of a socket device, and the VM has none";
        conflict("ready.vsock_port", what, "add `vsock`, or remove `vsock_port`")
    })
}

/// A console line needs a console.
pub(super) fn stop_console(
    stop: &Option<StopConfig>,
    console: &Option<ConsoleConfig>,
) -> Option<Mistake> {
    let typed = stop.as_ref()?.console_line.is_some();
    (typed && console.is_none()).then(|| {
        let what = "is typed on a console, and the VM has none";
        let cure = "add `console`, or give `\"power_key\": true` in its place";
        conflict("stop.console_line", what, cure)
    })
}

/// A guest that is asked to end is waited for, so its end must be seen.
pub(super) fn power_key_scheduling(
    stop: &Option<StopConfig>,
    vcpus: &VcpuConfig,
) -> Option<Mistake> {
    let power_key = stop.as_ref()?.power_key;
    power_key_of(vcpus.scheduling.unwrap_or(Scheduling::Proxy), power_key)
}

pub(super) fn power_key_of(scheduling: Scheduling, power_key: bool) -> Option<Mistake> {
    (power_key && scheduling == Scheduling::Hypervisor).then(|| {
        let mistake = CONFLICT
            .case("takes proxy-scheduled vCPUs")
            .cause("nobody sees when a guest ends that the hypervisor schedules")
            .cure("set vcpus.scheduling to \"proxy\", or remove `stop`");
        of("stop.power_key", mistake)
    })
}

/// A VM does not wait for itself, nor for another one twice.
pub(super) fn waits(name: &VmName, start: &StartConfig) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for (index, dependency) in start.after.iter().enumerate() {
        let key = item_key("start.after", index);
        let vm = &dependency.vm;
        if vm == name {
            let what = format!("{vm} would wait for itself");
            mistakes.push(conflict(&key, what, "remove it"));
        }
        if start.after[..index].iter().any(|other| other.vm == *vm) {
            mistakes.push((key, TWICE.case(format!("names {vm} twice"))));
        }
    }
    mistakes
}

/// The wait grows from its first to its longest.
pub(super) fn backoff(first: &Duration, longest: &Duration) -> Option<Mistake> {
    (first > longest).then(|| {
        let (first, longest) = (Span(*first), Span(*longest));
        let what = format!("{first:#} is more than backoff_max, {longest:#}");
        conflict("backoff", what, "make it shorter, or backoff_max longer")
    })
}
