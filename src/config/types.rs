// SPDX-License-Identifier: Apache-2.0
//! What a VM's file says, once it is known to be well formed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic;

/// One VM, as its file describes it. Made only by the parser, so every field keeps its own rules;
/// rules between fields are `plan`'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmConfig {
    /// The file that this came from.
    pub file: PathBuf,
    /// Where each key stands in the file, by its path: `memory.size`, `regions[1].label`.
    pub places: Places,
    /// `name`
    pub name: VmName,
    /// `autostart`: `gunyahd boot` starts it without being asked. Default true.
    pub autostart: bool,
    /// `memory`: the guest's main memory.
    pub memory: MemoryConfig,
    /// `regions`: further labelled ranges.
    pub regions: Vec<RegionConfig>,
    /// `kernel`
    pub kernel: KernelConfig,
    /// `initrd`
    pub initrd: Option<InitrdConfig>,
    /// `dtb`
    pub dtb: DtbConfig,
    /// `vcpus`
    pub vcpus: VcpuConfig,
    /// `console`: the device behind MMIO, only for proxy-scheduled VMs.
    pub console: Option<ConsoleConfig>,
    /// `ready`: how the guest tells that it is ready.
    pub ready: Option<ReadyConfig>,
    /// `start`
    pub start: StartConfig,
    /// `restart`
    pub restart: RestartConfig,
    /// `stop`: how the guest is asked to end. Absent: it cannot be asked, and its VM is closed.
    pub stop: Option<StopConfig>,
    /// `stop_timeout`: how long a guest may take to end by itself before its VM is closed. Default 10 s.
    pub stop_timeout: Duration,
}

impl VmConfig {
    /// Where `key` stands in the file, or else the nearest key around it.
    pub fn place(&self, key: &str) -> diagnostic::Place {
        let Place { line, column } = self.places.of(key);
        diagnostic::Place {
            file: self.file.clone(),
            line,
            column,
            key: key.to_owned(),
        }
    }

    /// Pages that its regions take of the pools, by page size in bytes, where each gets the backing that
    /// it would like best. `huge_page`: the size where the file names none.
    pub fn huge_pages(&self, huge_page: u64) -> BTreeMap<u64, u64> {
        let memory = &self.memory;
        let main = (memory.size, memory.page_size, memory.backing.first());
        let further = self
            .regions
            .iter()
            .map(|region| (region.size, region.page_size, region.backing.first()));
        let mut pages = BTreeMap::new();
        for (size, page_size, backing) in std::iter::once(main).chain(further) {
            let page = page_size.unwrap_or(huge_page);
            // What is left over is made of base pages.
            if backing == Some(&Backing::Hugetlb) && size >= page {
                *pages.entry(page).or_insert(0) += size / page;
            }
        }
        pages
    }
}

/// A VM's name: 1 to 31 bytes of `[a-z0-9_-]`, first one a letter. Short, because the resource
/// manager limits `image-name`; no dots, because property names are split at them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmName(String);

impl VmName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 31;

    /// `None` if `text` is not a VM name.
    pub fn new(text: &str) -> Option<Self> {
        let first = text.bytes().next()?;
        let rest_ok = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
        (first.is_ascii_lowercase() && rest_ok && text.len() <= Self::MAX_LEN)
            .then(|| Self(text.to_owned()))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a file, both counted from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// Where the keys of a file stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(pub BTreeMap<String, Place>);

impl Places {
    /// The place of `key`, or of the nearest key above it that the file has (`memory` for an absent
    /// `memory.size`), or the file's start.
    pub fn of(&self, key: &str) -> Place {
        let mut key = key;
        loop {
            if let Some(place) = self.0.get(key) {
                return *place;
            }
            match key.rfind(['.', '[']) {
                Some(at) => key = &key[..at],
                None => return Place { line: 1, column: 1 },
            }
        }
    }
}

/// What host pages a region is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backing {
    /// Pages of the reserved huge page pool.
    Hugetlb,
    /// A memfd with huge-page advice.
    Thp,
    /// Ordinary pages.
    Base,
}

