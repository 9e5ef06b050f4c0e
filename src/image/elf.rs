// SPDX-License-Identifier: Apache-2.0
//! ELF64 executables for AArch64 (System V gABI, "Object Files" and "Program Loading").

use super::FormatError;

/// Bytes of the file header.
pub const HEADER_SIZE: usize = 64;
/// Bytes of a program header.
pub const PROGRAM_HEADER_SIZE: usize = 56;
/// More program headers than any kernel has; a bound on what is read.
pub const MAX_PROGRAM_HEADERS: u16 = 64;

const EM_AARCH64: u16 = 183;
const PT_LOAD: u32 = 1;
const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;

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

/// Where the program headers stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Byte offset in the file.
    pub offset: u64,
    /// How many.
    pub count: u16,
    entry: u64,
}

impl Table {
    /// Bytes of the table.
    pub fn size(&self) -> usize {
        usize::from(self.count) * PROGRAM_HEADER_SIZE
    }
}

/// Whether `start` begins an ELF file.
pub fn is_elf(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF")
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut value = [0; N];
    value.copy_from_slice(&bytes[at..at + N]);
    value
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(number(bytes, at))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn xword(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

/// Reads the file header in `start`, the first bytes of a file of `file_size` bytes.
///
/// # Errors
/// Says which field cannot be.
pub fn header(start: &[u8], file_size: u64) -> Result<Table, FormatError> {
    let refuse = |field, value, problem| {
        Err(FormatError::Field {
            field,
            value,
            problem,
        })
    };
    if start.len() < HEADER_SIZE {
        return Err(FormatError::Short(
            file_size,
            "the 64-byte header of an ELF file",
        ));
    }
    if !is_elf(start) {
        let found = format!("it begins with {:02x?}", &start[..4]);
        return Err(FormatError::Not {
            wanted: "an ELF file",
            found,
        });
    }
    let (class, data) = (start[4], start[5]);
    if class != 2 {
        return refuse("EI_CLASS", class.into(), "not a 64-bit file");
    }
    if data != 1 {
        return refuse("EI_DATA", data.into(), "not little endian");
    }
    let (kind, machine) = (half(start, 16), half(start, 18));
    if kind != ET_EXEC && kind != ET_DYN {
        return refuse(
            "e_type",
            kind.into(),
            "neither an executable nor position independent",
        );
    }
    if machine != EM_AARCH64 {
        return refuse("e_machine", machine.into(), "not AArch64 (183)");
    }
    let (offset, size, count) = (xword(start, 32), half(start, 54), half(start, 56));
    if usize::from(size) != PROGRAM_HEADER_SIZE {
        return refuse("e_phentsize", size.into(), "not 56");
    }
    if count == 0 || count > MAX_PROGRAM_HEADERS {
        return refuse("e_phnum", count.into(), "not between 1 and 64");
    }
    let table = Table {
        offset,
        count,
        entry: xword(start, 24),
    };
    match offset.checked_add(table.size() as u64) {
        Some(end) if end <= file_size => Ok(table),
        _ => refuse(
            "e_phoff",
            offset,
            "the program headers go past the end of the file",
        ),
    }
}

/// Reads the program headers in `bytes`, which stand where `table` says.
///
/// # Errors
/// Says which field cannot be.
pub fn program_headers(
    table: &Table,
    bytes: &[u8],
    file_size: u64,
) -> Result<Executable, FormatError> {
    let refuse = |field, value, problem| {
        Err(FormatError::Field {
            field,
            value,
            problem,
        })
    };
    let mut loads = Vec::new();
    let mut entry = None;
    for header in bytes
        .chunks_exact(PROGRAM_HEADER_SIZE)
        .take(table.count.into())
    {
        if word(header, 0) != PT_LOAD {
            continue;
        }
        let virtual_address = xword(header, 16);
        let load = Load {
            file_offset: xword(header, 8),
            file_size: xword(header, 32),
            address: xword(header, 24),
            memory_size: xword(header, 40),
        };
        if load.memory_size == 0 {
            continue;
        }
        if load.file_size > load.memory_size {
            return refuse("p_filesz", load.file_size, "larger than p_memsz");
        }
        match load.file_offset.checked_add(load.file_size) {
            Some(end) if end <= file_size => {}
            _ => {
                return refuse(
                    "p_offset",
                    load.file_offset,
                    "the segment goes past the end of the file",
                )
            }
        }
        if load.address.checked_add(load.memory_size).is_none() {
            return refuse(
                "p_paddr",
                load.address,
                "the segment goes past the end of the address space",
            );
        }
        // e_entry is a virtual address; the guest starts with its MMU off.
        if let Some(within) = table.entry.checked_sub(virtual_address) {
            if within < load.memory_size {
                entry = load.address.checked_add(within);
            }
        }
        loads.push(load);
    }
    loads.sort_by_key(|load| load.address);
    if loads.is_empty() {
        return refuse("e_phnum", table.count.into(), "no segment is to be loaded");
    }
    if let Some(pair) = loads
        .windows(2)
        .find(|pair| pair[0].address + pair[0].memory_size > pair[1].address)
    {
        return refuse(
            "p_paddr",
            pair[1].address,
            "the segment overlaps the one before it",
        );
    }
    match entry {
        Some(entry) => Ok(Executable { loads, entry }),
        None => refuse("e_entry", table.entry, "not inside a loaded segment"),
    }
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

    fn parse(bytes: &[u8], file_size: u64) -> Result<Executable, FormatError> {
        let table = header(bytes, file_size)?;
        program_headers(&table, &bytes[HEADER_SIZE..], file_size)
    }

    fn refused(bytes: &[u8]) -> &'static str {
        match parse(bytes, 0x1000) {
            Err(FormatError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        }
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
            parsed
                .loads
                .iter()
                .map(|load| load.address)
                .collect::<Vec<_>>(),
            [0x8000, 0x9000]
        );
    }

    #[test]
    fn refuses_what_cannot_be() {
        assert_eq!(refused(&file(0, &[])), "e_phnum");
        assert_eq!(
            refused(&file(0x8000, &[(0, 0x8000, 0x8000, 0x20, 0x10)])),
            "p_filesz"
        );
        assert_eq!(
            refused(&file(0x8000, &[(0xfff, 0x8000, 0x8000, 0x20, 0x20)])),
            "p_offset"
        );
        assert_eq!(
            refused(&file(0x8000, &[(u64::MAX, 0x8000, 0x8000, 0x20, 0x20)])),
            "p_offset"
        );
        assert_eq!(
            refused(&file(0x8000, &[(0, 0x8000, u64::MAX, 0, 0x20)])),
            "p_paddr"
        );
        assert_eq!(
            refused(&file(
                0x8000,
                &[(0, 0x8000, 0x8000, 0, 0x20), (0, 0, 0x8010, 0, 0x20)]
            )),
            "p_paddr"
        );
        assert_eq!(
            refused(&file(0x9000, &[(0, 0x8000, 0x8000, 0, 0x20)])),
            "e_entry"
        );
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
