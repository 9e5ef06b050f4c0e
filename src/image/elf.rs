// SPDX-License-Identifier: Apache-2.0
//! ELF64 executables for AArch64 (System V gABI, "Object Files" and "Program Loading").

use crate::diagnostic::{kinds, Diagnostic};

/// Bytes of the file header.
pub const HEADER_SIZE: usize = 64;

const PROGRAM_HEADER_SIZE: usize = 56;
/// More program headers than any kernel has; a bound on what is read.
const MAX_PROGRAM_HEADERS: u16 = 64;

const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const ELFCLASS64: u8 = 2;
const ELFDATA2LSB: u8 = 1;

kinds! {
    WRONG: Error "image-elf-header" in Images {
        "a header of an ELF file has a field that is wrong",
        cause: "the file is damaged, or is not a kernel for arm64",
        cure: "give a 64-bit, little-endian AArch64 executable with its entry inside a loaded segment",
    }
}

/// A loadable segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Where it begins in the file.
    pub file_offset: u64,
    /// Bytes in the file.
    pub file_size: u64,
    /// `p_paddr`.
    pub address: u64,
    /// Bytes in memory; those past `file_size` are zero.
    pub memory_size: u64,
}

/// An executable's segments, by rising address, none overlapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// At least one.
    pub loads: Vec<Load>,
    /// `p_paddr`-based address of the first instruction.
    pub entry: u64,
}

/// Whether `start` begins an ELF file.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF")
}

