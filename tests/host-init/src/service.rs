// SPDX-License-Identifier: Apache-2.0
//! A service's life: what it inherits, who it becomes, its restart and its cgroup.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use nix::fcntl::{open, OFlag};
use nix::sys::resource::{setrlimit, Resource, RLIM_INFINITY};
use nix::sys::signal::{kill, Signal};
use nix::sys::socket::{
    bind, listen, socket, AddressFamily, Backlog, SockFlag, SockType, UnixAddr,
};
use nix::sys::stat::Mode;
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{execvp, fork, setgroups, setresgid, setresuid, ForkResult, Gid, Pid, Uid};

use crate::rc::{aid, expand, Service};

/// The simulated hypervisor, which runs as root between init and a service.
const SIMULATOR: [&str; 5] =
    ["/sim/gunyah-sim", "--record", "/data/record.jsonl", "--control", "/data/sim-control"];

/// How long `gentle_kill` waits.
const GENTLE: Duration = Duration::from_millis(200);

/// A service that runs, or waits for its restart.
#[derive(Debug)]
pub struct Running {
    service: Service,
    pid: Option<Pid>,
    restart_at: Option<Instant>,
    started: Instant,
}

impl Running {
    /// Starts it.
    pub fn start(service: &Service) -> Result<Self> {
        let pid = spawn(service)?;
        tell(service, "running")?;
        println!("init: started service {} (pid {pid})", service.name);
        Ok(Self {
            service: service.clone(),
            pid: Some(pid),
            restart_at: None,
            started: Instant::now(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.service.name
    }

    /// Its process.
    pub fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// The service ended by itself: kills everything in its cgroup and schedules the restart.
    pub fn ended(&mut self) -> Result<()> {
        self.pid = None;
        self.kill_cgroup()?;
        // Before the state is published, and before anything of the next process (Service::Reap).
        for words in self.service.all("onrestart") {
            crate::rc::run(words)?;
        }
        tell(&self.service, "restarting")?;
        if !self.service.has("oneshot") {
            let period = match self.service.all("restart_period").next() {
                Some([seconds]) => Duration::from_secs(seconds.parse()?),
                _ => Duration::from_secs(5),
            };
            self.restart_at = Some(self.started + period);
        }
        Ok(())
    }

    /// Starts it again when the restart is due.
    pub fn restart_if_due(&mut self, now: Instant) -> Result<()> {
        if self.restart_at.is_some_and(|at| at <= now) {
            *self = Self::start(&self.service)?;
        }
        Ok(())
    }

    /// `stop` by a script or a person: with `gentle_kill` SIGTERM and 200 ms, then SIGKILL for all
    /// (Service::StopOrReset).
    pub fn stop_now(&mut self) -> Result<()> {
        self.restart_at = None;
        let Some(pid) = self.pid.take() else {
            return Ok(());
        };
        tell(&self.service, "stopping")?;
        let mut ended = false;
        if self.service.has("gentle_kill") {
            kill(pid, Signal::SIGTERM)?;
            let begin = Instant::now();
            while !ended && begin.elapsed() < GENTLE {
                std::thread::sleep(Duration::from_millis(10));
                ended = waitpid(pid, Some(WaitPidFlag::WNOHANG))? != WaitStatus::StillAlive;
            }
        }
        self.kill_cgroup()?;
        if !ended {
            waitpid(pid, None)?;
        }
        tell(&self.service, "stopped")
    }

    /// `start`.
    pub fn start_again(&mut self) -> Result<()> {
        if self.pid.is_none() {
            *self = Self::start(&self.service)?;
        }
        Ok(())
    }

    /// SIGTERM, and after `grace` SIGKILL for the cgroup.
    pub fn stop(&mut self, grace: Duration) -> Result<()> {
        self.restart_at = None;
        let Some(pid) = self.pid.take() else {
            return Ok(());
        };
        println!("init: stopping service {}", self.name());
        // The simulator passes the signal on to the service.
        kill(pid, Signal::SIGTERM)?;
        let begin = Instant::now();
        while begin.elapsed() < grace {
            match waitpid(pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => std::thread::sleep(Duration::from_millis(20)),
                status => {
                    println!(
                        "host-test: ok   {} ended on SIGTERM after {} ms: {status:?}",
                        self.name(),
                        begin.elapsed().as_millis()
                    );
                    return self.kill_cgroup();
                }
            }
        }
        println!(
            "host-test: FAIL {} did not end on SIGTERM within {} s",
            self.name(),
            grace.as_secs()
        );
        self.kill_cgroup()
    }

    fn kill_cgroup(&self) -> Result<()> {
        let folder = cgroup(&self.service);
        let left = fs::read_to_string(folder.join("cgroup.procs"))?;
        println!("init: cgroup of {}: {} processes killed", self.name(), left.lines().count());
        fs::write(folder.join("cgroup.kill"), "1").context("cgroup.kill")
    }
}

fn tell(service: &Service, state: &str) -> Result<()> {
    crate::property::set(&format!("init.svc.{}", service.name), state)
}

fn cgroup(service: &Service) -> PathBuf {
    PathBuf::from("/sys/fs/cgroup").join(format!("service_{}", service.name))
}

fn spawn(service: &Service) -> Result<Pid> {
    let folder = cgroup(service);
    fs::create_dir_all(&folder)?;
    let mut environment = vec![
        ("PATH".to_owned(), "/vendor/bin:/bin".to_owned()),
        ("ANDROID_ROOT".to_owned(), "/system".to_owned()),
    ];
    let mut inherited = Vec::new();
    for words in service.all("socket") {
        let (variable, fd) = make_socket(words)?;
        environment.push((variable, fd.as_raw_fd().to_string()));
        inherited.push(fd);
    }
    for words in service.all("file") {
        let (variable, fd) = open_file(words)?;
        environment.push((variable, fd.as_raw_fd().to_string()));
        inherited.push(fd);
    }
    let dialect = fs::read_to_string(crate::DIALECT)?;
    let engine = fs::read_to_string(crate::ENGINE)?;
    let mut words: Vec<&str> = SIMULATOR.to_vec();
    let command = service.command.iter().map(|word| expand(word, &crate::property::get));
    let command = command.collect::<Result<Vec<_>>>()?;
    words.extend([
        "--dialect",
        &dialect,
        "--engine",
        &engine,
        "--",
        "/init",
        "exec",
        &service.name,
    ]);
    words.extend(command.iter().map(String::as_str));
    let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let environment = environment
        .into_iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")))
        .collect::<Result<Vec<_>, _>>()?;
    // SAFETY: the child makes system calls and executes another program; what it allocates is its
    // own, and musl's fork leaves its allocator usable.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let _ = fs::write(folder.join("cgroup.procs"), "0");
            let _ = nix::unistd::setsid();
            if let Some([score]) = service.all("oom_score_adjust").next() {
                let _ = fs::write("/proc/self/oom_score_adj", score);
            }
            let _ = nix::unistd::execve(&words[0], &words, &environment);
            std::process::exit(127)
        }
    }
}

fn make_socket(words: &[String]) -> Result<(String, OwnedFd)> {
    let [name, kind, mode, owner @ ..] = words else { bail!("socket {words:?}") };
    let (kind, listens) = match kind.as_str() {
        "stream" => (SockType::Stream, false),
        "stream+listen" => (SockType::Stream, true),
        "dgram" => (SockType::Datagram, false),
        other => bail!("socket type {other} is not known here"),
    };
    let path = PathBuf::from("/dev/socket").join(name);
    let _ = fs::remove_file(&path);
    // Inherited: not closed on exec.
    let fd = socket(AddressFamily::Unix, kind, SockFlag::empty(), None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(&path)?)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(u32::from_str_radix(mode, 8)?))?;
    if let [user, group, ..] = owner {
        std::os::unix::fs::chown(&path, Some(aid(user)?), Some(aid(group)?))?;
    }
    if listens {
        listen(&fd, Backlog::new(8)?)?;
    }
    Ok((format!("ANDROID_SOCKET_{}", variable_part(name)), fd))
}

