// SPDX-License-Identifier: Apache-2.0
//! The calls of a launch, what may fail them, and what is expected then.

use std::fs;
use std::path::Path;

use gunyah::Dialect;
use gunyahd::config::parse;
use gunyahd::dtb::{build, len_max, Seeds};
use gunyahd::image::Images;
use gunyahd::plan::{plan, Host};
use serde_json::{json, Value};

use crate::record::Call;

/// Host calls that are looked at: all that a launch makes, but for those that cannot fail or that
/// nobody looks at for their failing (close, gettid, futex, set_robust_list), what belongs to the stop
/// (poll, recvmsg, write), and fcntl, which is Rust's own check in builds for debugging.
pub const HOST_CALLS: &[&str] = &[
    "memfd_create",
    "ftruncate",
    "mmap",
    "madvise",
    "socketpair",
    "fork",
    "thread",
    "openat",
    "statx",
    "read",
    "pread64",
    "eventfd",
    "epoll_create",
    "epoll_ctl",
    "timerfd_create",
    "timerfd_settime",
    "pidfd_open",
    "close_range",
    "capset",
    "seccomp",
    "munmap",
    "mprotect",
    "sendmsg",
    "getrandom",
    "prlimit64",
    "capget",
    "sched_getaffinity",
    "sched_setaffinity",
    "rt_sigprocmask",
    "sigaltstack",
    "rseq",
    "fstat",
    "getdents64",
];

/// Made by hundreds in each life, which takes its time: only a VM by itself is looked at so closely.
pub const MANY_CALLS: &[&str] = &["prctl", "rt_sigaction"];

/// The VM in which everything fails: all kinds of files, regions and threads that the driver has.
pub fn victim(dialect: Dialect, backing: &str) -> Value {
    let mut vm = json!({
        "name": "victim",
        "autostart": false,
        "memory": { "size": "4M", "backing": [backing] },
        "regions": [{
            "label": 9, "base": "0x90000000", "size": "64K",
            "access": "share", "flags": "rw", "backing": "base",
        }],
        "kernel": { "path": "dir/Image" },
        "initrd": { "path": "dir/initrd" },
        "dtb": { "path": "dir/vm.dtb" },
        "vcpus": { "count": 2, "scheduling": "proxy", "affinity": [[0]] },
        "console": {},
        "restart": { "policy": "never" },
        "start": { "timeout": "50s" },
    });
    if dialect.pages_on_demand() {
        // Enough for the devicetree to have its slot.
        vm["memory"]["size"] = json!("16M");
    }
    if !dialect.has_functions() {
        vm["vcpus"] = json!({ "count": 2 });
        vm.as_object_mut().unwrap().remove("console");
    }
    vm
}

/// VMs that run beside it and must not notice: one of each scheduling that the driver has.
pub fn bystanders(dialect: Dialect) -> [Value; 2] {
    let vm = |name: &str, scheduling: &str| {
        json!({
            "name": name,
            "memory": { "size": "4M", "backing": ["base"] },
            "kernel": { "path": "dir/Image" },
            "vcpus": { "scheduling": scheduling },
            "restart": { "policy": "never" },
        })
    };
    let held = if dialect.pages_on_demand() { "proxy" } else { "hypervisor" };
    let looped = if dialect.has_functions() { "proxy" } else { "hypervisor" };
    [vm("held", held), vm("looped", looped)]
}

/// Makes `vm.dtb` in the folder, for the victim.
pub fn write_dtb(victim: &Value, dialect: Dialect, dir: &Path) {
    let mut victim = victim.clone();
    victim["memory"]["backing"] = json!("base");
    let text = victim.to_string();
    let text = text.replace("dir/", &format!("{}/", dir.display()));
    let mut config = parse(Path::new("victim.json"), &text).unwrap();
    config.dtb.path = None;
    let images = Images::open(&config, None).unwrap();
    let len_max = len_max(&config, None);
    let host = Host::PAGES_4K.with(dialect);
    let plan = plan(&config, &images.info, len_max, &host).unwrap();
    let seeds = Seeds { rng: [1; 32], kaslr: 1 };
    let built = build(&config, None, &plan, &seeds).unwrap();
    fs::write(dir.join("vm.dtb"), built.blob).unwrap();
}

/// What becomes of the VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// It fails in this step, told with the errno.
    Fails(&'static str),
    /// It fails in this step, told with these words instead of the errno.
    Says(&'static str, &'static str),
    /// No worker: the supervisor says so, with the errno.
    NoWorker,
    /// Its worker dies; only the signal is told.
    Dies,
    /// It runs: there is another way, or the call can be made again.
    Runs,
}

