// SPDX-License-Identifier: Apache-2.0
//! A worker under its filter is made to call what it must not: by ptrace, which is how a guest that
//! took the worker over would look from outside.
#![cfg(target_arch = "x86_64")]

use gunyah::Dialect;
use libc::{c_long, c_void};
use serde_json::{json, Value};

use crate::backend::Backend;
use crate::host::{folder, Boot, Host, Stage};
use crate::skip::skip;
use crate::steps;

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Its raw result.
    Answered(i64),
    /// The process is gone.
    Died,
}

/// Stops a process's main thread as soon as it waits in poll, and has it make one system call.
fn make_call(pid: i32, number: c_long, arguments: [u64; 3]) -> Option<Outcome> {
    let ptrace = |request, data: *mut c_void| {
        // SAFETY: each request below is given what ptrace(2) says: nothing, a signal number, or a
        // live struct of registers.
        unsafe { libc::ptrace(request, pid, std::ptr::null_mut::<c_void>(), data) }
    };
    let none = std::ptr::null_mut();
    // SAFETY: all-zero bytes are valid registers.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    loop {
        if ptrace(libc::PTRACE_SEIZE, none) != 0 {
            return None;
        }
        assert_eq!(ptrace(libc::PTRACE_INTERRUPT, none), 0);
        assert!(libc::WIFSTOPPED(wait(pid)));
        assert_eq!(ptrace(libc::PTRACE_GETREGS, (&raw mut registers).cast()), 0);
        // The kernel goes on with an interrupted one by restart_syscall.
        let waits = [libc::SYS_poll, libc::SYS_restart_syscall];
        if waits.map(|call| u64::try_from(call).unwrap()).contains(&registers.orig_rax) {
            break;
        }
        // It was on its way to the next poll.
        assert_eq!(ptrace(libc::PTRACE_DETACH, none), 0);
        std::thread::yield_now();
    }
    let before = registers;
    // It stands behind a `syscall` instruction, which has two bytes.
    registers.rip -= 2;
    registers.rax = u64::try_from(number).unwrap();
    // No call to be made again.
    registers.orig_rax = u64::MAX;
    [registers.rdi, registers.rsi, registers.rdx] = arguments;
    registers.r10 = 0;
    assert_eq!(ptrace(libc::PTRACE_SETREGS, (&raw mut registers).cast()), 0);
    assert_eq!(ptrace(libc::PTRACE_SINGLESTEP, none), 0);
    let status = wait(pid);
    if libc::WIFSIGNALED(status) {
        assert_eq!(libc::WTERMSIG(status), libc::SIGSYS);
        return Some(Outcome::Died);
    }
    assert_eq!(ptrace(libc::PTRACE_GETREGS, (&raw mut registers).cast()), 0);
    let result = i64::from_ne_bytes(registers.rax.to_ne_bytes());
    let mut before = before;
    assert_eq!(ptrace(libc::PTRACE_SETREGS, (&raw mut before).cast()), 0);
    // A signal that came meanwhile is handed on.
    let signal = match libc::WSTOPSIG(status) {
        libc::SIGTRAP => 0,
        signal => usize::try_from(signal).unwrap(),
    };
    let signal = std::ptr::without_provenance_mut(signal);
    assert_eq!(ptrace(libc::PTRACE_DETACH, signal), 0);
    Some(Outcome::Answered(result))
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is live. A tracee that is no child of ours can be waited for as well.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert_eq!(waited, pid);
    status
}

fn boot(stage: &Stage, test: &str, scheduling: &str, options: &[&str]) -> Host {
    boot_with(stage, test, &json!({ "vcpus": { "scheduling": scheduling } }), options)
}

/// The same with these keys in its file.
fn boot_with(stage: &Stage, test: &str, keys: &Value, options: &[&str]) -> Host {
    let mut vm = steps::bystanders(Dialect::Ack61)[0].clone();
    vm["name"] = json!("vm");
    for (key, value) in keys.as_object().unwrap() {
        vm[key] = value.clone();
    }
    let boot = Boot { vms: &[vm], watch: &[], options, ..Boot::default() };
    let host = Host::boot(stage, &folder(test), &boot);
    host.wait_for("vm", &["running"]).unwrap();
    host
}

