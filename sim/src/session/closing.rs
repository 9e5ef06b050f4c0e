// SPDX-License-Identifier: Apache-2.0
//! The last close of a VM, which blocks until the VM is torn down, as the real driver's does.

use std::fs;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::caller::{Caller, Inode};
use crate::intercept::Notification;
use crate::vm::VmId;

use super::{FileKind, Session, Waits};

/// How teardowns go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Teardown {
    /// How long one takes besides its engine's time.
    pub delay: Duration,
    /// The kernel does it behind the last close, which is back at once; None: as the dialect does.
    pub behind: Option<bool>,
}

/// The time that teardowns under way take, which can be cut short.
#[derive(Debug, Clone, Default)]
pub struct Delay(Arc<(Mutex<bool>, Condvar)>);

impl Delay {
    /// Waits for `time`, or until it is over.
    pub fn wait(&self, time: Duration) {
        let (over, changed) = &*self.0;
        let over = over.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = changed.wait_timeout_while(over, time, |over| !*over);
    }

    /// All who wait go on.
    pub fn end(&self) {
        let (over, changed) = &*self.0;
        *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// A call that cannot end before these VMs are gone.
#[derive(Debug)]
pub struct Closing {
    notification: Notification,
    vms: Vec<VmId>,
}

/// A process that holds a file, by how many descriptors and mappings.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    pid: i32,
    count: usize,
}

impl Session {
    /// Lets a call go on in the kernel; one that ends VMs only when they are torn down.
    pub(super) fn let_go(&mut self, notification: Notification) {
        // Up to 6.1 a work item does it, since 6.6 the closing task itself.
        let dialect = self.model.settings().dialect;
        let ended = if self.teardown.behind.unwrap_or(!dialect.since_66()) {
            Vec::new()
        } else {
            self.ended_by(&notification)
        };
        if ended.is_empty() {
            let _ = self.launched.listener.let_go(notification.id);
            return;
        }
        for &vm in &ended {
            if self.model.closed(vm) {
                self.tear_down(vm);
            }
        }
        self.closing.push(Closing { notification, vms: ended });
    }

    /// A VM is gone: what waited for that goes on.
    pub(super) fn end_closing(&mut self, vm: VmId) {
        for closing in &mut self.closing {
            closing.vms.retain(|of| *of != vm);
        }
        self.closing.retain(|closing| {
            if closing.vms.is_empty() {
                let _ = self.launched.listener.let_go(closing.notification.id);
            }
            !closing.vms.is_empty()
        });
    }

    /// Forgets those whose caller was killed; one that was interrupted comes again.
    pub(super) fn drop_interrupted_closing(&mut self) {
        let listener = &self.launched.listener;
        self.closing.retain(|closing| listener.waits(closing.notification.id));
    }

    /// True: calls have to be checked for an interruption.
    pub(super) fn closes(&self) -> bool {
        !self.closing.is_empty()
    }

    fn ended_by(&self, notification: &Notification) -> Vec<VmId> {
        match i64::from(notification.nr) {
            libc::SYS_close => self.ended_by_close(notification).into_iter().collect(),
            libc::SYS_munmap => self.ended_by_unmap(notification).into_iter().collect(),
            libc::SYS_exit_group => self.ended_by_exit(notification),
            _ => Vec::new(),
        }
    }

    fn ended_by_close(&self, notification: &Notification) -> Option<VmId> {
        let thread = Caller { tid: notification.tid, pid: notification.tid };
        let fd = i32::try_from(notification.args[0]).ok()?;
        let inode = thread.inode(fd).ok()?;
        self.ended_by_one(inode)
    }

    fn ended_by_unmap(&self, notification: &Notification) -> Option<VmId> {
        let caller = Caller::of_thread(notification.tid).ok()?;
        let mapping = caller.mappings(notification.args[0], notification.args[1]).ok()?;
        let inode = self.files.vcpu_of(mapping.first()?.ino)?;
        self.ended_by_one(inode)
    }

    /// The VM that ends with one holding of its file, where there is no other.
    fn ended_by_one(&self, inode: Inode) -> Option<VmId> {
        let id = self.files.kind(inode)?.vm()?;
        let vm = self.model.vm(id)?;
        // A call that waits holds its file, too.
        let waited = |waits| matches!(waits, Waits::Start(of) | Waits::Turn(of) | Waits::Run(of, _) if of == id);
        let last = vm.open_files == 1
            && !self.held.iter().any(|held| waited(held.waits))
            && holders(inode).iter().map(|of| of.count).sum::<usize>() == 1;
        (vm.closing || last).then_some(id)
    }

    /// The VMs that no other process holds.
    fn ended_by_exit(&self, notification: &Notification) -> Vec<VmId> {
        let Ok(caller) = Caller::of_thread(notification.tid) else {
            return Vec::new();
        };
        let own = |inode: Inode| {
            let holders = holders(inode);
            !holders.is_empty() && holders.iter().all(|of| of.pid == caller.pid)
        };
        let vms = self.model.vms().map(|vm| (vm.id, vm.closing));
        vms.filter(|(vm, closing)| {
            let mut files = self.files.of_vm(*vm).peekable();
            files.peek().is_some() && (*closing || files.all(own))
        })
        .map(|(vm, _)| vm)
        .collect()
    }
}

/// Who has the file open or mapped. Descriptors on their way through a socket are not seen.
fn holders(inode: Inode) -> Vec<Holder> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let own = std::process::id();
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid).is_ok_and(|pid| pid != own))
        .filter_map(|pid| {
            let caller = Caller { tid: pid, pid };
            let count = descriptors(&caller, inode) + mappings(pid, inode);
            (count > 0).then_some(Holder { pid, count })
        })
        .collect()
}

fn descriptors(caller: &Caller, inode: Inode) -> usize {
    fs::read_dir(format!("/proc/{}/fd", caller.pid)).map_or(0, |entries| {
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|fd| caller.inode(*fd) == Ok(inode))
            .count()
    })
}

fn mappings(pid: i32, inode: Inode) -> usize {
    // Only vCPUs' memfds are ever mapped; the number is a line's fifth word.
    let ino = inode.ino.to_string();
    let is = |line: &&str| {
        line.contains(" /memfd:gunyah-vcpu") && line.split_whitespace().nth(4) == Some(&ino)
    };
    fs::read_to_string(format!("/proc/{pid}/maps"))
        .map_or(0, |maps| maps.lines().filter(is).count())
}

impl super::Files {
    /// A VM's files that somebody has.
    fn of_vm(&self, vm: VmId) -> impl Iterator<Item = Inode> + '_ {
        self.all().filter(move |(_, kind)| kind.vm() == Some(vm)).map(|(inode, _)| inode)
    }

    /// The vCPU's file of this number.
    fn vcpu_of(&self, ino: u64) -> Option<Inode> {
        self.all()
            .find(|(inode, kind)| inode.ino == ino && matches!(kind, FileKind::Vcpu(..)))
            .map(|(inode, _)| inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_delay_ends_when_it_is_told_to() {
        let delay = Delay::default();
        let waits = delay.clone();
        let waiting = std::thread::spawn(move || waits.wait(Duration::from_secs(3600)));
        delay.end();
        waiting.join().unwrap();
    }

    #[test]
    fn holders_are_counted_but_for_the_simulator_itself() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let inode = Caller::myself().inode(ours.as_raw_fd()).unwrap();
        assert_eq!(holders(inode), []);
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(ours)))
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert_eq!(holders(inode), [Holder { pid, count: 1 }]);
        drop(theirs);
        child.wait().unwrap();
    }
}
