// SPDX-License-Identifier: Apache-2.0
//! Huge pages, counted by their size.

use crate::json::{Json, Node, Value};
use crate::list::Listed;

/// Pages of the pools by the page's size in bytes, the smallest size first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugePages(Vec<(u64, u64)>);

impl HugePages {
    /// Adds pages of a size.
    pub fn add(&mut self, size: u64, pages: u64) {
        match self.0.binary_search_by_key(&size, |(size, _)| *size) {
            Ok(at) => self.0[at].1 = self.0[at].1.saturating_add(pages),
            Err(at) => self.0.insert(at, (size, pages)),
        }
    }

    /// Pages of a size.
    pub fn of(&self, size: u64) -> u64 {
        self.iter().find(|(of, _)| *of == size).map_or(0, |(_, pages)| pages)
    }

    /// Sizes and pages.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter().copied()
    }

    /// Whether there are none of any size.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Pairs: JSON has no keys but strings.
impl Json for HugePages {
    fn blank() -> Self {
        Self::default()
    }

    fn to_json(&self) -> Value<'_> {
        let pair = |(size, pages): (u64, u64)| Value::from(vec![size.into(), pages.into()]);
        self.iter().map(pair).listed().into()
    }

    fn read(&mut self, node: &Node<'_>) -> Result<(), String> {
        for pair in Vec::<Vec<u64>>::from_json(node)? {
            let [size, pages] = pair[..] else {
                return Err("expected pairs of a size and a number of pages".to_owned());
            };
            self.add(size, pages);
        }
        Ok(())
    }
}
