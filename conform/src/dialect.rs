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
    /// The first half of that series, without functions.
    LkmlBase,
    /// android14-6.1.
    Ack61,
    /// Early revisions of android15-6.6.
    Ack66Early,
    /// android15-6.6.
    Ack66,
    /// android16-6.12.
    Ack612,
    /// No such device.
    None,
    /// Another vendor's calls (type 0xB2) on the node.
    QcomB2,
}

use Dialect::{Ack61, Ack612, Ack66, Ack66Early, Lkml, LkmlBase, QcomB2};

/// Where guests are launched by this API.
pub const GUNYAH: &[Dialect] = &[Lkml, LkmlBase, Ack61, Ack66Early, Ack66, Ack612];
/// Those with vCPUs, irqfds and ioeventfds.
pub const FUNCTIONS: &[Dialect] = &[Lkml, Ack61, Ack66Early, Ack66, Ack612];
/// Android's kernels: memory can be lent.
pub const ANDROID: &[Dialect] = &[Ack61, Ack66Early, Ack66, Ack612];
/// The memory calls pin the pages.
pub const PINNING: &[Dialect] = &[Lkml, LkmlBase, Ack61];
/// Those of them with vCPUs, irqfds and ioeventfds.
pub const PINNING_FUNCTIONS: &[Dialect] = &[Lkml, Ack61];
/// The memory calls only record; the guest's faults pin.
pub const NEWER: &[Dialect] = &[Ack66Early, Ack66, Ack612];
/// Upstream alone.
pub const LKML: &[Dialect] = &[Lkml, LkmlBase];
/// Without functions.
pub const BASE: &[Dialect] = &[LkmlBase];
/// With Android's further calls.
pub const NEWEST: &[Dialect] = &[Ack612];
/// Without them.
pub const NOT_NEWEST: &[Dialect] = &[Lkml, LkmlBase, Ack61, Ack66Early, Ack66];
/// Nothing there.
pub const NONE: &[Dialect] = &[Dialect::None];
/// The other vendor's alone.
pub const LEGACY: &[Dialect] = &[QcomB2];

impl Dialect {
    /// All of them.
    pub const ALL: [Dialect; 8] =
        [Lkml, LkmlBase, Ack61, Ack66Early, Ack66, Ack612, Dialect::None, QcomB2];

    /// Its word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Lkml => "lkml",
            LkmlBase => "lkml-base",
            Ack61 => "ack61",
            Ack66Early => "ack66-early",
            Ack66 => "ack66",
            Ack612 => "ack612",
            Dialect::None => "none",
            QcomB2 => "qcom-b2",
        }
    }

    /// Finds out by calls that change nothing: each is made with an argument that cannot be read, so
    /// that a known one answers EFAULT and an unknown one ENOTTY or EINVAL. Early revisions of 6.6 answer
    /// as later ones do.
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
        Ok(if knows(uapi::RECLAIM_REGION) {
            Ack612
        } else if knows(uapi::SET_BOOT_CONTEXT) {
            Ack66
        } else if knows(uapi::LEND_USER_MEM) {
            Ack61
        } else if knows(uapi::ADD_FUNCTION) {
            Lkml
        } else {
            LkmlBase
        })
    }
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
            format!("dialect {word:?}: use one of auto, {}", known.join(", "))
        })
    }
}