fn worker(host: &Host, vm: &str) -> i32 {
    // Running is told before the filter is in place.
    let mut pid = 0;
    crate::host::wait_until(
        || {
            pid = host.status(vm)["pid"].as_i64().unwrap_or(0);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
            // The simulator's, the supervisor's, its own.
            filters.is_some_and(|count| count.trim() == "3")
        },
        || "three filters".to_owned(),
    )
    .unwrap();
    i32::try_from(pid).unwrap()
}

/// The thread of a device that is confined: the simulator's filter, the supervisor's, the worker's, its own.
fn device_thread(host: &Host, name: &str) -> i32 {
    let mut found = 0;
    crate::host::wait_until(
        || {
            let pid = host.status("vm")["pid"].as_i64().unwrap_or(0);
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            let named = tasks.flatten().find(|task| {
                let comm = std::fs::read_to_string(task.path().join("comm"));
                comm.is_ok_and(|comm| comm.trim() == name)
            });
            let Some(task) = named else { return false };
            let status = std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
            found = task.file_name().to_str().unwrap().parse().unwrap();
            filters.is_some_and(|count| count.trim() == "4")
        },
        || format!("four filters of {name}"),
    )
    .unwrap();
    found
}

/// A device's thread, a call of it, and what becomes of that.
type Try = (&'static str, c_long, [u64; 3], Outcome);

const REFUSED: Outcome = EPERM;
/// It comes to the kernel, which finds nonsense.
const ALLOWED: Outcome = Outcome::Answered(-libc::EBADF as i64);
const INVALID: Outcome = Outcome::Answered(-libc::EINVAL as i64);
const NO_FD: [u64; 3] = [9999, 0, 0];

/// Makes these calls; a VM that dies of one is started again.
fn try_all(host: &Host, tries: &[Try]) {
    for (device, number, arguments, wanted) in tries {
        let Some(found) = make_call(device_thread(host, device), *number, *arguments) else {
            return skip("ptrace is not allowed here: needs root");
        };
        assert_eq!(found, *wanted, "{device} {number} {arguments:x?}");
        if found == Outcome::Died {
            host.wait_for("vm", &["crashed"]).unwrap();
            let answer = host.order("start", "vm", true);
            assert_eq!(answer["done"]["state"], "running", "{answer}");
        }
    }
}

/// What one device's thread may do, another's may not, nor what the rest of the worker does.
#[test]
fn a_devices_thread_has_its_own_calls_alone() {
    let Some(stage) = Stage::new() else { return };
    let disk = folder("device-disk").join("disk");
    std::fs::write(&disk, [0; 4096]).unwrap();
    let keys = json!({
        "vcpus": { "scheduling": "proxy" },
        "console": { "virtio": true },
        "disks": [{ "path": disk }],
        "entropy": true,
    });
    let host = boot_with(&stage, "device-confined", &keys, &[]);
    try_all(
        &host,
        &[
            ("disks[0]", libc::SYS_fdatasync, NO_FD, ALLOWED),
            ("entropy", libc::SYS_preadv, NO_FD, ALLOWED),
            ("entropy", libc::SYS_fdatasync, NO_FD, Outcome::Died),
            ("console.virtio", libc::SYS_preadv, NO_FD, Outcome::Died),
            // The run loop's, and a library's try.
            ("disks[0]", libc::SYS_ioctl, [0; 3], REFUSED),
            ("entropy", libc::SYS_openat, [0; 3], REFUSED),
            ("disks[0]", libc::SYS_sendmsg, [0; 3], Outcome::Died),
            ("console.virtio", libc::SYS_recvmsg, [0; 3], Outcome::Died),
            ("entropy", libc::SYS_tgkill, [0; 3], REFUSED),
            ("disks[0]", libc::SYS_seccomp, [0; 3], Outcome::Died),
            ("disks[0]", libc::SYS_execve, [0; 3], Outcome::Died),
        ],
    );
    host.end();
}

const TUNSETIFF: u64 = 0x4004_54ca;
const TUNSETOFFLOAD: u64 = 0x4004_54d0;

/// A network device's thread sets what its tap leaves to the guest, and no other of a tap's properties.
#[test]
fn a_network_devices_thread_attaches_no_other_tap() {
    let Some(stage) = Stage::new() else { return };
    // A network of this thread and of what it starts.
    let own = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok();
    let mut ip = std::process::Command::new("ip");
    ip.args(["tuntap", "add", "dev", "tap7", "mode", "tap"]);
    if !own || !ip.status().is_ok_and(|status| status.success()) {
        return skip("no tap can be made: needs root, /dev/net/tun and the program ip");
    }
    let keys = json!({
        "vcpus": { "scheduling": "proxy" },
        "nets": [{ "tap": "tap7" }],
        "entropy": true,
    });
    let host = boot_with(&stage, "net-confined", &keys, &[]);
    try_all(
        &host,
        &[
            ("nets[0]", libc::SYS_ioctl, [9999, TUNSETOFFLOAD, 0], ALLOWED),
            ("entropy", libc::SYS_ioctl, [9999, TUNSETOFFLOAD, 0], REFUSED),
            ("nets[0]", libc::SYS_ioctl, [9999, TUNSETIFF, 0], REFUSED),
            ("nets[0]", libc::SYS_socket, [1, 1, 0], REFUSED),
            ("nets[0]", libc::SYS_pwrite64, [0; 3], Outcome::Died),
            ("nets[0]", libc::SYS_sendmsg, [0; 3], Outcome::Died),
            ("entropy", libc::SYS_writev, [0; 3], Outcome::Died),
        ],
    );
    host.end();
}

/// The thread of a backend's device speaks with Unix sockets, and does nothing of what its backend does.
#[test]
fn a_backends_devices_thread_reaches_unix_sockets_alone() {
    let Some(stage) = Stage::new() else { return };
    let socket = folder("backend").join("socket");
    let backend = Backend::listen(&socket, 0, 0);
    let keys = json!({
        "vcpus": { "scheduling": "proxy" },
        "vhost_user": [{ "type": "entropy", "socket": socket }],
        "entropy": true,
    });
    let host = boot_with(&stage, "backend-confined", &keys, &[]);
    let [unix, inet, vsock] = [libc::AF_UNIX, libc::AF_INET, libc::AF_VSOCK].map(word);
    try_all(
        &host,
        &[
            ("vhost_user[0]", libc::SYS_sendmsg, NO_FD, ALLOWED),
            ("vhost_user[0]", libc::SYS_connect, NO_FD, ALLOWED),
            // A type of socket that there is not.
            ("vhost_user[0]", libc::SYS_socket, [unix, 15, 0], INVALID),
            ("vhost_user[0]", libc::SYS_socket, [inet, 1, 0], REFUSED),
            ("vhost_user[0]", libc::SYS_socket, [vsock, 1, 0], REFUSED),
            ("entropy", libc::SYS_socket, [unix, 1, 0], REFUSED),
            ("entropy", libc::SYS_connect, NO_FD, REFUSED),
            ("vhost_user[0]", libc::SYS_ioctl, [9999, TUNSETOFFLOAD, 0], REFUSED),
            ("vhost_user[0]", libc::SYS_openat, [0; 3], REFUSED),
        ],
    );
    host.end();
    drop(backend);
}

#[test]
fn a_worker_that_makes_a_forbidden_call_dies_and_is_told() {
    let Some(stage) = Stage::new() else { return };
    for scheduling in ["hypervisor", "proxy"] {
        let host = boot(&stage, "confined", scheduling, &[]);
        for number in [
            libc::SYS_execve,
            libc::SYS_ptrace,
            libc::SYS_clone,
            libc::SYS_kill,
            libc::SYS_memfd_create,
        ] {
            let Some(outcome) = make_call(worker(&host, "vm"), number, [0; 3]) else {
                return skip("ptrace is not allowed here: needs root");
            };
            assert_eq!(outcome, Outcome::Died, "{number}");
            host.wait_for("vm", &["crashed"]).unwrap();
            let status = host.status("vm");
            let reason = "worker killed by SIGSYS: a system call that its filter forbids [worker-forbidden-call]";
            assert_eq!(status["state"], "crashed");
            assert_eq!(status["reason"], reason);
            assert_eq!(status["last_end"]["reason"], "worker-died");
            let error = format!("E gunyahd: vm: crashed: {reason}\n");
            assert!(host.log().contains(&error), "{}", host.log());
            assert_eq!(host.order("start", "vm", true)["done"]["state"], "running");
        }
        host.end();
    }
}

// linux/capability.h, as bits.
const IPC_LOCK: u64 = 1 << 14;
// DAC_OVERRIDE, DAC_READ_SEARCH, IPC_LOCK, SYS_NICE, SYS_RESOURCE, SYSLOG.
const LAUNCHING: u64 = 1 << 1 | 1 << 2 | IPC_LOCK | 1 << 23 | 1 << 24 | 1 << 34;

/// What the status file of a thread says.
struct Thread {
    name: String,
    status: String,
}

impl Thread {
    fn all(pid: i32) -> Vec<Self> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let threads = tasks.map(|task| {
            let path = task.unwrap().path();
            let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap();
            Self { name: read("comm").trim().to_owned(), status: read("status") }
        });
        threads.collect()
    }

    fn field(&self, name: &str) -> &str {
        let mut lines = self.status.lines();
        lines
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .unwrap_or_else(|| panic!("no {name} in {}", self.status))
            .trim()
    }

    fn capabilities(&self, set: &str) -> u64 {
        u64::from_str_radix(self.field(set), 16).unwrap()
    }
}