fn wrong(field: &str, value: impl Into<u64>, why: &str) -> Diagnostic {
    WRONG.case(format!("{field} is {:#x}: {why}", value.into()))
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn xword(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

impl Executable {
    /// Reads the headers of an ELF file of `file_size` bytes that begins with `start`; `read` reads
    /// further bytes of it.
    pub fn parse(
        start: &[u8; HEADER_SIZE],
        file_size: u64,
        read: impl FnOnce(u64, &mut [u8]) -> Result<(), Diagnostic>,
    ) -> Result<Self, Diagnostic> {
        let (offset, count) = program_headers(start)?;
        let mut headers = vec![0; usize::from(count) * PROGRAM_HEADER_SIZE];
        if !inside(offset, headers.len() as u64, file_size) {
            let why = "the program headers go past the end of the file";
            return Err(wrong("e_phoff", offset, why));
        }
        read(offset, &mut headers)?;

        // A virtual address; the guest starts with its MMU off.
        let virtual_entry = xword(start, 24);
        let mut entry = None;
        let mut loads = Vec::new();
        for header in headers.chunks_exact(PROGRAM_HEADER_SIZE) {
            let Some(load) = load(header, file_size)? else {
                continue;
            };
            if let Some(within) = virtual_entry.checked_sub(xword(header, 16)) {
                if within < load.memory_size {
                    entry = load.address.checked_add(within);
                }
            }
            loads.push(load);
        }
        loads.sort_by_key(|load| load.address);
        if loads.is_empty() {
            return Err(wrong("e_phnum", count, "no segment is to be loaded"));
        }
        for pair in loads.windows(2) {
            if pair[0].address + pair[0].memory_size > pair[1].address {
                let why = "the segment overlaps the one before it";
                return Err(wrong("p_paddr", pair[1].address, why));
            }
        }
        let why = "not inside a loaded segment";
        let entry = entry.ok_or_else(|| wrong("e_entry", virtual_entry, why))?;
        Ok(Self { loads, entry })
    }
}

/// Checks the file header; where the program headers begin, and how many there are.
fn program_headers(start: &[u8; HEADER_SIZE]) -> Result<(u64, u16), Diagnostic> {
    let (class, data) = (start[4], start[5]);
    let (kind, machine) = (half(start, 16), half(start, 18));
    let (size, count) = (half(start, 54), half(start, 56));
    if class != ELFCLASS64 {
        return Err(wrong("EI_CLASS", class, "not a 64-bit file"));
    }
    if data != ELFDATA2LSB {
        return Err(wrong("EI_DATA", data, "not little-endian"));
    }
    if kind != ET_EXEC && kind != ET_DYN {
        let why = "neither an executable nor position independent";
        return Err(wrong("e_type", kind, why));
    }
    if machine != EM_AARCH64 {
        return Err(wrong("e_machine", machine, "not AArch64 (0xb7)"));
    }
    if usize::from(size) != PROGRAM_HEADER_SIZE {
        return Err(wrong("e_phentsize", size, "not 56"));
    }
    if count == 0 || count > MAX_PROGRAM_HEADERS {
        return Err(wrong("e_phnum", count, "not between 1 and 64"));
    }
    Ok((xword(start, 32), count))
}

/// The segment of a program header, if it is to be loaded.
fn load(header: &[u8], file_size: u64) -> Result<Option<Load>, Diagnostic> {
    let load = Load {
        file_offset: xword(header, 8),
        file_size: xword(header, 32),
        address: xword(header, 24),
        memory_size: xword(header, 40),
    };
    if u32::from_le_bytes(number(header, 0)) != PT_LOAD || load.memory_size == 0 {
        return Ok(None);
    }
    if load.file_size > load.memory_size {
        return Err(wrong("p_filesz", load.file_size, "larger than p_memsz"));
    }
    if !inside(load.file_offset, load.file_size, file_size) {
        let why = "the segment goes past the end of the file";
        return Err(wrong("p_offset", load.file_offset, why));
    }
    if load.address.checked_add(load.memory_size).is_none() {
        let why = "the segment goes past the end of the address space";
        return Err(wrong("p_paddr", load.address, why));
    }
    Ok(Some(load))
}

fn inside(offset: u64, size: u64, file_size: u64) -> bool {
    offset.checked_add(size).is_some_and(|end| end <= file_size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(entry: u64, segments: &[(u64, u64, u64, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[16..18].copy_from_slice(&2u16.to_le_bytes());
        bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
        bytes[24..32].copy_from_slice(&entry.to_le_bytes());
        bytes[32..40].copy_from_slice(&64u64.to_le_bytes());
        bytes[54..56].copy_from_slice(&56u16.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::try_from(segments.len()).unwrap().to_le_bytes());
        for (offset, virtual_address, address, file_size, memory_size) in segments {
            let mut header = vec![0; PROGRAM_HEADER_SIZE];
            header[0] = 1;
            header[8..16].copy_from_slice(&offset.to_le_bytes());
            header[16..24].copy_from_slice(&virtual_address.to_le_bytes());
            header[24..32].copy_from_slice(&address.to_le_bytes());
            header[32..40].copy_from_slice(&file_size.to_le_bytes());
            header[40..48].copy_from_slice(&memory_size.to_le_bytes());
            bytes.extend(header);
        }
        bytes
    }

    fn parse(bytes: &[u8], file_size: u64) -> Result<Executable, Diagnostic> {
        let start = bytes.first_chunk().unwrap();
        Executable::parse(start, file_size, |offset, room| {
            let bytes = usize::try_from(offset).ok().and_then(|at| bytes.get(at..));
            match bytes.and_then(|bytes| bytes.get(..room.len())) {
                Some(bytes) => room.copy_from_slice(bytes),
                None => room.fill(0),
            }
            Ok(())
        })
    }

    fn refused(bytes: &[u8]) -> String {
        let wrong = parse(bytes, 0x1000).unwrap_err();
        assert_eq!(wrong.name, "image-elf-header");
        wrong.what.split(' ').next().unwrap().to_owned()
    }

    #[test]
    fn translates_a_virtual_entry() {
        let bytes = file(
            0xffff_0000_0000_0040,
            &[
                (0x200, 0xffff_0000_0000_1000, 0x9000, 0x10, 0x100),
                (0x100, 0xffff_0000_0000_0000, 0x8000, 0x80, 0x80),
            ],
        );
        let parsed = parse(&bytes, 0x1000).unwrap();
        assert_eq!(parsed.entry, 0x8040);
        assert_eq!(
            parsed.loads.iter().map(|load| load.address).collect::<Vec<_>>(),
            [0x8000, 0x9000]
        );
    }

    #[test]
    fn refuses_wrong_fields() {
        assert_eq!(refused(&file(0, &[])), "e_phnum");
        assert_eq!(refused(&file(0x8000, &[(0, 0x8000, 0x8000, 0x20, 0x10)])), "p_filesz");
        assert_eq!(refused(&file(0x8000, &[(0xfff, 0x8000, 0x8000, 0x20, 0x20)])), "p_offset");
        assert_eq!(refused(&file(0x8000, &[(u64::MAX, 0x8000, 0x8000, 0x20, 0x20)])), "p_offset");
        assert_eq!(refused(&file(0x8000, &[(0, 0x8000, u64::MAX, 0, 0x20)])), "p_paddr");
        assert_eq!(
            refused(&file(0x8000, &[(0, 0x8000, 0x8000, 0, 0x20), (0, 0, 0x8010, 0, 0x20)])),
            "p_paddr"
        );
        assert_eq!(refused(&file(0x9000, &[(0, 0x8000, 0x8000, 0, 0x20)])), "e_entry");
    }

    proptest! {
        #[test]
        fn never_panics(mut bytes in prop::collection::vec(any::<u8>(), 64..400), size in any::<u64>(), good in any::<bool>()) {
            if good {
                let start = file(0, &[]);
                bytes[..56].copy_from_slice(&start[..56]);
            }
            let _ = parse(&bytes, size);
        }

        #[test]
        fn what_is_taken_does_not_overlap_or_wrap(
            segments in prop::collection::vec((0u64..0x1000, 0u64..0x400, 0u64..0x400, 0u64..0x100, 0u64..0x100), 1..6)
        ) {
            if let Ok(parsed) = parse(&file(0x10, &segments), 0x1000) {
                for pair in parsed.loads.windows(2) {
                    prop_assert!(pair[0].address + pair[0].memory_size <= pair[1].address);
                }
            }
        }
    }
}
