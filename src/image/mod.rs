// SPDX-License-Identifier: Apache-2.0
//! A VM's files: opened once, headers read for the plan, bytes read when they are loaded.
//!
//! ```text
//! file       an open regular file
//! kernel     which format it has, and its bytes
//! container  what it may come in: an Android boot image, EFI zboot, before an AVB footer
//! arm64      the header of an arm64 Image
//! elf        the headers of an ELF executable
//! gzip       a packed Image
//! inflate    deflated bytes, which gzip's are
//! ikconfig   the configuration that a Linux has built in
//! foreign    what else a file may be, and what makes a kernel of it
//! ```

pub mod arm64;
mod container;
pub mod elf;
mod file;
mod foreign;
pub mod gzip;
mod ikconfig;
mod inflate;
mod kernel;

use std::borrow::Cow;
use std::path::Path;

use crate::config::VmConfig;
use crate::diagnostic::{Diagnostic, Kind, Step};
use crate::list::Listed;

pub use file::OpenFile;
pub use ikconfig::{BuiltConfig, Setting};
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
    /// at its key. `root`: where a device's files are on this machine.
    pub fn open(config: &VmConfig, root: Option<&Path>) -> Result<Self, Vec<Diagnostic>> {
        let mut faults = Faults { config, found: Vec::new() };
        let (path, format) = (below(root, &config.kernel.path), config.kernel.format);
        let kernel = match &config.firmware {
            None => Kernel::open(&path, format),
            Some(_) => Kernel::open_signed(&path, format),
        };
        let kernel = faults.keep("kernel.path", kernel);
        let initrd = config
            .initrd
            .as_ref()
            .and_then(|initrd| faults.keep("initrd.path", open_initrd(&below(root, &initrd.path))));
        let dtb = config.dtb.path.as_ref().and_then(|path| {
            let bytes = OpenFile::open(&below(root, path)).and_then(|open| open.read_dtb());
            faults.keep("dtb.path", bytes)
        });
        let mut regions = Vec::new();
        for (index, region) in config.regions.iter().enumerate() {
            let key = format!("regions[{index}].file");
            let file = region.file.as_ref();
            regions
                .push(file.and_then(|path| faults.keep(&key, OpenFile::open(&below(root, path)))));
        }
        match kernel {
            Some((kernel, info)) if faults.found.is_empty() => Ok(Self {
                info: ImageInfo {
                    kernel: info,
                    initrd: initrd.as_ref().map(|open| open.size),
                    regions: regions
                        .iter()
                        .map(|open| open.as_ref().map(|open| open.size))
                        .listed(),
                },
                kernel,
                initrd,
                dtb,
                regions,
            }),
            _ => Err(faults.found),
        }
    }

    /// All of them are read soon.
    pub fn read_ahead(&self) {
        let files = [Some(&self.kernel.file), self.initrd.as_ref()].into_iter();
        let files = files.chain(self.regions.iter().map(Option::as_ref)).flatten();
        files.for_each(OpenFile::read_ahead);
    }

    /// Unpacks a gzip'ed kernel to nowhere, to know whether it can be loaded.
    pub fn verify_kernel(&self, config: &VmConfig) -> Result<(), Diagnostic> {
        let verified = self.kernel.verify();
        verified.map_err(|fault| fault.at(config.place("kernel.path")))
    }
}

/// A path of the device, below `root`.
pub fn below<'a>(root: Option<&Path>, path: &'a Path) -> Cow<'a, Path> {
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)).into(),
        None => path.into(),
    }
}

