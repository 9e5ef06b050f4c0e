// SPDX-License-Identifier: Apache-2.0
//! Answers for people's eyes.

use std::fmt::Write;
use std::time::Duration;

use crate::list::Listed;
use crate::status::control::{Change, ReserveStatus, VmStatus, Vms};
use crate::text::{printable, Size, Span};

/// All VMs as a table, and what is wrong with the whole.
pub fn all(all: &Vms) -> String {
    let mut text = table(&all.vms);
    if let Some(dialect) = all.vms.iter().find_map(|vm| vm.dialect.as_deref()) {
        let _ = writeln!(text, "driver: {}", printable(dialect));
    }
    if let Some(reserve) = &all.reserve {
        let ReserveStatus { folio_size, folios, huge, free } = *reserve;
        let size = Size(folio_size);
        let _ = writeln!(text, "reserve: {folios} folios of {size}, {huge} huge, {free} free");
    }
    for problem in &all.problems {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "problem: {}", printable(problem));
    }
    text
}

/// VMs as an aligned table.
pub fn table(vms: &[VmStatus]) -> String {
    if vms.is_empty() {
        return "no VMs: gunyahd found no *.json in its config directories\n".to_owned();
    }
    let head = ["VM", "STATE", "SINCE", "RESTARTS", "PID", "REASON"].map(str::to_owned);
    let mut rows = vec![head];
    rows.extend(vms.iter().map(|vm| {
        [
            vm.vm.clone(),
            vm.state.to_string(),
            Span::millis(vm.age_ms).to_string(),
            vm.restarts.to_string(),
            vm.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            vm.reason.clone(),
        ]
    }));
    align(&rows)
}

/// Columns two spaces apart, the last one as wide as it likes.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths = (0..N).map(width).listed();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let padding = width.saturating_sub(cell.chars().count()) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', padding));
        }
        text.push_str(line.trim_ascii_end());
        text.push('\n');
    }
    text
}

/// One VM with all that is known.
pub fn one(vm: &VmStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<10}{}", printable(value));
    };
    line("vm", &vm.vm);
    line("state", &format!("{} for {}", vm.state, Span::millis(vm.age_ms)));
    line("reason", &vm.reason);
    line("file", &vm.file);
    if let Some(pid) = vm.pid {
        line("pid", &pid.to_string());
    }
    if let Some(dialect) = &vm.dialect {
        line("driver", dialect);
    }
    if let Some(folios) = &vm.folios {
        let of_reserve = match folios.reserved {
            0 => String::new(),
            reserved => format!(", {reserved} of the reserve"),
        };
        line("folios", &format!("{} of {} are huge{of_reserve}", folios.huge, folios.of));
    }
    for cid in vm.devices.iter().filter_map(|device| device.cid) {
        line("vsock", &format!("CID {cid}"));
    }
    line("restarts", &format!("{}, and {} resets", vm.restarts, vm.resets));
    if let Some(end) = &vm.last_end {
        line("last end", &format!("{}: {}", end.reason, end.detail));
    }
    for problem in &vm.problems {
        line("problem", problem);
    }
    if let Some(micros) = vm.launch_micros {
        line("launch", &took(micros));
    }
    let rows: Vec<[String; 3]> = vm
        .steps
        .iter()
        .map(|step| [format!("  {}", step.step), took(step.micros), step.detail.clone()])
        .listed();
    text + &align(&rows)
}

/// One change, as a line.
pub fn change(change: &Change) -> String {
    format!(
        "[{:5}.{:03}] {} {}: {}\n",
        change.at_ms / 1000,
        change.at_ms % 1000,
        change.vm,
        change.state,
        change.reason
    )
}

fn took(micros: u64) -> String {
    Span(Duration::from_micros(micros)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::control::{DeviceStatus, FolioStatus, StepTime};
    use crate::status::{End, EndReason, State};

    fn vm(name: &str, state: State) -> VmStatus {
        VmStatus {
            vm: name.to_owned(),
            state,
            reason: "started".to_owned(),
            since_ms: 1000,
            age_ms: 61_000,
            restarts: 2,
            resets: 1,
            pid: Some(77),
            file: "/vendor/etc/gunyah/a.json".to_owned(),
            problems: Vec::new(),
            stuck: false,
            end_visible: true,
            console_end: None,
            devices: Vec::new(),
            dialect: Some("ack61".to_owned()),
            folios: Some(FolioStatus { huge: 31, of: 32, reserved: 32 }),
            steps: vec![StepTime {
                step: "start".to_owned(),
                micros: 1234,
                detail: "running".to_owned(),
            }],
            launch_micros: Some(56_789),
            last_end: Some(End::new(EndReason::Reset, "type 2")),
        }
    }

    #[test]
    fn columns_are_aligned() {
        let mut second = vm("longer-name", State::Stopped);
        second.pid = None;
        let text = table(&[vm("a", State::Running), second]);
        assert_eq!(
            text,
            "VM           STATE    SINCE  RESTARTS  PID  REASON\n\
             a            running  61 s   2         77   started\n\
             longer-name  stopped  61 s   2         -    started\n"
        );
        assert!(table(&[]).contains("no VMs"));
    }

    #[test]
    fn one_vm_shows_its_launch() {
        let mut vm = vm("a", State::Running);
        let device = |device: &str, cid| DeviceStatus {
            device: device.to_owned(),
            requests: 0,
            read: 0,
            written: 0,
            errors: 0,
            interrupts: 0,
            exits: 0,
            cid,
        };
        vm.devices = vec![device("entropy", None), device("vsock", Some(3))];
        let text = one(&vm);
        for line in [
            "state     running for 61 s",
            "vsock     CID 3",
            "restarts  2, and 1 resets",
            "folios    31 of 32 are huge, 32 of the reserve",
            "last end  reset: type 2",
            "launch    56 ms",
            "  start  1.2 ms  running",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_files_name_stays_in_its_line() {
        let mut vm = vm("a", State::Failed);
        vm.file = "/x\ny\x1b[2J.json".to_owned();
        let text = one(&vm);
        let told = "file      /x\\ny\\u{1b}[2J.json";
        assert!(text.lines().any(|found| found == told), "{text}");
    }
}
