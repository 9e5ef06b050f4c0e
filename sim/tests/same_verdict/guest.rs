// SPDX-License-Identifier: Apache-2.0
//! A VM as a config, and the same VM as the driver's calls.

use std::ffi::c_void;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use gunyah::uapi::{DtbConfig, UserMemoryRegion};
use gunyah_sim::caller::Caller;
use gunyah_sim::engine::Access;
use gunyah_sim::model::dialect::Dialect;
use gunyah_sim::model::{Model, Settings, StartStep};
use gunyahd::check::{check, Options, Report};
use gunyahd::plan::Host;
use nix::errno::Errno;
use nix::sys::mman::{mmap_anonymous, munmap, MapFlags, ProtFlags};

pub const BASE: u64 = 0x8000_0000;
pub const SIZE: u64 = 4 << 20;
/// Of memory, where a config says nothing else.
pub const MAIN_LABEL: u32 = 0;

/// A vendor partition of one test's own, removed at its end.
pub struct Vendor(PathBuf);

impl Vendor {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("same-verdict-{}-{number}", std::process::id());
        let vendor = Self(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(&vendor.0).unwrap();
        // The first page of an arm64 Image that takes 64 KiB.
        let mut image = vec![0; 4096];
        image[16..24].copy_from_slice(&0x1_0000u64.to_le_bytes());
        image[24] = 0b1010;
        image[56..60].copy_from_slice(b"ARM\x64");
        vendor.file("Image", &image);
        vendor
    }

    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Writes the config of a VM with these keys, and says what `gunyahd check` finds in it.
    pub fn check(&self, keys: &str) -> Report {
        let text = format!(r#"{{ "name": "vm", "kernel": {{ "path": "/Image" }}, {keys} }}"#);
        let file = self.file("vm.json", text.as_bytes());
        let (host, root) = (Host::PAGES_4K, Some(self.0.clone()));
        let kernel = Some(gunyah::Dialect::Ack61);
        check(&Options { paths: vec![file], dtb: false, json: false, host, kernel, root })
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Every sentence of a report, problems and warnings alike.
pub fn sentences(report: &Report) -> Vec<String> {
    let problems = report.problems.iter().map(ToString::to_string);
    let warnings = report.vms.iter().flat_map(|vm| &vm.warnings);
    problems.chain(warnings.map(ToString::to_string)).collect()
}

/// Memory of this process.
pub struct Memory {
    at: NonNull<c_void>,
    length: usize,
}

impl Memory {
    pub fn new(bytes: u64) -> Self {
        let length = usize::try_from(bytes).unwrap();
        let whole = length.next_multiple_of(4096).max(4096);
        // SAFETY: a fresh private mapping, unmapped on drop.
        let at = unsafe {
            mmap_anonymous(
                None,
                NonZeroUsize::new(whole).unwrap(),
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_PRIVATE,
            )
        }
        .unwrap();
        Self { at, length: whole }
    }

    pub fn address(&self) -> u64 {
        self.at.as_ptr() as u64
    }

    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let me = Caller::of_thread(nix::unistd::gettid().as_raw()).unwrap();
        me.write_bytes(self.address() + offset, bytes).unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: unmaps what new() mapped.
        unsafe { munmap(self.at, self.length) }.unwrap();
    }
}

/// A region as the driver is told of it.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    pub label: u32,
    pub base: u64,
    pub size: u64,
    pub flags: u32,
}

/// What the driver is told of a VM, and of which blob.
#[derive(Debug, Clone)]
pub struct Calls {
    pub settings: Settings,
    pub access: Access,
    /// The first is main memory.
    pub regions: Vec<Region>,
    pub dtb_offset: u64,
    pub dtb_size: u64,
    pub blob: Vec<u8>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// START is answered so.
    Start(Errno),
    /// An ioctl before START is answered so.
    Before(Errno),
    /// START never comes back.
    Hangs,
    /// It runs.
    Runs,
}

/// The dialects that the resource manager's ways were seen with, and how each gives memory.
pub const DIALECTS: [(Dialect, Access); 2] =
    [(Dialect::Lkml, Access::Share), (Dialect::Ack61, Access::Lend)];

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value) as u64
}

/// Makes the calls; a further region's pages may be told to be main memory's.
pub fn verdict(calls: &Calls, same_pages: bool) -> Verdict {
    let mut model = Model::new(calls.settings);
    let me = Caller::of_thread(nix::unistd::gettid().as_raw()).unwrap();
    let vm = model.create_vm(me, 0).unwrap();
    let memory: Vec<_> = calls.regions.iter().map(|region| Memory::new(region.size)).collect();
    let room = calls.regions[0].size.saturating_sub(calls.dtb_offset);
    let fits = calls.blob.len().min(usize::try_from(room).unwrap());
    memory[0].put(calls.dtb_offset, &calls.blob[..fits]);
    for (region, own) in calls.regions.iter().zip(&memory) {
        let pages = if same_pages { &memory[0] } else { own };
        let given = UserMemoryRegion {
            label: region.label,
            flags: region.flags,
            guest_phys_addr: region.base,
            memory_size: region.size,
            userspace_addr: pages.address(),
        };
        if let Err(errno) = model.memory(vm, me, address(&given), calls.access) {
            return Verdict::Before(errno);
        }
    }
    let dtb = DtbConfig {
        guest_phys_addr: calls.regions[0].base + calls.dtb_offset,
        size: calls.dtb_size,
    };
    if let Err(errno) = model.set_dtb_config(vm, me, address(&dtb)) {
        return Verdict::Before(errno);
    }
    match model.start(vm) {
        StartStep::Answer(Err(errno)) => Verdict::Start(errno),
        StartStep::Hang => Verdict::Hangs,
        StartStep::Go(_) => Verdict::Runs,
        other => panic!("{other:?}"),
    }
}
