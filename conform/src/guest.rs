// SPDX-License-Identifier: Apache-2.0
//! A guest of a few pages, whole and good unless a check spoils it first.

use std::fmt;
use std::time::{Duration, Instant};

use crate::bench::Bench;
use crate::code::Code;
use crate::device::{Answer, Vcpu, Vm};
use crate::dialect::{FUNCTIONS, NEWER};
use crate::errno::Errno;
use crate::memory::{pages, Mapping, Memory};
use crate::process::Ticking;
use crate::tree::{self, Node};
use crate::uapi::{self, page, Region};
use crate::verdict::{differs, skip, succeeds, Found};

/// Where main memory is: above the first GiB, 2 MiB aligned, free on all that is known.
pub const BASE: u64 = 0x8000_0000;
/// Base pages of main memory.
pub const MAIN_PAGES: u64 = 64;
/// The devicetree's first page.
pub const DTB_PAGE: u64 = 16;
/// The devicetree's pages, with room for what the resource manager adds.
pub const DTB_PAGES: u64 = 8;
/// Label of main memory.
pub const MAIN_LABEL: u32 = 1;

/// What a guest will be made of.
#[derive(Debug)]
pub struct Guest {
    /// The devicetree.
    pub tree: Node,
    /// What it executes.
    pub code: Code,
    /// Memory call for main memory.
    pub call: u32,
    /// Permissions of main memory.
    pub flags: u32,
    /// Guest address by the memory call.
    pub guest: u64,
    /// Base pages of main memory.
    pub pages: u64,
    /// Where the devicetree is, in bytes from main memory's beginning.
    pub dtb_at: u64,
    /// What SET_DTB_CONFIG says of it, and where.
    pub dtb: (u64, u64),
    /// Where it begins, for drivers that have to be told.
    pub pc: Option<u64>,
    /// Ids of the vCPUs.
    pub vcpus: Vec<u32>,
}

/// What it is made of now.
#[derive(Debug)]
pub struct Made {
    /// The VM.
    pub vm: Vm,
    /// Its vCPUs with their pages.
    pub vcpus: Vec<(Vcpu, Mapping)>,
    /// Main memory.
    pub memory: Memory,
    /// How main memory was registered.
    pub region: Region,
}

/// How a vCPU came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Not within the time given.
    Not,
    /// An access without memory.
    Mmio {
        /// Guest address.
        address: u64,
        /// Bytes.
        len: u32,
        /// Written or read.
        write: bool,
        /// The data field, little endian.
        data: u64,
    },
    /// The VM's end.
    Status {
        /// Status.
        status: u32,
        /// Exit type.
        kind: u16,
    },
    /// A fault that could not be resolved.
    Fault {
        /// Negative error number.
        attempt: i32,
    },
    /// Something else.
    Other(u32),
}

impl Guest {
    /// A good one that does nothing for ever.
    pub fn new(bench: &Bench) -> Self {
        Self {
            tree: tree::good(BASE),
            code: Code::new().forever(),
            call: bench.main_memory_call(),
            flags: uapi::RWX,
            guest: BASE,
            pages: MAIN_PAGES,
            dtb_at: pages(DTB_PAGE),
            dtb: (BASE + pages(DTB_PAGE), pages(DTB_PAGES)),
            pc: bench.is(NEWER).then_some(BASE),
            vcpus: if bench.is(FUNCTIONS) { vec![0] } else { Vec::new() },
        }
    }

    /// A good one that executes this.
    pub fn running(bench: &Bench, code: Code) -> Self {
        Self { code, ..Self::new(bench) }
    }

    /// Up to START, in memory of its own.
    pub fn make(&self, bench: &Bench) -> Found<Made> {
        let memory = succeeds("memfd", Memory::base_pages(self.pages))?;
        self.make_in(bench, memory)
    }

    /// Up to START, in this memory.
    pub fn make_in(&self, bench: &Bench, memory: Memory) -> Found<Made> {
        self.make_of(bench.vm()?, memory)
    }

    /// Up to START, of this VM in this memory.
    pub fn make_of(&self, vm: Vm, memory: Memory) -> Found<Made> {
        let blob = self.tree.blob().or_else(|error| differs(format!("devicetree: {error}")))?;
        memory.map.write(0, &self.code.bytes());
        let at = usize::try_from(self.dtb_at).unwrap_or(usize::MAX);
        memory.map.write(at, &blob);
        let region = Region {
            label: MAIN_LABEL,
            flags: self.flags,
            guest: self.guest,
            size: memory.map.size(),
            user: memory.map.address(),
        };
        succeeds("main memory", vm.region(self.call, &region))?;
        succeeds("SET_DTB_CONFIG", vm.dtb(self.dtb.0, self.dtb.1))?;
        if let Some(pc) = self.pc {
            succeeds("SET_BOOT_CONTEXT", vm.boot_context(uapi::PC, pc))?;
        }
        let vcpus = self
            .vcpus
            .iter()
            .map(|&id| {
                let vcpu = succeeds("vCPU", vm.vcpu(id))?;
                let page = succeeds("mmap of the run page", vcpu.map(1))?;
                Ok((vcpu, page))
            })
            .collect::<Found<Vec<_>>>()?;
        Ok(Made { vm, vcpus, memory, region })
    }

