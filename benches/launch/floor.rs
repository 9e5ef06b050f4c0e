// SPDX-License-Identifier: Apache-2.0
//! The floor: what no launcher can do without, with nothing around it, in one process on all cores: memory, the
//! files' bytes in it, the driver's calls. The plan and the devicetree are made before, and nothing is checked.

use std::ffi::c_void;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use gunyah::uapi::{self, UserMemoryRegion};
use gunyah::{BootRegister, Gunyah, Vm};
use gunyahd::config::{self, VmConfig};
use gunyahd::dtb::{build, len_max, Seeds};
use gunyahd::image::Images;
use gunyahd::memory;
use gunyahd::plan::{plan, LaunchPlan};
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use nix::unistd::ftruncate;

use crate::guest::Backing;

const DEVICE: &str = "/dev/gunyah";
// include/uapi/asm-generic/mman-common.h.
const MADV_HUGEPAGE: i32 = 14;
const MADV_NOHUGEPAGE: i32 = 15;
const MADV_POPULATE_WRITE: i32 = 23;
const MADV_COLLAPSE: i32 = 25;

const HUGE: usize = 2 << 20;
/// What a thread populates or reads at a time.
const PART: usize = 4 * HUGE;

/// A process that does it when it is told to, on a simulator of its own.
pub struct Floor {
    child: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Floor {
    pub fn start(binaries: &Path, file: &Path, backing: Backing, threads: usize) -> Self {
        let mut child = Command::new(binaries.join("gunyah-sim"))
            .args(["--dialect", backing.dialect().name(), "--rm-entries", "1000000", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["floor", backing.name(), &threads.to_string()])
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (ask, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, ask, answers: BufReader::new(answers) }
    }

    /// How long it takes once.
    pub fn once(&mut self) -> Duration {
        self.begin();
        self.took()
    }

    /// How long the longest of them takes where all begin at once.
    pub fn at_once(floors: &mut [Self]) -> Duration {
        floors.iter_mut().for_each(Self::begin);
        floors.iter_mut().map(Self::took).max().expect("a floor")
    }

    fn begin(&mut self) {
        self.ask.write_all(b"\n").unwrap();
    }

    fn took(&mut self) -> Duration {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        Duration::from_nanos(line.trim().parse().expect("the floor's time"))
    }

    pub fn end(self) {
        let Self { mut child, ask, answers } = self;
        drop((ask, answers));
        assert!(child.wait().unwrap().success());
    }
}

/// In that process: a launch a line.
pub fn run(arguments: &[&str]) {
    let [backing, threads, file] = arguments else { panic!("{arguments:?}") };
    let (backing, threads) = (Backing::of(backing), threads.parse().unwrap());
    let config = config::load(Path::new(file)).unwrap();
    let images = Images::open(&config, None).unwrap();
    let host = memory::host(backing.dialect()).with_reserve(backing == Backing::Reserve);
    let plan = plan(&config, &images.info, len_max(&config, None), &host).unwrap();
    let blob = build(&config, None, &plan, &Seeds::default()).unwrap().blob;
    drop(images);
    let launch = Launch { config, plan, blob, backing, threads };
    let size = launch.size();
    // What a reserve is: there before, and used.
    let mut kept = (backing == Backing::Reserve).then(|| launch.map());
    if let Some(memory) = &mut kept {
        launch.populate(memory);
        memory.bytes(0, size).fill(1);
    }
    for _ in std::io::stdin().lines() {
        let begin = Instant::now();
        let running = launch.once(kept.take());
        let took = begin.elapsed().as_nanos();
        let Running { vm, memory } = running;
        drop(vm);
        kept = (backing == Backing::Reserve).then_some(memory);
        // Only then: what is given back now would be in the next one's time.
        println!("{took}");
    }
}

struct Launch {
    config: VmConfig,
    plan: LaunchPlan,
    blob: Vec<u8>,
    backing: Backing,
    threads: usize,
}

struct Running {
    vm: Vm,
    memory: Memory,
}

/// Main memory, at an address of which a huge page could be.
struct Memory {
    start: NonNull<c_void>,
    mapped: (NonNull<c_void>, usize),
    _memfd: OwnedFd,
}

// SAFETY: threads only take parts of it that do not overlap.
unsafe impl Sync for Memory {}

impl Memory {
    fn at(&self, offset: usize) -> *mut c_void {
        self.start.as_ptr().wrapping_byte_add(offset)
    }

    fn advise(&self, offset: usize, size: usize, advice: i32) -> i32 {
        // SAFETY: the callers' ranges are of this mapping, and the advice changes no byte of it.
        unsafe { libc::madvise(self.at(offset), size, advice) }
    }

    #[allow(clippy::mut_from_ref)] // Parts do not overlap.
    fn bytes(&self, offset: usize, size: usize) -> &mut [u8] {
        // SAFETY: mapped, and no two threads take the same part.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset).cast::<u8>(), size) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, and nobody uses it any more.
        unsafe { munmap(self.mapped.0, self.mapped.1).unwrap() };
    }
}

impl Launch {
    fn size(&self) -> usize {
        usize::try_from(self.plan.main().size).unwrap()
    }

    fn once(&self, kept: Option<Memory>) -> Running {
        let files: Vec<(File, usize, usize)> = self.files();
        for (file, _, size) in &files {
            let size = i64::try_from(*size).unwrap();
            posix_fadvise(file.as_fd(), 0, size, PosixFadviseAdvice::POSIX_FADV_WILLNEED).unwrap();
        }
        let memory = match kept {
            Some(memory) => {
                // Large: what a cache holds is not written past it.
                let part = self.size() / (4 * self.threads);
                self.share(self.size(), part, |at, size| memory.bytes(at, size).fill(0));
                memory
            }
            None => {
                let memory = self.map();
                if self.backing != Backing::Pinned {
                    self.populate(&memory);
                }
                memory
            }
        };
        for (file, offset, size) in &files {
            self.share(*size, PART, |at, part| {
                let from = u64::try_from(at).unwrap();
                file.read_exact_at(memory.bytes(offset + at, part), from).unwrap();
            });
        }
        let main = self.plan.main();
        let offset = usize::try_from(self.plan.dtb.base - main.base).unwrap();
        memory.bytes(offset, self.blob.len()).copy_from_slice(&self.blob);
        Running { vm: self.call(&memory), memory }
    }

    /// With the place of each in memory.
    fn files(&self) -> Vec<(File, usize, usize)> {
        let main = self.plan.main();
        let place = |at: u64| usize::try_from(at - main.base).unwrap();
        let segment = &self.plan.kernel.segments[0];
        let initrd = self.plan.initrd.unwrap();
        let length = |size: u64| usize::try_from(size).unwrap();
        let initrd_path = &self.config.initrd.as_ref().unwrap().path;
        vec![
            (
                File::open(&self.config.kernel.path).unwrap(),
                place(segment.address),
                length(segment.file_size),
            ),
            (File::open(initrd_path).unwrap(), place(initrd.base), length(initrd.size)),
        ]
    }

    /// `work` with every part of `size` bytes, `part` bytes at a time, by all threads.
    fn share(&self, size: usize, part: usize, work: impl Fn(usize, usize) + Sync) {
        let part = if self.threads == 1 { size } else { part };
        let threads = self.threads.min(size.div_ceil(part));
        let (next, all_up) = (AtomicUsize::new(0), Barrier::new(threads));
        let run = || {
            // One that begins while another populates would wait for the process's addresses.
            all_up.wait();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed) * part;
                if at >= size {
                    break;
                }
                work(at, part.min(size - at));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(run);
            }
            run();
        });
    }

    fn map(&self) -> Memory {
        let mut flags = MFdFlags::MFD_CLOEXEC;
        if self.backing == Backing::Hugetlb {
            flags |= MFdFlags::MFD_HUGETLB;
        }
        let memfd = memfd_create(c"floor", flags).unwrap();
        ftruncate(&memfd, i64::try_from(self.size()).unwrap()).unwrap();
        let room = NonZeroUsize::new(self.size() + HUGE).unwrap();
        let none = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: new mappings, the first at an address of the kernel's choice, the second inside it.
        unsafe {
            let around =
                nix::sys::mman::mmap_anonymous(None, room, ProtFlags::PROT_NONE, none).unwrap();
            let at = around.addr().get().next_multiple_of(HUGE);
            let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            let length = NonZeroUsize::new(self.size()).unwrap();
            let shared = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
            let start = mmap(NonZeroUsize::new(at), length, protection, shared, &memfd, 0).unwrap();
            Memory { start, mapped: (around, room.get()), _memfd: memfd }
        }
    }

    fn populate(&self, memory: &Memory) {
        let folios = matches!(self.backing, Backing::Thp | Backing::Reserve);
        // Refused by a pool's pages, which know no other.
        let advice = if folios { MADV_HUGEPAGE } else { MADV_NOHUGEPAGE };
        memory.advise(0, self.size(), advice);
        self.share(self.size(), PART, |at, size| {
            if folios {
                for first in (at..at + size).step_by(HUGE) {
                    assert_eq!(memory.advise(first, 1, MADV_POPULATE_WRITE), 0);
                }
                memory.advise(at, size, MADV_COLLAPSE);
            }
            assert_eq!(memory.advise(at, size, MADV_POPULATE_WRITE), 0);
        });
    }

    fn call(&self, memory: &Memory) -> Vm {
        let main = self.plan.main();
        let vm = Gunyah::open(Path::new(DEVICE)).unwrap().create_vm().unwrap();
        let region = UserMemoryRegion {
            label: main.label,
            flags: uapi::MEM_ALLOW_READ | uapi::MEM_ALLOW_WRITE | uapi::MEM_ALLOW_EXEC,
            guest_phys_addr: main.base,
            memory_size: main.size,
            userspace_addr: u64::try_from(memory.start.addr().get()).unwrap(),
        };
        // SAFETY: the memory is unmapped after the VM is closed, and nobody touches it before.
        unsafe { vm.lend(&region) }.unwrap();
        let (base, size) = (self.plan.dtb.base, self.plan.dtb.size);
        vm.set_dtb_config(base, size).unwrap();
        if self.backing.dialect().pages_on_demand() {
            vm.set_boot_context(BootRegister::Pc, self.plan.kernel.entry).unwrap();
            vm.set_boot_context(BootRegister::X(0), base).unwrap();
        }
        vm.start().unwrap();
        vm
    }
}
