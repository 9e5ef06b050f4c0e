// SPDX-License-Identifier: Apache-2.0
//! The caller's mappings, and the files behind them.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::errno::Errno;

use super::{Caller, Inode};

/// One line of `/proc/PID/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// Writes are allowed.
    pub writable: bool,
    /// MAP_SHARED.
    pub shared: bool,
    /// Offset of `start` in the file.
    pub offset: u64,
    /// The file's number; 0: anonymous.
    pub ino: u64,
    /// The file's name as shown.
    pub name: String,
}

/// What the pages of a piece are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backing {
    /// A file, in practice a memfd.
    File(Inode),
    /// Private memory of a process.
    Anonymous {
        /// The process.
        pid: i32,
    },
}

/// A part of a range with one backing.
#[derive(Debug, Clone)]
pub struct Piece {
    /// First address in the caller.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub backing: Backing,
    /// Offset of `address` in the backing: in the file, or the address itself.
    pub offset: u64,
    /// Shared: writes reach the file.
    pub shared: bool,
    /// Writes are allowed.
    pub writable: bool,
    /// The file, opened read-write; keeps its pages as a pin would. None: anonymous or not to be had.
    pub file: Option<Arc<OwnedFd>>,
    /// Bytes of a page of this backing: 4096, or a huge page's size for hugetlb.
    pub page_size: u64,
    /// hugetlb pages.
    pub hugetlb: bool,
    /// Anonymous or shmem: what the kernel could swap out. hugetlb and ordinary files are not.
    pub swap_backed: bool,
}

fn parse_line(line: &str) -> Option<Mapping> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let permissions = words.next()?.as_bytes();
    let offset = words.next()?;
    let _device = words.next()?;
    let ino = words.next()?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        writable: permissions.get(1) == Some(&b'w'),
        shared: permissions.get(3) == Some(&b's'),
        offset: u64::from_str_radix(offset, 16).ok()?,
        ino: ino.parse().ok()?,
        name: words.next().unwrap_or("").to_string(),
    })
}

// linux/magic.h.
const HUGETLBFS_MAGIC: u64 = 0x958_458f6;
const TMPFS_MAGIC: u64 = 0x0102_1994;

impl Caller {
    /// The mappings that cover the range, in order; EFAULT where there is a hole.
    pub fn mappings(&self, address: u64, size: u64) -> Result<Vec<Mapping>, Errno> {
        let end = address.checked_add(size).ok_or(Errno::EFAULT)?;
        let text =
            fs::read_to_string(format!("/proc/{}/maps", self.pid)).map_err(|_| Errno::ESRCH)?;
        let mut at = address;
        let mut found = Vec::new();
        for mapping in text.lines().filter_map(parse_line) {
            if mapping.end <= at {
                continue;
            }
            if at >= end {
                break;
            }
            if mapping.start > at {
                return Err(Errno::EFAULT);
            }
            at = mapping.end;
            found.push(mapping);
        }
        if at < end {
            return Err(Errno::EFAULT);
        }
        Ok(found)
    }

    /// The range as pieces of files or anonymous memory.
    pub fn pieces(&self, address: u64, size: u64) -> Result<Vec<Piece>, Errno> {
        let end = address.checked_add(size).ok_or(Errno::EFAULT)?;
        let mut pieces = Vec::new();
        for mapping in self.mappings(address, size)? {
            let first = mapping.start.max(address);
            let last = mapping.end.min(end);
            let file = if mapping.ino == 0 { None } else { self.open_mapped(&mapping) };
            let piece = match file {
                Some((file, inode, kind, page_size)) => Piece {
                    address: first,
                    size: last - first,
                    backing: Backing::File(inode),
                    offset: mapping.offset + (first - mapping.start),
                    shared: mapping.shared,
                    writable: mapping.writable,
                    file: Some(Arc::new(file)),
                    page_size,
                    hugetlb: kind == HUGETLBFS_MAGIC,
                    swap_backed: kind == TMPFS_MAGIC
                        || (!mapping.shared && kind != HUGETLBFS_MAGIC),
                },
                None => Piece {
                    address: first,
                    size: last - first,
                    backing: Backing::Anonymous { pid: self.pid },
                    offset: first,
                    shared: mapping.shared,
                    writable: mapping.writable,
                    file: None,
                    page_size: crate::page_size(),
                    hugetlb: false,
                    swap_backed: true,
                },
            };
            pieces.push(piece);
        }
        Ok(pieces)
    }

