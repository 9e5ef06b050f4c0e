// SPDX-License-Identifier: Apache-2.0
//! What several keys of one file must keep together.

use std::time::Duration;

use super::fields::Fields;
use super::limits;
use super::problem::Report;
use super::types::*;
use super::values::{duration_text, item_key, Bytes};
use crate::layout::{GICD_BASE, GICD_SIZE, GICR_SIZE};

/// Labels are unique, ranges are guest memory and do not overlap. Regions come with their index.
pub(super) fn regions(
    memory: Option<&MemoryConfig>,
    regions: &[(usize, &RegionConfig)],
    r: &mut Report,
) {
    let main = memory.map(|memory| Range {
        key: "memory".to_owned(),
        label: memory.label,
        base: memory.base,
        size: memory.size,
    });
    let further = regions.iter().map(|(index, region)| Range {
        key: item_key("regions", *index),
        label: region.label,
        base: region.base,
        size: region.size,
    });
    let mut earlier: Vec<Range> = Vec::new();
    for range in main.into_iter().chain(further) {
        if let Some(other) = earlier.iter().find(|other| other.label == range.label) {
            let message = format!("{} is the label of {} too", range.label, other.key);
            r.problem(&format!("{}.label", range.key), message);
        }
        if !range.in_guest_memory(r) {
            continue;
        }
        if let Some(other) = earlier.iter().find(|other| range.overlaps(other)) {
            let message = format!("{range} overlaps {} of {}", other, other.key);
            r.problem(&format!("{}.base", range.key), message);
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

    fn in_guest_memory(&self, r: &mut Report) -> bool {
        let key = format!("{}.base", self.key);
        if self.base < limits::MEMORY_START {
            let start = limits::MEMORY_START;
            let message = format!(
                "{:#x} is device space, guest memory begins at {start:#x}",
                self.base
            );
            r.problem_hint(&key, message, "the default of memory.base is 0x80000000");
            return false;
        }
        if self.end() > limits::ADDRESS_END {
            let message = format!(
                "{self} ends beyond the 36 bits of guest addresses ({:#x})",
                limits::ADDRESS_END
            );
            r.problem(&key, message);
            return false;
        }
        true
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}+{}", self.base, Bytes(self.size))
    }
}

/// What is placed by hand begins inside main memory.
pub(super) fn offsets(
    memory: Option<&MemoryConfig>,
    kernel: Option<&KernelConfig>,
    initrd: Option<&InitrdConfig>,
    dtb: Option<&DtbConfig>,
    r: &mut Report,
) {
    let Some(memory) = memory else { return };
    for (key, offset) in [
        ("kernel.offset", kernel.and_then(|kernel| kernel.offset)),
        ("initrd.offset", initrd.and_then(|initrd| initrd.offset)),
        ("dtb.offset", dtb.and_then(|dtb| dtb.offset)),
    ] {
        let Some(offset) = offset.filter(|offset| *offset >= memory.size) else {
            continue;
        };
        let size = Bytes(memory.size);
        r.problem(
            key,
            format!("{offset:#x} is beyond main memory, which has {size}"),
        );
    }
}

/// `page_size` means something only where hugetlb is wanted.
pub(super) fn huge_page(
    fields: &Fields,
    backing: Option<&[Backing]>,
    page_size: Option<Option<u64>>,
    r: &mut Report,
) {
    let (Some(backing), Some(Some(_))) = (backing, page_size) else {
        return;
    };
    if !backing.contains(&Backing::Hugetlb) {
        let key = fields.key("page_size");
        r.problem_hint(
            &key,
            "is for hugetlb, which `backing` does not name",
            "add \"hugetlb\" to `backing` or remove `page_size`",
        );
    }
}

/// What goes with the scheduling. `console` is `None` where the file's own is wrong.
pub(super) fn proxy(vcpus: &VcpuConfig, console: Option<bool>, r: &mut Report) {
    let given = vcpus.affinity.len();
    let count = usize::try_from(vcpus.count).unwrap_or(usize::MAX);
    match vcpus.scheduling {
        Scheduling::Proxy => {
            if given > 1 && given != count {
                let message = format!(
                    "has {given} entries for {count} vCPUs, wants one for all or one for each"
                );
                r.problem("vcpus.affinity", message);
            }
        }
        Scheduling::Hypervisor => {
            if given > 0 && given != count {
                let message = format!("has {given} entries for {count} vCPUs, wants one for each");
                r.problem("vcpus.affinity", message);
            }
            for (index, cpus) in vcpus.affinity.iter().enumerate() {
                if cpus.len() != 1 {
                    let message = format!(
                        "has {} host CPUs, but the hypervisor binds a vCPU to one",
                        cpus.len()
                    );
                    r.problem(&item_key("vcpus.affinity", index), message);
                }
            }
            if console == Some(true) {
                r.problem_hint(
                    "console",
                    "needs proxy-scheduled vCPUs: only their MMIO comes to the host",
                    "set vcpus.scheduling to \"proxy\" or remove `console`",
                );
            }
        }
    }
}

/// A generated devicetree has its interrupt controller in device space too.
pub(super) fn console_base(
    console: &ConsoleConfig,
    vcpus: &VcpuConfig,
    dtb: &DtbConfig,
    r: &mut Report,
) {
    let start = GICD_BASE - GICR_SIZE * u64::from(vcpus.count);
    let end = GICD_BASE + GICD_SIZE;
    if dtb.path.is_none() && console.base < end && console.base + limits::PAGE > start {
        let message = format!(
            "{:#x} lies in the interrupt controller of a generated devicetree, {start:#x} to {end:#x}",
            console.base
        );
        r.problem("console.base", message);
    }
}

/// A console line needs a console.
pub(super) fn ready(ready: Option<&ReadyConfig>, console: bool, r: &mut Report) {
    let waits = ready.is_some_and(|ready| ready.console_line.is_some());
    if waits && !console {
        r.problem_hint(
            "ready.console_line",
            "waits for a line of a console, and the VM has none",
            "add `console` or remove `console_line`",
        );
    }
}

/// A guest is asked to end on its console.
pub(super) fn stop_without_console(r: &mut Report) {
    r.problem_hint(
        "stop.console_line",
        "is typed on a console, and the VM has none",
        "add `console` or remove `stop`: the VM is then closed without asking",
    );
}

/// A VM does not wait for itself, nor for another one twice.
pub(super) fn after(r: &mut Report) {
    let after = r.read.after.clone();
    for (index, (key, dependency)) in after.iter().enumerate() {
        let vm = &dependency.vm;
        if r.read.name.as_ref() == Some(vm) {
            r.problem(key, format!("{vm} would wait for itself"));
        }
        if after[..index].iter().any(|(_, other)| other.vm == *vm) {
            r.problem(key, format!("names {vm} twice"));
        }
    }
}

/// Backoff grows from its first to its longest.
pub(super) fn backoff(fields: &Fields, first: Duration, longest: Duration, r: &mut Report) {
    if first > longest {
        let message = format!(
            "{} is more than backoff_max, {}",
            duration_text(first),
            duration_text(longest)
        );
        r.problem(&fields.key("backoff"), message);
    }
}
