// SPDX-License-Identifier: Apache-2.0
//! The report for machines: sizes in bytes, addresses as in a config.

use serde_json::{json, Value};

use nix::errno::Errno;

use super::map::map;
use super::{Report, VmReport};
use crate::config::render;
use crate::diagnostic::Diagnostic;
use crate::plan::LaunchPlan;

/// Rises when a field changes its meaning or goes away.
const VERSION: u32 = 2;

/// The whole report; with `dtb` each VM has its devicetree source.
pub(super) fn report(report: &Report, dtb: bool) -> Value {
    let huge_pages: Vec<Value> = report
        .huge_pages()
        .iter()
        .map(|(size, pages)| {
            json!({ "page_size": size, "pages": pages.all, "autostart_pages": pages.autostart })
        })
        .collect();
    json!({
        "version": VERSION,
        "host": {
            "page_size": report.host.page_size,
            "huge_page": report.host.huge_page,
            "thp_page": report.host.thp_page,
        },
        "root": report.root.as_ref().map_or("/".into(), |root| root.display().to_string()),
        "files": report.files,
        "vms": report.vms.iter().map(|vm| of_vm(vm, dtb)).collect::<Vec<_>>(),
        "huge_pages": huge_pages,
        "reserve": {
            "folio_size": report.host.thp_page,
            "folios": report.reserve().all,
            "autostart_folios": report.reserve().autostart,
        },
        "problems": of_diagnostics(&report.problems),
        "warnings": of_diagnostics(&report.warnings),
    })
}

fn of_diagnostics(all: &[Diagnostic]) -> Vec<Value> {
    all.iter().map(of_diagnostic).collect()
}

/// A diagnostic, as every report for machines has it.
pub(crate) fn of_diagnostic(of: &Diagnostic) -> Value {
    let errno = |raw: Option<i32>| raw.map(|raw| format!("{:?}", Errno::from_raw(raw)));
    let place = of.place.as_ref();
    json!({
        "name": of.name,
        "severity": of.severity,
        "step": of.step,
        // A path that is not UTF-8 must not hide the other diagnostics.
        "file": place.map(|place| place.file.display().to_string()),
        "line": place.map(|place| place.line).filter(|line| *line > 0),
        "column": place.map(|place| place.column).filter(|column| *column > 0),
        "key": place.map(|place| &place.key),
        "message": of.what,
        "errno": errno(of.errno),
        "start_answers": errno(of.start_answers),
        "cause": Some(&of.cause).filter(|cause| !cause.is_empty()),
        "cure": of.cure,
    })
}

fn of_vm(vm: &VmReport, dtb: bool) -> Value {
    let huge_pages: Vec<Value> = vm
        .huge_pages
        .iter()
        .map(|(size, pages)| json!({ "page_size": size, "pages": pages }))
        .collect();
    let kernels: Vec<Value> = vm
        .kernels
        .iter()
        .map(|(kernel, faults)| {
            json!({
                "kernel": kernel.name(),
                "launchable": faults.is_empty(),
                "problems": of_diagnostics(faults),
            })
        })
        .collect();
    let mut value = json!({
        "name": vm.config.name.as_str(),
        "file": vm.config.file.display().to_string(),
        "launchable": vm.plan.is_some(),
        "kernels": kernels,
        "config": render(&vm.config),
        "huge_pages": huge_pages,
        "reserve_folios": vm.reserve,
        "warnings": of_diagnostics(&vm.warnings),
        "plan": vm.plan.as_ref().map(|plan| of_plan(vm, plan)),
    });
    if dtb {
        value["dtb"] = vm.dtb_source.clone().into();
    }
    value
}

fn of_plan(vm: &VmReport, plan: &LaunchPlan) -> Value {
    let rows: Vec<Value> = map(vm, plan)
        .iter()
        .map(|row| {
            json!({
                "what": row.what,
                "base": address(row.base),
                "size": row.size,
                "inside": row.depth > 0,
                "detail": row.detail,
            })
        })
        .collect();
    json!({
        "kernel": plan.dialect.name(),
        "scheduling": plan.scheduling.as_str(),
        "map": rows,
        "entry": address(plan.kernel.entry),
        "dtb": { "base": address(plan.dtb.base), "size": plan.dtb.size },
        "memory_entries": plan.memory_entries,
    })
}

fn address(address: u64) -> String {
    format!("{address:#x}")
}