/// The errnos of a call: the driver's documented ones, and the manual pages'.
pub fn errnos(call: &str) -> &'static [&'static str] {
    match call {
        // The driver's are in capitals.
        call if call.starts_with(|first: char| first.is_ascii_uppercase()) => driver_errnos(call),
        "memfd_create" => &["ENOMEM", "EMFILE", "ENFILE", "EINVAL", "EPERM"],
        "ftruncate" => &["ENOSPC", "EFBIG", "EINVAL", "ENOMEM"],
        "mmap" => &["ENOMEM", "EAGAIN", "ENODEV"],
        "madvise" => &["ENOMEM", "EFAULT", "EHWPOISON", "EINVAL", "EAGAIN"],
        "socketpair" => &["EMFILE", "ENFILE", "ENOMEM"],
        "fork" => &["EAGAIN", "ENOMEM"],
        "thread" => &["EAGAIN", "ENOMEM"],
        "openat" => &["ENOENT", "EACCES", "EMFILE", "ENFILE", "EIO", "EINTR"],
        "statx" => &["EIO", "ENOMEM"],
        "read" => &["EIO", "EINTR"],
        "pread64" => &["EIO", "ESTALE", "EINTR"],
        "eventfd" | "epoll_create" | "timerfd_create" => &["EMFILE", "ENFILE", "ENOMEM"],
        "epoll_ctl" => &["ENOMEM", "ENOSPC"],
        "timerfd_settime" => &["EINVAL"],
        "pidfd_open" => &["EMFILE", "ENFILE", "ENODEV", "ENOSYS"],
        "close_range" => &["ENOMEM", "EMFILE"],
        "capset" => &["EPERM", "EINVAL"],
        "seccomp" => &["EINVAL", "ENOMEM", "EACCES"],
        "prctl" => &["EPERM"],
        "munmap" => &["ENOMEM"],
        "mprotect" => &["ENOMEM"],
        "sendmsg" => &["ENOBUFS", "ENOMEM", "EPIPE", "EAGAIN", "EINTR"],
        "getrandom" => &["ENOSYS", "EINTR"],
        "prlimit64" => &["EPERM", "ENOSYS"],
        "capget" => &["EPERM"],
        "sched_getaffinity" => &["ENOMEM"],
        "sched_setaffinity" => &["EINVAL", "EPERM"],
        "rt_sigaction" => &["EINVAL"],
        "rt_sigprocmask" => &["EINVAL"],
        "sigaltstack" => &["ENOMEM"],
        "rseq" => &["ENOSYS", "EINVAL"],
        "fstat" => &["ENOMEM"],
        "getdents64" => &["EIO"],
        _ => &[],
    }
}

fn driver_errnos(call: &str) -> &'static [&'static str] {
    match call {
        "OPEN" => {
            &["ENOENT", "EACCES", "EPERM", "EBUSY", "ENODEV", "ENXIO", "EMFILE", "ENFILE", "EINTR"]
        }
        "CREATE_VM" => &[
            "ENOTTY", "EINVAL", "ENODEV", "ENOMEM", "EPERM", "EACCES", "EMFILE", "ENFILE", "EINTR",
        ],
        // Asked for, to find out the dialect; the last one is really called, too.
        "UNKNOWN" | "ANDROID_RECLAIM_REGION" | "SET_BOOT_CONTEXT" => {
            &["EPERM", "EACCES", "EINVAL", "EINTR"]
        }
        // Where it says nothing, the hypervisor wakes the vCPUs.
        "CHECK_EXTENSION" => &["EPERM", "EACCES", "EINVAL", "EINTR"],
        "ANDROID_LEND_USER_MEM" | "SET_USER_MEM_REGION" => &[
            "ENOMEM",
            "EEXIST",
            "EINVAL",
            "EOVERFLOW",
            "EPERM",
            "EFAULT",
            "EIO",
            "EBUSY",
            "ENOTTY",
            "EINTR",
        ],
        "SET_DTB_CONFIG" => &["EINVAL", "EOVERFLOW", "EPERM", "EFAULT", "ENOTTY", "EINTR"],
        "ADD_FUNCTION" => &[
            "ENOENT",
            "ENXIO",
            "EOPNOTSUPP",
            "EEXIST",
            "ENOTTY",
            "EINVAL",
            "EFAULT",
            "ENOMEM",
            "EMFILE",
            "EBADF",
            "ENODEV",
            "EINTR",
        ],
        "START" => {
            &["ENODEV", "EINVAL", "ENOMEM", "EIO", "EPERM", "ETIMEDOUT", "EBUSY", "EFAULT", "EINTR"]
        }
        "VCPU_MMAP_SIZE" => &["EINVAL", "ENOTTY", "ENODEV"],
        "VCPU_RUN" => {
            &["EIO", "ENOMEM", "EFAULT", "EINVAL", "ENOTTY", "ENODEV", "EBUSY", "EAGAIN", "EINTR"]
        }
        _ => &[],
    }
}