fn open_initrd(path: &Path) -> Result<OpenFile, Diagnostic> {
    let open = OpenFile::open(path)?;
    let mut start = [0; 8];
    let length = usize::try_from(open.size).map_or(start.len(), |size| size.min(start.len()));
    open.read_at(Step::Images, 0, &mut start[..length])?;
    match foreign::initrd(&start[..length], &open) {
        Some(fault) => Err(fault),
        None => Ok(open),
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
pub(crate) const KINDS: &[&[&Kind]] = &[
    file::KINDS,
    kernel::KINDS,
    container::KINDS,
    foreign::KINDS,
    arm64::KINDS,
    elf::KINDS,
    gzip::KINDS,
];

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::config::parse;
    use crate::layout::DTB_MAX;

    fn folder(test: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("gunyahd-{test}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// A VM of these files; its JSON's other keys are `rest`.
    fn open(folder: &Path, kernel: &str, rest: &str) -> Result<Images, Vec<Diagnostic>> {
        let folder = folder.display();
        let text = format!(
            r#"{{"name": "vm", "memory": {{"size": "64M"}}, "kernel": {{"path": "{folder}/Image"{kernel}}}{rest}}}"#
        );
        let text = text.replace("dir/", &format!("{folder}/"));
        Images::open(&parse(Path::new("vm.json"), &text).unwrap(), None)
    }

    fn names(faults: Vec<Diagnostic>) -> Vec<String> {
        let text =
            |fault: Diagnostic| format!("{} at {}", fault.name, fault.place.as_ref().unwrap().key);
        faults.into_iter().map(text).collect()
    }

    #[test]
    fn every_file_is_reported_at_its_key() {
        let folder = folder("images");
        fs::write(folder.join("Image"), "#!/bin/sh\n").unwrap();
        let dtb = fs::File::create(folder.join("dtb")).unwrap();
        dtb.set_len(DTB_MAX + 1).unwrap();
        let rest = r#", "initrd": {"path": "dir/none"}, "dtb": {"path": "dir/dtb"},
            "regions": [{"label": 1, "base": "0xa0000000", "size": "4K", "file": "dir/none"}]"#;
        assert_eq!(
            names(open(&folder, "", rest).unwrap_err()),
            [
                "image-not-a-kernel at kernel.path",
                "image-missing at initrd.path",
                "image-dtb-too-large at dtb.path",
                "image-missing at regions[0].file",
            ]
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn firmware_gets_the_kernels_file_as_it_was_signed() {
        let folder = folder("signed");
        let mut image = vec![0; 4096];
        image[16..24].copy_from_slice(&0x3000u64.to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        let mut file = image.clone();
        file.resize(16384, 0);
        let footer = file.len() - 64;
        file[footer..footer + 4].copy_from_slice(b"AVBf");
        file[footer + 12..footer + 20].copy_from_slice(&4096u64.to_be_bytes());
        let found = |bytes: &[u8]| {
            fs::write(folder.join("Image"), bytes).unwrap();
            open(&folder, "", r#", "firmware": {}"#)
        };
        let images = found(&file).unwrap();
        let kernel = &images.info.kernel;
        assert_eq!((kernel.size, kernel.signed), (16384, true));
        // The footer lies in the guest's memory, behind what the kernel itself asks for.
        let KernelLayout::Image(header) = kernel.layout else { panic!("{kernel:?}") };
        assert_eq!(header.image_size, 16384);
        let mut room = vec![0; file.len()];
        images.kernel.read(0, &mut room).unwrap();
        assert_eq!(room, file);
        assert!(!found(&image).unwrap().info.kernel.signed);
        let mut packed = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &image).unwrap();
        let faults = found(&packed.finish().unwrap()).unwrap_err();
        assert_eq!(names(faults), ["image-firmware-kernel at kernel.path"]);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_kernel_is_what_its_first_bytes_say() {
        let folder = folder("kernel");
        let mut image = vec![0; 4096];
        image[16..24].copy_from_slice(&0x20_0000u64.to_le_bytes());
        image[56..60].copy_from_slice(b"ARM\x64");
        fs::write(folder.join("Image"), &image).unwrap();
        let images = open(&folder, "", "").unwrap();
        assert_eq!((images.info.kernel.gzip, images.info.kernel.size), (false, 4096));
        let named = open(&folder, r#", "format": "elf""#, "").unwrap_err();
        let what = "it is an arm64 Image, kernel.format says an ELF executable";
        assert!(named[0].what.ends_with(what), "{}", named[0]);
        assert_eq!(names(named), ["image-other-format at kernel.path"]);

        let mut packed = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packed, &image).unwrap();
        let packed = packed.finish().unwrap();
        fs::write(folder.join("Image"), &packed).unwrap();
        let images = open(&folder, "", "").unwrap();
        assert_eq!((images.info.kernel.gzip, images.info.kernel.size), (true, 4096));
        let mut room = vec![0; 4096];
        images.kernel.read(0, &mut room).unwrap();
        assert_eq!(room, image);
        let mut short = packed.clone();
        let end = short.len();
        short[end - 4..].copy_from_slice(&10u32.to_le_bytes());
        // In a boot image, as it is and packed: the same bytes, whatever is around them.
        for inner in [&image, &packed] {
            let mut boot = vec![0; 4096];
            boot[..8].copy_from_slice(b"ANDROID!");
            boot[8..12].copy_from_slice(&u32::try_from(inner.len()).unwrap().to_le_bytes());
            boot[40] = 4;
            boot.extend(inner);
            boot.extend([9; 4096]);
            fs::write(folder.join("Image"), &boot).unwrap();
            let images = open(&folder, "", "").unwrap();
            assert_eq!(images.info.kernel.size, 4096);
            room.fill(0);
            images.kernel.read(0, &mut room).unwrap();
            assert_eq!(room, image);
        }
        for (bytes, name) in [
            (&packed[..5], "image-gzip-cut"),
            (&short[..], "image-gzip-damaged"),
            (&image[..40], "image-not-a-kernel"),
        ] {
            fs::write(folder.join("Image"), bytes).unwrap();
            let faults = open(&folder, "", "").unwrap_err();
            assert_eq!(faults[0].name, name);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