impl Backing {
    /// The word in config and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Backing::Hugetlb => "hugetlb",
            Backing::Thp => "thp",
            Backing::Base => "base",
        }
    }
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the host keeps access to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Access {
    /// Main memory is lent where the dialect can lend, else shared; other regions are shared.
    Auto,
    /// The host keeps access.
    Share,
    /// The host loses access.
    Lend,
}

/// What the guest may do with a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Permissions {
    /// `r`
    pub read: bool,
    /// `w`
    pub write: bool,
    /// `x`
    pub execute: bool,
}

impl Permissions {
    /// `rwx`, what main memory always has.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        execute: true,
    };
}

impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (set, letter) in [(self.read, "r"), (self.write, "w"), (self.execute, "x")] {
            if set {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

/// `memory`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryConfig {
    /// Guest address of the first byte. Default 0x8000_0000.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Label of its region. Default 0.
    pub label: u32,
    /// Kinds of backing, best first. Default `["hugetlb"]`.
    pub backing: Vec<Backing>,
    /// Huge page size in bytes, for `hugetlb`. Default: the kernel's own default.
    pub page_size: Option<u64>,
    /// Default auto.
    pub access: Access,
    /// Populate all pages before the start. Default true.
    pub prefault: bool,
}

impl MemoryConfig {
    /// Default guest address, where arm64 VMMs for Gunyah put memory.
    pub const BASE: u64 = 0x8000_0000;
}

/// One of `regions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegionConfig {
    /// Names the region to the driver and the resource manager.
    pub label: u32,
    /// Guest address of the first byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// Default auto.
    pub access: Access,
    /// `flags`. Default `rw`.
    pub flags: Permissions,
    /// Kinds of backing, best first. Default `["base"]`.
    pub backing: Vec<Backing>,
    /// Huge page size in bytes, for `hugetlb`.
    pub page_size: Option<u64>,
    /// A file whose bytes the region begins with.
    pub file: Option<PathBuf>,
}

impl RegionConfig {
    /// Default permissions.
    pub const FLAGS: Permissions = Permissions {
        read: true,
        write: true,
        execute: false,
    };
}

/// How the kernel file is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFormat {
    /// By its first bytes.
    Auto,
    /// An arm64 `Image`.
    Image,
    /// An ELF64 executable.
    Elf,
    /// A gzip'ed `Image`.
    Gzip,
}

/// `kernel`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelConfig {
    /// The file.
    pub path: PathBuf,
    /// Default auto.
    pub format: KernelFormat,
    /// Bytes from the base of main memory to where the kernel's own text offset counts from.
    pub offset: Option<u64>,
    /// `/chosen/bootargs`. Default empty.
    pub cmdline: String,
}

/// `initrd`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitrdConfig {
    /// The file.
    pub path: PathBuf,
    /// Bytes from the base of main memory.
    pub offset: Option<u64>,
}

/// `dtb`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DtbConfig {
    /// A given devicetree; absent: generated.
    pub path: Option<PathBuf>,
    /// Bytes left after the devicetree for the resource manager's overlay. Default 64 KiB.
    pub room: u64,
    /// Bytes from the base of main memory.
    pub offset: Option<u64>,
}

impl DtbConfig {
    /// Default room in bytes.
    pub const ROOM: u64 = 64 << 10;
}

impl Default for DtbConfig {
    fn default() -> Self {
        Self {
            path: None,
            room: Self::ROOM,
            offset: None,
        }
    }
}

/// Who gives a VM's vCPUs their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// The hypervisor.
    Hypervisor,
    /// A thread of the worker, in VCPU_RUN.
    Proxy,
}

/// `vcpus`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VcpuConfig {
    /// How many. Default 1.
    pub count: u32,
    /// Default hypervisor.
    pub scheduling: Scheduling,
    /// Host CPUs: for `proxy`, one list a vCPU (or one list for all) that its thread may run on; for
    /// `hypervisor`, the one physical CPU of each vCPU (`affinity-map`).
    pub affinity: Vec<Vec<u32>>,
    /// Niceness of proxy vCPU threads, -20 to 19. Default 0.
    pub nice: i8,
}

