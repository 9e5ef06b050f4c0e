// SPDX-License-Identifier: Apache-2.0
//! `raw_calls SCENARIO [lend]`: the driver's calls with nothing in between. Prints what each answers.
//!
//! It is what the tests run under `gunyah-sim`, and it can be pushed to a device as it is.

use std::ffi::CString;
use std::process::exit;
use std::sync::atomic::{AtomicBool, Ordering};

use gunyah::uapi::{self, FunctionDesc, FunctionVcpu, GuestRange, UserMemoryRegion};
use nix::errno::Errno;
use vm_fdt::FdtWriter;

const BASE: u64 = 0x8000_0000;
const PAGES: u64 = 64;
const DTB_PAGE: u64 = 48;

fn page() -> u64 {
    gunyah_sim::page_size()
}

fn result(value: libc::c_int) -> Result<i32, Errno> {
    Errno::result(value)
}

fn open(path: &str) -> Result<i32, Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: a NUL-terminated path.
    result(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })
}

fn ioctl(fd: i32, command: u32, argument: u64) -> Result<i32, Errno> {
    // SAFETY: the argument is 0 or the address of the struct that goes with the command.
    let value = Errno::result(unsafe { libc::syscall(libc::SYS_ioctl, fd, command, argument) })?;
    i32::try_from(value).map_err(|_| Errno::EOVERFLOW)
}

fn with<T>(fd: i32, command: u32, argument: &T) -> Result<i32, Errno> {
    ioctl(fd, command, std::ptr::from_ref(argument) as u64)
}

fn close(fd: i32) {
    // SAFETY: a descriptor that nothing here uses any more.
    unsafe { libc::close(fd) };
}

fn told(what: &str, value: Result<i32, Errno>) -> Result<i32, Errno> {
    match value {
        // Descriptors' numbers are nobody's business.
        Ok(value) if value > 2 && !what.contains("size") => println!("{what}: fd"),
        Ok(value) => println!("{what}: {value}"),
        Err(errno) => println!("{what}: {errno:?}"),
    }
    value
}

fn memfd(length: u64) -> i32 {
    // SAFETY: a NUL-terminated name; the descriptor is kept until the end.
    unsafe {
        let fd = libc::memfd_create(c"guest".as_ptr(), libc::MFD_CLOEXEC);
        libc::ftruncate(fd, i64::try_from(length).unwrap_or(0));
        fd
    }
}

fn map(fd: i32, length: u64) -> u64 {
    // SAFETY: a new mapping at an address of the kernel's choice.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            usize::try_from(length).unwrap_or(0),
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd,
            0,
        )
    };
    assert_ne!(at, libc::MAP_FAILED, "mmap: {}", Errno::last());
    at as u64
}

/// The least devicetree that the resource manager takes.
fn devicetree() -> Result<Vec<u8>, vm_fdt::Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_u32("interrupt-parent", 1)?;
    let chosen = fdt.begin_node("chosen")?;
    fdt.end_node(chosen)?;
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    let cpu = fdt.begin_node("cpu@0")?;
    fdt.property_string("device_type", "cpu")?;
    fdt.property_u32("reg", 0)?;
    fdt.end_node(cpu)?;
    fdt.end_node(cpus)?;
    let intc = fdt.begin_node("interrupt-controller@3fff0000")?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_phandle(1)?;
    fdt.end_node(intc)?;
    let config = fdt.begin_node("gunyah-vm-config")?;
    fdt.property_string("image-name", "raw-calls")?;
    let memory = fdt.begin_node("memory")?;
    fdt.property_u64("base-address", BASE)?;
    fdt.end_node(memory)?;
    let vcpus = fdt.begin_node("vcpus")?;
    fdt.property_string("affinity", "proxy")?;
    fdt.end_node(vcpus)?;
    fdt.end_node(config)?;
    fdt.end_node(root)?;
    fdt.finish()
}

struct Vm {
    device: i32,
    fd: i32,
    vcpu: i32,
    page: u64,
    region: UserMemoryRegion,
}

