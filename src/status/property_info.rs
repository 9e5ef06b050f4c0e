// SPDX-License-Identifier: Apache-2.0
//! Which area file a property is in: the trie in `property_info`, which init makes of all
//! property_contexts files.
//!
//! The layout is AOSP's `system/core/property_service/libpropertyinfoparser`: a header of six words, a
//! table of contexts, and nodes that point to arrays of children, prefixes and exact matches.

use super::property_area::{word, BEYOND};

// Versions that the parser of AOSP's property_info_parser.h understands.
const VERSION: usize = 1;
// "No context": the one found so far stays.
const NONE: usize = 0xffff_ffff;

/// A copy of the file.
pub struct PropertyInfo<'a> {
    bytes: &'a [u8],
    contexts: usize,
    root: usize,
}

type Broken = &'static str;

impl<'a> PropertyInfo<'a> {
    /// Checks the header.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Broken> {
        let info = Self { bytes, contexts: word(bytes, 12)?, root: word(bytes, 20)? };
        if info.word(4)? > VERSION {
            return Err("its version is unknown");
        }
        Ok(info)
    }

    /// The context of `name`, which is also its area file's name; `None` if no line matches it.
    pub fn context_of(&self, name: &str) -> Result<Option<&'a str>, Broken> {
        let mut context = NONE;
        let mut rest = name.as_bytes();
        let mut node = self.root;
        // Each turn takes a part of the name, so a circle of nodes ends with it.
        loop {
            let own = self.word(self.word(node)?.saturating_add(8))?;
            if own != NONE {
                context = own;
            }
            self.prefix(node, rest, &mut context)?;
            let Some(dot) = rest.iter().position(|&b| b == b'.') else {
                break;
            };
            let Some(child) = self.child(node, &rest[..dot])? else {
                break;
            };
            node = child;
            rest = &rest[dot + 1..];
        }
        if !self.exact(node, rest, &mut context)? {
            self.prefix(node, rest, &mut context)?;
        }
        if context == NONE {
            return Ok(None);
        }
        if context >= self.word(self.contexts)? {
            return Err("a context's number is too high");
        }
        let text = self.text(self.word(self.contexts.saturating_add(4 + 4 * context))?)?;
        let text = std::str::from_utf8(text).map_err(|_| "a context is not text")?;
        // It becomes a file name.
        if text.is_empty() || text.starts_with('.') || text.contains('/') {
            return Err("a context is not a file name");
        }
        Ok(Some(text))
    }

    fn word(&self, at: usize) -> Result<usize, Broken> {
        word(self.bytes, at)
    }

    // A text up to its NUL.
    fn text(&self, at: usize) -> Result<&'a [u8], Broken> {
        let rest = self.bytes.get(at..).ok_or(BEYOND)?;
        let end = rest.iter().position(|&b| b == 0);
        Ok(&rest[..end.ok_or("a text has no end")?])
    }

    // Count and offset of the array that stand at `at` in a node.
    fn entries(&self, at: usize) -> Result<(usize, usize), Broken> {
        let count = self.word(at)?;
        // Each entry takes a word of the file, which bounds the walks.
        if count > self.bytes.len() / 4 {
            return Err("an array is longer than the file");
        }
        Ok((count, self.word(at.saturating_add(4))?))
    }

    fn entry(&self, array: usize, index: usize) -> Result<usize, Broken> {
        self.word(array.saturating_add(4 * index))
    }

    fn child(&self, node: usize, part: &[u8]) -> Result<Option<usize>, Broken> {
        let (count, array) = self.entries(node.saturating_add(4))?;
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low + (high - low) / 2;
            let child = self.entry(array, middle)?;
            let name = self.text(self.word(self.word(child)?)?)?;
            match name.cmp(part) {
                std::cmp::Ordering::Equal => return Ok(Some(child)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }

    /// Looks for the first entry of the array at `at` in a node that `fits`, and takes its context if it
    /// has one of its own.
    fn search(
        &self,
        at: usize,
        fits: impl Fn(&[u8]) -> bool,
        context: &mut usize,
    ) -> Result<bool, Broken> {
        let (count, array) = self.entries(at)?;
        for index in 0..count {
            let entry = self.entry(array, index)?;
            if fits(self.text(self.word(entry)?)?) {
                let own = self.word(entry.saturating_add(8))?;
                if own != NONE {
                    *context = own;
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    // Prefixes stand longest first: the first that fits is the best.
    fn prefix(&self, node: usize, rest: &[u8], context: &mut usize) -> Result<(), Broken> {
        let at = node.saturating_add(12);
        self.search(at, |name| rest.starts_with(name), context)?;
        Ok(())
    }

    fn exact(&self, node: usize, rest: &[u8], context: &mut usize) -> Result<bool, Broken> {
        self.search(node.saturating_add(20), |name| rest == name, context)
    }
}