#[test]
fn every_thread_of_a_worker_has_given_up_its_capabilities() {
    let Some(stage) = Stage::new() else { return };
    if !nix::unistd::geteuid().is_root() {
        return skip("only root has capabilities to lose");
    }
    let mut vm = steps::bystanders(Dialect::Ack61)[1].clone();
    vm["name"] = json!("vm");
    vm["vcpus"] = json!({ "scheduling": "proxy", "count": 2 });
    vm["console"] = json!({});
    vm["stop"] = json!({ "power_key": true });
    let boot = Boot { vms: &[vm], ..Boot::default() };
    let host = Host::boot(&stage, &folder("threads"), &boot);
    host.wait_for("vm", &["running"]).unwrap();
    let threads = Thread::all(worker(&host, "vm"));
    let mut names: Vec<_> = threads.iter().map(|thread| thread.name.as_str()).collect();
    names.sort_unstable();
    // The power key is the main thread's: an eventfd.
    assert_eq!(names, ["console", "vcpu0-vm", "vcpu1-vm", "vm:vm"]);
    for thread in &threads {
        let name = &thread.name;
        for set in ["CapPrm", "CapEff"] {
            let left = thread.capabilities(set);
            assert_eq!(left & !IPC_LOCK, 0, "{name}: {set} {left:#x}");
        }
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(thread.capabilities(set), 0, "{name}: {set}");
        }
        let bound = thread.capabilities("CapBnd");
        assert_eq!(bound & !LAUNCHING, 0, "{name}: CapBnd {bound:#x}");
        assert_eq!(thread.field("NoNewPrivs"), "1", "{name}");
        assert_eq!(thread.field("Seccomp_filters"), "3", "{name}");
    }
    host.end();
}