// linux/prctl.h.
const NO_NEW_PRIVS: u64 = 38;
const CAPBSET_DROP: u64 = 24;

/// In the middle of a loop that makes the same call for every capability or signal: its first and its
/// last turn stand for all of them.
pub fn is_repetition(call: &Call) -> bool {
    let [first, second, ..] = call.args;
    match call.name.as_str() {
        "prctl" => first == CAPBSET_DROP && (1..63).contains(&second),
        "rt_sigaction" => call.process == "gunyahd" && (2..31).contains(&first),
        _ => false,
    }
}

/// After START the threads of a VM make calls in any order. These are made by several of them, so
/// that one life's nth may be another's last but one; of the others the nth is always there.
pub fn is_definite(call: &str, started: bool) -> bool {
    let of_threads =
        ["mmap", "madvise", "mprotect", "munmap", "read", "rt_sigprocmask", "sigaltstack", "prctl"];
    !started || !of_threads.contains(&call)
}

/// Whether a driver is asked by this call, by its first one, whether it knows it.
fn is_question(dialect: Dialect, call: &Call) -> bool {
    let all = [
        "UNKNOWN",
        "ANDROID_RECLAIM_REGION",
        "SET_BOOT_CONTEXT",
        "ANDROID_LEND_USER_MEM",
        "ADD_FUNCTION",
    ];
    // It is known by the first that it knows.
    let asked = match dialect {
        Dialect::Ack612 => 2,
        Dialect::Ack66 => 3,
        Dialect::Ack61 => 4,
        _ => 5,
    };
    call.nth == 1 && all[..asked].contains(&call.name.as_str())
}

/// What is expected when a driver is asked, and says EFAULT for yes, or ENOTTY for no, or something else.
fn answered(dialect: Dialect, name: &str, errno: &str) -> Expected {
    use Expected::*;
    match (dialect, name, errno) {
        (_, _, "EINTR") => Runs,
        // The truth, or memory is shared where it could be lent.
        (Dialect::Ack61, "ANDROID_LEND_USER_MEM", "EFAULT" | "ENOTTY") => Runs,
        (_, "ANDROID_LEND_USER_MEM", "ENOTTY") => Runs,
        (Dialect::Lkml, "ADD_FUNCTION", "EFAULT") => Runs,
        (Dialect::LkmlBase, "ADD_FUNCTION", "ENOTTY") => Runs,
        // The victim's devicetree is for what the driver really has.
        (Dialect::LkmlBase, "ANDROID_LEND_USER_MEM" | "ADD_FUNCTION", "EFAULT") => {
            Says("dtb", "the devicetree's vCPUs are scheduled by the hypervisor")
        }
        // What it does not have is missed later.
        (_, "ANDROID_LEND_USER_MEM", "EFAULT") => Says("region", "ENOTTY"),
        // The victim wants proxies.
        (_, "ADD_FUNCTION", "ENOTTY") => Says("plan", "the driver has no vCPUs"),
        _ => Fails("dialect"),
    }
}

