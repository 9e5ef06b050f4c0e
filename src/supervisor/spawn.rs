// SPDX-License-Identifier: Apache-2.0
//! Forks workers, talks to them, and learns of their end.

use std::ffi::CString;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::sys::socket::{
    recv, sendmsg, socketpair, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType,
};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

use crate::config::VmConfig;
use crate::diagnostic::{kinds, Diagnostic};
use crate::json::{self, Json};
use crate::list::Listed;
use crate::process;
use crate::status::logger;
use crate::worker::{self, Report, Reporter, Request, Setting, Start};

use super::lifecycle::Death;
use super::reserve::Holdings;
use crate::text::symbol;

/// Longest packet of reports in bytes. An error with all its texts and paths is a small part of it, and at most
/// eight come at once.
const MAX_REPORT: usize = 128 * 1024;

/// Signals that a worker ignores. Ctrl-C, and init at shutdown, signal the whole group or cgroup at
/// once; but it is the supervisor that says which VM ends when.
const IGNORED: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGPIPE];

kinds! {
    FORK: Error "process-fork" in Process {
        "no process for the VM can be made",
        cause: "the host is short of memory or processes, or a limit of the service is too low",
        cure: "look at the limits on tasks and memory of gunyahd's cgroup; the restart policy tries again",
    }
    SETUP: Error "process-setup" in Process {
        "the VM's process cannot set itself up",
        cause: "something forbids a system call that every kernel has",
        cure: "look for a seccomp filter or SELinux denial: `dmesg | grep -e avc -e audit`",
    }
}

/// What the workers of a supervisor have in common.
#[derive(Debug)]
pub struct Spawner {
    pub setting: Setting,
    /// What guests print goes to the log.
    pub log_console: bool,
    /// Folios for their memory, where some were taken at boot.
    pub reserve: Option<Holdings>,
    /// How many launches there will be with the next one.
    pub launches: usize,
}

/// A living worker, seen from the supervisor.
#[derive(Debug)]
pub struct Worker {
    pid: Pid,
    // Absent where the kernel has none to give: SIGCHLD tells as well.
    pidfd: Option<OwnedFd>,
    channel: Option<OwnedFd>,
}

/// What reading the channel gave.
#[derive(Debug)]
pub enum Heard {
    Reports(Vec<Report>),
    /// A packet that is none of reports: what is wrong with it.
    Garbage(String),
    /// Nothing for now.
    Nothing,
    /// The other end is closed.
    HangUp,
}

impl Spawner {
    /// Forks a worker for `config`; `console` is the console's ring.
    pub fn fork(
        &mut self,
        config: &VmConfig,
        console: Option<OwnedFd>,
    ) -> Result<Worker, Diagnostic> {
        let (ours, theirs) = channel().map_err(|errno| no_worker("socketpair", errno))?;
        let reserve = self.reserve.as_mut().and_then(|holdings| holdings.give(config));
        let (setting, log_console) = (self.setting.clone(), self.log_console);
        let launches = self.launches;
        let child = || {
            let memfd = reserve.as_ref().map(|reserve| &reserve.memfd);
            if let Err(errno) = set_up(config, &theirs, [console.as_ref(), memfd]) {
                let error = SETUP.case("setting up the VM's process").errno(errno);
                Reporter::new(theirs).send(Report::Failed(error));
                return errno as i32;
            }
            worker::run(Start {
                config,
                setting,
                channel: theirs,
                console,
                log_console,
                reserve,
                launches,
            })
        };
        let pid = process::fork(child).map_err(|errno| {
            if let Some(holdings) = &mut self.reserve {
                holdings.settle(config.name.as_str(), 0);
            }
            no_worker("fork", errno)
        })?;
        // SIGCHLD tells of its end, too.
        let pidfd = process::pidfd_open(pid).ok();
        Ok(Worker { pid, pidfd, channel: Some(ours) })
    }
}

fn no_worker(call: &str, errno: Errno) -> Diagnostic {
    FORK.case(format!("cannot make a worker: {call}")).errno(errno)
}

/// The first steps in the child, before it is a worker. Nothing makes it die with the supervisor: the
/// channel tells it, and it closes its VM.
fn set_up(
    config: &VmConfig,
    channel: &OwnedFd,
    others: [Option<&OwnedFd>; 2],
) -> Result<(), Errno> {
    let mut kept = logger::fds();
    kept.push(channel.as_raw_fd());
    kept.extend(others.into_iter().flatten().map(AsRawFd::as_raw_fd));
    process::close_all_but(&kept)?;
    process::reset_signals(&IGNORED)?;
    // The kernel keeps 15 bytes: what tells VMs apart comes first.
    let name = CString::new(format!("vm:{}", config.name)).unwrap_or_default();
    rustix::thread::set_name(&name).map_err(|error| Errno::from_raw(error.raw_os_error()))
}

/// The supervisor's end and the worker's.
fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)
}

