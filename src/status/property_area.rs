// SPDX-License-Identifier: Apache-2.0
//! Reads system properties out of the area files that init writes, for hosts where nothing else tells
//! us a property: `start.property` of a VM.
//!
//! Layouts are those of bionic `libc/system_properties/` (`prop_area.h`, `prop_info.h`): a header of 128
//! bytes, then nodes of a trie whose siblings form a binary tree, all offsets counted from the end of the
//! header. The files are read, not mapped: a copy cannot change under the walk, and tmpfs keeps reads
//! and init's mapping coherent.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::property_info::PropertyInfo;
use crate::text::failure;

/// Where init keeps the area files.
pub const DEFAULT_DIR: &str = "/dev/__properties__";
/// Names another directory than [`DEFAULT_DIR`], for tests.
pub const DIR_VARIABLE: &str = "GUNYAHD_PROPERTY_AREA";

// Bionic's areas have 128 KiB (PA_SIZE), property_info a few hundred.
const FILE_MAX: u64 = 4 << 20;
const HEADER: usize = 128;
const MAGIC: u32 = 0x504f_5250;
const VERSION: u32 = 0xfc6e_d0ab;
const NODE: usize = 20;
// A short value with its NUL: PROP_VALUE_MAX.
const VALUE: usize = 92;
// In a prop_info's serial, whose highest byte is the value's length.
const DIRTY: u32 = 1;
const LONG: u32 = 1 << 16;
// A long value's offset stands behind an error text for old readers.
const LONG_OFFSET: usize = 56;
// More nodes than fit into an area: a walk that is longer goes in circles.
const STEPS_MAX: usize = 1 << 16;
// Init writes a value in nanoseconds; so many changes in a row are not init's.
const RETRIES: usize = 100;

/// For offsets and counts.
pub(super) const BEYOND: &str = "an offset points beyond its end";

/// Why a property could not be read. A property that is not set is not an error.
#[derive(Debug, thiserror::Error)]
#[error("property {name}: {}", .fault.of(.file))]
pub struct AreaError {
    pub name: String,
    /// The area's file.
    pub file: PathBuf,
    pub fault: Fault,
}

#[derive(Debug)]
pub enum Fault {
    /// The file could not be read.
    Io(std::io::Error),
    /// It is not what bionic writes, by this rule.
    Broken(&'static str),
}

impl Fault {
    fn of(&self, file: &Path) -> String {
        let file = file.display();
        match self {
            Fault::Io(error) => format!("read {file}: {}; {}", failure(error), cure(error)),
            Fault::Broken(what) => format!(
                "{file} is not a property area: {what}; likely cause: another Android version's layout; let \
                 init start the VM with `on property:` instead"
            ),
        }
    }
}

fn cure(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied => {
            "likely cause: SELinux; the file's name is the property's context: give gunyahd get_prop(…) of its type"
        }
        ErrorKind::NotFound => "likely cause: not an Android host, or init has not made the areas yet",
        _ => "the property's value is unknown",
    }
}

impl From<&'static str> for Fault {
    fn from(what: &'static str) -> Self {
        Fault::Broken(what)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof => Fault::Broken("a value reaches beyond its end"),
            _ => Fault::Io(error),
        }
    }
}

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
    pub fn get(&self, name: &str) -> Result<Option<String>, AreaError> {
        let failed = |file: PathBuf, fault| AreaError { name: name.to_owned(), file, fault };
        let info = self.dir.join("property_info");
        let context = || {
            let bytes = std::fs::read(&info)?;
            let context = PropertyInfo::new(&bytes)?.context_of(name)?;
            Ok(context.map(|context| self.dir.join(context)))
        };
        match context() {
            Ok(None) => Ok(None),
            Ok(Some(area)) => get_from(name, &area).map_err(|fault| failed(area, fault)),
            Err(fault) => Err(failed(info, fault)),
        }
    }
}

fn get_from(name: &str, file: &Path) -> Result<Option<String>, Fault> {
    let file = File::open(file)?;
    let mut bytes = Vec::new();
    (&file).take(FILE_MAX).read_to_end(&mut bytes)?;
    match Area(&bytes).find(name)? {
        None => Ok(None),
        Some(at) => read_value(&file, &bytes, at).map(Some),
    }
}

