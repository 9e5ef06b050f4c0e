// SPDX-License-Identifier: Apache-2.0
//! Which area file a property is in: the trie in `property_info`, which init makes of all
//! property_contexts files.
//!
//! The layout is AOSP's `system/core/property_service/libpropertyinfoparser`: a header of six words, a
//! table of contexts, and nodes that point to arrays of children, prefixes and exact matches.

use super::property_area::{Broken, Bytes};

// Versions that the parser of AOSP's property_info_parser.h understands.
const VERSION: usize = 1;
// "No context": the one found so far stays.
const NONE: usize = 0xffff_ffff;

/// The context of `name`, which is also its area file's name; `None` if no line matches it.
pub fn context_of<'a>(info: Bytes<'a>, name: &str) -> Result<Option<&'a str>, Broken> {
    if info.word(4, 0)? > VERSION {
        return Err("its version is unknown");
    }
    let mut context = NONE;
    let mut rest = name;
    let mut node = info.word(20, 0)?;
    // Each turn takes a part of the name, so a circle of nodes ends with it.
    loop {
        let own = info.word(info.word(node, 0)?, 8)?;
        // Prefixes stand longest first: the first that fits is the best.
        let prefix = search(info, node, 12, |name| rest.as_bytes().starts_with(name))?;
        context = [prefix, own].into_iter().find(|found| *found != NONE).unwrap_or(context);
        let Some((part, behind)) = rest.split_once('.') else {
            break;
        };
        let Some(child) = child(info, node, part)? else {
            break;
        };
        (node, rest) = (child, behind);
    }
    let exact = search(info, node, 20, |name| rest.as_bytes() == name)?;
    if exact != NONE {
        context = exact;
    }
    if context == NONE {
        return Ok(None);
    }
    let contexts = info.word(12, 0)?;
    if context >= info.word(contexts, 0)? {
        return Err("a context's number is too high");
    }
    let text = info.text(info.word(contexts, 4 + 4 * context)?)?;
    let text = std::str::from_utf8(text).map_err(|_| "a context is not text")?;
    // It becomes a file name.
    if text.is_empty() || text.starts_with('.') || text.contains('/') {
        return Err("a context is not a file name");
    }
    Ok(Some(text))
}

/// The array of which count and offset are at `field` of a node.
fn entries(info: Bytes<'_>, node: usize, field: usize) -> Result<Vec<usize>, Broken> {
    let (count, array) = (info.word(node, field)?, info.word(node, field + 4)?);
    // Each entry takes a word of the file, which bounds the walks.
    if count > info.0.len() / 4 {
        return Err("an array is longer than the file");
    }
    let mut entries = Vec::new();
    for index in 0..count {
        entries.push(info.word(array, 4 * index)?);
    }
    Ok(entries)
}

/// The context of the first entry of an array whose name `fits`.
fn search(
    info: Bytes<'_>,
    node: usize,
    field: usize,
    fits: impl Fn(&[u8]) -> bool,
) -> Result<usize, Broken> {
    for entry in entries(info, node, field)? {
        if fits(info.text(info.word(entry, 0)?)?) {
            return info.word(entry, 8);
        }
    }
    Ok(NONE)
}

fn child(info: Bytes<'_>, node: usize, part: &str) -> Result<Option<usize>, Broken> {
    for child in entries(info, node, 4)? {
        if info.text(info.word(info.word(child, 0)?, 0)?)? == part.as_bytes() {
            return Ok(Some(child));
        }
    }
    Ok(None)
}
