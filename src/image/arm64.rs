// SPDX-License-Identifier: Apache-2.0
//! The header of an arm64 `Image` (Linux, Documentation/arch/arm64/booting.rst).

use super::FormatError;

/// Bytes of the header.
pub const HEADER_SIZE: usize = 64;
/// The base that `text_offset` counts from is a multiple of this (booting.rst).
pub const BASE_ALIGNMENT: u64 = 2 << 20;

const MAGIC_OFFSET: usize = 56;
const MAGIC: &[u8; 4] = b"ARM\x64";
const TEXT_OFFSET: usize = 8;
const IMAGE_SIZE: usize = 16;
const FLAGS: usize = 24;
const FLAG_BIG_ENDIAN: u64 = 1;

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
    /// Reads the header in `start`, the first bytes of a file of `file_size` bytes.
    ///
    /// # Errors
    /// Says which field cannot be.
    pub fn parse(start: &[u8], file_size: u64) -> Result<Self, FormatError> {
        if start.len() < HEADER_SIZE {
            return Err(FormatError::Short(
                file_size,
                "the 64-byte header of an arm64 Image",
            ));
        }
        if !is_image(start) {
            let found = format!(
                "bytes 56 to 59 are {:02x?}",
                &start[MAGIC_OFFSET..HEADER_SIZE - 4]
            );
            return Err(FormatError::Not {
                wanted: "an arm64 Image",
                found,
            });
        }
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&start[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (text_offset, image_size, flags) =
            (field(TEXT_OFFSET), field(IMAGE_SIZE), field(FLAGS));
        if image_size == 0 {
            return Err(FormatError::Field {
                field: "image_size",
                value: 0,
                problem: "a kernel from before Linux 3.17 does not say how much memory it needs",
            });
        }
        if image_size < file_size {
            return Err(FormatError::Field {
                field: "image_size",
                value: image_size,
                problem: "smaller than the file itself",
            });
        }
        if flags & FLAG_BIG_ENDIAN != 0 {
            return Err(FormatError::Field {
                field: "flags",
                value: flags,
                problem:
                    "a big-endian kernel, which a devicetree-booted Gunyah guest is not entered as",
            });
        }
        if text_offset >= BASE_ALIGNMENT || text_offset % 4096 != 0 {
            return Err(FormatError::Field {
                field: "text_offset",
                value: text_offset,
                problem: "not a multiple of 4 KiB below 2 MiB",
            });
        }
        Ok(Self {
            text_offset,
            image_size,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(text_offset: u64, image_size: u64, flags: u64) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_SIZE];
        bytes[8..16].copy_from_slice(&text_offset.to_le_bytes());
        bytes[16..24].copy_from_slice(&image_size.to_le_bytes());
        bytes[24..32].copy_from_slice(&flags.to_le_bytes());
        bytes[56..60].copy_from_slice(MAGIC);
        bytes
    }

    #[test]
    fn reads_a_modern_header() {
        // Flags of Debian's arm64 kernels: 4 KiB pages, anywhere in memory.
        let parsed = Header::parse(&header(0, 0x200_0000, 0xa), 0x1f0_0000);
        assert_eq!(
            parsed,
            Ok(Header {
                text_offset: 0,
                image_size: 0x200_0000
            })
        );
    }

    #[test]
    fn refuses_what_cannot_be() {
        let field = |bytes: &[u8], size| match Header::parse(bytes, size) {
            Err(FormatError::Field { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(field(&header(0, 0, 0), 64), "image_size");
        assert_eq!(field(&header(0, 100, 0), 101), "image_size");
        assert_eq!(field(&header(0, 100, 1), 64), "flags");
        assert_eq!(field(&header(0x20_0000, 100, 0), 64), "text_offset");
        assert_eq!(field(&header(0x801, 100, 0), 64), "text_offset");
        assert_eq!(
            Header::parse(&[0; 10], 10),
            Err(FormatError::Short(
                10,
                "the 64-byte header of an arm64 Image"
            ))
        );
        assert!(matches!(
            Header::parse(&[0; 64], 64),
            Err(FormatError::Not { .. })
        ));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), size in any::<u64>()) {
            let _ = Header::parse(&bytes, size);
        }
    }
}