/// A copy of one area file.
struct Area<'a>(&'a [u8]);

impl Area<'_> {
    fn word(&self, at: usize) -> Result<usize, &'static str> {
        word(self.0, at)
    }

    // Where in the file an offset of the trie points.
    fn place(&self, offset: usize) -> Result<usize, &'static str> {
        let at = HEADER.checked_add(offset).ok_or(BEYOND)?;
        if at % 4 != 0 {
            return Err("an offset is not a multiple of 4");
        }
        Ok(at)
    }

    /// Where the prop_info of `name` is in the file.
    fn find(&self, name: &str) -> Result<Option<usize>, &'static str> {
        if bits(self.0, 8) != Some(MAGIC) {
            return Err("its magic is wrong");
        }
        if bits(self.0, 12) != Some(VERSION) {
            return Err("its version is unknown");
        }
        let mut steps = 0;
        let mut node = self.place(0)?;
        for part in name.split('.') {
            // The first child is the root of a binary tree of siblings.
            let mut offset = self.word(node + 16)?;
            node = loop {
                if offset == 0 {
                    return Ok(None);
                }
                steps += 1;
                if steps > STEPS_MAX {
                    return Err("its nodes go in circles");
                }
                let at = self.place(offset)?;
                let length = self.word(at)?;
                let begin = at + NODE;
                let sibling = begin
                    .checked_add(length)
                    .and_then(|end| self.0.get(begin..end))
                    .ok_or("a name reaches beyond its end")?;
                // Bionic orders names by length first.
                let key = (part.len(), part.as_bytes());
                offset = match key.cmp(&(sibling.len(), sibling)) {
                    std::cmp::Ordering::Equal => break at,
                    std::cmp::Ordering::Less => self.word(at + 8)?,
                    std::cmp::Ordering::Greater => self.word(at + 12)?,
                };
            };
        }
        match self.word(node + 4)? {
            0 => Ok(None),
            offset => self.place(offset).map(Some),
        }
    }
}

// Reads the value as bionic does: the serial before and after must agree, and while it is dirty the old
// value stands in a backup behind the root node.
fn read_value(file: &File, copy: &[u8], at: usize) -> Result<String, Fault> {
    let start = u64::try_from(at).map_err(|_| Fault::Broken(BEYOND))?;
    let backup = u64::try_from(HEADER + NODE).unwrap_or(u64::MAX);
    let serial_now = || -> Result<u32, Fault> {
        let mut serial = [0; 4];
        file.read_exact_at(&mut serial, start)?;
        Ok(u32::from_ne_bytes(serial))
    };
    for _ in 0..RETRIES {
        let serial = serial_now()?;
        let dirty = serial & DIRTY != 0;
        let mut value = [0; VALUE];
        file.read_exact_at(&mut value, if dirty { backup } else { start + 4 })?;
        if serial_now()? != serial {
            continue;
        }
        if serial & LONG != 0 {
            return long_value(copy, at, &value);
        }
        let length = usize::try_from(serial >> 24).unwrap_or(VALUE);
        if length >= VALUE {
            return Err(Fault::Broken("a value is longer than its room"));
        }
        return Ok(String::from_utf8_lossy(&value[..length]).into_owned());
    }
    Err(Fault::Broken("a value never stands still"))
}

// Long values (only `ro.`, written once) stand NUL terminated at an offset counted from their prop_info.
fn long_value(copy: &[u8], at: usize, value: &[u8]) -> Result<String, Fault> {
    word(value, LONG_OFFSET)
        .ok()
        .and_then(|offset| copy.get(at.checked_add(offset)?..))
        .and_then(|rest| rest.get(..rest.iter().position(|&b| b == 0)?))
        .map(|text| String::from_utf8_lossy(text).into_owned())
        .ok_or(Fault::Broken("a long value reaches beyond its end"))
}

fn bits(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

/// The u32 at `at`, as an offset or a count.
pub(super) fn word(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    let bits = bits(bytes, at).ok_or(BEYOND)?;
    usize::try_from(bits).map_err(|_| BEYOND)
}