impl Worker {
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when there is a report, and when the worker is gone.
    pub fn poll_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fds = [self.channel.as_ref(), self.pidfd.as_ref()];
        fds.into_iter().flatten().map(AsFd::as_fd)
    }

    /// Takes the next packet of reports, without waiting.
    pub fn hear(&mut self) -> Heard {
        let Some(channel) = &self.channel else {
            return Heard::Nothing;
        };
        // With MSG_TRUNC the answer is the packet's own length. It is asked for first: room for the longest
        // report would stay with the supervisor.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let look = || recv(channel.as_raw_fd(), &mut [], flags | MsgFlags::MSG_PEEK);
        // A worker that went with a request unread leaves ECONNRESET before its last words.
        let length = match look() {
            Err(Errno::ECONNRESET) => look(),
            other => other,
        };
        let mut packet = vec![0; length.unwrap_or(0).min(MAX_REPORT)];
        let received = length.and_then(|_| recv(channel.as_raw_fd(), &mut packet, flags));
        match received {
            Err(Errno::EAGAIN | Errno::EINTR) => Heard::Nothing,
            Ok(0) | Err(_) => {
                self.channel = None;
                Heard::HangUp
            }
            Ok(length) => match packet.get(..length).map(json::from_bytes) {
                Some(Ok(reports)) => Heard::Reports(reports),
                Some(Err(error)) => {
                    Heard::Garbage(format!("a report that cannot be read: {error}"))
                }
                None => Heard::Garbage(format!(
                    "a report of {length} bytes, at most {MAX_REPORT} are read"
                )),
            },
        }
    }

    /// Sends a request, without waiting: a worker whose channel is full does not read, and the stop's
    /// timeouts take care of that.
    pub fn send(&self, request: Request) -> Result<(), Errno> {
        self.send_with(request, None)
    }

    /// Hands it a client's socket: from then on the client is the console's.
    pub fn send_console(&self, client: BorrowedFd<'_>, first: u64) -> Result<(), Errno> {
        self.send_with(Request::Console { first }, Some(client.as_raw_fd()))
    }

    fn send_with(&self, request: Request, fd: Option<RawFd>) -> Result<(), Errno> {
        let channel = self.channel.as_ref().ok_or(Errno::EPIPE)?;
        let packet = request.to_json().to_string();
        let parts = [IoSlice::new(packet.as_bytes())];
        let rights = fd.as_ref().map(std::slice::from_ref);
        let rights = rights.into_iter().map(ControlMessage::ScmRights).listed();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(channel.as_raw_fd(), &parts, &rights, flags, None).map(drop)
    }

    /// SIGKILL, at a person's wish or where no VM has started.
    pub fn kill(&self) {
        // The process is ours and not waited for yet, so its number cannot be another's.
        if let Err(errno) = signal::kill(self.pid, Signal::SIGKILL) {
            logger::warn!("kill worker {}: {}", self.pid, symbol(errno));
        }
    }

    /// Its death, once it is dead; then it is not a zombie any more.
    pub fn reap(&self) -> Option<Death> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(Death::Exit(code)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(Death::Signal(signal as i32)),
            // Somebody else waited for it: it is gone all the same.
            Err(Errno::ECHILD) => Some(Death::Exit(-1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::send;

    /// What stands for a worker, and its end of the channel.
    fn worker() -> (Worker, OwnedFd) {
        let (ours, theirs) = channel().unwrap();
        let worker = Worker { pid: Pid::this(), pidfd: None, channel: Some(ours) };
        (worker, theirs)
    }

    #[test]
    fn last_words_are_heard_behind_an_unread_request() {
        let (mut worker, theirs) = worker();
        worker.send(Request::Stop).unwrap();
        let last = vec![Report::Closed].to_json().to_string();
        send(theirs.as_raw_fd(), last.as_bytes(), MsgFlags::empty()).unwrap();
        drop(theirs);
        assert!(
            matches!(worker.hear(), Heard::Reports(last) if matches!(last[..], [Report::Closed]))
        );
        assert!(matches!(worker.hear(), Heard::HangUp));
        assert!(matches!(worker.hear(), Heard::Nothing));
    }

    #[test]
    fn what_is_no_report_says_why() {
        let (mut worker, theirs) = worker();
        for (packet, word) in
            [(vec![b'{'; 8], "cannot be read"), (vec![b' '; MAX_REPORT + 1], "131073 bytes")]
        {
            send(theirs.as_raw_fd(), &packet, MsgFlags::empty()).unwrap();
            match worker.hear() {
                Heard::Garbage(what) => assert!(what.contains(word), "{what}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(worker.hear(), Heard::Nothing));
    }

    #[test]
    fn a_process_that_cannot_be_made_is_named() {
        let error = no_worker("fork", Errno::EAGAIN);
        assert_eq!((&*error.name, error.lasting), ("process-fork", false));
        assert!(error.to_string().contains("cannot make a worker: fork: EAGAIN"));
    }

    #[test]
    fn a_worker_that_cannot_set_itself_up_says_so() {
        let (ours, theirs) = channel().unwrap();
        // As the child does it.
        let error = SETUP.case("setting up").errno(Errno::ESRCH);
        Reporter::new(theirs).send(Report::Failed(error));
        let mut worker = Worker { pid: Pid::this(), pidfd: None, channel: Some(ours) };
        match worker.hear() {
            Heard::Reports(all) => match &all[..] {
                [Report::Failed(error)] => assert_eq!(error.name, "process-setup"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}
