// SPDX-License-Identifier: Apache-2.0
//! Kernel files: headers first, for the plan; then their bytes, straight into guest memory.

pub mod arm64;
pub mod elf;
pub mod gzip;
mod load;
mod open;

use thiserror::Error;

pub use open::{probe, ImageProblem, Images, KernelFile, OpenFile};

/// What the plan has to know of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelInfo {
    /// The file is gzip'ed; sizes and offsets speak of the unpacked bytes.
    pub gzip: bool,
    /// Bytes of the (unpacked) file.
    pub size: u64,
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

/// What the plan has to know of all files of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The kernel.
    pub kernel: KernelInfo,
    /// Bytes of the initrd.
    pub initrd: Option<u64>,
    /// Bytes of each region's file, in the order of `regions`.
    pub regions: Vec<Option<u64>>,
}

/// Why a kernel file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Too short for its own header.
    #[error("{0} bytes are too few for {1}")]
    Short(u64, &'static str),
    /// No known first bytes.
    #[error(
        "neither an arm64 Image (\"ARM\\x64\" at byte 56), nor ELF, nor gzip: it begins with {0}"
    )]
    Unknown(String),
    /// Not what the config says.
    #[error("not {wanted}: {found}")]
    Not {
        /// What it should be.
        wanted: &'static str,
        /// What it is.
        found: String,
    },
    /// A header field that cannot be.
    #[error("{field} is {value:#x}: {problem}")]
    Field {
        /// The field's name in the format's own words.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A format that is known and not taken.
    #[error("{0}")]
    Unsupported(&'static str),
}
