// SPDX-License-Identifier: Apache-2.0
//! Files that people give as a kernel and that are none yet: each is named for what it is, with what
//! makes a kernel of it.

use super::container::{Part, BOOT, VENDOR_BOOT};
use super::file::OpenFile;
use crate::diagnostic::{kinds, Diagnostic};
use crate::text::excerpt;

kinds! {
    PACKED: Error "image-packed" in Images {
        "the kernel's file is packed in a way that is not unpacked here",
        cause: "gunyahd unpacks only gzip",
        cure: "unpack it at build time, or pack it again: gzip -9 Image",
    }
    NO_HEADER: Error "image-no-header" in Images {
        "the kernel's file is arm64 code without a header",
        cause: "code alone does not say how much memory it takes and where it begins",
        cure: "give it as ELF (u-boot, not u-boot.bin), or build it with the header of an arm64 Image: CONFIG_LINUX_KERNEL_IMAGE_HEADER of U-Boot, ArmVirtQemuKernel of EDK2 (QEMU_EFI of a ..Kernel build)",
    }
    OTHER_FILE: Error "image-other-file" in Images {
        "the kernel's file is something else",
        cause: "another file has the kernel's name",
        cure: "give an arm64 Image, an ELF executable or a gzip'ed Image",
    }
    // Linux would take it for no initrd at all, in silence.
    INITRD: Error "image-initrd-container" in Images {
        "the initrd's file is an Android image with a ramdisk in it",
        cause: "an initrd goes to the guest as it is, and Linux does not know this format",
        cure: "take it apart by `unpack_bootimg --boot_img FILE --out DIR`, and give the ramdisk",
    }
}

/// A format by its first bytes: what to call it, and the tool that unpacks it from stdin to stdout.
const PACKERS: &[(&[u8], &str, &str)] = &[
    (b"\x04\x22\x4d\x18", "an lz4 frame", "lz4 -dc"),
    (b"\x02\x21\x4c\x18", "a legacy lz4 file", "lz4 -dc"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "zstd -dc"),
    (b"\xfd7zXZ\0", "an xz file", "xz -dc"),
    (b"\x5d\0\0", "an lzma file", "lzma -dc"),
    (b"BZh", "a bzip2 file", "bzip2 -dc"),
    (b"\x89LZO", "an lzop file", "lzop -dc"),
];

/// Kinds of payload of an EFI zboot image, and their tools.
const ZBOOT: &[(&str, &str)] = &[
    ("zstd", "zstd -dc"),
    ("lzma", "lzma -dc"),
    ("xzkern", "xz -dc"),
    ("lz4", "lz4 -dc"),
    ("lzo", "lzop -dc"),
];

/// Other files, and what to do with them.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"\x27\x05\x19\x56", "a U-Boot legacy image", "take the kernel out: dumpimage -p 0 -o Image FILE"),
    (
        b"\xd0\x0d\xfe\xed",
        "a devicetree or a U-Boot FIT image",
        "give a devicetree as dtb.path; take a kernel out of a FIT: dumpimage -T flat_dt -p 0 -o Image FILE",
    ),
    (b"\x3a\xff\x26\xed", "an Android sparse image", "make it whole: simg2img FILE boot.img"),
    (b"AVB0", "a vbmeta image", "give the kernel or the boot image that it vouches for"),
    (b"PK\x03\x04", "a zip archive", "give the kernel in it"),
    (
        b"MZ",
        "an EFI program without the header of an arm64 Image",
        "give the kernel in it: a unified kernel image has it in .linux (objcopy -O binary --only-section=.linux FILE Image)",
    ),
];

/// The volume header of EDK2's firmware, and where its signature lies in a volume (UEFI PI 3).
const FIRMWARE_VOLUME: &[u8; 4] = b"_FVH";
const FIRMWARE_VOLUME_AT: usize = 40;

/// What a file is that begins with `start` and is no kernel that can be loaded; `None` if that is not
/// known either. The fault does not name the file.
pub(super) fn named(start: &[u8], part: Part, file: &OpenFile) -> Option<Diagnostic> {
    if let Some((_, name, tool)) = PACKERS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Some(packed(&format!("it is {name}"), part, file, tool));
    }
    if let Some((_, name, cure)) = OTHERS.iter().find(|(magic, ..)| start.starts_with(magic)) {
        return Some(OTHER_FILE.case(format!("it is {name}")).cure(*cure));
    }
    let why = code(start)?;
    Some(NO_HEADER.case(format!("it is arm64 code without a header: {why}")))
}

/// A zboot image with a payload that is not unpacked here.
pub(super) fn zboot(compression: &str, payload: Part, file: &OpenFile) -> Diagnostic {
    let what =
        format!("it is an EFI zboot image with a payload of the kind {}", excerpt(compression));
    match ZBOOT.iter().find(|(name, _)| *name == compression) {
        Some((_, tool)) => packed(&what, payload, file, tool),
        None => PACKED.case(what),
    }
}

fn packed(what: &str, part: Part, file: &OpenFile, tool: &str) -> Diagnostic {
    let command = part.through(&file.path, file.size, tool);
    PACKED.case(what).cure(format!("unpack it: {command}"))
}

/// Why this looks like code: firmware begins with a branch over its tables.
fn code(start: &[u8]) -> Option<String> {
    let end = FIRMWARE_VOLUME_AT + FIRMWARE_VOLUME.len();
    if start.get(FIRMWARE_VOLUME_AT..end) == Some(FIRMWARE_VOLUME) {
        return Some("it begins with an EDK2 firmware volume".to_owned());
    }
    let word = u32::from_le_bytes(start.get(..4)?.try_into().ok()?);
    // A64's `b` forward, or `nop` (Arm ARM, C6.2).
    match word {
        0x1400_0001..=0x15ff_ffff => {
            let bytes = u64::from(word & 0x01ff_ffff) * 4;
            Some(format!("it begins with a branch over {bytes:#x} bytes"))
        }
        0xd503_201f => Some("it begins with a nop".to_owned()),
        _ => None,
    }
}

/// A ramdisk that is still in its image.
pub(super) fn initrd(start: &[u8], file: &OpenFile) -> Option<Diagnostic> {
    let name = match start {
        _ if start.starts_with(BOOT) => "an Android boot image",
        _ if start.starts_with(VENDOR_BOOT) => "an Android vendor_boot image",
        _ => return None,
    };
    Some(INITRD.case(format!("initrd {}: it is {name}", file.path.display())))
}
