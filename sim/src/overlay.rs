// SPDX-License-Identifier: Apache-2.0
//! What the resource manager adds to a guest's devicetree before its first instruction.
//!
//! Seen on the real one: `/hypervisor` with the doorbells, shared memory and VM ids, `/vsoc`,
//! `/memory` with every range that the guest has, `/reserved-memory`, and `kaslr-seed` in `/chosen`. Read in
//! vm_creation.c of both: which ranges `/memory` has, and that a region which the given `/reserved-memory`
//! has already gets no second node there.

use crate::fdt::{number, Node, Tree};

/// A devicetree that the resource manager cannot work with, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable(pub String);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "devicetree: {}", self.0)
    }
}

impl std::error::Error for Unusable {}

// Ids as the real resource manager gave them to the first VM that the host made.
const HOST_VMID: u32 = 3;
const FIRST_VMID: u32 = 0x80;

/// Where a region came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Its label.
    pub label: u32,
    /// Guest address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

/// A cell of a property, or why not.
fn cell(node: &Node, name: &str) -> Result<u32, Unusable> {
    node.cell(name)
        .ok_or_else(|| Unusable(format!("{} has no one-cell property {name}", node.name)))
}

/// A string property without its NUL.
fn string(node: &Node, name: &str) -> Option<String> {
    let value = node.property(name)?.strip_suffix(&[0])?;
    String::from_utf8(value.to_vec()).ok()
}

/// The VM's configuration node: by its name, or by its `compatible`.
pub fn vm_config(tree: &Tree) -> Option<&Node> {
    tree.root
        .children
        .iter()
        .find(|node| node.name == "gunyah-vm-config" || node.is_compatible("gunyah-vm-config"))
}

/// The name that the guest has for the resource manager.
pub fn image_name(tree: &Tree) -> Option<String> {
    string(vm_config(tree)?, "image-name")
}

/// Whose memory is given, and so what is the guest's memory for the resource manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// Whole regions, as parcels.
    Parcels,
    /// Page by page. The newer one then puts the fixed ranges of `/reserved-memory` into `/memory`, which have
    /// no parcel.
    ByFault,
}

/// Adds the overlay for the regions that the guest gets, main memory first.
pub fn apply(tree: &mut Tree, placed: &[Placed], given: Given, seed: u64) -> Result<(), Unusable> {
    if tree.root.child("hypervisor").is_some() {
        return Err(Unusable("/hypervisor is there already".into()));
    }
    let config = vm_config(tree).ok_or_else(|| Unusable("no /gunyah-vm-config".into()))?.clone();
    let mut next_phandle = tree.root.walk().iter().filter_map(|at| at.phandle()).max().unwrap_or(0);

    let mut reserved =
        tree.root.remove_child("reserved-memory").unwrap_or_else(|| bus("reserved-memory"));
    let mut ranges: Vec<(u64, u64)> = placed.iter().map(|of| (of.base, of.size)).collect();
    if given == Given::ByFault {
        ranges.extend(fixed(&reserved).filter(|(node, _)| !is_labelled(node)).map(|(_, at)| at));
    }
    let mut hypervisor = Node::new("hypervisor");
    hypervisor.set_strings(
        "compatible",
        &[
            "gunyah-hypervisor",
            "qcom,gunyah-hypervisor-1.0",
            "qcom,gunyah-hypervisor",
            "simple-bus",
        ],
    );
    hypervisor.set_u32("#size-cells", 0);
    hypervisor.set_u32("#address-cells", 2);

    let none = Node::default();
    let vdevices = config.child("vdevices").unwrap_or(&none);
    for device in &vdevices.children {
        match string(device, "vdevice-type").as_deref() {
            Some("shm") => {
                let Some(memory) = device.child("memory") else {
                    continue;
                };
                let label = cell(memory, "label")?;
                let Some(region) = placed.iter().skip(1).find(|region| region.label == label)
                else {
                    continue;
                };
                next_phandle += 1;
                let phandle = buffer(&mut reserved, region, next_phandle);
                let name = generated(device).unwrap_or_else(|| "qcom,shm".to_owned());
                hypervisor.push(shared_memory(&name, label, phandle));
            }
            Some("doorbell") => {
                hypervisor.push(doorbell(device)?);
            }
            _ => {}
        }
    }
    let name = string(&config, "image-name").unwrap_or_default();
    hypervisor.push(vm_ids(&name));

    let mut vsoc = bus("vsoc");
    vsoc.set_str("compatible", "simple-bus");
    let mut memory = Node::new("memory");
    memory.set_u64s("reg", &merged(ranges));
    memory.set_str("device_type", "memory");
    tree.root.remove_child("memory");

    // In front and in this order, as the real one leaves them.
    for node in [reserved, memory, vsoc, hypervisor] {
        tree.root.children.insert(0, node);
    }
    tree.root.ensure_child("chosen").set_u64("kaslr-seed", seed);
    Ok(())
}

/// The nodes of `/reserved-memory` that have one fixed range: address and bytes.
pub fn fixed(reserved: &Node) -> impl Iterator<Item = (&Node, (u64, u64))> {
    reserved.children.iter().filter_map(|node| Some((node, fixed_range(reserved, node)?)))
}

