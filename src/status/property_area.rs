// SPDX-License-Identifier: Apache-2.0
//! Reads system properties out of the area files that init writes, for hosts where nothing else tells
//! us a property: `start.property` of a VM.
//!
//! Layouts are those of bionic `libc/system_properties/` (`prop_area.h`, `prop_info.h`): a header of 128
//! bytes, then nodes of a trie whose siblings form a binary tree, all offsets counted from the end of the
//! header. The files are read, not mapped: a copy cannot change under the walk, and tmpfs keeps reads
//! and init's mapping coherent.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::property_info::context_of;
use crate::text::failure;

/// Where init keeps the area files.
const DEFAULT_DIR: &str = "/dev/__properties__";
/// Names another directory than [`DEFAULT_DIR`], for tests.
const DIR_VARIABLE: &str = "GUNYAHD_PROPERTY_AREA";

const HEADER: usize = 128;
const MAGIC: usize = 0x504f_5250;
const VERSION: usize = 0xfc6e_d0ab;
const NODE: usize = 20;
// In a prop_info's serial: while init writes a value, the old one stands in a backup behind the root node.
const DIRTY: usize = 1;
// A long value's offset stands behind an error text for old readers.
const LONG: usize = 1 << 16;
const LONG_OFFSET: usize = 56;
// More nodes than fit into an area: a walk that is longer goes in circles.
const STEPS_MAX: usize = 1 << 16;
// Init writes a value in nanoseconds; so many changes in a row are not init's.
const RETRIES: usize = 100;

/// What in a file is not as bionic and init write it.
pub(super) type Broken = &'static str;

const BEYOND: Broken = "an offset points beyond its end";

/// The host's properties, for reading.
#[derive(Debug, Clone)]
pub struct PropertyArea {
    dir: PathBuf,
}

impl PropertyArea {
    /// The areas in `dir`; nothing is opened yet.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// The host's areas, or those in the directory that [`DIR_VARIABLE`] names.
    pub fn from_environment() -> Self {
        Self::new(std::env::var_os(DIR_VARIABLE).map_or(DEFAULT_DIR.into(), PathBuf::from))
    }

    /// The value of `name`; `None` if it is not set.
    ///
    /// # Errors
    /// What is wrong with which file, with cause and cure.
    pub fn get(&self, name: &str) -> Result<Option<String>, String> {
        let unread = |file: &Path, error: &io::Error| {
            let (what, cure) = (failure(error), cure(error));
            format!("property {name}: read {}: {what}; {cure}", file.display())
        };
        let broken = |file: &Path, what| {
            format!(
                "property {name}: {} is not a property area: {what}; likely cause: another Android \
                 version's layout; let init start the VM with `on property:` instead",
                file.display()
            )
        };
        let info = self.dir.join("property_info");
        // Made once, before anybody else runs.
        let bytes = fs::read(&info).map_err(|error| unread(&info, &error))?;
        let context = context_of(Bytes(&bytes), name).map_err(|what| broken(&info, what))?;
        let Some(context) = context else {
            return Ok(None);
        };
        let area = self.dir.join(context);
        let bytes = read_still(&area).map_err(|error| unread(&area, &error))?;
        value(Bytes(&bytes), name).map_err(|what| broken(&area, what))
    }
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "likely cause: SELinux; the file's name is the property's context: give gunyahd get_prop(…) of its type"
        }
        ErrorKind::NotFound => "likely cause: not an Android host, or init has not made the areas yet",
        _ => "the property's value is unknown",
    }
}

/// A copy of a file that nobody wrote to meanwhile: two that are the same.
fn read_still(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    for _ in 0..RETRIES {
        let again = fs::read(path)?;
        if again == bytes {
            return Ok(bytes);
        }
        bytes = again;
    }
    // It never stands still.
    Err(io::ErrorKind::ResourceBusy.into())
}

/// A file whose offsets are not to be trusted.
#[derive(Clone, Copy)]
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    fn from(self, at: usize) -> Result<&'a [u8], Broken> {
        self.0.get(at..).ok_or(BEYOND)
    }

    /// The u32 `field` bytes behind `at`.
    #[inline(never)]
    pub fn word(self, at: usize, field: usize) -> Result<usize, Broken> {
        let word = self.from(at.saturating_add(field))?.first_chunk().ok_or(BEYOND)?;
        usize::try_from(u32::from_ne_bytes(*word)).map_err(|_| BEYOND)
    }

    /// The text at `at`, up to its NUL.
    pub fn text(self, at: usize) -> Result<&'a [u8], Broken> {
        let rest = self.from(at)?;
        let end = rest.iter().position(|&b| b == 0);
        Ok(&rest[..end.ok_or("a text has no end")?])
    }
}

/// The value of `name` in its area.
fn value(area: Bytes<'_>, name: &str) -> Result<Option<String>, Broken> {
    let Some(info) = find(area, name)? else {
        return Ok(None);
    };
    let serial = area.word(info, 0)?;
    let at = if serial & LONG != 0 {
        info.saturating_add(area.word(info, 4 + LONG_OFFSET)?)
    } else if serial & DIRTY != 0 {
        HEADER + NODE
    } else {
        info + 4
    };
    Ok(Some(String::from_utf8_lossy(area.text(at)?).into_owned()))
}

/// Where the prop_info of `name` is.
fn find(area: Bytes<'_>, name: &str) -> Result<Option<usize>, Broken> {
    if area.word(8, 0)? != MAGIC {
        return Err("its magic is wrong");
    }
    if area.word(12, 0)? != VERSION {
        return Err("its version is unknown");
    }
    let mut steps = 0;
    let mut node = HEADER;
    for part in name.split('.') {
        // The first child is the root of a binary tree of siblings.
        let mut field = 16;
        loop {
            let Some(next) = follow(area, node, field)? else {
                return Ok(None);
            };
            node = next;
            steps += 1;
            if steps > STEPS_MAX {
                return Err("its nodes go in circles");
            }
            let length = area.word(node, 0)?;
            let sibling = area.from(node + NODE)?.get(..length);
            let sibling = sibling.ok_or("a name reaches beyond its end")?;
            // Bionic orders names by length first.
            field = match (part.len(), part.as_bytes()).cmp(&(length, sibling)) {
                Ordering::Equal => break,
                Ordering::Less => 8,
                Ordering::Greater => 12,
            };
        }
    }
    follow(area, node, 4)
}

/// Where the offset that stands at `field` of a node points; 0 points nowhere.
fn follow(area: Bytes<'_>, node: usize, field: usize) -> Result<Option<usize>, Broken> {
    match area.word(node, field)? {
        0 => Ok(None),
        offset if offset % 4 != 0 => Err("an offset is not a multiple of 4"),
        offset => Ok(Some(HEADER.saturating_add(offset))),
    }
}
