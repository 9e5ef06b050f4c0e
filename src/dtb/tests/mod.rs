// SPDX-License-Identifier: Apache-2.0
//! Whole trees: round trips, lengths, what is completed, and blobs that mean harm.

mod complete;
mod hostile;
mod round_trips;

use super::*;
use crate::config::VmConfig;
use crate::diagnostic::Diagnostic;
use crate::list::Listed;

fn built(config: &VmConfig, given: Option<&[u8]>) -> Result<Devicetree, Vec<Diagnostic>> {
    let plan = fixture::plan(config, 0x8100_0000, 0x1000);
    build(config, given, &plan, &Seeds::default())
}

fn generated(config: &VmConfig) -> Tree {
    built(config, None).unwrap().tree
}

fn names(faults: &[Diagnostic]) -> Vec<&str> {
    faults.iter().map(|fault| &*fault.name).listed()
}

/// Everything that is done with a tree that was read.
fn use_it(bytes: &[u8]) {
    if let Ok(tree) = Tree::parse(bytes) {
        let _ = tree.to_source();
    }
    let config = fixture::proxy();
    let len_max = len_max(&config, Some(bytes));
    match built(&config, Some(bytes)) {
        Ok(built) => assert!(u64::try_from(built.blob.len()).unwrap() <= len_max),
        Err(faults) => assert!(!faults.is_empty()),
    }
}
