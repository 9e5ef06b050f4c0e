// SPDX-License-Identifier: Apache-2.0
//! A VM's files: opened once, headers read for the plan, bytes read when they are loaded.
//!
//! ```text
//! file     an open regular file
//! kernel   which format it has, and its bytes
//! arm64    the header of an arm64 Image
//! elf      the headers of an ELF executable
//! gzip     a packed Image
//! ```

pub mod arm64;
pub mod elf;
mod file;
pub mod gzip;
mod kernel;

use crate::config::VmConfig;
use crate::diagnostic::{Diagnostic, Kind};

pub use file::OpenFile;
pub use kernel::{Kernel, KernelInfo, KernelLayout};

/// All files of a VM, open.
#[derive(Debug)]
pub struct Images {
    /// The kernel.
    pub kernel: Kernel,
    /// The initrd.
    pub initrd: Option<OpenFile>,
    /// The bytes of a given devicetree.
    pub dtb: Option<Vec<u8>>,
    /// Region files, in the order of `regions`.
    pub regions: Vec<Option<OpenFile>>,
    /// What the plan needs.
    pub info: ImageInfo,
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

impl Images {
    /// Opens every file that `config` names and reads the headers. Errors are all that is wrong, each
    /// at its key.
    pub fn open(config: &VmConfig) -> Result<Self, Vec<Diagnostic>> {
        let mut faults = Faults {
            config,
            found: Vec::new(),
        };
        let kernel = faults.keep("kernel.path", Kernel::open(&config.kernel));
        let initrd = config
            .initrd
            .as_ref()
            .and_then(|initrd| faults.keep("initrd.path", OpenFile::open(&initrd.path)));
        let dtb = config.dtb.path.as_ref().and_then(|path| {
            let bytes = OpenFile::open(path).and_then(|open| open.read_dtb());
            faults.keep("dtb.path", bytes)
        });
        let mut regions = Vec::new();
        for (index, region) in config.regions.iter().enumerate() {
            let key = format!("regions[{index}].file");
            let file = region.file.as_ref();
            regions.push(file.and_then(|path| faults.keep(&key, OpenFile::open(path))));
        }
        match kernel {
            Some((kernel, info)) if faults.found.is_empty() => Ok(Self {
                info: ImageInfo {
                    kernel: info,
                    initrd: initrd.as_ref().map(|open| open.size),
                    regions: regions
                        .iter()
                        .map(|open| open.as_ref().map(|open| open.size))
                        .collect(),
                },
                kernel,
                initrd,
                dtb,
                regions,
            }),
            _ => Err(faults.found),
        }
    }

    /// Unpacks a gzip'ed kernel to nowhere, to know whether it can be loaded.
    pub fn verify_kernel(&self, config: &VmConfig) -> Result<(), Diagnostic> {
        let verified = self.kernel.verify();
        verified.map_err(|fault| fault.at(config.place("kernel.path")))
    }
}

struct Faults<'a> {
    config: &'a VmConfig,
    found: Vec<Diagnostic>,
}

impl Faults<'_> {
    fn keep<T>(&mut self, key: &str, result: Result<T, Diagnostic>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(fault) => {
                self.found.push(fault.at(self.config.place(key)));
                None
            }
        }
    }
}

/// Everything that this folder finds.
pub(crate) const KINDS: &[&[Kind]] = &[
    file::KINDS,
    kernel::KINDS,
    arm64::KINDS,
    elf::KINDS,
    gzip::KINDS,
];
