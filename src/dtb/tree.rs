// SPDX-License-Identifier: Apache-2.0
//! A devicetree in memory.

/// A whole devicetree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    /// The memory reservation block: address and bytes.
    pub reservations: Vec<(u64, u64)>,
    /// `boot_cpuid_phys` of the header.
    pub boot_cpu: u32,
    /// The root node; its name is empty.
    pub root: Node,
}

/// A node. The order of children and properties is kept: the resource manager cares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// With its unit address: `cpu@0`.
    pub name: String,
    /// In their order.
    pub properties: Vec<Property>,
    /// In their order.
    pub children: Vec<Node>,
}

/// A property.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name.
    pub name: String,
    /// Its bytes, cells big endian.
    pub value: Vec<u8>,
}
