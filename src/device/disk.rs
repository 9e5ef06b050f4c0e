// SPDX-License-Identifier: Apache-2.0
//! A virtio block device (virtio 1.2, 5.2) on a file or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
// nix has no fallocate for Android.
use rustix::fs::{fallocate, flock, FallocateFlags, FlockOperation};

use super::io::{count, Io};
use super::link::Counters;
use super::{Chain, Face, Fault, Readable, Served, VirtioDevice, Writable};
use crate::config::DiskConfig;
use crate::confine::DeviceCalls;
use crate::diagnostic::{kinds, Diagnostic};
use crate::memory::{Outside, Segment};
use crate::text::errno_of;

kinds! {
    OPEN: Error "disk-open" in Functions {
        "a disk's file cannot be opened",
        cause: "it is missing, it is a directory, or SELinux or its mode denies it",
        cure: "check the path and `ls -lZ` of it; look for avc: denied in dmesg",
    }
    NO_DISK: Error "disk-no-image" in Functions {
        "a disk's file is no raw image and no block device",
        cure: "give the path of a raw image or of a block device",
    }
    LOCKED: Error "disk-locked" in Functions {
        "a disk's file is in use",
        cause: "another VM has it, or this VM's last worker has not ended",
        cure: "stop the other VM, or give each VM an image of its own; several may have one that is `readonly` for all",
    }
    IO: Warning "disk-io" in Run {
        "the host's storage fails a request of a disk; the guest gets an I/O error",
        cause: "the host's file system is full, or its storage is broken",
        cure: "look at dmesg and at `df` of the disk's file",
    }
    NOT_DIRECT: Warning "disk-not-direct" in Run {
        "a disk goes through the host's page cache although it has `direct`",
        cause: "the file system of its file has no direct I/O",
        cure: "leave `direct` out, or move the file",
    }
}

const SECTOR: u64 = 512;

// Features.
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

// Requests.
const IN: u32 = 0;
const OUT: u32 = 1;
const SYNC: u32 = 4;
const GET_ID: u32 = 8;
const TRIM: u32 = 11;
const ZERO: u32 = 13;

// Answers.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// A range of `TRIM` and `ZERO` may be given back to the storage.
const UNMAP: u32 = 1;

const ENTRIES: u16 = 256;
/// What a swiotlb, through which a guest's kernel reaches a pool, has in one piece.
const SEGMENT: u32 = 256 << 10;
/// As many as there are descriptors besides the head and the status.
const SEGMENTS: u32 = 254;
/// Most data of a request: what driver and device agreed on.
const LONGEST: u64 = SEGMENT as u64 * SEGMENTS as u64;
/// Sectors that one request discards or zeroes at most: 16 MiB, so that none takes long.
const RANGE: u32 = 0x8000;
/// Every storage takes direct I/O that is aligned so.
const DIRECT: u64 = 4096;

/// A disk.
pub struct Disk {
    /// Locked until it is closed.
    file: File,
    /// For direct I/O, if it is wanted and there is any.
    direct: Option<File>,
    /// Why there is none, until that is told.
    not_direct: Option<Diagnostic>,
    sectors: u64,
    readonly: bool,
    id: [u8; 20],
    /// The driver does not flush: what is written is there when it is answered.
    through: bool,
}

/// Why a request is answered with an error.
enum Failure {
    /// The queue is broken.
    Fault(Fault),
    /// It asks for what the disk does not have.
    Refused,
    /// It asks for what no disk of ours does.
    Unsupported,
    /// By the host.
    Host(io::Error),
}

impl From<Outside> for Failure {
    fn from(outside: Outside) -> Self {
        Self::Fault(outside.into())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error)
    }
}

impl Disk {
    /// Opens the disk of `config` and locks it.
    ///
    /// # Errors
    /// It cannot be opened, is no disk, or is in use.
    pub fn open(config: &DiskConfig) -> Result<Self, Diagnostic> {
        let DiskConfig { path, readonly, .. } = config;
        let failed = |error: io::Error| unopened(path, &error);
        let open = |flags: i32| {
            let mut options = OpenOptions::new();
            // Never waits for the other end of a fifo.
            options.read(true).write(!readonly).custom_flags(libc::O_NONBLOCK | flags).open(path)
        };
        let mut file = open(0).map_err(failed)?;
        let sectors = sectors(path, &mut file)?;
        let lock = match readonly {
            true => FlockOperation::NonBlockingLockShared,
            false => FlockOperation::NonBlockingLockExclusive,
        };
        flock(&file, lock).map_err(|error| {
            let locked = LOCKED.case(format!("locking {}", path.display()));
            locked.errno(Errno::from_raw(error.raw_os_error()))
        })?;
        let (direct, not_direct) = match config.direct.then(|| open(libc::O_DIRECT)) {
            None => (None, None),
            Some(Ok(direct)) => (Some(direct), None),
            Some(Err(error)) => {
                let what = format!("opening {} with O_DIRECT", path.display());
                (None, Some(NOT_DIRECT.case(what).errno(errno_of(&error))))
            }
        };
        let mut id = [0; 20];
        let text = config.id.as_deref().unwrap_or("").bytes();
        id.iter_mut().zip(text).for_each(|(to, from)| *to = from);
        Ok(Self { file, direct, not_direct, sectors, readonly: *readonly, id, through: false })
    }

