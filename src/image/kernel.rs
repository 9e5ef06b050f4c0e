// SPDX-License-Identifier: Apache-2.0
//! A kernel's file: its headers for the plan, then its bytes.

use std::io::Read;
use std::path::Path;

use super::container::{self, Part};
use super::file::OpenFile;
use super::ikconfig::BuiltConfig;
use super::{arm64, elf, foreign, gzip};
use crate::config::KernelFormat;
use crate::diagnostic::{kinds, Diagnostic, Step};

kinds! {
    UNKNOWN: Error "image-not-a-kernel" in Images {
        "the kernel's file has no format that is known",
        cause: "another file has its name, or it was copied as text",
        cure: "give an arm64 Image, an ELF executable or a gzip'ed Image",
    }
    OTHER_FORMAT: Error "image-other-format" in Images {
        "the kernel's file has another format than kernel.format says",
        cure: "leave kernel.format out, or give the right one",
    }
    PACKED: Error "image-firmware-kernel" in Images {
        "firmware takes only a plain arm64 Image for a kernel",
        cause: "pvmfw verifies the kernel's file as it lies in memory, with its AVB footer, and jumps to its first byte",
        cure: "give the arm64 Image that was signed (`avbtool add_hash_footer`), not one in gzip, ELF or a boot image; or leave `firmware` out",
    }
}

/// What the plan has to know of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// It is gzip'ed; sizes and offsets are of the unpacked bytes.
    pub gzip: bool,
    /// Bytes of the (unpacked) kernel, without what it comes in; with firmware, of the whole file.
    pub size: u64,
    /// It has an AVB footer. Known where there is firmware, which wants it.
    pub signed: bool,
    /// How it wants to lie in memory.
    pub layout: KernelLayout,
}

/// How a kernel wants to lie in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelLayout {
    /// An arm64 `Image`: in one piece, entered at its first byte.
    Image(arm64::Header),
    /// An ELF executable: segments with addresses of their own.
    Elf(elf::Executable),
}

/// The open kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its file.
    pub file: OpenFile,
    /// Where it is in the file.
    part: Part,
    /// For a gzip'ed one, the bytes that it unpacks to.
    unpacked: Option<u64>,
}

impl Kernel {
    /// Opens the file and reads its headers.
    pub(super) fn open(
        path: &Path,
        format: KernelFormat,
    ) -> Result<(Self, KernelInfo), Diagnostic> {
        let file = OpenFile::open(path)?;
        let part = Part { offset: 0, size: file.size };
        let mut kernel = Self { file, part, unpacked: None };
        kernel.part = container::kernel(&kernel.file).map_err(|fault| kernel.wrong(fault))?;
        let info = kernel.info(format)?;
        Ok((kernel, info))
    }

    /// The same for firmware that verifies it: the whole file as it was signed, its AVB footer included.
    pub(super) fn open_signed(
        path: &Path,
        format: KernelFormat,
    ) -> Result<(Self, KernelInfo), Diagnostic> {
        let (mut kernel, mut info) = Self::open(path, format)?;
        let inside = kernel.part;
        kernel.part = Part { offset: 0, size: kernel.file.size };
        match &mut info.layout {
            KernelLayout::Image(header) if !info.gzip && inside.offset == 0 => {
                info.signed = inside != kernel.part;
                info.size = kernel.part.size;
                header.image_size = header.image_size.max(info.size);
            }
            _ => {
                let what = "the firmware does not unpack it: it is not a plain arm64 Image";
                return Err(kernel.wrong(PACKED.case(what)));
            }
        }
        Ok((kernel, info))
    }

    fn info(&mut self, wanted: KernelFormat) -> Result<KernelInfo, Diagnostic> {
        let mut start = [0; arm64::HEADER_SIZE];
        let size = self.part.size;
        let length = usize::try_from(size).map_or(start.len(), |n| n.min(start.len()));
        self.file.read_at(Step::Images, self.part.offset, &mut start[..length])?;
        let found = format(&start[..length]);
        let foreign = || foreign::named(&start[..length], self.part, &self.file);
        if let Some(named) = found.is_none().then(foreign).flatten() {
            return Err(self.wrong(named));
        }
        if wanted != KernelFormat::Auto && found != Some(wanted) {
            return Err(self.wrong(OTHER_FORMAT.case(format!(
                "{}, kernel.format says {}",
                what_it_is(&start[..length], found),
                name(wanted)
            ))));
        }
        let layout = match found {
            Some(KernelFormat::Image) => image(&start, size),
            Some(KernelFormat::Elf) => {
                let read = |offset, room: &mut [u8]| self.read_part(Step::Images, offset, room);
                elf::Executable::parse(&start, size, read).map(KernelLayout::Elf)
            }
            Some(KernelFormat::Gzip) => self.look_inside(),
            _ => Err(UNKNOWN.case(what_it_is(&start[..length], None))),
        };
        Ok(KernelInfo {
            gzip: self.unpacked.is_some(),
            size: self.unpacked.unwrap_or(size),
            signed: false,
            layout: layout.map_err(|fault| self.wrong(fault))?,
        })
    }