    /// Makes it and starts it.
    pub fn start(&self, bench: &Bench) -> Found<Made> {
        let made = self.make(bench)?;
        succeeds("START", made.vm.start())?;
        Ok(made)
    }

    /// Makes it; START's answer is what matters.
    pub fn try_start(&self, bench: &Bench) -> Found<Answer> {
        Ok(self.make(bench)?.vm.start())
    }
}

impl Made {
    /// Runs the first vCPU until it exits.
    pub fn run(&self, bench: &Bench) -> Found<Exit> {
        let Some((vcpu, page)) = self.vcpus.first() else {
            return skip("this driver has no vCPUs");
        };
        match run_until_exit(vcpu, page, bench.patience) {
            Ok(true) => Ok(Exit::read(page)),
            Ok(false) => Ok(Exit::Not),
            Err(errno) => differs(format!("VCPU_RUN: {errno}")),
        }
    }

    /// Answers the read that has just come out.
    pub fn answer(&self, value: u64) {
        self.vcpus[0].1.write(page::MMIO_DATA, &value.to_le_bytes());
    }
}

/// Runs until it exits (true) or the time is over (false). EBUSY, which comes around a VM's end, and
/// EINTR, which is our clock, are tried again. EINTR may come with an exit in the page, which the next
/// VCPU_RUN would complete: it counts as one.
pub fn run_until_exit(vcpu: &Vcpu, map: &Mapping, patience: Duration) -> Result<bool, Errno> {
    let _clock = Ticking::start();
    let end = Instant::now() + patience;
    loop {
        map.write(page::EXIT_REASON, &uapi::EXIT_NONE.to_ne_bytes());
        match vcpu.run() {
            Ok(_) => return Ok(true),
            Err(Errno(libc::EINTR)) if map.u32(page::EXIT_REASON) != uapi::EXIT_NONE => {
                return Ok(true);
            }
            Err(Errno(libc::EINTR | libc::EBUSY)) if Instant::now() < end => {}
            Err(Errno(libc::EINTR)) => return Ok(false),
            Err(errno) => return Err(errno),
        }
    }
}

/// VCPU_RUN that should fail. Our clock gets it back with EINTR where it runs instead; that counts once it
/// has gone on for a second, because a tick may come before a slow answer.
pub fn failing_run(vcpu: &Vcpu) -> Answer {
    let _clock = Ticking::start();
    let end = Instant::now() + Duration::from_secs(1);
    loop {
        match vcpu.run() {
            Err(Errno(libc::EINTR)) if Instant::now() < end => {}
            answer => return answer,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Not => write!(f, "VCPU_RUN is not back in time"),
            Self::Mmio { address, len, write, .. } => {
                let what = if *write { "a store" } else { "a load" };
                write!(f, "{what} of {len} bytes at {address:#x}")
            }
            Self::Status { status, kind } => write!(f, "status {status}, exit type {kind}"),
            Self::Fault { attempt } => {
                write!(f, "a page fault with {}", Errno(attempt.saturating_neg()))
            }
            Self::Other(reason) => write!(f, "exit reason {reason}"),
        }
    }
}

impl Exit {
    /// What the page tells.
    pub fn read(map: &Mapping) -> Self {
        match map.u32(page::EXIT_REASON) {
            uapi::EXIT_MMIO => Self::Mmio {
                address: map.u64(page::MMIO_ADDRESS),
                len: map.u32(page::MMIO_LEN),
                write: map.read::<1>(page::MMIO_IS_WRITE)[0] != 0,
                data: u64::from_le_bytes(map.read(page::MMIO_DATA)),
            },
            uapi::EXIT_STATUS => Self::Status {
                status: map.u32(page::STATUS),
                kind: u16::from_ne_bytes(map.read(page::EXIT_TYPE)),
            },
            uapi::EXIT_PAGE_FAULT => {
                Self::Fault { attempt: i32::from_ne_bytes(map.read(page::FAULT_ATTEMPT)) }
            }
            other => Self::Other(other),
        }
    }
}