    /// Answers a request; returns the bytes that were written.
    ///
    /// # Errors
    /// The queue is broken.
    pub fn answer(
        &mut self,
        chain: &mut Chain<'_>,
        counters: &Counters,
        warn: impl Fn(Diagnostic),
    ) -> Result<u32, Fault> {
        let Some(room) = chain.writable.len().checked_sub(1) else {
            // There is no byte to say so in.
            count(&counters.errors, 1);
            return Ok(0);
        };
        let mut data = chain.writable.split(room);
        let (status, written) = match self.execute(&mut chain.readable, &mut data, counters) {
            Ok(written) => (OK, written),
            Err(Failure::Fault(fault)) => return Err(fault),
            Err(failure) => {
                count(&counters.errors, 1);
                if let Failure::Host(error) = &failure {
                    warn(host_failed(error));
                }
                (if matches!(failure, Failure::Unsupported) { UNSUPP } else { IOERR }, 0)
            }
        };
        chain.writable.write(&[status])?;
        // The status counts where everything before it was written.
        Ok(if written == room { written.saturating_add(1) } else { written })
    }

    fn execute(
        &mut self,
        readable: &mut Readable<'_>,
        data: &mut Writable<'_>,
        counters: &Counters,
    ) -> Result<u32, Failure> {
        let mut head = [0; 16];
        if readable.read(&mut head)? != head.len() {
            return Err(Failure::Refused);
        }
        let [a, b, c, d, _, _, _, _, sector @ ..] = head;
        let sector = u64::from_le_bytes(sector);
        let kind = u32::from_le_bytes([a, b, c, d]);
        if self.readonly && matches!(kind, OUT | TRIM | ZERO) {
            return Err(Failure::Refused);
        }
        match kind {
            IN => {
                let offset = self.place(sector, data.len())?;
                let moved = |file: BorrowedFd<'_>| data.read_from(file, offset);
                self.transfer(is_aligned(offset, data.segments()), &moved)?;
                count(&counters.read, data.len().into());
                Ok(data.len())
            }
            OUT => {
                let offset = self.place(sector, readable.len())?;
                let moved = |file: BorrowedFd<'_>| readable.write_to(file, offset);
                self.transfer(is_aligned(offset, readable.segments()), &moved)?;
                count(&counters.written, readable.len().into());
                self.settle()?;
                Ok(0)
            }
            SYNC => {
                self.file.sync_data()?;
                Ok(0)
            }
            GET_ID => Ok(u32::try_from(data.write(&self.id)?).unwrap_or(0)),
            TRIM | ZERO => {
                self.clear(kind == ZERO, readable)?;
                Ok(0)
            }
            _ => Err(Failure::Unsupported),
        }
    }

    /// The place in the file of `len` bytes from `sector` on.
    fn place(&self, sector: u64, len: u32) -> Result<u64, Failure> {
        let len = u64::from(len);
        let end = sector.checked_add(len / SECTOR).ok_or(Failure::Refused)?;
        if len % SECTOR != 0 || len > LONGEST || end > self.sectors {
            return Err(Failure::Refused);
        }
        sector.checked_mul(SECTOR).ok_or(Failure::Refused)
    }

