// SPDX-License-Identifier: Apache-2.0
//! What several keys of one file must keep together. Each rule is called where the keys that it looks
//! at could be read.

use std::fmt;
use std::time::Duration;

use super::keys::{Keys, TWICE};
use super::names::VmName;
use super::report::Report;
use super::sections::*;
use super::types::item_key;
use super::words::{Backing, Scheduling};
use crate::diagnostic::kinds;
use crate::layout::{ADDRESS_END, GICD_BASE, GICD_SIZE, GICR_SIZE, PAGE};
use crate::text::{Size, Span};

kinds! {
    CONFLICT: Error "config-conflict" in Config {
        "two keys do not fit each other",
        cause: "",
        cure: "change one of them; docs/config.md says what each needs",
    }
    OVERLAP: Error "config-overlap" in Config {
        "two ranges of guest addresses overlap",
        cause: "",
        cure: "move one of them",
    }
    BEYOND: Error "config-beyond" in Config {
        "something ends or lies beyond the memory that it must be in",
        cause: "",
        cure: "move it, or make it smaller",
    }
}

/// Labels are unique; ranges end within guest memory and do not overlap.
pub(super) fn ranges(
    memory: &MemoryConfig,
    regions: &[RegionConfig],
    _: &Keys,
    report: &mut Report,
) {
    let range = |key, label, base, size| Range {
        key,
        label,
        base,
        size,
    };
    let main = range("memory".to_owned(), memory.label, memory.base, memory.size);
    let further = regions.iter().enumerate().map(|(index, region)| {
        let key = item_key("regions", index);
        range(key, region.label, region.base, region.size)
    });
    let mut earlier: Vec<Range> = Vec::new();
    for range in std::iter::once(main).chain(further) {
        let base = format!("{}.base", range.key);
        if let Some(other) = earlier.iter().find(|other| other.label == range.label) {
            let what = format!("{} is the label of {} too", range.label, other.key);
            let mistake = TWICE.case(what).cure("give each region its own label");
            report.add(&format!("{}.label", range.key), mistake);
        }
        if range.end() > ADDRESS_END {
            let what =
                format!("{range} ends beyond the guest's addresses, which end at {ADDRESS_END:#x}");
            report.add(&base, BEYOND.case(what));
            continue;
        }
        if let Some(other) = earlier.iter().find(|other| range.overlaps(other)) {
            let what = format!("{range} overlaps {other} of {}", other.key);
            report.add(&base, OVERLAP.case(what));
        }
        earlier.push(range);
    }
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
        write!(f, "{:#x}+{:#}", self.base, Size(self.size))
    }
}

pub(super) fn kernel_offset(
    memory: &MemoryConfig,
    kernel: &KernelConfig,
    _: &Keys,
    report: &mut Report,
) {
    offset("kernel.offset", kernel.offset, memory, report);
}

pub(super) fn initrd_offset(
    memory: &MemoryConfig,
    initrd: &Option<InitrdConfig>,
    _: &Keys,
    report: &mut Report,
) {
    let at = initrd.as_ref().and_then(|initrd| initrd.offset);
    offset("initrd.offset", at, memory, report);
}

pub(super) fn dtb_offset(memory: &MemoryConfig, dtb: &DtbConfig, _: &Keys, report: &mut Report) {
    offset("dtb.offset", dtb.offset, memory, report);
}

/// What is placed by hand begins inside main memory.
fn offset(key: &str, offset: Option<u64>, memory: &MemoryConfig, report: &mut Report) {
    if let Some(offset) = offset.filter(|offset| *offset >= memory.size) {
        let size = Size(memory.size);
        let what = format!("{offset:#x} is beyond main memory, which has {size:#}");
        report.add(key, BEYOND.case(what));
    }
}

/// A huge page size means something only to `hugetlb`.
pub(super) fn page_size(
    backing: &[Backing],
    page_size: &Option<u64>,
    keys: &Keys,
    report: &mut Report,
) {
    if page_size.is_some() && !backing.contains(&Backing::Hugetlb) {
        let mistake = CONFLICT
            .case("is for hugetlb, which `backing` does not name")
            .cure("add \"hugetlb\" to `backing`, or remove `page_size`");
        report.add(&keys.path_of("page_size"), mistake);
    }
}

