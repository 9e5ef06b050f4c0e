// SPDX-License-Identifier: Apache-2.0
//! Which flavour of the driver's API is there.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::device::{self, Device};
use crate::uapi;

/// A flavour of the driver's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The upstream series v7 to v14.
    Lkml,
    /// android14-6.1.
    Ack61,
    /// android15-6.6.
    Ack66,
    /// android16-6.12.
    Ack612,
    /// No such device.
    None,
    /// Another vendor's calls (type 0xB2) on the node.
    QcomB2,
}

use Dialect::{Ack61, Ack612, Ack66, Lkml, QcomB2};

/// Where guests are launched by this API.
pub const GUNYAH: &[Dialect] = &[Lkml, Ack61, Ack66, Ack612];
/// Android's kernels: memory can be lent.
pub const ANDROID: &[Dialect] = &[Ack61, Ack66, Ack612];
/// The memory calls pin the pages.
pub const PINNING: &[Dialect] = &[Lkml, Ack61];
/// The memory calls only record; the guest's faults pin.
pub const NEWER: &[Dialect] = &[Ack66, Ack612];
/// Upstream alone.
pub const LKML: &[Dialect] = &[Lkml];
/// Nothing there.
pub const NONE: &[Dialect] = &[Dialect::None];
/// The other vendor's alone.
pub const LEGACY: &[Dialect] = &[QcomB2];

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 6] = [Lkml, Ack61, Ack66, Ack612, Dialect::None, QcomB2];

    /// Its word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Lkml => "lkml",
            Ack61 => "ack61",
            Ack66 => "ack66",
            Ack612 => "ack612",
            Dialect::None => "none",
            QcomB2 => "qcom-b2",
        }
    }

    /// Finds out by calls that change nothing: each is made with an argument that cannot be read, so
    /// that a known one answers EFAULT and an unknown one ENOTTY or EINVAL.
    pub fn detect(path: &Path) -> Result<Self, String> {
        let device = match Device::open(path) {
            Ok(device) => device,
            Err(errno) if matches!(errno.0, libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
                return Ok(Self::None);
            }
            Err(errno) => return Err(format!("{} cannot be opened: {errno}", path.display())),
        };
        let vm = match device.create_vm(0) {
            Ok(vm) => vm,
            Err(errno) if matches!(errno.0, libc::ENOTTY | libc::EINVAL) => {
                return Ok(Self::QcomB2);
            }
            Err(errno) => return Err(format!("CREATE_VM: {errno}")),
        };
        let knows = |number| match device::ioctl(vm.raw(), number, 0) {
            Err(errno) => errno.0 == libc::EFAULT,
            Ok(_) => true,
        };
        if knows(uapi::SET_BOOT_CONTEXT) {
            return Ok(if kernel_is_612_or_later() { Ack612 } else { Ack66 });
        }
        Ok(if knows(uapi::LEND_USER_MEM) { Ack61 } else { Lkml })
    }
}

/// 6.6 and 6.12 answer alike; only the release tells them apart.
fn kernel_is_612_or_later() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || numbers.next().and_then(|word| word.parse::<u32>().ok());
    (next().unwrap_or(0), next().unwrap_or(0)) >= (6, 12)
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == word).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|dialect| dialect.as_str()).collect();
            format!("dialect {word:?}: one of auto, {}", known.join(", "))
        })
    }
}
