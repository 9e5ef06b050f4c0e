// SPDX-License-Identifier: Apache-2.0
//! How long a launch on huge pages takes, against the floor: the same memory, files and calls with nothing around
//! them, in one process. Both under the simulator, so that its cost is in both.
//!
//! `cargo xtask bench` runs it. What it prints are medians of one run, and their ratios.

#![allow(clippy::unwrap_used)] // What fails here ends the benchmark.

use std::ffi::c_void;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use gunyah::uapi;
use gunyahd::config::{self, VmConfig};
use gunyahd::dtb::{build, len_max, Seeds};
use gunyahd::image::Images;
use gunyahd::memory;
use gunyahd::plan::{plan, LaunchPlan};
use nix::errno::Errno;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::mman::{mmap, munmap, MapFlags, ProtFlags};
use nix::unistd::ftruncate;
use serde_json::{json, Value};

const ROUNDS: usize = 30;

/// Bytes of the kernel and of the initrd.
const KERNEL: usize = 16 << 20;
const INITRD: usize = 8 << 20;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

const DEVICE: &str = "/dev/gunyah";
/// include/uapi/asm-generic/mman-common.h.
const MADV_POPULATE_WRITE: i32 = 23;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, word, config] = arguments.as_slice() {
        if word == "floor" {
            return floor(Path::new(config));
        }
    }
    let here = Path::new(env!("CARGO_BIN_EXE_gunyahd")).parent().unwrap();
    let binaries = std::env::var_os("GUNYAHD_BIN_DIR").map_or(here.to_owned(), PathBuf::from);
    if !binaries.join("gunyah-sim").is_file() {
        eprintln!("no gunyah-sim beside gunyahd; cargo xtask bench makes it");
        std::process::exit(1);
    }
    let dir = std::env::temp_dir().join(format!("gunyahd-bench-{}", std::process::id()));
    fs::create_dir_all(dir.join("config")).unwrap();
    println!("{ROUNDS} launches each; kernel 16 MiB, initrd 8 MiB; times are medians\n");
    println!(
        "{:>8} {:>14} {:>14} {:>8} {:>12}",
        "memory", "gunyahd", "floor", "ratio", "difference"
    );
    for megabytes in [64, 128, 256] {
        if huge_bytes() < megabytes << 20 {
            println!("{megabytes:>4} MiB: not enough huge pages are free");
        } else {
            launches(&binaries, &dir, megabytes);
        }
    }
    programs(&binaries);
    fs::remove_dir_all(&dir).unwrap();
}

/// Bytes of free huge pages of the default size.
fn huge_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let value = |key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    value("HugePages_Free:") * value("Hugepagesize:") * 1024
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn launches(binaries: &Path, dir: &Path, megabytes: u64) {
    let mut kernel = vec![0x5a; KERNEL];
    kernel[..4].copy_from_slice(&0x1400_0000u32.to_le_bytes());
    kernel[8..16].fill(0);
    kernel[16..24].copy_from_slice(&u64::try_from(KERNEL).unwrap().to_le_bytes());
    kernel[24..32].copy_from_slice(&0xau64.to_le_bytes());
    kernel[32..56].fill(0);
    kernel[56..60].copy_from_slice(b"ARM\x64");
    fs::write(dir.join("Image"), kernel).unwrap();
    fs::write(dir.join("initrd"), vec![0xa5; INITRD]).unwrap();
    let file = dir.join("config/vm.json");
    let vm = json!({
        "name": "vm",
        "autostart": false,
        "memory": { "size": format!("{megabytes}M"), "backing": ["hugetlb"] },
        "kernel": { "path": dir.join("Image") },
        "initrd": { "path": dir.join("initrd") },
    });
    fs::write(&file, vm.to_string()).unwrap();

    let host = Host::boot(binaries, dir);
    let mut ours = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        host.order("start");
        ours.push(begin.elapsed());
        host.order("stop");
    }
    drop(host);

    let output = Command::new(binaries.join("gunyah-sim"))
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .arg("floor")
        .arg(&file)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let floor = text.lines().map(|line| Duration::from_nanos(line.parse().unwrap())).collect();
    let (ours, floor) = (median(ours), median(floor));
    println!(
        "{megabytes:>4} MiB {:>11.2} ms {:>11.2} ms {:>8.2} {:>9.2} ms",
        ours.as_secs_f64() * 1e3,
        floor.as_secs_f64() * 1e3,
        ours.as_secs_f64() / floor.as_secs_f64(),
        (ours.as_secs_f64() - floor.as_secs_f64()) * 1e3,
    );
}

/// gunyahd on the simulator.
struct Host {
    simulator: Child,
    socket: PathBuf,
}

impl Host {
    fn boot(binaries: &Path, dir: &Path) -> Self {
        let socket = dir.join("socket");
        let simulator = Command::new(binaries.join("gunyah-sim"))
            .arg("--")
            .arg(binaries.join("gunyahd"))
            .arg("boot")
            .arg("--config-dir")
            .arg(dir.join("config"))
            .arg("--socket")
            .arg(&socket)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let host = Self { simulator, socket };
        let begin = Instant::now();
        while UnixStream::connect(&host.socket).is_err() {
            assert!(begin.elapsed() < PATIENCE, "gunyahd does not listen");
            std::thread::sleep(Duration::from_millis(1));
        }
        host
    }