/// What is expected when `call`, which a script failed with `errno`, was the one.
pub fn expected(dialect: Dialect, call: &Call, errno: &str) -> Expected {
    use Expected::*;
    let name = call.name.as_str();
    if is_question(dialect, call) {
        return answered(dialect, name, errno);
    }
    match (name, errno) {
        // ENODEV is believed only if it stays.
        ("VCPU_RUN", "EBUSY" | "EAGAIN" | "ENODEV") | ("CHECK_EXTENSION", _) => return Runs,
        ("socketpair" | "fork", _) => return NoWorker,
        ("pidfd_open", _) | (_, "EINTR") => return Runs,
        _ => {}
    }
    match name {
        "OPEN" => Fails("device"),
        "CREATE_VM" => Fails("create-vm"),
        "SET_BOOT_CONTEXT" => Fails("boot-context"),
        "ANDROID_LEND_USER_MEM" | "SET_USER_MEM_REGION" => Fails("region"),
        "SET_DTB_CONFIG" => Fails("dtb-config"),
        "ADD_FUNCTION" | "VCPU_MMAP_SIZE" => Fails("functions"),
        "START" => Fails("start"),
        "VCPU_RUN" => Fails("run"),
        "memfd_create" | "ftruncate" => Fails("memory"),
        "mmap" => mapping(call, errno),
        "madvise" => match (call.args[2], errno) {
            // MADV_DONTFORK, of the console's ring; MADV_POPULATE_WRITE, of guest memory, where
            // EAGAIN asks for another try.
            (10, _) => Fails("functions"),
            (23, "EAGAIN") => Runs,
            (23, _) => Fails("memory"),
            _ => Runs,
        },
        // The console's thread is made before anything else, the vCPUs' after START. In between are those that
        // clear memory, which are done without.
        // Rust's and the C library's EAGAIN stands for every failure to make a thread.
        "thread" if !call.started && call.nth > 1 => Runs,
        "thread" if !call.started => Says("functions", "EAGAIN"),
        "thread" => Says("run", "EAGAIN"),
        // The console's thread, before its VM is made.
        "eventfd" | "capset" if !call.started => Fails("functions"),
        // Of the console's thread, or its ring.
        "capget" | "capset" | "fstat" if !call.started => Fails("functions"),
        "fstat" => Runs,
        "eventfd" | "epoll_create" | "epoll_ctl" | "timerfd_create" | "timerfd_settime"
        | "capget" | "capset" | "seccomp" => Fails("run"),
        "openat" | "statx" | "read" | "pread64" => reading(call, errno),
        "close_range" => Fails("process"),
        // Before the worker has its own name, it settles in; later ones are in making a thread.
        "rt_sigprocmask" | "rt_sigaction" | "prctl" if call.process == "gunyahd" => {
            Fails("process")
        }
        // The loop's own, to stop vCPUs; the other is the C library's, for its threads.
        "rt_sigaction" if call.started => Fails("run"),
        "mprotect" => protecting(call),
        // The C library takes a kernel that has it for some threads alone for broken.
        "rseq" => Dies,
        "prctl" if call.args[0] == NO_NEW_PRIVS => Fails("run"),
        // A report is sent again; the rest is done without, or there is nothing to be done about it.
        "sendmsg" | "getrandom" | "prlimit64" | "sched_getaffinity" | "sched_setaffinity"
        | "rt_sigaction" | "rt_sigprocmask" | "sigaltstack" | "munmap" | "getdents64" | "prctl" => {
            Runs
        }
        _ => panic!("{call:?}: nothing is said of it"),
    }
}

fn protecting(call: &Call) -> Expected {
    use Expected::*;
    match call.args[1] {
        // The guard page of a stack for signals, without which Rust aborts.
        0x1000 => Dies,
        // The beginning of one of malloc's arenas: there are others.
        0x2_1000 => Runs,
        // A thread's stack.
        _ if call.started => Says("run", "EAGAIN"),
        _ => Says("functions", "EAGAIN"),
    }
}

fn mapping(call: &Call, errno: &str) -> Expected {
    use Expected::*;
    let [_, length, protection, flags, ..] = call.args;
    match (flags, protection) {
        // Shared and fixed: guest memory. Private, reserved: its addresses.
        (0x11, _) => Fails("memory"),
        // malloc's arenas are 64 MiB and tried at twice that.
        (0x4022, 0) if length < 64 << 20 => Fails("memory"),
        (0x4022, 0) => Runs,
        // Shared: the console's ring, a vCPU's page.
        (0x1, _) => Fails("functions"),
        // A thread's stack, made without access first.
        (0x2_0022, 0) => {
            let step = if call.started { "run" } else { "functions" };
            match errno {
                // pthread_create(3): EAGAIN for what is short.
                "ENOMEM" => Says(step, "EAGAIN"),
                _ => Fails(step),
            }
        }
        // A thread's stack for signals, without which Rust aborts.
        (0x2_0022, _) => Dies,
        other => panic!("{call:?}: nothing is said of {other:x?}"),
    }
}

fn reading(call: &Call, errno: &str) -> Expected {
    use Expected::*;
    let file = match call.name.as_str() {
        "openat" => call.path.as_str(),
        _ => call.opened.as_str(),
    };
    match (call.name.as_str(), file) {
        // After all files are open: their bytes go into memory.
        ("pread64", _) if call.nth == PREADS_OF_HEADERS + 1 => Fails("kernel"),
        ("pread64", _) if call.nth == PREADS_OF_HEADERS + 2 => Fails("initrd"),
        ("pread64", _) => Fails("images"),
        (_, "Image" | "initrd" | "vm.dtb") => Fails("images"),
        // Eventfds are read later.
        ("openat" | "read", "urandom") if !call.started => Fails("dtb"),
        ("openat", pool) if pool.ends_with("_hugepages") && errno == "ENOENT" => {
            Says("pool", "this kernel has no huge pages of 2 MiB")
        }
        _ => Runs,
    }
}

/// The kernel's header and what it may be packed in, the beginning of the initrd, and the devicetree.
const PREADS_OF_HEADERS: u64 = 6;
