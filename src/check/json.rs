// SPDX-License-Identifier: Apache-2.0
//! The report for machines: sizes in bytes, addresses as in a config.

use gunyah::Dialect;
use nix::errno::Errno;

use super::map::map;
use super::{Report, VmReport};
use crate::config::render;
use crate::diagnostic::Diagnostic;
use crate::json::{object, Json, Value};
use crate::list::Listed;
use crate::plan::LaunchPlan;
use crate::text::symbol;

/// Rises when a field changes its meaning or goes away.
const VERSION: u32 = 2;

/// The whole report; with `dtb` each VM has its devicetree source.
pub(super) fn report(report: &Report, dtb: bool) -> Value<'_> {
    let Report { host, .. } = report;
    let root = report.root.as_ref().map_or("/".into(), |root| root.display().to_string());
    let sums = report.huge_pages();
    let vms = report.vms.iter().map(|vm| of_vm(vm, dtb)).listed();
    object(vec![
        ("version", VERSION.into()),
        (
            "host",
            object(vec![
                ("page_size", host.page_size.into()),
                ("huge_page", host.huge_page.into()),
                ("thp_page", host.thp_page.into()),
            ]),
        ),
        ("root", root.into()),
        ("files", report.files.into()),
        ("vms", vms.into()),
        (
            "huge_pages",
            pages(sums.all.iter().map(|(size, all)| {
                let autostart = sums.autostart.of(size);
                (size, vec![("pages", all.into()), ("autostart_pages", autostart.into())])
            })),
        ),
        (
            "reserve",
            object(vec![
                ("folio_size", host.thp_page.into()),
                ("folios", report.reserve().all.into()),
                ("autostart_folios", report.reserve().autostart.into()),
            ]),
        ),
        ("problems", of_diagnostics(&report.problems)),
        ("warnings", of_diagnostics(&report.warnings)),
    ])
}

/// Huge pages by their size.
fn pages(rows: impl Iterator<Item = (u64, Vec<(&'static str, Value<'static>)>)>) -> Value<'static> {
    let row = |(size, mut pages): (u64, Vec<_>)| {
        pages.insert(0, ("page_size", size.into()));
        object(pages)
    };
    rows.map(row).listed().into()
}

fn of_diagnostics(all: &[Diagnostic]) -> Value<'_> {
    all.iter().map(|of| object(members(of))).listed().into()
}

/// A diagnostic, as every report for machines has it.
pub(crate) fn members(of: &Diagnostic) -> Vec<(&'static str, Value<'_>)> {
    let errno = |raw: Option<i32>| raw.map(|raw| symbol(Errno::from_raw(raw)));
    let place = of.place.as_ref();
    vec![
        ("name", of.name.to_json()),
        ("severity", of.severity.to_json()),
        ("step", of.step.to_json()),
        ("file", place.map(|place| place.file.to_json()).into()),
        ("line", place.map(|place| place.line).filter(|line| *line > 0).into()),
        ("column", place.map(|place| place.column).filter(|column| *column > 0).into()),
        ("key", place.map(|place| place.key.as_str()).into()),
        ("message", of.what.to_json()),
        ("errno", errno(of.errno).into()),
        ("start_answers", errno(of.start_answers).into()),
        ("cause", Some(&*of.cause).filter(|cause| !cause.is_empty()).into()),
        ("cure", of.cure.to_json()),
    ]
}

fn of_vm(vm: &VmReport, dtb: bool) -> Value<'_> {
    let mut members = vec![
        ("name", vm.config.name.as_str().into()),
        ("file", vm.config.file.to_json()),
        ("launchable", vm.plan.is_some().into()),
        ("kernels", vm.kernels.iter().map(of_kernel).listed().into()),
        ("config", render(&vm.config)),
        (
            "huge_pages",
            pages(vm.huge_pages.iter().map(|(size, pages)| (size, vec![("pages", pages.into())]))),
        ),
        ("reserve_folios", vm.reserve.into()),
        ("warnings", of_diagnostics(&vm.warnings)),
        ("plan", vm.plan.as_ref().map(|plan| of_plan(vm, plan)).into()),
    ];
    if dtb {
        members.push(("dtb", vm.dtb_source.to_json()));
    }
    object(members)
}

fn of_kernel((kernel, faults): &(Dialect, Vec<Diagnostic>)) -> Value<'_> {
    object(vec![
        ("kernel", kernel.name().into()),
        ("launchable", faults.is_empty().into()),
        ("problems", of_diagnostics(faults)),
    ])
}

fn of_plan(vm: &VmReport, plan: &LaunchPlan) -> Value<'static> {
    let rows = map(vm, plan).into_iter().map(|row| {
        object(vec![
            ("what", row.what.into()),
            ("base", address(row.base)),
            ("size", row.size.into()),
            ("inside", (row.depth > 0).into()),
            ("detail", row.detail.into()),
        ])
    });
    object(vec![
        ("kernel", plan.dialect.name().into()),
        ("scheduling", plan.scheduling.as_str().into()),
        ("map", rows.listed().into()),
        (
            "power_key",
            plan.power_key
                .map(|key| {
                    object(vec![
                        ("doorbell", key.label.into()),
                        ("interrupt", key.interrupt.into()),
                    ])
                })
                .into(),
        ),
        ("entry", address(plan.kernel.entry)),
        ("dtb", object(vec![("base", address(plan.dtb.base)), ("size", plan.dtb.size.into())])),
        ("memory_entries", plan.memory_entries.into()),
    ])
}

fn address(address: u64) -> Value<'static> {
    format!("{address:#x}").into()
}