    fn order(&self, op: &str) {
        let request = json!({ "v": 1, "op": op, "vm": "vm", "wait": true });
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let wanted = if op == "start" { "running" } else { "stopped" };
        assert_eq!(answer["done"]["state"], wanted, "{answer}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The simulator hands it on, and ends with gunyahd.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.simulator.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.simulator.wait().unwrap();
    }
}

/// What no launcher can do without, timed: memory, the files' bytes in it, the driver's calls. The
/// plan and the devicetree are made before, and nothing is checked.
fn floor(file: &Path) {
    let config = config::load(file).unwrap();
    let images = Images::open(&config).unwrap();
    let host = memory::host(gunyah::Dialect::Ack61);
    let plan = plan(&config, &images.info, len_max(&config, None), &host).unwrap();
    let blob = build(&config, None, &plan, &Seeds::default()).unwrap().blob;
    drop(images);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let running = bare(&config, &plan, &blob);
        println!("{}", begin.elapsed().as_nanos());
        drop(running);
    }
}

/// One launch's memory and fds, to be closed with it.
struct Bare {
    start: NonNull<c_void>,
    size: usize,
    _fds: Vec<OwnedFd>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        // SAFETY: the mapping that `bare` made, and nobody uses it any more.
        unsafe { munmap(self.start, self.size).unwrap() };
    }
}

fn bare(config: &VmConfig, plan: &LaunchPlan, blob: &[u8]) -> Bare {
    let main = plan.main();
    let size = usize::try_from(main.size).unwrap();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB;
    let memory = memfd_create(c"floor", flags).unwrap();
    ftruncate(&memory, i64::try_from(main.size).unwrap()).unwrap();
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let length = NonZeroUsize::new(size).unwrap();
    let shared = MapFlags::MAP_SHARED;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { mmap(None, length, protection, shared, &memory, 0).unwrap() };
    // SAFETY: the mapping just made; the advice changes no byte of it.
    let populated = unsafe { libc::madvise(start.as_ptr(), size, MADV_POPULATE_WRITE) };
    assert_eq!(populated, 0);
    // SAFETY: as above, and nothing else points to it.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.as_ptr().cast::<u8>(), size) };
    let mut place = |base: u64, length: usize| {
        let from = usize::try_from(base - main.base).unwrap();
        // SAFETY: the plan's pieces do not overlap.
        unsafe { &mut *std::ptr::from_mut(&mut bytes[from..from + length]) }
    };
    let initrd = plan.initrd.as_ref().unwrap();
    File::open(&config.kernel.path).unwrap().read_exact(place(plan.kernel.entry, KERNEL)).unwrap();
    File::open(&config.initrd.as_ref().unwrap().path)
        .unwrap()
        .read_exact(place(initrd.base, INITRD))
        .unwrap();
    place(plan.dtb.base, blob.len()).copy_from_slice(blob);

    let device = OpenOptions::new().read(true).write(true).open(DEVICE).unwrap();
    let vm = ioctl(&device, uapi::CREATE_VM, 0);
    // SAFETY: CREATE_VM's answer is a new fd.
    let vm = unsafe { OwnedFd::from_raw_fd(vm) };
    let region = uapi::UserMemoryRegion {
        label: main.label,
        flags: uapi::MEM_ALLOW_READ | uapi::MEM_ALLOW_WRITE | uapi::MEM_ALLOW_EXEC,
        guest_phys_addr: main.base,
        memory_size: main.size,
        userspace_addr: u64::try_from(start.as_ptr().addr()).unwrap(),
    };
    ioctl(&vm, uapi::VM_ANDROID_LEND_USER_MEM, address(&region));
    let dtb = uapi::GuestRange { guest_phys_addr: plan.dtb.base, size: plan.dtb.size };
    ioctl(&vm, uapi::VM_SET_DTB_CONFIG, address(&dtb));
    ioctl(&vm, uapi::VM_START, 0);
    Bare { start, size, _fds: vec![vm, memory] }
}

fn address<T>(argument: &T) -> u64 {
    u64::try_from(std::ptr::from_ref(argument).addr()).unwrap()
}

fn ioctl(fd: &impl AsRawFd, command: u32, argument: u64) -> i32 {
    // SAFETY: the argument is 0 or the address of the struct that goes with the command.
    let answer = unsafe { libc::syscall(libc::SYS_ioctl, fd.as_raw_fd(), command, argument) };
    Errno::result(answer)
        .and_then(|value| i32::try_from(value).map_err(|_| Errno::EOVERFLOW))
        .unwrap()
}

/// Start-up of the programs, against a program that does nothing.
fn programs(binaries: &Path) {
    let time = |program: &Path, arguments: &[&str]| {
        let runs = (0..ROUNDS).map(|_| {
            let begin = Instant::now();
            let output = Command::new(program).args(arguments).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            begin.elapsed()
        });
        median(runs.collect())
    };
    let floor = time(Path::new("/bin/true"), &[]);
    println!();
    for program in ["gunyahd", "gunyahctl"] {
        let took = time(&binaries.join(program), &["--version"]);
        println!(
            "{program} --version: {:.2} ms, /bin/true {:.2} ms, ratio {:.2}",
            took.as_secs_f64() * 1e3,
            floor.as_secs_f64() * 1e3,
            took.as_secs_f64() / floor.as_secs_f64(),
        );
    }
}
