// SPDX-License-Identifier: Apache-2.0
//! The guest's devicetree: given and completed, or generated, through one tree in memory.

mod blob;
mod source;
mod tree;
mod value;

pub use blob::{ParseError, WriteError, BLOB_MAX, DEPTH_MAX, NAME_MAX, NODES_MAX, PROPERTIES_MAX};
pub use tree::{Node, Position, Property, Tree};
pub use value::{NodeAt, PropertyError, PropertyFault};
