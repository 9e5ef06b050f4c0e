// SPDX-License-Identifier: Apache-2.0
//! The console: its doorbell, and the serial port that the device model has to be.

use super::broken;
use crate::config::{ConsoleConfig, ConsoleDevice};
use crate::diagnostic::kinds;
use crate::dtb::build::Faults;
use crate::dtb::console::{serial_port, LEVEL_HIGH};
use crate::dtb::lookup::{devices_at, doorbell, models, spi};
use crate::dtb::property::NodeAt;
use crate::dtb::tree::Tree;

const AGREE: &str = "make devicetree and config agree";

kinds! {
    // Seen.
    NO_DOORBELL: Error "dtb-no-doorbell" in Dtb {
        "no doorbell vdevice has the console's label",
        cause: "the driver accepts an unknown label, and no interrupt ever comes",
        cure: "add a doorbell vdevice with this label, or change console.label",
    }
    // Ours.
    DOORBELL_INTERRUPT: Error "dtb-doorbell-interrupt" in Dtb {
        "the console's doorbell does not raise console.interrupt, level high",
        cause: "the guest's driver waits for the serial port's own interrupt",
        cure: AGREE,
    }
    // Ours.
    CONSOLE_DIFFERS: Error "dtb-console-differs" in Dtb {
        "a device at the console's address is not the serial port that the console is",
        cause: "the guest would talk to a device that is not there",
        cure: AGREE,
    }
}

pub(super) fn check(tree: &Tree, console: &ConsoleConfig, faults: &mut Faults<'_>) {
    let wanted = (console.interrupt, LEVEL_HIGH);
    let label = console.label;
    match doorbell(tree, label).map(|bell| spi(&bell)) {
        None => faults.add_at(
            "console.label",
            NO_DOORBELL.case(format!("no doorbell vdevice has the console's label {label}")),
        ),
        Some(found) if found != Some(wanted) => {
            let has = found.map_or("no fixed SPI".to_owned(), |(number, trigger)| {
                format!("SPI {number} with trigger {trigger}")
            });
            let what = format!(
                "doorbell {label} has {has}, the console SPI {} with trigger {LEVEL_HIGH}",
                console.interrupt
            );
            faults.add_at("console.interrupt", DOORBELL_INTERRUPT.case(what));
        }
        Some(_) => {}
    }
    let own = serial_port(tree, console);
    let mut differs = |node: &NodeAt<'_>, why: &str| {
        faults.add_at("console", CONSOLE_DIFFERS.case(format!("{} {why}", node.path())));
    };
    for node in devices_at(tree, console.base, console.device.frame()) {
        if own.as_ref().map(NodeAt::path) != Some(node.path()) {
            differs(&node, "is another device at the console's registers");
        }
    }
    if let Some(own) = &own {
        for why in differences(own, console) {
            differs(own, why);
        }
    }
}

/// What keeps our device model from being the serial port of this node.
fn differences(node: &NodeAt<'_>, console: &ConsoleConfig) -> Vec<&'static str> {
    let ns16550 = console.device == ConsoleDevice::Ns16550;
    let models = models(console.device);
    let is_model = models.iter().any(|model| node.is_compatible(model));
    // A PL011's registers have no such properties.
    let other = |property, usual| ns16550 && node.u32(property).is_some_and(|value| value != usual);
    let spi = spi(node);
    broken(&[
        (!is_model && !ns16550, "is not a PL011"),
        (!is_model && ns16550, "is not a 16550"),
        (other("reg-shift", 0), "has a reg-shift, and the console's registers are a byte apart"),
        (
            other("reg-io-width", 1),
            "has a reg-io-width that is not 1, and the console's registers are a byte wide",
        ),
        (other("reg-offset", 0), "has a reg-offset, and the console's registers begin at its base"),
        (ns16550 && node.has("big-endian"), "is big-endian, and the console is not"),
        (
            !matches!(node.str("status"), None | Some("okay" | "ok")),
            "has a status other than okay: the guest leaves it alone",
        ),
        (
            spi.is_some_and(|spi| spi != (console.interrupt, LEVEL_HIGH)),
            "has another interrupt than the console",
        ),
        // interrupts-extended names its controller; whether it means the same is the tree's affair.
        (
            spi.is_none() && !node.has("interrupts-extended"),
            "has no interrupt: its driver would not hear of what is typed",
        ),
    ])
}
