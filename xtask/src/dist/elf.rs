// SPDX-License-Identifier: Apache-2.0
//! Checks that a binary is what a device needs: static, for the right machine, aligned for its pages.

use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};
use object::elf::{FileHeader64, PT_DYNAMIC, PT_INTERP, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use object::Endianness;

use super::toolchain::{Architecture, PAGE_ALIGNMENT};

/// Refuses a binary that needs a loader or a library, that is for another machine, or whose segments a kernel
/// with 16 KiB pages could not map.
pub fn check(path: &Path, architecture: Architecture) -> Result<()> {
    let bytes = fs::read(path)?;
    let name = path.display();
    let header =
        FileHeader64::<Endianness>::parse(&*bytes).with_context(|| format!("{name}: not ELF64"))?;
    let endian = header.endian()?;
    let machine = header.e_machine(endian);
    if machine != architecture.machine() {
        bail!("{name}: e_machine is {machine}, not {}", architecture.machine());
    }
    for segment in header.program_headers(endian, &*bytes)? {
        match segment.p_type(endian) {
            PT_INTERP => bail!("{name}: has PT_INTERP: not static"),
            PT_DYNAMIC if needs_library(segment, endian, &bytes)? => {
                bail!("{name}: has DT_NEEDED: not static")
            }
            PT_LOAD if segment.p_align(endian) < PAGE_ALIGNMENT => bail!(
                "{name}: a segment is aligned to {:#x}, {PAGE_ALIGNMENT:#x} is needed",
                segment.p_align(endian)
            ),
            _ => {}
        }
    }
    Ok(())
}

fn needs_library(
    segment: &object::elf::ProgramHeader64<Endianness>,
    endian: Endianness,
    bytes: &[u8],
) -> Result<bool> {
    use object::read::elf::Dyn;
    let entries = segment.dynamic(endian, bytes)?.unwrap_or_default();
    Ok(entries.iter().any(|entry| entry.tag32(endian) == Some(object::elf::DT_NEEDED)))
}