#[test]
fn a_supervisor_keeps_what_launching_takes() {
    let Some(stage) = Stage::new() else { return };
    let host = boot(&stage, "supervisor", "proxy", &[]);
    let pid = i32::try_from(host.supervisor).unwrap();
    for thread in Thread::all(pid) {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let left = thread.capabilities(set);
            if nix::unistd::geteuid().is_root() {
                assert_eq!(left & !LAUNCHING, 0, "{set} {left:#x}");
            }
        }
        assert_eq!(thread.field("NoNewPrivs"), "1");
    }
    let me = u64::from(std::process::id());
    let shared = word(libc::CLONE_FS);
    for (number, arguments) in [
        (libc::SYS_socket, [word(libc::AF_INET), 2, 0]),
        (libc::SYS_socket, [word(libc::AF_NETLINK), 2, 0]),
        (libc::SYS_socketpair, [word(libc::AF_TIPC), 2, 0]),
        // For these the kernel itself says EINVAL: new namespaces do not share the root directory.
        (libc::SYS_clone, [shared | word(libc::CLONE_NEWUSER), 0, 0]),
        (libc::SYS_clone, [shared | word(libc::CLONE_NEWNS), 0, 0]),
        (libc::SYS_unshare, [0, 0, 0]),
        (libc::SYS_kill, [me, 0, 0]),
        (libc::SYS_pidfd_send_signal, [0, 0, 0]),
        (libc::SYS_prlimit64, [me, 0, 0]),
        (libc::SYS_setpriority, [0, me, 0]),
        (libc::SYS_sched_setaffinity, [me, 0, 0]),
        (libc::SYS_execve, [0, 0, 0]),
    ] {
        let Some(outcome) = make_call(pid, number, arguments) else {
            return skip("ptrace is not allowed here: needs root");
        };
        assert_eq!(outcome, EPERM, "{number} {arguments:x?}");
    }
    // C libraries make threads with clone then.
    let outcome = make_call(pid, libc::SYS_clone3, [0; 3]);
    assert_eq!(outcome, Some(Outcome::Answered(-i64::from(libc::ENOSYS))));
    // It still launches, and ends what does not end by itself.
    assert_eq!(host.order("stop", "vm", true)["done"]["state"], "stopped");
    host.live("vm").unwrap();
    host.end();
}