impl Default for VcpuConfig {
    fn default() -> Self {
        Self {
            count: 1,
            scheduling: Scheduling::Hypervisor,
            affinity: Vec::new(),
            nice: 0,
        }
    }
}

/// The console's model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleDevice {
    /// Arm's PL011.
    Pl011,
    /// The 16550 of PCs, registers a byte apart.
    Ns16550,
}

impl ConsoleDevice {
    /// Bytes of the register frame: a PL011 has a page (Arm DDI 0183), a 16550 what devicetrees give it.
    pub fn frame(self) -> u64 {
        match self {
            ConsoleDevice::Pl011 => 0x1000,
            ConsoleDevice::Ns16550 => 0x100,
        }
    }
}

/// `console`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// `device`. Default pl011.
    pub device: ConsoleDevice,
    /// `base`: guest address of its registers. Default 0x0900_0000.
    pub base: u64,
    /// `label` of the doorbell that raises its interrupt. Default 5.
    pub label: u32,
    /// `interrupt`: SPI number of its level interrupt. Default 5.
    pub interrupt: u32,
}

impl Default for ConsoleConfig {
    fn default() -> Self {
        Self {
            device: ConsoleDevice::Pl011,
            base: 0x0900_0000,
            label: 5,
            interrupt: 5,
        }
    }
}

/// `ready`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyConfig {
    /// `console_line`: text that a line of the console contains; `*` stands for any text.
    /// Absent: ready at once.
    pub console_line: Option<String>,
    /// `timeout`: after it the VM counts as failed to become ready. Default 60 s.
    pub timeout: Duration,
}

/// `stop`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopConfig {
    /// `console_line`: what is typed on the guest's console, followed by a carriage return.
    pub console_line: String,
}

impl ReadyConfig {
    /// Default timeout.
    pub const TIMEOUT: Duration = Duration::from_secs(60);
}

/// What a VM waits for in another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// The other VM.
    pub vm: VmName,
    /// Wait for its `ready` (`"x:ready"`), else for its `running`.
    pub ready: bool,
}

impl fmt::Display for Dependency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = if self.ready { ":ready" } else { "" };
        write!(f, "{}{ready}", self.vm)
    }
}

/// `start.property`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PropertyWait {
    /// Property name.
    pub name: String,
    /// The value waited for.
    pub value: String,
    /// After it the VM is `failed`. Default 60 s.
    pub timeout: Duration,
}

impl PropertyWait {
    /// Default timeout.
    pub const TIMEOUT: Duration = Duration::from_secs(60);
}

/// `start`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartConfig {
    /// VMs that must run first.
    pub after: Vec<Dependency>,
    /// A property that must have a value first.
    pub property: Option<PropertyWait>,
    /// Higher starts earlier. Default 0.
    pub priority: i32,
    /// How long `starting` may take. Default 30 s.
    pub timeout: Duration,
}

impl Default for StartConfig {
    fn default() -> Self {
        Self {
            after: Vec::new(),
            property: None,
            priority: 0,
            timeout: Duration::from_secs(30),
        }
    }
}

/// When a VM that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Never.
    Never,
    /// After a crash, a failed start or a dead worker.
    OnFailure,
    /// After any end but a `stop`.
    Always,
}

/// `restart`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestartConfig {
    /// Default on-failure.
    pub policy: RestartPolicy,
    /// Restarts within `window` before the VM is `failed`. Default 5.
    pub max: u32,
    /// Default 10 min.
    pub window: Duration,
    /// Wait before the first restart; doubles each time. Default 1 s.
    pub backoff: Duration,
    /// Longest wait. Default 60 s.
    pub backoff_max: Duration,
}

impl Default for RestartConfig {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::OnFailure,
            max: 5,
            window: Duration::from_secs(10 * 60),
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
        }
    }
}