    /// Moves data by direct I/O where it `is_aligned` and there is any, else through the page cache.
    fn transfer(
        &mut self,
        is_aligned: bool,
        moved: &dyn Fn(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| is_aligned) {
            match moved(direct.as_fd()) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    let what = "the host refuses direct I/O of 4 KiB";
                    self.not_direct = Some(NOT_DIRECT.case(what).errno(Errno::EINVAL));
                    self.direct = None;
                }
                done => return done,
            }
        }
        moved(self.file.as_fd())
    }

    /// Discards or zeroes the range that `readable` names: one, as was agreed on.
    fn clear(&self, zero: bool, readable: &mut Readable<'_>) -> Result<(), Failure> {
        let mut range = [0; 16];
        if readable.len() != 16 || readable.read(&mut range)? != range.len() {
            return Err(Failure::Refused);
        }
        let [a, b, c, d, e, f, g, h, i, j, k, l, flags @ ..] = range;
        let sectors = u32::from_le_bytes([i, j, k, l]);
        let flags = u32::from_le_bytes(flags);
        if flags & !UNMAP != 0 || (flags != 0 && !zero) {
            return Err(Failure::Unsupported);
        }
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let end = sector.checked_add(sectors.into()).ok_or(Failure::Refused)?;
        if sectors > RANGE || end > self.sectors {
            return Err(Failure::Refused);
        }
        if sectors == 0 {
            return Ok(());
        }
        // Both fit a file: they are no larger than its size.
        let (offset, len) = (sector.saturating_mul(SECTOR), u64::from(sectors) * SECTOR);
        match zero {
            true => self.zero(offset, len, flags & UNMAP != 0)?,
            false => match self.allocate(FallocateFlags::PUNCH_HOLE, offset, len) {
                // It was a hint.
                Ok(()) | Err(Errno::EOPNOTSUPP) => {}
                Err(errno) => return Err(io::Error::from(errno).into()),
            },
        }
        Ok(self.settle()?)
    }

    /// Zeroes by what the storage has: a mark, a hole, or zeros.
    fn zero(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let (mark, hole) = (FallocateFlags::ZERO_RANGE, FallocateFlags::PUNCH_HOLE);
        for way in if unmap { [hole, mark] } else { [mark, hole] } {
            match self.allocate(way, offset, len) {
                Err(Errno::EOPNOTSUPP) => {}
                done => return done.map_err(io::Error::from),
            }
        }
        self.write_zeros(offset, offset.saturating_add(len))
    }

    // On its own: these zeros would be a part of every request's stack.
    #[inline(never)]
    fn write_zeros(&self, mut offset: u64, end: u64) -> io::Result<()> {
        let zeros = [0; 16 << 10];
        while offset < end {
            let now =
                usize::try_from(end - offset).map_or(zeros.len(), |left| left.min(zeros.len()));
            self.file.write_all_at(&zeros[..now], offset)?;
            offset += now as u64;
        }
        Ok(())
    }

    // fallocate does it for block devices as well.
    fn allocate(&self, way: FallocateFlags, offset: u64, len: u64) -> Result<(), Errno> {
        let flags = way | FallocateFlags::KEEP_SIZE;
        loop {
            match fallocate(&self.file, flags, offset, len) {
                Err(rustix::io::Errno::INTR) => {}
                done => return done.map_err(|error| Errno::from_raw(error.raw_os_error())),
            }
        }
    }

    /// What was written is on the storage, where the driver does not flush.
    fn settle(&self) -> io::Result<()> {
        match self.through {
            true => self.file.sync_data(),
            false => Ok(()),
        }
    }
}

impl VirtioDevice for Disk {
    fn face(&self) -> Face {
        // Discard: sectors, ranges, alignment; write zeroes: sectors, ranges, may unmap. Between: geometry, block
        // size, topology, write-back, queues, which are not offered.
        let words = [SEGMENT, SEGMENTS, 0, 0, 0, 0, 0, RANGE, 1, 1, RANGE, 1, 1];
        let mut config = self.sectors.to_le_bytes().to_vec();
        words.iter().for_each(|word| config.extend_from_slice(&word.to_le_bytes()));
        let writes = if self.readonly { RO } else { DISCARD | WRITE_ZEROES };
        let features = SIZE_MAX | SEG_MAX | FLUSH | writes;
        Face { number: 2, features, queues: vec![ENTRIES], config }
    }

    fn calls(&self) -> DeviceCalls {
        DeviceCalls::DISK
    }

    fn start(&mut self, io: &mut Io) -> Result<(), Diagnostic> {
        self.through = io.features & FLUSH == 0;
        Ok(())
    }

    fn kicked(&mut self, queue: usize, io: &mut Io) -> Result<Served, Fault> {
        if let Some(warning) = self.not_direct.take() {
            io.link().warn(warning);
        }
        io.serve(queue, &mut |chain, link| {
            self.answer(chain, link.counters(), |warning| link.warn(warning))
        })
    }
}

/// Whether direct I/O takes it.
fn is_aligned(offset: u64, mut segments: impl Iterator<Item = Segment>) -> bool {
    let aligned =
        |segment: Segment| segment.address % DIRECT == 0 && u64::from(segment.len) % DIRECT == 0;
    offset % DIRECT == 0 && segments.all(aligned)
}

/// Its size, if it is a disk.
fn sectors(path: &Path, file: &mut File) -> Result<u64, Diagnostic> {
    let failed = |error: io::Error| unopened(path, &error);
    let metadata = file.metadata().map_err(failed)?;
    let path = path.display();
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        return Err(NO_DISK.case(format!("{path} is neither a file nor a block device")));
    }
    let sectors = file.seek(SeekFrom::End(0)).map_err(failed)? / SECTOR;
    if sectors == 0 {
        return Err(NO_DISK.case(format!("{path} has less than a sector of {SECTOR} bytes")));
    }
    let mut begin = [0; 4];
    file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut begin)).map_err(failed)?;
    let (format, cure) = match &begin {
        b"QFI\xfb" => ("a qcow2 image", "make it raw: qemu-img convert -O raw FILE NEW"),
        b"\x3a\xff\x26\xed" => ("an Android sparse image", "make it whole: simg2img FILE NEW"),
        _ => return Ok(sectors),
    };
    Err(NO_DISK.case(format!("{path} is {format}")).cure(cure))
}

fn unopened(path: &Path, error: &io::Error) -> Diagnostic {
    OPEN.case(format!("opening {}", path.display())).errno(errno_of(error))
}

fn host_failed(error: &io::Error) -> Diagnostic {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            let what = "the disk's file ends before the disk does";
            IO.case(what).cause("the file was cut while the VM runs")
        }
        _ => IO.case("a request of the guest failed").errno(errno_of(error)),
    }
}

#[cfg(test)]
mod tests;