fn open_file(words: &[String]) -> Result<(String, OwnedFd)> {
    let [path, mode] = words else { bail!("file {words:?}") };
    let flags = match mode.as_str() {
        "r" => OFlag::O_RDONLY,
        "w" => OFlag::O_WRONLY,
        "rw" => OFlag::O_RDWR,
        other => bail!("file mode {other} is not known here"),
    };
    let fd = open(path.as_str(), flags, Mode::empty()).with_context(|| path.clone())?;
    Ok((format!("ANDROID_FILE_{}", variable_part(path)), fd))
}

fn variable_part(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// Becomes the service's user with its limits and capabilities, and runs its command.
pub fn exec(name: &str, command: &[&str]) -> Result<Infallible> {
    let script = crate::scripts()?;
    let service =
        script.services.iter().find(|service| service.name == name).context("no such service")?;
    for words in service.all("rlimit") {
        let [resource, soft, hard] = words else { bail!("rlimit {words:?}") };
        if resource != "memlock" {
            bail!("rlimit {resource} is not known here");
        }
        let value = |text: &str| {
            if text == "unlimited" {
                Ok(RLIM_INFINITY)
            } else {
                text.parse()
            }
        };
        setrlimit(Resource::RLIMIT_MEMLOCK, value(soft)?, value(hard)?)?;
    }
    let groups: Vec<Gid> = match service.all("group").next() {
        Some(names) => {
            names.iter().map(|name| Ok(Gid::from_raw(aid(name)?))).collect::<Result<_>>()?
        }
        None => vec![Gid::from_raw(0)],
    };
    let user = match service.all("user").next() {
        Some([name]) => Uid::from_raw(aid(name)?),
        _ => Uid::from_raw(0),
    };
    become_user(service, user, &groups)?;
    let words = command.iter().map(|word| CString::new(*word)).collect::<Result<Vec<_>, _>>()?;
    let program = words.first().context("no command")?;
    execvp(program, &words).with_context(|| command.join(" "))
}

fn become_user(service: &Service, user: Uid, groups: &[Gid]) -> Result<()> {
    use caps::{CapSet, Capability, CapsHashSet};
    let wanted: CapsHashSet = service
        .all("capabilities")
        .flatten()
        .map(|name| format!("CAP_{name}").parse::<Capability>().with_context(|| name.clone()))
        .collect::<Result<_>>()?;
    for capability in caps::all() {
        if !wanted.contains(&capability) {
            // Bounding set; a capability that this kernel lacks cannot be dropped from it.
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    caps::securebits::set_keepcaps(true)?;
    setgroups(groups)?;
    setresgid(groups[0], groups[0], groups[0])?;
    setresuid(user, user, user)?;
    caps::securebits::set_keepcaps(false)?;
    if user.is_root() {
        return Ok(());
    }
    caps::set(None, CapSet::Inheritable, &wanted)?;
    caps::set(None, CapSet::Effective, &wanted)?;
    caps::set(None, CapSet::Permitted, &wanted)?;
    caps::set(None, CapSet::Ambient, &wanted)?;
    Ok(())
}