/// As many entries as the scheduling takes.
pub(super) fn affinity(
    count: &u32,
    scheduling: &Scheduling,
    affinity: &[Vec<u32>],
    keys: &Keys,
    report: &mut Report,
) {
    let key = keys.path_of("affinity");
    let given = affinity.len();
    let all = usize::try_from(*count).is_ok_and(|count| count == given);
    let (fits, cure) = match scheduling {
        Scheduling::Proxy => (
            all || given <= 1,
            "give one entry for all vCPUs or one for each",
        ),
        Scheduling::Hypervisor => (all || given == 0, "give one entry for each vCPU"),
    };
    if !fits {
        let what = format!("has {given} entries for {count} vCPUs");
        report.add(&key, CONFLICT.case(what).cure(cure));
    }
    if *scheduling == Scheduling::Proxy {
        return;
    }
    for (index, cpus) in affinity.iter().enumerate() {
        if cpus.len() != 1 {
            let what = format!("has {} host CPUs", cpus.len());
            let mistake = CONFLICT
                .case(what)
                .cause("the hypervisor binds a vCPU to one host CPU")
                .cure("give one host CPU, or set vcpus.scheduling to \"proxy\"");
            report.add(&item_key(&key, index), mistake);
        }
    }
}

/// Only threads have a niceness.
pub(super) fn nice(scheduling: &Scheduling, nice: &i8, keys: &Keys, report: &mut Report) {
    if *nice != 0 && *scheduling == Scheduling::Hypervisor {
        let mistake = CONFLICT
            .case("is for the threads of proxy-scheduled vCPUs, and scheduling is \"hypervisor\"")
            .cure("set vcpus.scheduling to \"proxy\", or remove `nice`");
        report.add(&keys.path_of("nice"), mistake);
    }
}

/// A console needs vCPUs whose MMIO comes to the host.
pub(super) fn console_scheduling(
    console: &Option<ConsoleConfig>,
    vcpus: &VcpuConfig,
    _: &Keys,
    report: &mut Report,
) {
    if console.is_some() && vcpus.scheduling == Scheduling::Hypervisor {
        let mistake = CONFLICT
            .case("needs proxy-scheduled vCPUs")
            .cause("the MMIO of other vCPUs does not come to the host")
            .cure("set vcpus.scheduling to \"proxy\", or remove `console`");
        report.add("console", mistake);
    }
}

/// A generated devicetree has its interrupt controller in device space too.
pub(super) fn console_base(
    console: &Option<ConsoleConfig>,
    vcpus: &VcpuConfig,
    dtb: &DtbConfig,
    _: &Keys,
    report: &mut Report,
) {
    let Some(console) = console.as_ref().filter(|_| dtb.path.is_none()) else {
        return;
    };
    let start = GICD_BASE - GICR_SIZE * u64::from(vcpus.count);
    let end = GICD_BASE + GICD_SIZE;
    if console.base < end && console.base + PAGE > start {
        let what = format!(
            "{:#x} lies in the interrupt controller of a generated devicetree, {start:#x} to {:#x}",
            console.base,
            end - 1
        );
        report.add("console.base", OVERLAP.case(what));
    }
}

/// A console line needs a console.
pub(super) fn ready_console(
    ready: &Option<ReadyConfig>,
    console: &Option<ConsoleConfig>,
    _: &Keys,
    report: &mut Report,
) {
    let waits = ready
        .as_ref()
        .is_some_and(|ready| ready.console_line.is_some());
    if waits && console.is_none() {
        let mistake = CONFLICT
            .case("waits for a line of a console, and the VM has none")
            .cure("add `console`, or remove `console_line`");
        report.add("ready.console_line", mistake);
    }
}

/// A guest is asked to end on its console.
pub(super) fn stop_console(
    stop: &Option<StopConfig>,
    console: &Option<ConsoleConfig>,
    _: &Keys,
    report: &mut Report,
) {
    if stop.is_some() && console.is_none() {
        let mistake = CONFLICT
            .case("is typed on a console, and the VM has none")
            .cure("add `console`, or remove `stop`: the VM is then closed without asking");
        report.add("stop.console_line", mistake);
    }
}

/// A VM does not wait for itself, nor for another one twice.
pub(super) fn waits(name: &VmName, start: &StartConfig, _: &Keys, report: &mut Report) {
    for (index, dependency) in start.after.iter().enumerate() {
        let key = item_key("start.after", index);
        let vm = &dependency.vm;
        if vm == name {
            report.add(
                &key,
                CONFLICT
                    .case(format!("{vm} would wait for itself"))
                    .cure("remove it"),
            );
        }
        if start.after[..index].iter().any(|other| other.vm == *vm) {
            report.add(&key, TWICE.case(format!("names {vm} twice")));
        }
    }
}

/// The wait grows from its first to its longest.
pub(super) fn backoff(
    backoff: &Duration,
    backoff_max: &Duration,
    keys: &Keys,
    report: &mut Report,
) {
    if backoff > backoff_max {
        let (first, longest) = (Span(*backoff), Span(*backoff_max));
        let what = format!("{first:#} is more than backoff_max, {longest:#}");
        let mistake = CONFLICT
            .case(what)
            .cure("make it shorter, or backoff_max longer");
        report.add(&keys.path_of("backoff"), mistake);
    }
}
