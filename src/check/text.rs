// SPDX-License-Identifier: Apache-2.0
//! The report for people.

use std::fmt::{Display, Write};

use super::map::map;
use super::{Report, VmReport};
use crate::config::{Bytes, Scheduling};
use crate::plan::Host;
use crate::text::printable;

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
    let autostart = if config.autostart {
        ""
    } else {
        ", not started at boot"
    };
    line(
        &mut out,
        &format!("{}  {}{autostart}", config.name, config.file.display()),
    );
    match &vm.plan {
        Some(plan) => {
            line(&mut out, "  address        end            size       what");
            for row in map(vm, plan) {
                let end = row.base.saturating_add(row.size.saturating_sub(1));
                let indent = " ".repeat(2 + 2 * row.depth);
                let base = format!("{indent}{:#x}", row.base);
                let size = Bytes(row.size).to_string();
                let end = format!("{end:#x}");
                let text = format!(
                    "{base:<17}{end:<15}{size:<11}{:<11}{}",
                    row.what, row.detail
                );
                line(&mut out, text.trim_end());
            }
            let vcpus = counted(config.vcpus.count, "vCPU");
            let scheduling = match plan.scheduling {
                Scheduling::Hypervisor => "hypervisor",
                Scheduling::Proxy => "proxy",
            };
            let entries = plan.memory_entries;
            line(
                &mut out,
                &format!("  {vcpus}, scheduled by {scheduling}; at most {entries} memory entries"),
            );
        }
        None => line(&mut out, "  cannot be launched, see below"),
    }
    for warning in &vm.warnings {
        line(&mut out, &format!("  warning: {warning}"));
    }
    out
}

fn summary(report: &Report) -> String {
    let mut out = String::new();
    let Host {
        page_size,
        huge_page,
        thp_page,
    } = report.host;
    line(
        &mut out,
        &format!(
            "host assumed: {} pages, {} huge pages by default, {} transparent huge pages",
            Bytes(page_size),
            Bytes(huge_page),
            Bytes(thp_page)
        ),
    );
    let root = match &report.root {
        Some(root) => root.display().to_string(),
        None => "/".to_owned(),
    };
    line(&mut out, &format!("files looked for below: {root}"));
    let sums = report.huge_pages();
    if sums.is_empty() {
        line(&mut out, "huge pages needed in all: none");
    }
    for (size, pages) in sums {
        line(
            &mut out,
            &format!(
                "huge pages needed in all: {} of {} ({}), {} of them by VMs started at boot",
                pages.all,
                Bytes(size),
                Bytes(pages.all.saturating_mul(size)),
                pages.autostart
            ),
        );
    }
    for warning in &report.warnings {
        line(&mut out, &format!("warning: {warning}"));
    }
    if !report.problems.is_empty() {
        out.push('\n');
    }
    for problem in &report.problems {
        line(&mut out, &problem.to_string());
    }
    if !report.problems.is_empty() {
        out.push('\n');
    }
    let launchable = report.vms.iter().filter(|vm| vm.plan.is_some()).count();
    let files = counted(report.files, "file");
    let problems = counted(report.problems.len(), "problem");
    line(
        &mut out,
        &format!("{files}, {launchable} can be launched, {problems}"),
    );
    out
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{}", printable(text));
}

fn counted(number: impl Display, noun: &str) -> String {
    match number.to_string().as_str() {
        "1" => format!("1 {noun}"),
        number => format!("{number} {noun}s"),
    }
}
