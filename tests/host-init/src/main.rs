// SPDX-License-Identifier: Apache-2.0
//! PID 1 of a host that gunyahd is tried on. It reads the product's own .rc files and does what Android's init
//! does with them as far as a service can notice: sockets and files passed as fds, user, groups, capabilities and
//! limits, restart, and the kill of the whole cgroup. It is also the property service and the log daemon, runs the
//! story (story.rs), and powers off.

mod doctor;
mod fragments;
mod property;
mod rc;
mod service;
mod story;
mod syslog;
mod vhost;
mod worker;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::kmod::{finit_module, ModuleInitFlags};
use nix::mount::{mount, MsFlags};
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::stat::{mknod, Mode, SFlag};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, ForkResult, Pid};

use property::Change;
use rc::{Action, Script};
use service::Running;

/// Where the product's .rc files are.
const SCRIPTS: &str = "/vendor/etc/init";
/// Which story is told; absent: that of two VMs.
const STORY: &str = "/vendor/story";
/// The driver's node.
const DEVICE: &str = "/dev/gunyah";
/// The name of the driver that the simulator plays.
const DIALECT: &str = "/sim/dialect";
/// What runs the simulator's guests.
const ENGINE: &str = "/sim/engine";
/// What the host's kernel needs besides, in the order of their names.
const MODULES: &str = "/modules";
/// The kernel's vhost for sockets, where a module makes it.
const VHOST: &str = "/dev/vhost-vsock";
/// How long a service may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words[1..] {
        // The wrapper of a service's command: becomes the service's user and runs it.
        ["exec", name, ref command @ ..] => {
            service::exec(name, command).map(|never| match never {})
        }
        ["story"] => match fs::read_to_string(STORY).unwrap_or_default().trim() {
            "fragments" => fragments::tell(),
            "vhost" => vhost::tell(),
            _ => story::tell(),
        },
        // Stands for a process that a service left behind.
        ["linger"] => loop {
            nix::unistd::pause();
        },
        _ if std::process::id() == 1 => {
            let result = init();
            if let Err(error) = &result {
                println!("host-test: FAIL init: {error:#}");
            }
            nix::unistd::sync();
            // A PID 1 that returns is a kernel panic.
            let _ = reboot(RebootMode::RB_POWER_OFF);
            result
        }
        _ => bail_usage(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("init: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bail_usage() -> Result<()> {
    bail!("this is PID 1 of a test host")
}

fn init() -> Result<()> {
    mounts()?;
    let script = scripts()?;
    property::load(Path::new("/vendor/build.prop"))?;
    property::serve(Path::new(property::SOCKET))?;
    // The simulator answers for the device; the node only has its owner and mode.
    let device = nix::sys::stat::makedev(1, 3);
    mknod(DEVICE, SFlag::S_IFCHR, Mode::from_bits_truncate(0o600), device)?;
    rc::ueventd(&fs::read_to_string("/vendor/etc/ueventd.gunyahd.rc")?)?;
    load_modules()?;
    story::before_services()?;
    let mut running = Vec::new();
    for trigger in [
        "early-init",
        "init",
        "late-init",
        "early-fs",
        "fs",
        "post-fs",
        "late-fs",
        "early-boot",
        "boot",
    ] {
        for action in
            script.actions.iter().filter(|action| action.at_event(trigger, &property::get))
        {
            act(action);
        }
        // AOSP's init.rc starts the class on late-fs, the others later.
        for service in script.services.iter().filter(|service| {
            let class = service.all("class").next().and_then(|names| names.first());
            let early = class.is_some_and(|name| name == "early_hal");
            !service.has("disabled") && trigger == if early { "late-fs" } else { "boot" }
        }) {
            running.push(Running::start(service)?);
        }
    }
    let story = spawn_story()?;
    let passed = supervise(&script, &mut running, story)?;
    for service in &mut running {
        service.stop(GRACE)?;
    }
    story::after_shutdown()?;
    println!(
        "host-test: {}",
        if passed { "the story was told to its end" } else { "FAIL the story broke off" }
    );
    Ok(())
}

fn act(action: &Action) {
    println!("init: on {}", action.trigger.join(" "));
    for command in &action.commands {
        rc::run(command).unwrap_or_else(|error| println!("init: {}: {error:#}", command.join(" ")));
    }
}

/// Runs the actions of properties that were set.
fn follow_properties(script: &Script, running: &mut [Running]) -> Result<()> {
    for change in property::changes() {
        match change {
            Change::Set(name) => script
                .actions
                .iter()
                .filter(|action| action.at_change(&name, &property::get))
                .for_each(act),
            Change::Control { start, service } if service == "logd" && start => {
                syslog::serve(Path::new("/dev/socket/logdw"))?;
            }
            Change::Control { start, service } => {
                for one in running.iter_mut().filter(|one| one.name() == service) {
                    if start {
                        one.start_again()?;
                    } else {
                        one.stop_now()?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn mounts() -> Result<()> {
    let none = None::<&str>;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tracefs", "/sys/kernel/tracing"),
        ("tmpfs", "/dev/socket"),
        ("tmpfs", "/data"),
    ] {
        fs::create_dir_all(at).ok();
        mount(Some(kind), at, Some(kind), MsFlags::empty(), none)
            .with_context(|| format!("mount {at}"))?;
    }
    Ok(())
}

/// Loads the kernel's modules, and lets the service at what they serve.
fn load_modules() -> Result<()> {
    let Ok(folder) = fs::read_dir(MODULES) else { return Ok(()) };
    let mut files: Vec<PathBuf> = folder.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    for file in files {
        let opened = fs::File::open(&file)?;
        finit_module(opened, c"", ModuleInitFlags::empty())
            .with_context(|| file.display().to_string())?;
    }
    match Path::new(VHOST).exists() {
        true => rc::ueventd(&format!("{VHOST} 0660 system system\n")),
        false => Ok(()),
    }
}

fn scripts() -> Result<Script> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(SCRIPTS)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut script = Script::default();
    for file in files.iter().filter(|file| file.extension().is_some_and(|end| end == "rc")) {
        println!("init: reading {}", file.display());
        script.read(&fs::read_to_string(file)?)?;
    }
    Ok(script)
}

fn spawn_story() -> Result<Pid> {
    let program = CString::new(Path::new("/init").as_os_str().as_bytes())?;
    let arguments = [program.clone(), CString::new("story")?];
    // SAFETY: the child only executes another program.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = nix::unistd::execv(&program, &arguments);
            std::process::exit(127)
        }
    }
}

/// Reaps and restarts services until the story ends; returns whether it passed.
fn supervise(script: &Script, running: &mut [Running], story: Pid) -> Result<bool> {
    loop {
        while let Some(pid) = reap()? {
            match pid {
                (pid, status) if pid == story => {
                    return Ok(matches!(status, WaitStatus::Exited(_, 0)))
                }
                (pid, status) => {
                    for service in running.iter_mut().filter(|service| service.pid() == Some(pid)) {
                        println!("init: service {} ended: {status:?}", service.name());
                        service.ended()?;
                    }
                }
            }
        }
        follow_properties(script, running)?;
        for service in running.iter_mut() {
            service.restart_if_due(Instant::now())?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn reap() -> Result<Option<(Pid, WaitStatus)>> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(status) => Ok(status.pid().map(|pid| (pid, status))),
        Err(nix::errno::Errno::ECHILD) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