/// A VM that is ready for START.
fn ready() -> Vm {
    let device = told("open", open("/dev/gunyah")).unwrap_or_else(|_| exit(1));
    let fd = told("create", ioctl(device, uapi::CREATE_VM, 0)).unwrap_or_else(|_| exit(1));
    let memory = map(memfd(PAGES * page()), PAGES * page());
    let blob = devicetree().unwrap_or_default();
    let at = memory + DTB_PAGE * page();
    // SAFETY: the mapping just made is larger than the blob's place in it.
    unsafe { std::ptr::copy_nonoverlapping(blob.as_ptr(), at as *mut u8, blob.len()) };
    let region = UserMemoryRegion {
        label: 1,
        flags: 7,
        guest_phys_addr: BASE,
        memory_size: PAGES * page(),
        userspace_addr: memory,
    };
    // A second word `lend`: as drivers of 6.6 and later want it.
    let call = match std::env::args().nth(2).as_deref() {
        Some("lend") => uapi::VM_ANDROID_LEND_USER_MEM,
        _ => uapi::VM_SET_USER_MEM_REGION,
    };
    let _ = told("region", with(fd, call, &region));
    let dtb =
        GuestRange { guest_phys_addr: BASE + DTB_PAGE * page(), size: (PAGES - DTB_PAGE) * page() };
    let _ = told("dtb", with(fd, uapi::VM_SET_DTB_CONFIG, &dtb));
    let argument = FunctionVcpu { id: 0 };
    let desc = FunctionDesc {
        kind: uapi::FUNCTION_VCPU,
        arg_size: 4,
        arg: std::ptr::from_ref(&argument) as u64,
    };
    let vcpu = told("vcpu", with(fd, uapi::VM_ADD_FUNCTION, &desc)).unwrap_or_else(|_| exit(1));
    let size = told("mmap-size", ioctl(vcpu, uapi::VCPU_MMAP_SIZE, 0));
    let page = map(vcpu, u64::try_from(size.unwrap_or(0)).unwrap_or(0));
    Vm { device, fd, vcpu, page, region }
}

impl Vm {
    fn start(&self) -> Result<i32, Errno> {
        told("start", ioctl(self.fd, uapi::VM_START, 0))
    }

    fn run(&self) -> Result<i32, Errno> {
        let value = told("run", ioctl(self.vcpu, uapi::VCPU_RUN, 0));
        if value.is_ok() {
            println!(
                "exit: reason {} status {} type {}",
                self.byte(8),
                self.byte(16),
                self.byte(20)
            );
        }
        value
    }

    fn byte(&self, offset: u64) -> u8 {
        // SAFETY: the page is mapped, and the offset is in it.
        unsafe { ((self.page + offset) as *const u8).read_volatile() }
    }

    fn set_immediate_exit(&self, value: u8) {
        // SAFETY: the page is mapped for writing.
        unsafe { (self.page as *mut u8).write_volatile(value) };
    }
}

/// A whole life, up to the exit.
fn life() {
    let vm = ready();
    let _ = vm.start();
    let _ = vm.start();
    let _ = vm.run();
    let _ = vm.run();
    let _ = vm.start();
}

/// START by the first VCPU_RUN.
fn run_first() {
    let vm = ready();
    let _ = vm.run();
}

/// Every mistake that needs no started VM.
fn mistakes() {
    let vm = ready();
    let _ = told("create with 1", ioctl(vm.device, uapi::CREATE_VM, 1));
    let _ = told("unknown on device", ioctl(vm.device, 0x47ff, 0));
    let _ = told("unknown on vm", ioctl(vm.fd, 0x47ff, 0));
    let _ = told("unknown on vcpu", ioctl(vm.vcpu, 0x47ff, 0));
    let region = |change: fn(&mut UserMemoryRegion)| {
        let mut region = vm.region;
        region.label = 2;
        region.guest_phys_addr = 0xa000_0000;
        change(&mut region);
        with(vm.fd, uapi::VM_SET_USER_MEM_REGION, &region)
    };
    let _ = told("same label", region(|region| region.label = 1));
    let _ = told("overlap", region(|region| region.guest_phys_addr = BASE));
    let _ = told("flags", region(|region| region.flags = 0x10));
    let _ = told("size 0", region(|region| region.memory_size = 0));
    let _ = told(
        "overflow",
        region(|region| {
            region.label = 3;
            region.guest_phys_addr = 0_u64.wrapping_sub(page());
        }),
    );
    let _ = told("no memory", region(|region| region.userspace_addr = page()));
    let _ = told("bad pointer", ioctl(vm.fd, uapi::VM_SET_USER_MEM_REGION, 8));
    // 'A' is other drivers' type, too: this one goes to the kernel.
    let _ = told("another file", ioctl(1, uapi::VM_ANDROID_LEND_USER_MEM, 0));
    let text = std::fs::read_to_string("/proc/self/comm").unwrap_or_default();
    println!("other opens: {}", text.trim());
}