#[test]
fn a_worker_may_try_what_libraries_try() {
    let Some(stage) = Stage::new() else { return };
    let host = boot(&stage, "refused", "hypervisor", &[]);
    let pid = worker(&host, "vm");
    for number in [
        libc::SYS_socket,
        libc::SYS_openat,
        libc::SYS_readlink,
        libc::SYS_getcwd,
        libc::SYS_sched_getaffinity,
    ] {
        let Some(outcome) = make_call(pid, number, [1, 1, 0]) else {
            return skip("ptrace is not allowed here: needs root");
        };
        assert_eq!(outcome, EPERM, "{number}");
    }
    // It lives on, and listens.
    assert_eq!(host.status("vm")["pid"], Value::from(pid));
    assert_eq!(host.order("stop", "vm", true)["done"]["state"], "stopped");
    host.end();
}

const EPERM: Outcome = Outcome::Answered(-libc::EPERM as i64);

fn word(value: i32) -> u64 {
    u64::try_from(value).unwrap()
}

#[test]
fn a_worker_cannot_signal_its_neighbour() {
    let Some(stage) = Stage::new() else { return };
    let vms = steps::bystanders(Dialect::Ack61);
    let boot = Boot { vms: &vms, ..Boot::default() };
    let host = Host::boot(&stage, &folder("neighbours"), &boot);
    for vm in ["held", "looped"] {
        host.wait_for(vm, &["running"]).unwrap();
    }
    let (pid, other) = (worker(&host, "held"), worker(&host, "looped"));
    let (own, neighbour) = (word(pid), word(other));
    let [kill, abort] = [libc::SIGKILL, libc::SIGABRT].map(word);
    for (number, arguments) in [
        (libc::SYS_tgkill, [neighbour, neighbour, kill]),
        (libc::SYS_tgkill, [neighbour, neighbour, abort]),
        (libc::SYS_rt_tgsigqueueinfo, [neighbour, neighbour, abort]),
        (libc::SYS_tkill, [neighbour, abort, 0]),
        (libc::SYS_tkill, [own, kill, 0]),
        // The owner of an fd, and its signal: the kernel would do the killing.
        (libc::SYS_fcntl, [0, word(libc::F_SETOWN), neighbour]),
        (libc::SYS_fcntl, [0, 10, kill]), // F_SETSIG
        (libc::SYS_fcntl, [0, 15, 0]),    // F_SETOWN_EX
    ] {
        let Some(outcome) = make_call(pid, number, arguments) else {
            return skip("ptrace is not allowed here: needs root");
        };
        assert_eq!(outcome, EPERM, "{number} {arguments:?}");
    }
    // Its own threads are its own: one that it does not have, and a signal without its details.
    for (number, arguments, errno) in [
        (libc::SYS_tgkill, [own, neighbour, abort], libc::ESRCH),
        (libc::SYS_rt_tgsigqueueinfo, [own, own, abort], libc::EFAULT),
    ] {
        let outcome = make_call(pid, number, arguments);
        let expected = Outcome::Answered(-i64::from(errno));
        assert_eq!(outcome, Some(expected), "{number}");
    }
    for (vm, pid) in [("held", pid), ("looped", other)] {
        assert_eq!(host.status(vm)["state"], "running");
        assert_eq!(host.status(vm)["pid"], pid);
    }
    host.end();
}

