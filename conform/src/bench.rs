// SPDX-License-Identifier: Apache-2.0
//! Where the checks are made: the device, its dialect, and what is known to work on it.

use std::path::PathBuf;
use std::time::Duration;

use crate::device::{Device, Vm};
use crate::dialect::{self, Dialect};
use crate::uapi;
use crate::verdict::{succeeds, Found};

/// The device under test.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Its path.
    pub device: PathBuf,
    /// Its dialect.
    pub dialect: Dialect,
    /// How long a guest may take to come out of VCPU_RUN.
    pub patience: Duration,
    /// How long what a VM held may take to come back after its last close.
    pub give_back: Duration,
}

impl Bench {
    /// The device, open.
    pub fn open(&self) -> Found<Device> {
        succeeds("open", Device::open(&self.device))
    }

    /// A new VM.
    pub fn vm(&self) -> Found<Vm> {
        succeeds("CREATE_VM", self.open()?.create_vm(0))
    }

    /// Whether the dialect is one of these.
    pub fn is(&self, dialects: &[Dialect]) -> bool {
        dialects.contains(&self.dialect)
    }

    /// The memory calls of the dialect, by name and number.
    pub fn memory_calls(&self) -> &'static [(&'static str, u32)] {
        const BOTH: [(&str, u32); 2] = [
            ("SET_USER_MEM_REGION", uapi::SET_USER_MEM_REGION),
            ("LEND_USER_MEM", uapi::LEND_USER_MEM),
        ];
        if self.is(dialect::ANDROID) {
            &BOTH
        } else {
            &BOTH[..1]
        }
    }

    /// How main memory is given: lent where that can be, which every resource manager takes.
    pub fn main_memory_call(&self) -> u32 {
        if self.is(dialect::ANDROID) {
            uapi::LEND_USER_MEM
        } else {
            uapi::SET_USER_MEM_REGION
        }
    }
}
