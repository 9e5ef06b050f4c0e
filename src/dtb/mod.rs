// SPDX-License-Identifier: Apache-2.0
//! The guest's devicetree: given and completed, or generated, through one tree in memory.
//!
//! A [`Draft`] is made before the plan and has its final length; [`Draft::finish`] fills in the
//! plan's addresses. [`rules`] has what the resource manager demands of both kinds.

mod complete;
mod console;
mod draft;
mod facts;
#[cfg(test)]
mod fixture;
mod generate;
mod problem;
mod read;
pub mod rules;
mod source;
#[cfg(test)]
mod tests;
mod told;
mod tree;
mod value;
mod write;

pub use draft::{Draft, Finished, Seeds};
pub use facts::{Doorbell, DtbFacts, Gic, Serial, Shm};
pub use generate::{GICD_BASE, GICD_SIZE, GICR_SIZE};
pub use problem::DtbProblem;
pub use read::{ParseError, BLOB_MAX, DEPTH_MAX, NAME_MAX, NODES_MAX, PATH_MAX, PROPERTIES_MAX};
pub use tree::{Node, Position, Property, Tree};
pub use value::{NodeAt, PropertyError, PropertyFault};
pub use write::WriteError;
