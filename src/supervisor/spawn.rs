// SPDX-License-Identifier: Apache-2.0
//! Forks workers and learns of their end.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal};
use nix::sys::socket::{
    recv, send, sendmsg, socketpair, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType,
};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, ForkResult, Pid};

use crate::config::VmConfig;
use crate::prctl;
use crate::worker::{self, Report, Request, Setting, Start};

use super::lifecycle::Death;

/// Longest report in bytes: an error with all its texts is a small part of it.
const MAX_REPORT: usize = 64 * 1024;

/// Signals that a worker ignores. Ctrl-C, and init at shutdown, signal the whole group or cgroup at
/// once; but it is the supervisor that says which VM ends when.
const IGNORED: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
];

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
    /// A report.
    Report(Report),
    /// A packet that is no report: it says what is wrong with it.
    Garbage(String),
    /// Nothing for now.
    Nothing,
    /// The other end is closed.
    HangUp,
}

impl Worker {
    /// Forks a worker for `config`. `keep` are fds that it may keep besides standard input, output
    /// and error; `console` is the console's ring, and `log_console` says whether its lines go to the
    /// log.
    pub fn fork(
        config: &VmConfig,
        setting: &Setting,
        keep: &[RawFd],
        console: Option<OwnedFd>,
        log_console: bool,
    ) -> Result<Self, String> {
        let (ours, theirs) = channel().map_err(|errno| failed("socketpair", errno))?;
        let supervisor = Pid::this();
        // SAFETY: the supervisor has one thread, so the child's copy of every lock and of the heap is
        // consistent; the child never returns from this arm.
        match unsafe { fork() }.map_err(|errno| failed("fork", errno))? {
            ForkResult::Child => {
                drop(ours);
                if let Err(errno) = settle_in(supervisor, config, &theirs, console.as_ref(), keep) {
                    worker::report_unsettled(theirs, errno);
                    // SAFETY: as below.
                    unsafe { libc::_exit(errno as i32) }
                }
                let code = worker::run(Start {
                    config: config.clone(),
                    setting: setting.clone(),
                    channel: theirs,
                    console,
                    log_console,
                });
                // SAFETY: _exit takes any value; it skips exit handlers, which are the supervisor's.
                unsafe { libc::_exit(code) }
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                let pidfd = pidfd_open(child);
                if let Err(errno) = &pidfd {
                    log::debug!("pidfd_open: {errno:?}; relying on SIGCHLD for worker {child}");
                }
                Ok(Self {
                    pid: child,
                    pidfd: pidfd.ok(),
                    channel: Some(ours),
                })
            }
        }
    }

    /// The worker's process.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Readable when the worker is gone.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// Readable when there is a report; `None` after a hang-up.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Takes the next report, without waiting.
    pub fn hear(&mut self) -> Heard {
        let Some(channel) = &self.channel else {
            return Heard::Nothing;
        };
        let mut packet = vec![0; MAX_REPORT];
        // With MSG_TRUNC the answer is the packet's own length.
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        // A worker that went with a request unread leaves ECONNRESET before its last words.
        let received = match recv(channel.as_raw_fd(), &mut packet, flags) {
            Err(Errno::ECONNRESET) => recv(channel.as_raw_fd(), &mut packet, flags),
            other => other,
        };
        match received {
            Ok(0) => {
                self.channel = None;
                Heard::HangUp
            }
            Ok(length) if length > packet.len() => Heard::Garbage(format!(
                "a report of {length} bytes, at most {MAX_REPORT} are read"
            )),
            Ok(length) => match serde_json::from_slice(&packet[..length]) {
                Ok(report) => Heard::Report(report),
                Err(error) => Heard::Garbage(format!("a report that cannot be read: {error}")),
            },
            Err(Errno::EAGAIN | Errno::EINTR) => Heard::Nothing,
            Err(_) => {
                self.channel = None;
                Heard::HangUp
            }
        }
    }

    /// Sends a request, without waiting: a worker whose channel is full does not read, and the stop's
    /// timeouts take care of that.
    pub fn send(&self, request: Request) -> Result<(), Errno> {
        let Some(channel) = &self.channel else {
            return Err(Errno::EPIPE);
        };
        let packet = serde_json::to_vec(&request).map_err(|_| Errno::EINVAL)?;
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(channel.as_raw_fd(), &packet, flags).map(drop)
    }

