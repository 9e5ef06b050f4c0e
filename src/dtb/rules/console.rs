// SPDX-License-Identifier: Apache-2.0
//! The console: its doorbell, and the serial port that the device model has to be.

use crate::config::{ConsoleConfig, ConsoleDevice};
use crate::console::Port;

use super::super::facts::{child_cells, spi, DtbFacts};
use super::super::problem::DtbProblem;
use super::super::tree::Tree;
use super::super::value::NodeAt;

pub(super) fn check(
    tree: &Tree,
    facts: &DtbFacts,
    console: &ConsoleConfig,
    found: &mut Vec<DtbProblem>,
) {
    let bell = facts
        .doorbells
        .iter()
        .find(|bell| bell.label == console.label);
    match bell {
        None => found.push(DtbProblem::NoDoorbell(console.label)),
        Some(bell) if bell.spi != Some((console.interrupt, 4)) => {
            found.push(DtbProblem::DoorbellInterrupt {
                label: console.label,
                tree: bell.spi,
                config: console.interrupt,
            });
        }
        Some(_) => {}
    }
    let serials = &facts.serials;
    let own = serials.iter().find(|serial| serial.base == console.base);
    let own = own.map(|serial| serial.path.as_str());
    let mut differs = |path: &str, why| {
        found.push(DtbProblem::ConsoleDiffers {
            path: path.to_owned(),
            why,
        });
    };
    for path in devices_at(tree, console) {
        if Some(path.as_str()) != own {
            differs(&path, "is another device at the console's registers");
        }
    }
    if let Some(node) = own.and_then(|path| tree.at(path)) {
        for why in faults(&node, console) {
            differs(node.path(), why);
        }
    }
}

/// What keeps our device model from being the serial port of this node.
fn faults(node: &NodeAt<'_>, console: &ConsoleConfig) -> Vec<&'static str> {
    let mut faults = Vec::new();
    let mut wrong = |broken: bool, why| {
        if broken {
            faults.push(why);
        }
    };
    let listed = |models: &[&str]| models.iter().any(|model| node.is_compatible(model));
    match console.device {
        ConsoleDevice::Pl011 => {
            wrong(!listed(&["arm,pl011", "arm,sbsa-uart"]), "is no PL011");
        }
        ConsoleDevice::Ns16550 => {
            wrong(!listed(&["ns16550a", "ns16550"]), "is no 16550");
            let other = |property, usual| node.u32(property).is_ok_and(|value| value != usual);
            wrong(
                other("reg-shift", 0),
                "has a reg-shift, and the console's registers are a byte apart",
            );
            wrong(
                other("reg-io-width", 1),
                "has a reg-io-width that is not 1, and the console's registers are a byte wide",
            );
            wrong(
                other("reg-offset", 0),
                "has a reg-offset, and the console's registers begin at its base",
            );
            wrong(
                node.has("big-endian"),
                "is big-endian, and the console is not",
            );
        }
    }
    wrong(
        !matches!(node.str("status"), Err(_) | Ok("okay" | "ok")),
        "has a status other than okay: the guest leaves it alone",
    );
    match spi(node) {
        Some(spi) => wrong(
            spi != (console.interrupt, 4),
            "has another interrupt than the console",
        ),
        // That names its controller; whether it means the same is the tree's affair.
        None => wrong(
            !node.has("interrupts-extended"),
            "has no interrupt: its driver would not hear of what is typed",
        ),
    }
    faults
}

/// Paths of the devices whose registers overlap the console's.
pub(in super::super) fn devices_at(tree: &Tree, console: &ConsoleConfig) -> Vec<String> {
    let end = console.base.saturating_add(Port::size(console.device));
    let mut paths = Vec::new();
    let mut open = vec![NodeAt::root(&tree.root)];
    while let Some(parent) = open.pop() {
        let (address, size) = child_cells(&parent);
        for node in parent.children() {
            let ranges = node.ranges("reg", address, size).unwrap_or_default();
            let overlaps =
                |(base, len): &(u64, u64)| *base < end && console.base < base.saturating_add(*len);
            if ranges.iter().any(overlaps) {
                paths.push(node.path().to_owned());
            }
            // Only below an empty `ranges` are addresses those of the guest.
            if node.value("ranges").is_some_and(<[u8]>::is_empty) {
                open.push(node);
            }
        }
    }
    paths
}
