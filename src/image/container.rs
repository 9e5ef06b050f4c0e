// SPDX-License-Identifier: Apache-2.0
//! What kernels come in: an Android boot image, an EFI zboot image, a file with an AVB footer. Each says
//! where the kernel lies; nothing of it is unpacked here.

use std::path::Path;

use super::file::OpenFile;
use super::foreign;
use crate::diagnostic::{kinds, Diagnostic, Step};

kinds! {
    // system/tools/mkbootimg/include/bootimg/bootimg.h, external/avb/libavb/avb_footer.h,
    // drivers/firmware/efi/libstub/zboot-header.S of Linux.
    DAMAGED: Error "image-container" in Images {
        "a header around the kernel has a field that is wrong",
        cause: "the file is damaged, or was cut",
        cure: "copy it again, or give the kernel in it",
    }
    NO_KERNEL: Error "image-container-empty" in Images {
        "an Android boot image has no kernel in it",
        cause: "init_boot and recovery images hold a ramdisk alone, vendor_boot a ramdisk and a devicetree",
        cure: "give the boot image, or the kernel; `unpack_bootimg --boot_img FILE --out DIR` takes a boot image apart",
    }
}

/// Bytes looked at of any header.
const START: usize = 64;

/// The magic of a boot image (bootimg.h).
pub(super) const BOOT: &[u8; 8] = b"ANDROID!";
/// That of its companion without a kernel.
pub(super) const VENDOR_BOOT: &[u8; 8] = b"VNDRBOOT";
/// From version 3 on a page is 4 KiB, before it is in the header.
const BOOT_PAGE: u64 = 4 << 10;

/// Bytes of AVB's footer, and its magic.
const FOOTER: usize = 64;
const FOOTER_MAGIC: &[u8; 4] = b"AVBf";

/// A part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// From the file's start.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

impl Part {
    /// `size` bytes at `offset` of this part, which must have them.
    fn part(self, what: &str, offset: u64, size: u64) -> Result<Self, Diagnostic> {
        if size == 0 || offset.checked_add(size).is_none_or(|end| end > self.size) {
            return Err(DAMAGED.case(format!(
                "{what} of {size} bytes at {offset} is not inside the {} bytes around it",
                self.size
            )));
        }
        Ok(Self { offset: self.offset.saturating_add(offset), size })
    }

    /// A shell command that gives these bytes of `path` to `tool`, whose output is an Image.
    pub(super) fn through(self, path: &Path, whole: u64, tool: &str) -> String {
        let path = path.display();
        if self == (Part { offset: 0, size: whole }) {
            return format!("{tool} < {path} > Image");
        }
        let from = self.offset.saturating_add(1);
        format!("tail -c +{from} {path} | head -c {} | {tool} > Image", self.size)
    }
}

/// The kernel in `file`, which may be all of it. Faults do not name the file.
pub(super) fn kernel(file: &OpenFile) -> Result<Part, Diagnostic> {
    let part = before_footer(file)?;
    let part = in_boot_image(file, part)?;
    in_zboot(file, part)
}

/// The first bytes of a part, with zeros where it has fewer.
fn start(file: &OpenFile, part: Part) -> Result<[u8; START], Diagnostic> {
    let mut start = [0; START];
    let length = usize::try_from(part.size).map_or(START, |size| size.min(START));
    file.read_at(Step::Images, part.offset, &mut start[..length])?;
    Ok(start)
}

fn word(bytes: &[u8; START], at: usize) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word).into()
}

/// `avbtool add_hash_footer` pads a partition's image and says in the last bytes how long it was.
fn before_footer(file: &OpenFile) -> Result<Part, Diagnostic> {
    let whole = Part { offset: 0, size: file.size };
    let Some(at) = file.size.checked_sub(FOOTER as u64) else {
        return Ok(whole);
    };
    let mut footer = [0; FOOTER];
    file.read_at(Step::Images, at, &mut footer)?;
    if !footer.starts_with(FOOTER_MAGIC) {
        return Ok(whole);
    }
    let mut size = [0; 8];
    size.copy_from_slice(&footer[12..20]);
    let before = Part { offset: 0, size: at };
    before.part("what an AVB footer is for,", 0, u64::from_be_bytes(size))
}

fn in_boot_image(file: &OpenFile, part: Part) -> Result<Part, Diagnostic> {
    let start = start(file, part)?;
    if start.starts_with(VENDOR_BOOT) {
        return Err(NO_KERNEL.case("it is an Android vendor_boot image, which has no kernel"));
    }
    if !start.starts_with(BOOT) {
        return Ok(part);
    }
    let page = match word(&start, 40) {
        3 | 4 => BOOT_PAGE,
        // Before version 1 this word meant something else.
        _ => word(&start, 36),
    };
    let size = word(&start, 8);
    if size == 0 {
        return Err(NO_KERNEL.case("it is an Android boot image without a kernel"));
    }
    part.part("the kernel of an Android boot image,", page, size)
}

