// SPDX-License-Identifier: Apache-2.0
//! The console in a tree: its doorbell, its serial port and that port's clock.

use crate::config::{ConsoleConfig, ConsoleDevice};
use crate::list::Listed;

use super::complete::free_name;
use super::lookup::{devices_at, serial_ports};
use super::property::{Cells, NodeAt};
use super::tree::{Node, Tree};

/// Trigger cell of a level interrupt.
pub(super) const LEVEL_HIGH: u32 = 4;

/// The serial port at the console's address.
pub(super) fn serial_port<'a>(tree: &'a Tree, console: &ConsoleConfig) -> Option<NodeAt<'a>> {
    let mut ports = serial_ports(tree).into_iter();
    let (port, _) = ports.find(|(_, (base, _))| *base == console.base)?;
    Some(port)
}

/// The console's doorbell.
pub(super) fn doorbell_vdevice(name: &str, console: &ConsoleConfig) -> Node {
    doorbell_node(name, console.label, [0, console.interrupt, LEVEL_HIGH])
}

/// A doorbell: an irqfd with its label raises the interrupt.
pub(super) fn doorbell_node(name: &str, label: u32, interrupt: [u32; 3]) -> Node {
    let mut node = Node::new(name);
    node.set_str("vdevice-type", "doorbell")
        .set_str("generate", &format!("/hypervisor/{name}"))
        .set_u32("label", label)
        .set_empty("peer-default")
        .set_empty("source-can-clear")
        .set_cells("interrupts", &interrupt);
    node
}

/// Adds the console's serial port, unless one is at its address. Another device there is left to the
/// rules.
pub(super) fn complete(tree: &mut Tree, console: &ConsoleConfig) {
    let own = serial_port(tree, console).map(|port| port.path().to_owned());
    let path = match own {
        Some(path) => path,
        None if devices_at(tree, console.base, console.device.frame()).is_empty() => {
            add_serial_port(tree, console)
        }
        None => return,
    };
    let chosen = tree.root.ensure_child("chosen");
    if !chosen.has("stdout-path") {
        chosen.set_str("stdout-path", &path);
    }
}

fn add_serial_port(tree: &mut Tree, console: &ConsoleConfig) -> String {
    let at = |name: &str| format!("{name}@{:x}", console.base);
    let name = at(&free_name("serial", &|name| tree.root.child(&at(name)).is_some()));
    let mut node = Node::new(&name);
    match console.device {
        ConsoleDevice::Pl011 => {
            let clock = clock(tree);
            node.set_strings("compatible", &["arm,pl011", "arm,primecell"])
                .set_cells("clocks", &[clock, clock])
                .set_strings("clock-names", &["uartclk", "apb_pclk"]);
        }
        ConsoleDevice::Ns16550 => {
            // 1.8432 MHz and 115200 baud: what the part had in the PC; nothing depends on it here.
            node.set_str("compatible", "ns16550a")
                .set_u32("clock-frequency", 1_843_200)
                .set_u32("current-speed", 115_200);
        }
    }
    let reg = Cells::below(&tree.root).range(console.base, console.device.frame());
    node.set("reg", reg).set_cells("interrupts", &[0, console.interrupt, LEVEL_HIGH]);
    let path = format!("/{name}");
    tree.root.push(node);
    path
}

/// The phandle of the clock that Linux wants for a PL011: the tree's own `apb-pclk` as it is, else one
/// of 24 MHz as on Arm's boards.
fn clock(tree: &mut Tree) -> u32 {
    const NAME: &str = "apb-pclk";
    let fixed = |clock: &&Node| clock.is_compatible("fixed-clock");
    let own = tree.root.child(NAME).filter(fixed).and_then(Node::phandle);
    if let Some(own) = own {
        return own;
    }
    let phandle = free_phandle(tree);
    let name = free_name(NAME, &|name| tree.root.child(name).is_some());
    let mut node = Node::new(&name);
    node.set_u32("phandle", phandle)
        .set_str("compatible", "fixed-clock")
        .set_u32("#clock-cells", 0)
        .set_u32("clock-frequency", 24_000_000)
        .set_str("clock-output-names", "clk24mhz");
    tree.root.push(node);
    phandle
}

/// The lowest phandle that no node has. 0 and the highest number are none; a tree has fewer nodes than
/// there are others.
pub(super) fn free_phandle(tree: &Tree) -> u32 {
    let mut taken = tree.walk().iter().filter_map(|at| at.phandle()).listed();
    taken.sort_unstable();
    (1..u32::MAX).find(|phandle| taken.binary_search(phandle).is_err()).unwrap_or(u32::MAX)
}
