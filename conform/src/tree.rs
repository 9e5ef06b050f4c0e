// SPDX-License-Identifier: Apache-2.0
//! Small guest devicetrees: a good one, and ways to spoil it.

use vm_fdt::FdtWriter;

/// A node: name, properties and children in order.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// With the unit address.
    pub name: String,
    /// Name and bytes.
    pub properties: Vec<(String, Vec<u8>)>,
    /// In the blob's order.
    pub children: Vec<Node>,
}

/// Cells as a property has them.
pub fn cells(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// Two cells.
pub fn address(value: u64) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// Strings, each with its NUL.
pub fn strings(values: &[&str]) -> Vec<u8> {
    values.iter().flat_map(|value| value.bytes().chain([0])).collect()
}

impl Node {
    /// A node without anything.
    pub fn new(name: &str) -> Self {
        Self { name: name.to_string(), ..Self::default() }
    }

    /// With a property more, or another value of it.
    pub fn with(mut self, name: &str, value: impl Into<Vec<u8>>) -> Self {
        self.set(name, value);
        self
    }

    /// With a child more.
    pub fn child(mut self, child: Node) -> Self {
        self.children.push(child);
        self
    }

    /// Sets a property.
    pub fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        self.properties.retain(|(have, _)| have != name);
        self.properties.push((name.to_string(), value.into()));
    }

    /// Takes a property away.
    pub fn unset(&mut self, name: &str) {
        self.properties.retain(|(have, _)| have != name);
    }

    /// The node at a path such as `gunyah-vm-config/memory`; made where it is not there.
    pub fn at(&mut self, path: &str) -> &mut Node {
        path.split('/').fold(self, |node, name| {
            let index = node.position(name).unwrap_or_else(|| {
                node.children.push(Node::new(name));
                node.children.len() - 1
            });
            &mut node.children[index]
        })
    }

    /// Takes a child away.
    pub fn drop_child(&mut self, name: &str) {
        self.children.retain(|child| child.name != name);
    }

    /// Puts a child before all others.
    pub fn put_first(&mut self, name: &str) {
        if let Some(index) = self.position(name) {
            let child = self.children.remove(index);
            self.children.insert(0, child);
        }
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.children.iter().position(|child| child.name == name)
    }

    /// The tree as a blob.
    pub fn blob(&self) -> Result<Vec<u8>, vm_fdt::Error> {
        let mut writer = FdtWriter::new()?;
        self.write(&mut writer)?;
        writer.finish()
    }

    fn write(&self, writer: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
        let node = writer.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            writer.property(name, value)?;
        }
        for child in &self.children {
            child.write(writer)?;
        }
        writer.end_node(node)
    }
}

/// Name of the interrupt controller's node.
pub const GIC: &str = "interrupt-controller@3fff0000";
/// Label of the one doorbell.
pub const BELL: u32 = 5;

const GIC_PHANDLE: u32 = 1;
const CONFIG: &str = "gunyah-vm-config";

/// What the resource manager takes: `/chosen` first, one CPU scheduled by VCPU_RUN, main memory at
/// `base`.
pub fn good(base: u64) -> Node {
    let cell = |value| cells(&[value]);
    let wide = |node: Node| node.with("#address-cells", cell(2)).with("#size-cells", cell(2));
    wide(Node::new(""))
        .with("interrupt-parent", cell(GIC_PHANDLE))
        .with("compatible", strings(&["linux,dummy-virt"]))
        .child(Node::new("chosen").with("bootargs", strings(&["conform"])))
        .child(
            Node::new("cpus")
                .with("#address-cells", cell(1))
                .with("#size-cells", cell(0))
                .child(cpu(0)),
        )
        .child(
            Node::new("psci")
                .with("compatible", strings(&["arm,psci-1.0"]))
                .with("method", strings(&["hvc"])),
        )
        .child(
            wide(Node::new(GIC))
                .with("compatible", strings(&["arm,gic-v3"]))
                .with("#interrupt-cells", cell(3))
                .with("interrupt-controller", [])
                .with("reg", [0x3fff_0000, 0x1_0000, 0x3ffd_0000, 0x2_0000].map(address).concat())
                .with("phandle", cell(GIC_PHANDLE)),
        )
        .child(
            Node::new("timer")
                .with("compatible", strings(&["arm,armv8-timer"]))
                .with("always-on", [])
                .with(
                    "interrupts",
                    cells(&[1, 13, 0x108, 1, 14, 0x108, 1, 11, 0x108, 1, 10, 0x108]),
                ),
        )
        .child(
            Node::new(CONFIG)
                .with("image-name", strings(&["conform-vm"]))
                .with("os-type", strings(&["linux"]))
                .child(wide(Node::new("memory")).with("base-address", address(base)))
                .child(Node::new("interrupts").with("config", cell(GIC_PHANDLE)))
                .child(Node::new("vcpus").with("affinity", strings(&["proxy"])))
                .child(
                    Node::new("vdevices").with("generate", strings(&["/hypervisor"])).child(
                        Node::new("bell-5")
                            .with("vdevice-type", strings(&["doorbell"]))
                            .with("generate", strings(&["/hypervisor/bell-5"]))
                            .with("label", cell(BELL))
                            .with("peer-default", [])
                            .with("source-can-clear", [])
                            .with("interrupts", cells(&[0, 5, 4])),
                    ),
                ),
        )
}

/// A CPU's node.
pub fn cpu(index: u32) -> Node {
    Node::new(&format!("cpu@{index}"))
        .with("device_type", strings(&["cpu"]))
        .with("compatible", strings(&["arm,armv8"]))
        .with("reg", cells(&[index]))
        .with("enable-method", strings(&["psci"]))
}

/// The vm-config's node.
pub fn config(root: &mut Node) -> &mut Node {
    root.at(CONFIG)
}

/// Has the hypervisor schedule it, each CPU on a physical one of `map`: just below the host's
/// priority, for 2 ms, with the idle state that PSCI needs there.
pub fn by_the_hypervisor(root: &mut Node, map: &[u32]) {
    let vcpus = config(root).at("vcpus");
    vcpus.unset("affinity");
    vcpus.set("affinity-map", cells(map));
    vcpus.set("sched-priority", cells(&[u32::MAX]));
    vcpus.set("sched-timeslice", cells(&[2000]));
    for cpu in &mut root.at("cpus").children {
        cpu.set("cpu-idle-states", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_changed_and_written() {
        let mut root = good(0x8000_0000);
        assert_eq!(root.children[0].name, "chosen");
        root.put_first("cpus");
        assert_eq!(root.children[0].name, "cpus");
        root.drop_child("psci");
        config(&mut root).at("vcpus").unset("affinity");
        assert!(config(&mut root).at("vcpus").properties.is_empty());
        let blob = root.blob().unwrap();
        assert_eq!(blob[..4], [0xd0, 0x0d, 0xfe, 0xed]);
        assert!(blob.windows(10).any(|bytes| bytes == b"conform-vm"));
    }
}