    /// The mapping's file, opened anew: by map_files (root), else among the caller's descriptors.
    fn open_mapped(&self, mapping: &Mapping) -> Option<(OwnedFd, Inode, u64, u64)> {
        let direct = format!("/proc/{}/map_files/{:x}-{:x}", self.pid, mapping.start, mapping.end);
        let file = open(&direct).or_else(|| self.open_among_fds(mapping.ino))?;
        let metadata = file.metadata().ok()?;
        if metadata.ino() != mapping.ino {
            return None;
        }
        let statfs = nix::sys::statfs::fstatfs(&file).ok()?;
        let kind = u64::try_from(statfs.filesystem_type().0).ok()?;
        let page_size = if kind == HUGETLBFS_MAGIC {
            u64::try_from(statfs.block_size()).ok()?
        } else {
            crate::page_size()
        };
        let inode = Inode { dev: metadata.dev(), ino: metadata.ino() };
        Some((file.into(), inode, kind, page_size))
    }

    fn open_among_fds(&self, ino: u64) -> Option<File> {
        fs::read_dir(format!("/proc/{}/fd", self.pid))
            .ok()?
            .flatten()
            .find(|entry| fs::metadata(entry.path()).is_ok_and(|file| file.ino() == ino))
            .and_then(|entry| open(&entry.path().to_string_lossy()))
    }
}

/// Reads a registered range, as pinned pages can be read: from the owner's memory, or once that is
/// gone from the file behind it.
pub fn read_pieces(
    owner: &Caller,
    pieces: &[Piece],
    address: u64,
    into: &mut [u8],
) -> Result<(), Errno> {
    let failed = match owner.read_bytes(address, into) {
        Ok(()) => return Ok(()),
        Err(errno) => errno,
    };
    let mut at = address;
    let mut left = into;
    while !left.is_empty() {
        let piece = pieces
            .iter()
            .find(|piece| (piece.address..piece.address + piece.size).contains(&at))
            .filter(|piece| piece.shared)
            .ok_or(failed)?;
        let file = piece.file.as_ref().ok_or(failed)?;
        let inside = at - piece.address;
        let room = usize::try_from(piece.size - inside).unwrap_or(usize::MAX);
        let (now, later) = left.split_at_mut(room.min(left.len()));
        let offset = i64::try_from(piece.offset + inside).map_err(|_| Errno::EFAULT)?;
        if nix::sys::uio::pread(file, now, offset)? != now.len() {
            return Err(Errno::EFAULT);
        }
        at += u64::try_from(now.len()).map_err(|_| Errno::EFAULT)?;
        left = later;
    }
    Ok(())
}

fn open(path: &str) -> Option<File> {
    OpenOptions::new().read(true).write(true).open(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{memfd_create, MFdFlags};
    use std::num::NonZeroUsize;

    #[test]
    fn a_line_of_maps() {
        let line = "7f00000000-7f00200000 rw-s 00001000 00:0f 1234   /memfd:guest (deleted)";
        let mapping = parse_line(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (0x7f_0000_0000, 0x7f_0020_0000));
        assert!(mapping.writable && mapping.shared);
        assert_eq!((mapping.offset, mapping.ino), (0x1000, 1234));
        assert_eq!(parse_line("nonsense"), None);
    }

    #[test]
    fn a_memfd_is_found_and_a_hole_is_efault() {
        let me = Caller::myself();
        let page = crate::page_size();
        let length = usize::try_from(2 * page).unwrap();
        let fd = memfd_create("maps", MFdFlags::MFD_CLOEXEC).unwrap();
        nix::unistd::ftruncate(&fd, i64::try_from(length).unwrap()).unwrap();
        // SAFETY: a fresh mapping of our own file, given up below and not used in between.
        let at = unsafe {
            nix::sys::mman::mmap(
                None,
                NonZeroUsize::new(length).unwrap(),
                nix::sys::mman::ProtFlags::PROT_READ | nix::sys::mman::ProtFlags::PROT_WRITE,
                nix::sys::mman::MapFlags::MAP_SHARED,
                &fd,
                0,
            )
        }
        .unwrap();
        let address = at.as_ptr() as u64;
        let pieces = me.pieces(address + page, page).unwrap();
        assert_eq!(pieces.len(), 1);
        assert_eq!(pieces[0].offset, page);
        assert!(pieces[0].file.is_some() && pieces[0].shared && !pieces[0].hugetlb);
        // Not unmapped: another test's thread could map its own there, and that would be read.
        // SAFETY: nobody touches what was mapped above.
        unsafe { nix::sys::mman::mprotect(at, length, nix::sys::mman::ProtFlags::PROT_NONE) }
            .unwrap();
        nix::sys::uio::pwrite(&fd, b"kept", i64::try_from(page + 8).unwrap()).unwrap();
        let mut kept = [0; 4];
        read_pieces(&me, &pieces, address + page + 8, &mut kept).unwrap();
        assert_eq!(&kept, b"kept");
        assert!(read_pieces(&me, &pieces, address, &mut kept).is_err());
        // SAFETY: unmaps what was mapped above.
        unsafe { nix::sys::mman::munmap(at, length) }.unwrap();
        assert_eq!(me.mappings(0, page).unwrap_err(), Errno::EFAULT);
    }
}
