// SPDX-License-Identifier: Apache-2.0
//! The guest's devicetree: given and completed, or generated, through one tree in memory.

mod tree;

pub use tree::{Node, Property, Tree};