/// The one range of a node's `reg`.
pub fn fixed_range(reserved: &Node, node: &Node) -> Option<(u64, u64)> {
    let cells = |name, default| {
        let cells = reserved.cell(name).unwrap_or(default);
        usize::try_from(cells).unwrap_or(usize::MAX).saturating_mul(4)
    };
    let (address, size) = (cells("#address-cells", 2), cells("#size-cells", 1));
    let reg = node.property("reg").filter(|reg| Some(reg.len()) == address.checked_add(size))?;
    Some((number(&reg[..address])?, number(&reg[address..])?))
}

/// Whether it names a parcel.
pub fn is_labelled(node: &Node) -> bool {
    node.property("qcom,label").is_some()
}

/// In order, and what touches as one.
fn merged(mut ranges: Vec<(u64, u64)>) -> Vec<u64> {
    ranges.sort_unstable();
    let mut reg: Vec<u64> = Vec::new();
    for (base, size) in ranges {
        match reg.as_mut_slice() {
            [.., last, bytes] if last.saturating_add(*bytes) >= base => {
                let end = base.saturating_add(size).max(last.saturating_add(*bytes));
                *bytes = end - *last;
            }
            _ => reg.extend([base, size]),
        }
    }
    reg
}

fn bus(name: &str) -> Node {
    let mut node = Node::new(name);
    node.set_empty("ranges");
    node.set_u32("#size-cells", 2);
    node.set_u32("#address-cells", 2);
    node
}

/// The name in `generate`, a path below `/hypervisor`.
fn generated(device: &Node) -> Option<String> {
    let path = string(device, "generate")?;
    path.rsplit('/').next().map(str::to_owned)
}

fn doorbell(device: &Node) -> Result<Node, Unusable> {
    let label = cell(device, "label")?;
    let name = generated(device).unwrap_or_default();
    let mut node = Node::new(&format!("{name}@0"));
    node.set_u32("label", label);
    node.set_u32("qcom,label", label);
    if let Some(interrupts) = device.property("interrupts") {
        node.set("interrupts", interrupts.to_vec());
    }
    node.set_u64("reg", 0);
    node.set_strings("compatible", &["qcom,gunyah-doorbell", "qcom,gunyah-capability"]);
    Ok(node)
}

fn shared_memory(name: &str, label: u32, buffer: u32) -> Node {
    let mut node = Node::new(name);
    node.set_u64("dma_base", 0);
    node.set_u32("label", label);
    node.set_u32("qcom,label", label);
    node.set_u32("peer", HOST_VMID);
    node.set_u32("memory-region", buffer);
    node.set_u32("buffer", buffer);
    node.set_str("compatible", "qcom,shared-memory");
    node
}

/// The phandle of the region's node in `/reserved-memory`: the given one's, or that of a new one, `new`.
fn buffer(reserved: &mut Node, region: &Placed, new: u32) -> u32 {
    let range = (region.base, region.size);
    let of_region = |node: &Node| fixed_range(reserved, node) == Some(range);
    if let Some(at) = reserved.children.iter().position(of_region) {
        let node = &mut reserved.children[at];
        return node.phandle().unwrap_or_else(|| {
            node.set_u32("phandle", new);
            new
        });
    }
    let mut node = Node::new(&format!("buffer@{:x}", region.base));
    node.set_u32("qcom,label", region.label);
    node.set_u32("phandle", new);
    node.set_cells("peers", &[HOST_VMID, FIRST_VMID, HOST_VMID]);
    node.set_empty("no-map");
    node.set_empty("qcom,shared-memory");
    node.set_u64s("reg", &[region.base, region.size]);
    // An overlay's new nodes come to stand in front.
    reserved.children.insert(0, node);
    new
}