    /// Hands it a client's socket, without waiting: from then on the client is the console's.
    pub fn send_console(&self, client: BorrowedFd<'_>, first: u64) -> Result<(), Errno> {
        let Some(channel) = &self.channel else {
            return Err(Errno::EPIPE);
        };
        let packet = serde_json::to_vec(&Request::Console { first }).map_err(|_| Errno::EINVAL)?;
        let fds = [client.as_raw_fd()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(
            channel.as_raw_fd(),
            &[IoSlice::new(&packet)],
            &[ControlMessage::ScmRights(&fds)],
            flags,
            None,
        )
        .map(drop)
    }

    /// SIGKILL.
    pub fn kill(&self) {
        // The process is ours and not waited for yet, so its number cannot be another's.
        if let Err(errno) = signal::kill(self.pid, Signal::SIGKILL) {
            log::warn!("kill worker {}: {errno:?}", self.pid);
        }
    }

    /// Its death, once it is dead; then it is no zombie any more.
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

/// The supervisor's end and the worker's.
fn channel() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC)
}

fn failed(call: &str, errno: Errno) -> String {
    format!("cannot make a worker: {call}: {errno:?} ({})", errno.desc())
}

fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes a pid and flags, and gives a new fd (close-on-exec) or -1.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let raw = Errno::result(raw)?;
    let raw = RawFd::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just gave this fd to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// The first steps in the child, before it is a worker.
fn settle_in(
    supervisor: Pid,
    config: &VmConfig,
    channel: &OwnedFd,
    console: Option<&OwnedFd>,
    keep: &[RawFd],
) -> Result<(), Errno> {
    let mut kept = keep.to_vec();
    kept.push(channel.as_raw_fd());
    kept.extend(console.map(AsRawFd::as_raw_fd));
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have died before the line above: then nobody would kill us.
    if Pid::parent() != supervisor {
        return Err(Errno::ESRCH);
    }
    close_all_but(&mut kept)?;
    for signal in Signal::iterator() {
        let handler = if IGNORED.contains(&signal) {
            SigHandler::SigIgn
        } else {
            SigHandler::SigDfl
        };
        let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
        if !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: both handlers are the kernel's own; no code of ours runs in a signal.
            unsafe { signal::sigaction(signal, &action) }?;
        }
    }
    signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    // The kernel keeps 15 bytes: what tells VMs apart comes first.
    let name = std::ffi::CString::new(format!("vm:{}", config.name)).unwrap_or_default();
    prctl::set_name(&name)
}

/// Closes every fd above standard error that is not in `keep`.
fn close_all_but(keep: &mut [RawFd]) -> Result<(), Errno> {
    keep.sort_unstable();
    let mut first: RawFd = 3;
    for &fd in keep.iter().filter(|fd| **fd >= 3) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = fd + 1;
    }
    close_range(first, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> Result<(), Errno> {
    // SAFETY: closes fds of the supervisor's copy that nothing in this child uses again.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    match Errno::result(result) {
        Ok(_) => Ok(()),
        // Before Linux 5.9.
        Err(Errno::ENOSYS) => close_listed(first, last),
        Err(errno) => Err(errno),
    }
}

fn close_listed(first: RawFd, last: RawFd) -> Result<(), Errno> {
    let listed = std::fs::read_dir("/proc/self/fd").map_err(|_| Errno::ENOSYS)?;
    let open: Vec<RawFd> = listed
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| (first..=last).contains(fd))
        .collect();
    for fd in open {
        // SAFETY: as above; one that is already closed (the directory's own) only answers EBADF.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What stands for a worker, and its end of the channel.
    fn worker() -> (Worker, OwnedFd) {
        let (ours, theirs) = channel().unwrap();
        let worker = Worker {
            pid: Pid::this(),
            pidfd: None,
            channel: Some(ours),
        };
        (worker, theirs)
    }

    #[test]
    fn last_words_are_heard_behind_an_unread_request() {
        let (mut worker, theirs) = worker();
        worker.send(Request::Stop).unwrap();
        let last = serde_json::to_vec(&Report::Closed).unwrap();
        send(theirs.as_raw_fd(), &last, MsgFlags::empty()).unwrap();
        drop(theirs);
        assert!(matches!(worker.hear(), Heard::Report(Report::Closed)));
        assert!(matches!(worker.hear(), Heard::HangUp));
        assert!(matches!(worker.hear(), Heard::Nothing));
    }

    #[test]
    fn what_is_no_report_says_why() {
        let (mut worker, theirs) = worker();
        for (packet, word) in [
            (vec![b'{'; 8], "cannot be read"),
            (vec![b' '; MAX_REPORT + 1], "65537 bytes"),
        ] {
            send(theirs.as_raw_fd(), &packet, MsgFlags::empty()).unwrap();
            match worker.hear() {
                Heard::Garbage(what) => assert!(what.contains(word), "{what}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(worker.hear(), Heard::Nothing));
    }
}
