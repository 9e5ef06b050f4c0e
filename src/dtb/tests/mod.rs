// SPDX-License-Identifier: Apache-2.0
//! The flattened form: round trips, and blobs that mean harm.

mod console;
mod hostile;
mod round_trips;

use super::rules::{check, Expected};
use super::*;

/// Everything that is done with a tree that was read.
fn use_it(bytes: &[u8]) {
    let config = fixture::config();
    if let Ok(tree) = Tree::parse(bytes) {
        let _ = tree.to_source();
        let _ = DtbFacts::of(&tree);
        let _ = check(&tree, Some(&Expected::of_config(&config)));
    }
    match Draft::given(bytes, &config) {
        Ok(draft) => {
            let _ = draft.finish(&fixture::plan(&config, 0x8100_0000, 1), &Seeds::PLACEHOLDER);
        }
        Err(problems) => assert!(!problems.is_empty()),
    }
}