fn in_zboot(file: &OpenFile, part: Part) -> Result<Part, Diagnostic> {
    let start = start(file, part)?;
    if !start.starts_with(b"MZ") || &start[4..8] != b"zimg" {
        return Ok(part);
    }
    let (offset, size) = (word(&start, 8), word(&start, 12));
    let inside = part.part("the kernel of an EFI zboot image,", offset, size)?;
    let name = start[24..56].split(|byte| *byte == 0).next().unwrap_or_default();
    match name {
        b"gzip" => Ok(inside),
        other => {
            let name = String::from_utf8_lossy(other);
            Err(foreign::zboot(&name, inside, file))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file with these bytes, removed at once: it stays open.
    fn file(bytes: &[u8]) -> OpenFile {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("gunyahd-container-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, bytes).unwrap();
        let open = OpenFile::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        open
    }

    fn boot(version: u32, kernel_size: u32, page: u32) -> Vec<u8> {
        let mut bytes = vec![7; 3 * 4096];
        bytes[..64].fill(0);
        bytes[..8].copy_from_slice(BOOT);
        bytes[8..12].copy_from_slice(&kernel_size.to_le_bytes());
        bytes[36..40].copy_from_slice(&page.to_le_bytes());
        bytes[40..44].copy_from_slice(&version.to_le_bytes());
        bytes
    }

    #[test]
    fn a_boot_image_of_any_version_says_where_its_kernel_is() {
        for (version, page, offset) in
            [(0, 2048, 2048), (2, 4096, 4096), (3, 0, 4096), (4, 0, 4096), (0x1234, 2048, 2048)]
        {
            let found = kernel(&file(&boot(version, 5000, page))).unwrap();
            assert_eq!(found, Part { offset, size: 5000 }, "{version}");
        }
        for (bytes, name) in [
            (boot(4, 9000, 0), "image-container"),
            (boot(0, 100, u32::MAX), "image-container"),
            (boot(4, 0, 0), "image-container-empty"),
            (b"VNDRBOOT".to_vec(), "image-container-empty"),
        ] {
            assert_eq!(kernel(&file(&bytes)).unwrap_err().name, name);
        }
    }

    #[test]
    fn what_an_avb_footer_adds_is_not_the_kernels() {
        let mut bytes = vec![1; 8192];
        let footer = bytes.len() - FOOTER;
        bytes[footer..footer + 4].copy_from_slice(FOOTER_MAGIC);
        bytes[footer + 12..footer + 20].copy_from_slice(&5000u64.to_be_bytes());
        assert_eq!(kernel(&file(&bytes)).unwrap(), Part { offset: 0, size: 5000 });
        bytes[footer + 12..footer + 20].copy_from_slice(&8192u64.to_be_bytes());
        assert_eq!(kernel(&file(&bytes)).unwrap_err().name, "image-container");
        // And a boot image with one, as a device's partition has it.
        let mut image = boot(4, 5000, 0);
        image.extend(&bytes[footer..]);
        let end = image.len();
        image[end - 52..end - 44].copy_from_slice(&(3 * 4096u64).to_be_bytes());
        assert_eq!(kernel(&file(&image)).unwrap(), Part { offset: 4096, size: 5000 });
    }

    #[test]
    fn a_zboot_image_says_where_its_payload_is() {
        let zboot = |compression: &[u8]| {
            let mut bytes = vec![0; 1000];
            bytes[..2].copy_from_slice(b"MZ");
            bytes[4..8].copy_from_slice(b"zimg");
            bytes[8..12].copy_from_slice(&200u32.to_le_bytes());
            bytes[12..16].copy_from_slice(&700u32.to_le_bytes());
            bytes[24..24 + compression.len()].copy_from_slice(compression);
            bytes
        };
        assert_eq!(kernel(&file(&zboot(b"gzip"))).unwrap(), Part { offset: 200, size: 700 });
        for compression in ["zstd", "lzma", "xzkern", "lz4", "lzo"] {
            let named = kernel(&file(&zboot(compression.as_bytes()))).unwrap_err();
            assert_eq!(named.name, "image-packed");
            assert!(named.what.contains(compression), "{named}");
            assert!(named.cure.contains("tail -c +201 "), "{named}");
        }
        assert_eq!(kernel(&file(&zboot(b"gzip")[..800])).unwrap_err().name, "image-container");
    }

    proptest! {
        #[test]
        fn never_panics(
            magic in prop::sample::select(vec![&b"ANDROID!"[..], b"MZ\0\0zimg", b"VNDRBOOT", b"AVBf"]),
            bytes in prop::collection::vec(any::<u8>(), 8..300),
            last in any::<bool>(),
        ) {
            let mut bytes = bytes;
            let at = if last { bytes.len().saturating_sub(FOOTER) } else { 0 };
            let end = bytes.len().min(at + magic.len());
            bytes[at..end].copy_from_slice(&magic[..end - at]);
            if let Ok(part) = kernel(&file(&bytes)) {
                prop_assert!(part.offset + part.size <= bytes.len() as u64);
            }
        }
    }
}