/// The VM lives as long as any duplicate of its fd.
fn dup() {
    let vm = ready();
    // SAFETY: a plain duplicate.
    let copy = unsafe { libc::dup(vm.fd) };
    close(vm.fd);
    close(vm.vcpu);
    // SAFETY: the vCPU's page is not used any more.
    unsafe { libc::munmap(vm.page as *mut libc::c_void, usize::try_from(page()).unwrap_or(0)) };
    let _ = told("start on the copy", ioctl(copy, uapi::VM_START, 0));
    close(copy);
    // The same memory again: the first VM must be gone for it.
    let device = vm.device;
    let second = ioctl(device, uapi::CREATE_VM, 0).unwrap_or(-1);
    let _ = told("second region", with(second, uapi::VM_SET_USER_MEM_REGION, &vm.region));
}

/// The vCPU's fd alone holds the VM.
fn vcpu_holds() {
    let vm = ready();
    let _ = vm.start();
    close(vm.fd);
    let _ = vm.run();
}

/// A child has the fds but not the memory.
fn fork() {
    let vm = ready();
    // SAFETY: this program has one thread.
    match unsafe { libc::fork() } {
        0 => {
            let mut region = vm.region;
            region.label = 2;
            region.guest_phys_addr = 0xa000_0000;
            let _ = told("child's region", with(vm.fd, uapi::VM_SET_USER_MEM_REGION, &region));
            // Parent first: its end must not end the VM.
            // SAFETY: waits for the parent by its pid alone.
            while unsafe { libc::getppid() } == parent() {
                std::thread::yield_now();
            }
            let _ = told("child's start", ioctl(vm.fd, uapi::VM_START, 0));
        }
        _ => exit(0),
    }
}

fn parent() -> i32 {
    static PARENT: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
    // SAFETY: takes nothing.
    *PARENT.get_or_init(|| unsafe { libc::getppid() })
}

/// Waits in VCPU_RUN to be killed.
fn wait() {
    let vm = ready();
    let _ = vm.start();
    println!("waiting");
    let _ = vm.run();
}

static SIGNALLED: AtomicBool = AtomicBool::new(false);
static PAGE: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

extern "C" fn on_alarm(_: libc::c_int) {
    SIGNALLED.store(true, Ordering::Relaxed);
    let page = PAGE.load(Ordering::Relaxed);
    if page != 0 {
        // SAFETY: the vCPU's page stays mapped; immediate_exit is its first byte.
        unsafe { (page as *mut u8).write_volatile(1) };
    }
}

fn alarm_with(flags: libc::c_int) {
    // SAFETY: all zero is a valid sigaction to begin with; the handler only stores.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alarm as *const () as usize;
        action.sa_flags = flags;
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
        let soon = libc::itimerval {
            it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
            it_value: libc::timeval { tv_sec: 0, tv_usec: 50_000 },
        };
        libc::setitimer(libc::ITIMER_REAL, &raw const soon, std::ptr::null_mut());
    }
}

/// A signal ends VCPU_RUN; with SA_RESTART it comes again and immediate_exit ends it.
fn signals() {
    let vm = ready();
    let _ = vm.start();
    alarm_with(0);
    let _ = vm.run();
    PAGE.store(vm.page, Ordering::Relaxed);
    alarm_with(libc::SA_RESTART);
    let _ = vm.run();
    println!("signalled: {}", SIGNALLED.load(Ordering::Relaxed));
    vm.set_immediate_exit(0);
    let _ = vm.run();
}

/// A signal comes while START takes its time; the second one works.
fn impatient() {
    let vm = ready();
    alarm_with(0);
    let _ = vm.start();
    let _ = vm.start();
    let _ = vm.run();
}

