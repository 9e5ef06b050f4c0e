// SPDX-License-Identifier: Apache-2.0
//! The files that callers hold: how they are known again, and when their last close was.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{socketpair, AddressFamily, SockFlag, SockType};

use crate::caller::Inode;
use crate::engine::{RunPage, VmId};

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `/dev/gunyah`.
    Device,
    /// A VM.
    Vm(VmId),
    /// A vCPU of a VM.
    Vcpu(VmId, u32),
    /// None of ours: a host call that is watched.
    Host,
}

impl FileKind {
    /// The word in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Device => "device",
            FileKind::Vm(_) => "vm",
            FileKind::Vcpu(..) => "vcpu",
            FileKind::Host => "host",
        }
    }

    /// The VM it belongs to.
    pub fn vm(self) -> Option<VmId> {
        match self {
            FileKind::Device | FileKind::Host => None,
            FileKind::Vm(vm) | FileKind::Vcpu(vm, _) => Some(vm),
        }
    }
}

#[derive(Debug)]
enum Watch {
    /// Our end of the pair: hangs up at the last close of the other, wherever it went.
    HangUp(OwnedFd),
    /// inotify tells of the last close of the memfd's second opening, mappings included.
    Close(WatchDescriptor, Arc<RunPage>),
}

/// All open files.
#[derive(Debug)]
pub struct Files {
    open: BTreeMap<Inode, (FileKind, Watch)>,
    inotify: Inotify,
}

fn inode_of(fd: impl AsFd) -> Result<Inode, Errno> {
    let metadata = File::from(fd.as_fd().try_clone_to_owned().map_err(|_| Errno::EMFILE)?)
        .metadata()
        .map_err(|_| Errno::EBADF)?;
    Ok(Inode { dev: metadata.dev(), ino: metadata.ino() })
}

impl Files {
    /// None open.
    pub fn new() -> Result<Self, Errno> {
        Ok(Self {
            open: BTreeMap::new(),
            inotify: Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?,
        })
    }

    /// What the file is, if it is one of ours.
    pub fn kind(&self, inode: Inode) -> Option<FileKind> {
        self.open.get(&inode).map(|(kind, _)| *kind)
    }

    /// A new device or VM file; the descriptor is for the caller, ours must be dropped.
    pub fn make(&mut self, kind: FileKind) -> Result<OwnedFd, Errno> {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        )?;
        self.open.insert(inode_of(&theirs)?, (kind, Watch::HangUp(ours)));
        Ok(theirs)
    }

    /// A new vCPU file, one page long.
    pub fn make_vcpu(&mut self, vm: VmId, vcpu: u32) -> Result<OwnedFd, Errno> {
        let memfd = memfd_create("gunyah-vcpu", MFdFlags::MFD_CLOEXEC)?;
        let size = i64::try_from(crate::page_size()).map_err(|_| Errno::EINVAL)?;
        nix::unistd::ftruncate(&memfd, size)?;
        let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        // A second opening: the memfd's own is not watched by kernels from 6.14 on.
        let theirs: OwnedFd = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|_| Errno::EMFILE)?
            .into();
        let watch = self.inotify.add_watch(path.as_str(), AddWatchFlags::IN_CLOSE)?;
        let page = Arc::new(RunPage::map(&memfd)?);
        // The memfd's own opening closes before any event is read; see closed().
        drop(memfd);
        self.open.insert(inode_of(&theirs)?, (FileKind::Vcpu(vm, vcpu), Watch::Close(watch, page)));
        Ok(theirs)
    }

    /// A vCPU's page.
    pub fn page(&self, vm: VmId, vcpu: u32) -> Option<Arc<RunPage>> {
        self.open.values().find_map(|(kind, watch)| match watch {
            Watch::Close(_, page) if *kind == FileKind::Vcpu(vm, vcpu) => Some(Arc::clone(page)),
            _ => None,
        })
    }

    /// All, with what they are.
    pub fn all(&self) -> impl Iterator<Item = (Inode, FileKind)> + '_ {
        self.open.iter().map(|(inode, (kind, _))| (*inode, *kind))
    }

    /// What to poll.
    pub fn poll_fds(&self) -> Vec<PollFd<'_>> {
        let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.open.values().filter_map(|(_, watch)| match watch {
            Watch::HangUp(ours) => Some(PollFd::new(ours.as_fd(), PollFlags::empty())),
            Watch::Close(..) => None,
        }));
        fds
    }

    /// The files that nobody holds any more; they are forgotten.
    pub fn closed(&mut self) -> Vec<FileKind> {
        let mut gone = Vec::new();
        for (inode, (kind, watch)) in &self.open {
            if let Watch::HangUp(ours) = watch {
                if hung_up(ours.as_fd()) {
                    gone.push((*inode, *kind));
                }
            }
        }
        for event in self.inotify.read_events().unwrap_or_default() {
            let vcpu = self.open.iter().find(
                |(_, (_, watch))| matches!(watch, Watch::Close(watched, _) if *watched == event.wd),
            );
            if let Some((inode, (kind, _))) = vcpu {
                gone.push((*inode, *kind));
            }
        }
        for (inode, _) in &gone {
            if let Some((_, Watch::Close(watched, _))) = self.open.remove(inode) {
                let _ = self.inotify.rm_watch(watched);
            }
        }
        gone.into_iter().map(|(_, kind)| kind).collect()
    }
}

fn hung_up(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Caller;

    #[test]
    fn a_vm_closes_with_its_last_duplicate() {
        let mut files = Files::new().unwrap();
        let vm = files.make(FileKind::Vm(1)).unwrap();
        let copy = vm.try_clone().unwrap();
        let inode = Caller::myself().inode(copy.as_raw_fd()).unwrap();
        assert_eq!(files.kind(inode), Some(FileKind::Vm(1)));
        drop(vm);
        assert_eq!(files.closed(), []);
        drop(copy);
        assert_eq!(files.closed(), [FileKind::Vm(1)]);
        assert_eq!(files.kind(inode), None);
        assert_eq!(files.closed(), []);
    }

    #[test]
    fn a_vcpu_closes_with_its_last_descriptor_and_mapping() {
        let mut files = Files::new().unwrap();
        let vcpu = files.make_vcpu(1, 0).unwrap();
        let other = files.make_vcpu(1, 1).unwrap();
        assert!(files.page(1, 0).is_some() && files.page(1, 2).is_none());
        let mapped = RunPage::map(&vcpu).unwrap();
        assert_eq!(files.closed(), []);
        drop(vcpu);
        assert_eq!(files.closed(), []);
        drop(mapped);
        assert_eq!(files.closed(), [FileKind::Vcpu(1, 0)]);
        drop(other);
        assert_eq!(files.closed(), [FileKind::Vcpu(1, 1)]);
    }
}
