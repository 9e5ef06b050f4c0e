// SPDX-License-Identifier: Apache-2.0
//! The VMs that are launched, and their files.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;

use gunyah::Dialect;
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use serde_json::{json, Value};

/// Bytes of the kernel and of the initrd.
const KERNEL: usize = 16 << 20;
const INITRD: usize = 8 << 20;

/// What main memory is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    Hugetlb,
    Reserve,
    Thp,
    Base,
    /// Base pages that nobody populates: the driver's pin faults them in, one by one. As the kernel's sample has it;
    /// only as a floor.
    Pinned,
}

impl Backing {
    pub const ALL: [Self; 4] = [Self::Hugetlb, Self::Reserve, Self::Thp, Self::Base];

    pub fn of(name: &str) -> Self {
        let mut all = Self::ALL.into_iter().chain([Self::Pinned]);
        all.find(|backing| backing.name() == name).expect("a backing's name")
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Hugetlb => "hugetlb",
            Self::Reserve => "reserve",
            Self::Thp => "thp",
            Self::Base => "base",
            Self::Pinned => "pinned",
        }
    }

    /// A driver that takes it.
    pub fn dialect(self) -> Dialect {
        match self {
            Self::Hugetlb | Self::Pinned => Dialect::Ack61,
            Self::Reserve | Self::Thp | Self::Base => Dialect::Ack612,
        }
    }
}

/// Writes kernels, an initrd and a disk.
pub fn write_files(dir: &Path) {
    let files = [
        ("Image", image(KERNEL)),
        ("small", image(8192)),
        ("initrd", vec![0xa5; INITRD]),
        ("disk", vec![1; 1 << 20]),
    ];
    for (name, bytes) in files {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        // What is not written yet is not forgotten either.
        File::open(&path).unwrap().sync_all().unwrap();
    }
}

/// An arm64 Image.
fn image(size: usize) -> Vec<u8> {
    let mut image = vec![0x5a; size];
    image[..64].fill(0);
    image[..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    image[16..24].copy_from_slice(&u64::try_from(size).unwrap().to_le_bytes());
    image[24..32].copy_from_slice(&0xau64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

/// Drops the files' bytes from the page cache.
pub fn forget_files(dir: &Path) {
    for name in ["Image", "initrd"] {
        let file = File::open(dir.join(name)).unwrap();
        let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
        posix_fadvise(file.as_fd(), 0, 0, advice).unwrap();
    }
}

/// A VM of so many MiB.
pub fn vm(name: &str, dir: &Path, megabytes: u64, backing: Backing) -> Value {
    json!({
        "name": name,
        "autostart": false,
        "memory": { "size": format!("{megabytes}M"), "backing": [backing.name()] },
        "kernel": { "path": dir.join("Image") },
        "initrd": { "path": dir.join("initrd") },
        "restart": { "policy": "never" },
    })
}

/// One with no more than a VM needs.
pub fn small(name: &str, dir: &Path) -> Value {
    let mut vm = vm(name, dir, 4, Backing::Base);
    vm.as_object_mut().unwrap().remove("initrd");
    vm["kernel"] = json!({ "path": dir.join("small") });
    vm
}