/// Populating memory, reading a file, and giving memory to a VM, each of which may end half-way.
fn halves() {
    const COUNT: u64 = 8;
    let size = usize::try_from(COUNT * page()).unwrap_or(0);
    let present = |memory: u64| {
        let mut pages = [0u8; 8];
        // SAFETY: a mapping of COUNT pages, and a byte for each of them.
        unsafe { libc::mincore(memory as *mut libc::c_void, size, pages.as_mut_ptr()) };
        pages.iter().filter(|byte| **byte & 1 == 1).count()
    };
    let memory = map(memfd(COUNT * page()), COUNT * page());
    let populate = || {
        // SAFETY: the mapping just made; its bytes stay as they are.
        let value =
            unsafe { libc::madvise(memory as *mut libc::c_void, size, libc::MADV_POPULATE_WRITE) };
        result(value)
    };
    let _ = told("populate", populate());
    println!("present: {}", present(memory));
    let _ = told("populate again", populate());
    println!("present: {}", present(memory));

    let zero = CString::new("/dev/zero").unwrap_or_default();
    let mut bytes = [1u8; 16];
    // SAFETY: a path with its NUL, and a buffer of its length.
    let read = unsafe {
        let fd = libc::open(zero.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        libc::pread(fd, bytes.as_mut_ptr().cast(), bytes.len(), 0)
    };
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    println!("read size: {read}, zeros: {zeros}");

    let device = told("open", open("/dev/gunyah")).unwrap_or_else(|_| exit(1));
    let fd = told("create", ioctl(device, uapi::CREATE_VM, 0)).unwrap_or_else(|_| exit(1));
    let memory = map(memfd(COUNT * page()), COUNT * page());
    let region = UserMemoryRegion {
        label: 1,
        flags: 7,
        guest_phys_addr: BASE,
        memory_size: COUNT * page(),
        userspace_addr: memory,
    };
    for _ in 0..2 {
        let _ = told("region", with(fd, uapi::VM_SET_USER_MEM_REGION, &region));
        println!("present: {}", present(memory));
    }
}

/// How long the last close takes, of a kind: by close, by unmapping, by the end of a child.
fn last_close(kind: &str) {
    let timed = |what: &str, call: &dyn Fn()| {
        let begin = std::time::Instant::now();
        call();
        let late = begin.elapsed() >= std::time::Duration::from_millis(100);
        println!("{what}: {}", if late { "waits" } else { "at once" });
    };
    let unmap = |page_at: u64| {
        let length = usize::try_from(page()).unwrap_or(0);
        // SAFETY: the vCPU's page, which is not used any more.
        unsafe { libc::munmap(page_at as *mut libc::c_void, length) };
    };
    if kind == "exit" {
        // SAFETY: this program has one thread.
        match unsafe { libc::fork() } {
            0 => {
                let vm = ready();
                let _ = vm.start();
            }
            child => timed("end", &|| {
                // SAFETY: waits for the child by its pid, and wants no status.
                unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            }),
        }
        return;
    }
    let vm = ready();
    let _ = vm.start();
    // SAFETY: a plain duplicate.
    let copy = unsafe { libc::dup(vm.fd) };
    timed("close of one of two", &|| close(copy));
    timed("close of the vm", &|| close(vm.fd));
    if kind == "unmap" {
        timed("close of the vcpu", &|| close(vm.vcpu));
        timed("unmapping", &|| unmap(vm.page));
    } else {
        timed("unmapping", &|| unmap(vm.page));
        timed("close of the vcpu", &|| close(vm.vcpu));
    }
    timed("close of the device", &|| close(vm.device));
}

/// A VM that runs is closed, and the next one started.
fn one_after_the_other() {
    let first = ready();
    let _ = first.start();
    // SAFETY: the vCPU's page, which is not used any more.
    unsafe { libc::munmap(first.page as *mut libc::c_void, usize::try_from(page()).unwrap_or(0)) };
    close(first.vcpu);
    close(first.fd);
    let second = ready();
    let begin = std::time::Instant::now();
    let _ = second.start();
    let late = begin.elapsed() >= std::time::Duration::from_millis(100);
    println!("second start: {}", if late { "waits" } else { "at once" });
}

fn main() {
    parent();
    match std::env::args().nth(1).as_deref() {
        Some("life") => life(),
        Some("run-first") => run_first(),
        Some("mistakes") => mistakes(),
        Some("dup") => dup(),
        Some("vcpu-holds") => vcpu_holds(),
        Some("fork") => fork(),
        Some("wait") => wait(),
        Some("signals") => signals(),
        Some("impatient") => impatient(),
        Some("halves") => halves(),
        Some("one-after-the-other") => one_after_the_other(),
        Some("last-close") => last_close("close"),
        Some("last-unmap") => last_close("unmap"),
        Some("last-exit") => last_close("exit"),
        _ => {
            eprintln!(
                "raw_calls life|run-first|mistakes|dup|vcpu-holds|fork|wait|signals|impatient|halves|\
                 one-after-the-other|last-close|last-unmap|last-exit"
            );
            exit(2);
        }
    }
}
