// SPDX-License-Identifier: Apache-2.0
//! The header of an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).

use crate::diagnostic::{kinds, Diagnostic};
use crate::layout::{MEMORY_ALIGN, PAGE};

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;

const MAGIC_OFFSET: usize = 56;
const MAGIC: &[u8; 4] = b"ARM\x64";
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const FLAG_BIG_ENDIAN: u64 = 1;

kinds! {
    HEADER: Error "image-arm64-header" in Images {
        "the header of an arm64 Image has a field that is wrong",
        cause: "the file is damaged, or is a kernel that cannot be started this way",
        cure: "build a little-endian Image of Linux 3.17 or later (arch/arm64/boot/Image)",
    }
}

/// What matters of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes from a 2 MiB aligned base to the image's first byte.
    pub text_offset: u64,
    /// Bytes of memory that the kernel takes from its first byte on, bss included.
    pub image_size: u64,
}

/// Whether `start`, a file's first bytes, begins an arm64 Image.
pub fn is_image(start: &[u8]) -> bool {
    start.get(MAGIC_OFFSET..MAGIC_OFFSET + MAGIC.len()) == Some(MAGIC)
}

impl Header {
    /// Reads the header in `start`, the first bytes of an Image of `file_size` bytes.
    pub fn parse(start: &[u8; HEADER_SIZE], file_size: u64) -> Result<Self, Diagnostic> {
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&start[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let wrong = |name: &str, value: u64, why: &str| {
            Err(HEADER.case(format!("{name} is {value:#x}: {why}")))
        };
        let text_offset = field(TEXT_OFFSET);
        let image_size = field(IMAGE_SIZE);
        let flags = field(FLAGS);
        if image_size == 0 {
            let why = "a kernel from before Linux 3.17 does not say how much memory it needs";
            return wrong("image_size", image_size, why);
        }
        if image_size < file_size {
            return wrong("image_size", image_size, "smaller than the file itself");
        }
        if flags & FLAG_BIG_ENDIAN != 0 {
            let why = "big-endian kernels are not supported";
            return wrong("flags", flags, why);
        }
        if text_offset >= MEMORY_ALIGN || text_offset % PAGE != 0 {
            let why = "not a multiple of 4 KiB below 2 MiB";
            return wrong("text_offset", text_offset, why);
        }
        Ok(Self { text_offset, image_size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(text_offset: u64, image_size: u64, flags: u64) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(MAGIC);
        bytes
    }

    #[test]
    fn reads_a_modern_header() {
        // Flags of Debian's arm64 kernels: 4 KiB pages, anywhere in memory.
        let bytes = header(0, 0x200_0000, 0xa);
        assert!(is_image(&bytes) && !is_image(&bytes[1..]));
        let parsed = Header::parse(&bytes, 0x1f0_0000).unwrap();
        assert_eq!((parsed.text_offset, parsed.image_size), (0, 0x200_0000));
    }

    #[test]
    fn refuses_wrong_fields() {
        for (bytes, size, words) in [
            (header(0, 0, 0), 64, "image_size is 0x0: "),
            (header(0, 100, 0), 101, "image_size is 0x64: "),
            (header(0, 100, 1), 64, "flags is 0x1: "),
            (header(0x20_0000, 100, 0), 64, "text_offset is 0x200000: "),
            (header(0x801, 100, 0), 64, "text_offset is 0x801: "),
        ] {
            let wrong = Header::parse(&bytes, size).unwrap_err();
            assert_eq!(wrong.name, "image-arm64-header");
            assert!(wrong.what.starts_with(words), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(bytes in any::<[u8; 32]>(), size in any::<u64>()) {
            let mut start = [0; HEADER_SIZE];
            start[..32].copy_from_slice(&bytes);
            let _ = Header::parse(&start, size);
        }
    }
}