#[test]
fn a_worker_that_aborts_is_told_so() {
    let Some(stage) = Stage::new() else { return };
    let host = boot(&stage, "abort", "hypervisor", &[]);
    // As glibc does it, and as musl.
    for number in [libc::SYS_tgkill, libc::SYS_tkill] {
        let pid = worker(&host, "vm");
        let (own, abort) = (word(pid), word(libc::SIGABRT));
        let arguments = match number {
            libc::SYS_tgkill => [own, own, abort],
            _ => [own, abort, 0],
        };
        let Some(outcome) = make_call(pid, number, arguments) else {
            return skip("ptrace is not allowed here: needs root");
        };
        assert_eq!(outcome, Outcome::Answered(0), "{number}");
        host.wait_for("vm", &["crashed"]).unwrap();
        assert_eq!(host.status("vm")["reason"], "worker killed by SIGABRT [worker-killed]");
        assert_eq!(host.order("start", "vm", true)["done"]["state"], "running");
    }
    host.end();
}

#[test]
fn no_confinement_says_so_and_is_so() {
    let Some(stage) = Stage::new() else { return };
    let host = boot(&stage, "free", "hypervisor", &["--no-confinement"]);
    assert!(host.log().contains("W gunyahd: --no-confinement"), "{}", host.log());
    let pid = host.status("vm")["pid"].as_i64().unwrap();
    let pid = i32::try_from(pid).unwrap();
    // AF_UNIX, SOCK_STREAM.
    let Some(outcome) = make_call(pid, libc::SYS_socket, [1, 1, 0]) else {
        return skip("ptrace is not allowed here: needs root");
    };
    assert!(matches!(outcome, Outcome::Answered(fd) if fd >= 0), "{outcome:?}");
    host.end();
}

#[test]
fn a_thread_that_begins_late_is_waited_for() {
    let Some(stage) = Stage::new() else { return };
    let mut vm = steps::bystanders(Dialect::Ack61)[1].clone();
    vm["name"] = json!("vm");
    vm["console"] = json!({});
    vm["autostart"] = json!(false);
    let boot = Boot { vms: &[vm], watch: &["rseq"], options: &[], ..Boot::default() };
    let mut host = Host::boot(&stage, &folder("late"), &boot);
    // The console's thread; rseq is the first that a thread does.
    host.tell_simulator("call rseq +1 delay 300 from vm:vm");
    assert_eq!(host.order("start", "vm", true)["done"]["state"], "running");
    let _ = worker(&host, "vm");
    assert_eq!(host.order("stop", "vm", true)["done"]["state"], "stopped");
    host.end();
}

#[test]
fn no_guest_runs_before_the_filter_is_in_place() {
    let Some(stage) = Stage::new() else { return };
    let mut vm = steps::bystanders(Dialect::Ack61)[1].clone();
    vm["name"] = json!("vm");
    vm["vcpus"] = json!({ "scheduling": "proxy", "count": 2 });
    vm["autostart"] = json!(false);
    let boot = Boot { vms: &[vm], watch: &["seccomp"], record: true, ..Boot::default() };
    let mut host = Host::boot(&stage, &folder("gate"), &boot);
    // At once, for whoever asks.
    host.tell_simulator("vm * exit off");
    host.tell_simulator("call seccomp +1 delay 200 from vm:vm");
    host.order("start", "vm", false);
    host.wait_for("vm", &["running"]).unwrap();
    let pid = host.status("vm")["pid"].clone();
    host.wait_for("vm", &["stopped"]).unwrap();
    let text = std::fs::read_to_string(host.dir.join("record")).unwrap();
    let calls: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|line: &Value| line["pid"] == pid)
        .collect();
    let of = |name: &str| -> Vec<&Value> {
        let named = calls.iter().filter(|line| line["call"] == name);
        named.collect()
    };
    let time = |call: &Value, key: &str| call[key].as_u64().unwrap();
    let filter = of("seccomp")[0];
    let in_place = time(filter, "time_us") + time(filter, "took_us");
    assert!(time(filter, "took_us") >= 200_000, "{filter}");
    let runs = of("VCPU_RUN");
    assert!(!runs.is_empty(), "no guest ran");
    for run in runs {
        assert!(time(run, "time_us") >= in_place, "{run} before {filter}");
    }
    host.end();
}
