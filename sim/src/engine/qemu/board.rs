// SPDX-License-Identifier: Apache-2.0
//! The guest's devicetree made to fit QEMU's `virt` board, whose devices stand at fixed addresses.

use crate::fdt::{Node, Tree};

use super::Error;

// Addresses and interrupts of hw/arm/virt.c.
const GIC_DISTRIBUTOR: u64 = 0x0800_0000;
const GIC_DISTRIBUTOR_SIZE: u64 = 0x1_0000;
const GIC_ITS: u64 = 0x0808_0000;
const GIC_ITS_SIZE: u64 = 0x2_0000;
const GIC_REDISTRIBUTORS: u64 = 0x080a_0000;
const GIC_REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
const PL011: u64 = 0x0900_0000;
const PL011_SIZE: u64 = 0x1000;
const PL011_SPI: u32 = 1;
const PL011_CLOCK_HZ: u32 = 24_000_000;
const LEVEL_HIGH: u32 = 4;
const CONSOLE_PATH: &str = "/pl011@9000000";

/// How many CPUs the tree has.
pub fn cpus(tree: &Tree) -> Result<u32, Error> {
    let count = tree.root.child("cpus").map_or(0, |cpus| {
        let is_cpu = |node: &&Node| node.base_name() == "cpu";
        cpus.children.iter().filter(is_cpu).count()
    });
    match u32::try_from(count) {
        Ok(0) | Err(_) => Err(Error::Devicetree("no /cpus/cpu@…".into())),
        Ok(count) => Ok(count),
    }
}

/// Rewrites what stands elsewhere on the board, and sees to a console.
pub fn fit(tree: &mut Tree, cpus: u32) -> Result<(), Error> {
    let mut gics = 0;
    let mut console = None;
    let clock = next_phandle(tree);
    let mut clock_used = false;
    visit(&mut tree.root, "", &mut |node, path| {
        if node.is_compatible("arm,gic-v3") {
            fit_gic(node, cpus);
            gics += 1;
        } else if node.is_compatible("arm,pl011") && console.is_none() {
            clock_used = fit_pl011(node, clock);
            console = Some(path.to_owned());
        } else if node.is_compatible("ns16550a") || node.is_compatible("arm,pl011") {
            // Not on this board: probing it would hit another device.
            node.set_str("status", "disabled");
        } else if node.base_name() == "psci" && node.property("method").is_some() {
            node.set_str("method", "hvc");
        }
    });
    if gics != 1 {
        return Err(Error::Devicetree(format!(
            "{gics} nodes compatible with arm,gic-v3; this board has one"
        )));
    }
    if console.is_none() {
        let mut node = Node::new("pl011@9000000");
        node.set_strings("compatible", &["arm,pl011", "arm,primecell"]);
        clock_used = fit_pl011(&mut node, clock);
        tree.root.push(node);
    }
    if clock_used {
        let mut node = Node::new("apb-pclk");
        node.set_str("compatible", "fixed-clock");
        node.set_u32("#clock-cells", 0);
        node.set_u32("clock-frequency", PL011_CLOCK_HZ);
        node.set_u32("phandle", clock);
        tree.root.push(node);
    }
    let chosen = tree.root.ensure_child("chosen");
    let told = chosen.property("stdout-path").map(<[u8]>::to_vec);
    let path = console.unwrap_or_else(|| CONSOLE_PATH.to_owned());
    let ok = told.is_some_and(|told| told.starts_with(path.as_bytes()));
    if !ok {
        chosen.set_str("stdout-path", &path);
    }
    Ok(())
}

fn fit_gic(node: &mut Node, cpus: u32) {
    let redistributors = GIC_REDISTRIBUTOR_SIZE * u64::from(cpus);
    node.set_u64s(
        "reg",
        &[GIC_DISTRIBUTOR, GIC_DISTRIBUTOR_SIZE, GIC_REDISTRIBUTORS, redistributors],
    );
    node.remove("#redistributor-regions");
    node.remove("redistributor-stride");
    for its in &mut node.children {
        if its.is_compatible("arm,gic-v3-its") {
            its.set_u64s("reg", &[GIC_ITS, GIC_ITS_SIZE]);
        }
    }
}

/// True if it had no clock of its own and now names `clock`.
fn fit_pl011(node: &mut Node, clock: u32) -> bool {
    node.set_u64s("reg", &[PL011, PL011_SIZE]);
    node.set_cells("interrupts", &[0, PL011_SPI, LEVEL_HIGH]);
    if node.property("clocks").is_some() {
        return false;
    }
    // The AMBA bus of Linux does not probe a device without one.
    node.set_cells("clocks", &[clock, clock]);
    node.set_strings("clock-names", &["uartclk", "apb_pclk"]);
    true
}

fn next_phandle(tree: &Tree) -> u32 {
    let highest = tree.root.walk().iter().filter_map(|at| at.phandle()).max();
    highest.unwrap_or(0).saturating_add(1)
}

fn visit(node: &mut Node, path: &str, work: &mut impl FnMut(&mut Node, &str)) {
    work(node, path);
    for child in &mut node.children {
        let path = format!("{path}/{}", child.name);
        visit(child, &path, work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::default();
        tree.root.push(Node::new("chosen"));
        let cpus = tree.root.ensure_child("cpus");
        cpus.push(Node::new("cpu@0")).push(Node::new("cpu@1"));
        cpus.push(Node::new("cpu-map"));
        let gic = tree.root.ensure_child("interrupt-controller@3fff0000");
        gic.set_str("compatible", "arm,gic-v3").set_u32("phandle", 4);
        tree
    }

    #[test]
    fn devices_move_to_where_the_board_has_them() {
        let mut tree = tree();
        let mut uart = Node::new("uart@1c090000");
        uart.set_strings("compatible", &["arm,pl011", "arm,primecell"]);
        tree.root.push(uart);
        assert_eq!(cpus(&tree).expect("cpus"), 2);
        fit(&mut tree, 2).expect("fits");
        let gic = tree.root.at("/interrupt-controller").and_then(|n| n.property("reg"));
        assert_eq!(gic.expect("reg")[24..], 0x4_0000u64.to_be_bytes());
        let uart = tree.root.at("/uart@1c090000").expect("uart");
        assert_eq!(uart.property("reg").expect("reg")[..8], PL011.to_be_bytes());
        let clock = u32::from_be_bytes(
            uart.property("clocks").expect("clocks")[..4].try_into().expect("cell"),
        );
        assert_eq!(tree.root.at("/apb-pclk").expect("clock").phandle(), Some(clock));
        let stdout = tree.root.at("/chosen").and_then(|n| n.property("stdout-path"));
        assert_eq!(stdout, Some(&b"/uart@1c090000\0"[..]));
    }

    #[test]
    fn a_tree_without_a_console_gets_one() {
        let mut tree = tree();
        let mut other = Node::new("uart@9000000");
        other.set_str("compatible", "ns16550a");
        tree.root.push(other);
        fit(&mut tree, 2).expect("fits");
        assert!(tree.root.at(CONSOLE_PATH).is_some());
        let status = tree.root.at("/uart@9000000").and_then(|n| n.property("status"));
        assert_eq!(status, Some(&b"disabled\0"[..]));
    }

    #[test]
    fn another_interrupt_controller_is_refused() {
        let mut tree = tree();
        tree.root.remove_child("interrupt-controller@3fff0000");
        assert!(fit(&mut tree, 1).is_err());
    }
}
