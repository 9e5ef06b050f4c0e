// SPDX-License-Identifier: Apache-2.0
//! The report for people.

use std::fmt::Write;

use super::inspect;
use super::map::map;
use super::{Report, Sums, VmReport};
use crate::list::Listed;
use crate::plan::{Host, LaunchPlan};
use crate::text::{printable, Count, Size};

/// The whole report. With `dtb` everything but the devicetrees is a comment, so that what is printed
/// for one VM is devicetree source.
pub(super) fn report(report: &Report, dtb: bool) -> String {
    let mut out = String::new();
    for vm in &report.vms {
        section(&mut out, dtb, &vm_section(vm));
        if let (true, Some(source)) = (dtb, &vm.dtb_source) {
            out.push_str(source);
            out.push('\n');
        }
    }
    section(&mut out, dtb, &summary(report));
    out
}

fn section(out: &mut String, comment: bool, text: &str) {
    for line in text.lines() {
        let line = match (comment, line) {
            (true, "") => "//".to_owned(),
            (true, line) => format!("// {line}"),
            (false, line) => line.to_owned(),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out.push('\n');
}

fn vm_section(vm: &VmReport) -> String {
    let mut out = String::new();
    let config = &vm.config;
    let autostart = match config.autostart {
        true => "",
        false => ", not started at boot",
    };
    let file = config.file.display();
    line(&mut out, format!("{}  {file}{autostart}", config.name));
    match &vm.plan {
        Some(plan) => planned(&mut out, vm, plan),
        None => line(&mut out, "  cannot be launched, see below"),
    }
    for warning in &vm.warnings {
        line(&mut out, format!("  warning: {warning}"));
    }
    out
}

fn planned(out: &mut String, vm: &VmReport, plan: &LaunchPlan) {
    line(out, "  address        end            size       what");
    for row in map(vm, plan) {
        let end = row.base.saturating_add(row.size.saturating_sub(1));
        let base = format!("{}{:#x}", " ".repeat(2 + 2 * row.depth), row.base);
        let (end, size) = (format!("{end:#x}"), format!("{:#}", Size(row.size)));
        let (what, detail) = (row.what, row.detail);
        let row = format!("{base:<17}{end:<15}{size:<11}{what:<11}{detail}");
        line(out, row.trim_ascii_end());
    }
    if let Some(key) = plan.power_key {
        line(out, format!("  power key: doorbell {}, SPI {}", key.label, key.interrupt));
    }
    let vcpus = Count(vm.config.vcpus.count.into(), "vCPU");
    let (scheduling, entries) = (plan.scheduling, Count(plan.memory_entries, "memory entry"));
    line(out, format!("  {vcpus}, scheduled by {scheduling}; at most {entries}"));
    let good = vm.kernels.iter().filter(|(_, faults)| faults.is_empty());
    let names =
        good.map(|(kernel, _)| kernel.name()).filter(|name| *name != plan.dialect.name()).listed();
    let others = match names.as_slice() {
        [] => String::new(),
        names => format!("; can be launched on {}, too", names.join(", ")),
    };
    line(out, format!("  as on {}{others}", plan.dialect));
    for (fault, kernels) in inspect::by_kernel(&vm.kernels) {
        let kernels = inspect::names(&kernels);
        line(out, format!("  cannot be launched on {kernels}: {fault}"));
    }
}

fn summary(report: &Report) -> String {
    let mut out = String::new();
    let Host { page_size, huge_page, thp_page, .. } = report.host;
    line(
        &mut out,
        format!(
            "host assumed: {:#} pages, {:#} huge pages by default, {:#} transparent huge pages",
            Size(page_size),
            Size(huge_page),
            Size(thp_page)
        ),
    );
    let root = match &report.root {
        Some(root) => root.display().to_string(),
        None => "/".to_owned(),
    };
    line(&mut out, format!("files looked for below: {root}"));
    let sums = report.huge_pages();
    if sums.all.is_empty() {
        line(&mut out, "huge pages needed in all: none");
    }
    for (size, all) in sums.all.iter() {
        let autostart = sums.autostart.of(size);
        let (page, sum) = (Size(size), Size(all.saturating_mul(size)));
        line(
            &mut out,
            format!("huge pages needed in all: {all} of {page:#} ({sum:#}), {autostart} of them by VMs started at boot"),
        );
    }
    let Sums { all, autostart } = report.reserve();
    if all > 0 {
        let sum = Size(all.saturating_mul(thp_page));
        let folio = Size(thp_page);
        line(
            &mut out,
            format!("reserve needed in all since android15-6.6: {all} folios of {folio:#}, {autostart} of them by VMs started at boot: ro.vendor.gunyah.reserve={sum:#}"),
        );
    }
    for warning in &report.warnings {
        line(&mut out, format!("warning: {warning}"));
    }
    if !report.problems.is_empty() {
        out.push('\n');
        for problem in &report.problems {
            line(&mut out, problem.to_string());
        }
        out.push('\n');
    }
    let launchable = report.vms.iter().filter(|vm| vm.plan.is_some()).count();
    let files = Count::of(report.files, "file");
    let problems = Count::of(report.problems.len(), "problem");
    line(&mut out, format!("{files}, {launchable} can be launched, {problems}"));
    out
}

fn line(out: &mut String, text: impl AsRef<str>) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{}", printable(text.as_ref()));
}
