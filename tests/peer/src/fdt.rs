// SPDX-License-Identifier: Apache-2.0
//! As much of a devicetree (version 17) as the peer needs: every property with the names of its nodes.

use core::slice;

/// A devicetree in memory.
pub struct Fdt {
    bytes: &'static [u8],
}

/// A big endian cell.
pub fn cell(value: &[u8], index: usize) -> u32 {
    let at = index * 4;
    let bytes = value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    u32::from_be_bytes(bytes.unwrap_or([0; 4]))
}

/// Two cells.
pub fn pair(value: &[u8], index: usize) -> u64 {
    u64::from(cell(value, index)) << 32 | u64::from(cell(value, index + 1))
}

/// A NUL-terminated text.
pub fn text(value: &[u8]) -> &str {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    core::str::from_utf8(&value[..end]).unwrap_or("")
}

impl Fdt {
    /// # Safety
    /// A devicetree is there, and nobody writes it.
    pub unsafe fn at(address: *const u8) -> Self {
        // SAFETY: the header is there.
        let header = unsafe { slice::from_raw_parts(address, 40) };
        let size = cell(header, 1) as usize;
        // SAFETY: so many bytes are there.
        Self { bytes: unsafe { slice::from_raw_parts(address, size) } }
    }

    /// Calls `each` with the path of every property's node, the property's name and its value.
    pub fn walk(&self, mut each: impl FnMut(&[&'static str], &str, &'static [u8])) {
        let (mut at, strings) = (cell(self.bytes, 2) as usize, cell(self.bytes, 3) as usize);
        let mut path: [&str; 16] = [""; 16];
        let mut depth = 0;
        loop {
            let token = cell(self.bytes, at / 4);
            at += 4;
            match token {
                1 => {
                    let name = text(&self.bytes[at..]);
                    path[depth] = name;
                    depth += 1;
                    at = (at + name.len() + 4) & !3;
                }
                2 => depth -= 1,
                3 => {
                    let len = cell(self.bytes, at / 4) as usize;
                    let name = text(&self.bytes[strings + cell(self.bytes, at / 4 + 1) as usize..]);
                    let value = &self.bytes[at + 8..at + 8 + len];
                    each(&path[..depth], name, value);
                    at = (at + 8 + len + 3) & !3;
                }
                4 => {}
                _ => return,
            }
        }
    }
}
