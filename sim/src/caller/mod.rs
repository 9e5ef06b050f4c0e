// SPDX-License-Identifier: Apache-2.0
//! The process behind a call: its memory, descriptors and limits, as the kernel would see them.

mod limits;
mod maps;
mod memory;
mod pages;
mod spin;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;

pub use limits::MemlockLimit;
pub use maps::{read_pieces, Backing, Mapping, Piece};
pub use memory::Plain;
pub use pages::{Folio, PageState, PinError};

/// Which open file a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode {
    /// Device of the file system.
    pub dev: u64,
    /// Number in it.
    pub ino: u64,
}

/// The calling thread and its process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The thread.
    pub tid: i32,
    /// Its process; stands for its memory, too.
    pub pid: i32,
}

impl Caller {
    /// Looks the thread's process up.
    pub fn of_thread(tid: i32) -> Result<Self, Errno> {
        // Each call that is seen begins so, most of them of a process's first thread: signal 0 tells without a
        // file. SAFETY: it takes integers, and nothing is sent.
        if unsafe { libc::syscall(libc::SYS_tgkill, tid, tid, 0) } == 0 {
            return Ok(Self { tid, pid: tid });
        }
        let mut status = String::with_capacity(4096);
        File::open(format!("/proc/{tid}/status"))
            .and_then(|mut file| file.read_to_string(&mut status))
            .map_err(|_| Errno::ESRCH)?;
        let pid = status_field(&status, "Tgid:")
            .and_then(|value| value.parse().ok())
            .ok_or(Errno::ESRCH)?;
        Ok(Self { tid, pid })
    }

    /// The open file that the caller's descriptor `fd` refers to.
    pub fn inode(&self, fd: i32) -> Result<Inode, Errno> {
        let metadata =
            fs::metadata(format!("/proc/{}/fd/{fd}", self.tid)).map_err(|_| Errno::EBADF)?;
        Ok(Inode { dev: metadata.dev(), ino: metadata.ino() })
    }

    /// The name of its process, which the kernel cuts after 15 bytes.
    pub fn process_name(&self) -> String {
        let name = fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default();
        name.trim_end().to_string()
    }

    /// What `/proc` says the descriptor is, such as `anon_inode:[eventfd]`.
    pub fn fd_target(&self, fd: i32) -> Result<String, Errno> {
        fs::read_link(format!("/proc/{}/fd/{fd}", self.tid))
            .map(|path| path.to_string_lossy().into_owned())
            .map_err(|_| Errno::EBADF)
    }

    /// The number by which the kernel tells eventfds apart.
    pub fn eventfd_id(&self, fd: i32) -> Option<u64> {
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", self.pid)).ok()?;
        status_field(&info, "eventfd-id:")?.parse().ok()
    }

    /// Those of all eventfds that the process has open.
    pub fn eventfd_ids(&self) -> Vec<u64> {
        fs::read_dir(format!("/proc/{}/fd", self.pid))
            .map(|entries| {
                entries
                    .flatten()
                    .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                    .filter_map(|fd| self.eventfd_id(fd))
                    .collect()
            })
            .unwrap_or_default()
    }

    /// A descriptor of ours for the same open file as the caller's `fd`.
    pub fn take_fd(&self, fd: i32) -> Result<OwnedFd, Errno> {
        // SAFETY: pidfd_open takes two integers and touches no memory.
        let raw = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid, 0) })?;
        let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel just made this descriptor for us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: pidfd_getfd takes three integers and touches no memory.
        let raw = Errno::result(unsafe {
            libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0)
        })?;
        let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
        // SAFETY: the kernel just made this descriptor for us alone.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }
}

/// A field of `/proc/PID/status`: its first word.
fn status_field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
}

#[cfg(test)]
impl Caller {
    /// This very process, for tests.
    pub fn myself() -> Self {
        let pid = nix::unistd::getpid().as_raw();
        Self { tid: pid, pid }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_leads_to_its_process() {
        let tid = std::thread::spawn(|| {
            let tid = nix::unistd::gettid().as_raw();
            (tid, Caller::of_thread(tid).unwrap())
        });
        let (tid, caller) = tid.join().unwrap();
        assert_eq!(caller.tid, tid);
        assert_eq!(caller.pid, nix::unistd::getpid().as_raw());
        assert_eq!(Caller::of_thread(i32::MAX), Err(Errno::ESRCH));
    }

    #[test]
    fn a_duplicate_is_the_same_open_file() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let copy = a.try_clone().unwrap();
        let me = Caller::myself();
        assert_eq!(me.inode(a.as_raw_fd()), me.inode(copy.as_raw_fd()));
        assert_ne!(me.inode(a.as_raw_fd()), me.inode(b.as_raw_fd()));
        assert_eq!(me.inode(-1), Err(Errno::EBADF));
    }
}