fn vm_ids(name: &str) -> Node {
    let mut node = Node::new("qcom,gunyah-vm");
    node.set_str("qcom,image-name", name);
    node.set_str("qcom,vendor", "Qualcomm");
    node.set_u32("qcom,owner-vmid", HOST_VMID);
    node.set_u32("qcom,vmid", FIRST_VMID);
    node.set_strings("compatible", &["qcom,gunyah-vm-id-1.0", "qcom,gunyah-vm-id"]);
    node
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> Tree {
        let mut tree = Tree::default();
        tree.root.set_u32("#address-cells", 2);
        tree.root.set_u32("#size-cells", 2);
        tree.root.push(Node::new("chosen"));
        let mut config = Node::new("gunyah-vm-config");
        config.set_str("image-name", "lab-vm");
        config.ensure_child("memory").set_u64("base-address", 0x8000_0000);
        let vdevices = config.ensure_child("vdevices");
        let shm = vdevices.ensure_child("shm-7");
        shm.set_str("vdevice-type", "shm");
        let memory = shm.ensure_child("memory");
        memory.set_u32("label", 7).set_u64("base", 0xa000_0000);
        let bell = vdevices.ensure_child("bell-5");
        bell.set_str("vdevice-type", "doorbell");
        bell.set_str("generate", "/hypervisor/bell-5");
        bell.set_u32("label", 5).set_cells("interrupts", &[0, 5, 4]);
        tree.root.push(config);
        tree
    }

    const MAIN: Placed = Placed { label: 0, base: 0x8000_0000, size: 0x40_0000 };

    #[test]
    fn the_guest_is_told_what_the_real_one_tells() {
        let mut tree = given();
        let shared = Placed { label: 7, base: 0xa000_0000, size: 0x20_0000 };
        apply(&mut tree, &[MAIN, shared], Given::Parcels, 1).expect("overlay");
        let names: Vec<&str> = tree.root.children.iter().map(|n| n.name.as_str()).collect();
        assert_eq!(
            names,
            ["hypervisor", "vsoc", "memory", "reserved-memory", "chosen", "gunyah-vm-config"]
        );
        let bell = tree.root.at("/hypervisor/bell-5@0").expect("doorbell");
        assert_eq!(cell(bell, "label").expect("label"), 5);
        let shm = tree.root.at("/hypervisor/qcom,shm").expect("shm");
        let buffer = tree.root.at("/reserved-memory/buffer@a0000000");
        assert_eq!(buffer.expect("buffer").phandle(), shm.cell("memory-region"));
        let memory = tree.root.at("/memory").and_then(|n| n.property("reg")).expect("reg");
        assert_eq!(memory.len(), 32);
    }

    /// A tree with a pool of that region's range.
    fn with_pool() -> (Tree, Placed) {
        let mut tree = given();
        let reserved = tree.root.ensure_child("reserved-memory");
        reserved.set_u32("#address-cells", 2).set_u32("#size-cells", 2);
        let pool = reserved.ensure_child("pool@80400000");
        pool.set_u64s("reg", &[0x8040_0000, 0x20_0000]).set_u32("phandle", 9);
        pool.set_str("compatible", "restricted-dma-pool");
        (tree, Placed { label: 7, base: 0x8040_0000, size: 0x20_0000 })
    }

    fn memory(tree: &Tree) -> Vec<u64> {
        let reg = tree.root.at("/memory").and_then(|node| node.property("reg")).expect("reg");
        reg.chunks(8).map(|cells| number(cells).expect("two cells")).collect()
    }

    #[test]
    fn a_region_with_a_node_of_its_own_gets_no_buffer() {
        let (mut tree, pool) = with_pool();
        apply(&mut tree, &[MAIN, pool], Given::Parcels, 1).expect("overlay");
        let reserved = tree.root.child("reserved-memory").expect("it was there");
        let names: Vec<&str> = reserved.children.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["pool@80400000"]);
        let shm = tree.root.at("/hypervisor/qcom,shm").expect("shm");
        assert_eq!(shm.cell("memory-region"), Some(9));
        assert_eq!(memory(&tree), [0x8000_0000, 0x60_0000], "and lies in /memory");
    }

    #[test]
    fn what_is_shared_by_fault_is_memory_by_its_fixed_range() {
        let (mut tree, _) = with_pool();
        let reserved = tree.root.child_mut("reserved-memory").expect("it was there");
        let of = |name: &str, base| {
            let mut node = Node::new(name);
            node.set_u64s("reg", &[base, 0x1000]);
            node
        };
        let mut labelled = of("parcel@b0000000", 0xb000_0000);
        labelled.set_u32("qcom,label", 5);
        reserved.push(labelled).push(of("memory@a0000000", 0xa000_0000));
        let mut whole = tree.clone();
        apply(&mut tree, &[MAIN], Given::ByFault, 1).expect("overlay");
        assert_eq!(memory(&tree), [0x8000_0000, 0x60_0000, 0xa000_0000, 0x1000]);
        apply(&mut whole, &[MAIN], Given::Parcels, 1).expect("overlay");
        assert_eq!(memory(&whole), [0x8000_0000, 0x40_0000]);
    }

    #[test]
    fn ranges_are_sorted_and_merged() {
        let all = vec![(9, 1), (2, 3), (5, 1), (3, 1), (20, 5)];
        assert_eq!(merged(all), [2, 4, 9, 1, 20, 5]);
    }

    #[test]
    fn nodes_are_named_as_generate_says() {
        let mut tree = given();
        let vdevices =
            tree.root.child_mut("gunyah-vm-config").and_then(|config| config.child_mut("vdevices"));
        let shm = vdevices.and_then(|devices| devices.child_mut("shm-7"));
        shm.expect("vdevice").set_str("generate", "/hypervisor/shm-7");
        let shared = Placed { label: 7, base: 0xa000_0000, size: 0x20_0000 };
        apply(&mut tree, &[MAIN, shared], Given::Parcels, 1).expect("overlay");
        assert!(tree.root.at("/hypervisor/shm-7").is_some());
        assert!(tree.root.at("/hypervisor/bell-5@0").is_some());
    }

    #[test]
    fn a_tree_that_the_real_one_refuses_is_refused() {
        let mut tree = given();
        tree.root.push(Node::new("hypervisor"));
        assert!(apply(&mut tree, &[MAIN], Given::Parcels, 1).is_err());
    }
}