    /// Reads a gzip'ed kernel's size from its trailer, and its header from its first unpacked bytes.
    fn look_inside(&mut self) -> Result<KernelLayout, Diagnostic> {
        let mut trailer = [0; 8];
        let Some(trailer_at) = self.part.size.checked_sub(gzip::TRAILER_SIZE) else {
            let what = format!("{} bytes are too few for a gzip file", self.part.size);
            return Err(gzip::CUT.case(what));
        };
        self.read_part(Step::Images, trailer_at, &mut trailer)?;
        // Modulo 2^32, but kernels are not that large.
        let size = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]).into();
        let mut start = [0; arm64::HEADER_SIZE];
        // A file that was cut ends with anything, mostly zeros.
        if size < start.len() as u64 {
            return Err(gzip::DAMAGED.case(format!(
                "the gzip'ed file's trailer says that it unpacks to {size} bytes, fewer than the header of an arm64 Image"
            )));
        }
        self.unpacked = Some(size);
        gzip::Unpacker::new(self.reader(), size).fill(&mut start)?;
        match format(&start) {
            Some(KernelFormat::Image) => image(&start, size),
            found => Err(UNKNOWN.case(format!("unpacked, {}", what_it_is(&start, found)))),
        }
    }

    /// The kernel's own bytes, whatever is around them.
    fn read_part(&self, step: Step, offset: u64, room: &mut [u8]) -> Result<(), Diagnostic> {
        self.file.read_at(step, self.part.offset.saturating_add(offset), room)
    }

    fn reader(&self) -> impl std::io::Read + '_ {
        self.file.reader(self.part.offset, self.part.size)
    }

    /// Reads bytes from `offset` on into all of `room`. A gzip'ed kernel is read as a whole.
    pub fn read(&self, offset: u64, room: &mut [u8]) -> Result<(), Diagnostic> {
        if self.unpacked.is_none() {
            return self.read_part(Step::Kernel, offset, room);
        }
        let mut unpacker = gzip::Unpacker::new(self.reader(), room.len() as u64);
        let unpacked = unpacker.fill(room).and_then(|()| unpacker.end());
        unpacked.map_err(|fault| {
            let what = format!("unpacking {}", self.file.path.display());
            self.file.cut_since(Step::Kernel, &what).unwrap_or_else(|| {
                let mut fault = self.wrong(fault);
                fault.step = Step::Kernel;
                fault.lasting = fault.errno.is_none();
                fault
            })
        })
    }

    /// Unpacks a gzip'ed kernel to nowhere, to know whether it can be loaded.
    pub(super) fn verify(&self) -> Result<(), Diagnostic> {
        let Some(size) = self.unpacked else {
            return Ok(());
        };
        gzip::Unpacker::new(self.reader(), size).verify().map_err(|fault| self.wrong(fault))
    }

    /// The configuration that a Linux has built in. The whole file is read.
    pub fn built_config(&self) -> Option<BuiltConfig> {
        match self.unpacked {
            Some(size) => BuiltConfig::find(gzip::Unpacker::new(self.reader(), size).take(size)),
            None => BuiltConfig::find(self.reader()),
        }
    }

    /// The parsers of headers do not know the file's name.
    fn wrong(&self, mut fault: Diagnostic) -> Diagnostic {
        fault.what = format!("kernel {}: {}", self.file.path.display(), fault.what);
        fault
    }
}

fn image(start: &[u8; arm64::HEADER_SIZE], size: u64) -> Result<KernelLayout, Diagnostic> {
    arm64::Header::parse(start, size).map(KernelLayout::Image)
}

fn format(start: &[u8]) -> Option<KernelFormat> {
    if gzip::is_gzip(start) {
        Some(KernelFormat::Gzip)
    } else if elf::is_elf(start) {
        Some(KernelFormat::Elf)
    } else if arm64::is_image(start) {
        Some(KernelFormat::Image)
    } else {
        None
    }
}

fn name(format: KernelFormat) -> &'static str {
    match format {
        KernelFormat::Auto => "any format",
        KernelFormat::Image => "an arm64 Image",
        KernelFormat::Elf => "an ELF executable",
        KernelFormat::Gzip => "a gzip'ed Image",
    }
}

fn what_it_is(start: &[u8], found: Option<KernelFormat>) -> String {
    match found {
        Some(format) => format!("it is {}", name(format)),
        None => {
            let bytes: String = start.iter().take(4).map(|byte| format!(" {byte:02x}")).collect();
            format!("neither an arm64 Image (\"ARM\\x64\" at byte 56), nor ELF, nor gzip: it begins with{bytes}")
        }
    }
}
