// SPDX-License-Identifier: Apache-2.0
//! A virtio block device (virtio 1.2, 5.2) on a file or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::AsFd;

use nix::errno::Errno;

use super::io::{count, Io};
use super::{Chain, Face, Fault, Link, Served, VirtioDevice};
use crate::config::DiskConfig;
use crate::confine::DeviceCalls;
use crate::diagnostic::{kinds, Diagnostic};

kinds! {
    OPEN: Error "disk-open" in Functions {
        "a disk's file cannot be opened",
        cause: "it is missing, or SELinux or its mode denies it",
        cure: "check the path and `ls -lZ` of it; look for avc: denied in dmesg",
    }
    IO: Warning "disk-io" in Run {
        "the host's storage fails a request of a disk; the guest gets an I/O error",
        cause: "the host's file system is full, or its storage is broken",
        cure: "look at dmesg and at `df` of the disk's file",
    }
}

const SECTOR: u64 = 512;
const FLUSH: u64 = 1 << 9;
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;

/// A disk.
pub(super) struct Disk {
    file: File,
    sectors: u64,
    readonly: bool,
    id: [u8; 20],
}

impl Disk {
    pub fn open(config: &DiskConfig) -> Result<Self, Diagnostic> {
        let failed = |error: std::io::Error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            OPEN.case(format!("opening {}", config.path.display())).errno(errno)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(!config.readonly)
            .open(&config.path)
            .map_err(failed)?;
        let sectors = file.seek(SeekFrom::End(0)).map_err(failed)? / SECTOR;
        let mut id = [0; 20];
        let text = config.id.as_deref().unwrap_or("").bytes();
        id.iter_mut().zip(text).for_each(|(to, from)| *to = from);
        Ok(Self { file, sectors, readonly: config.readonly, id })
    }

    fn request(&self, chain: &mut Chain<'_>, link: &Link) -> Result<u32, Fault> {
        let mut head = [0; 16];
        if chain.readable.read(&mut head)? != head.len() || chain.writable.is_empty() {
            return Ok(0);
        }
        let [a, b, c, d, _, _, _, _, rest @ ..] = head;
        let sector = u64::from_le_bytes(rest);
        let mut data = chain.writable.split(chain.writable.len() - 1);
        let length = match u32::from_le_bytes([a, b, c, d]) {
            0 => data.len(),
            _ => chain.readable.len(),
        };
        let offset = sector.checked_mul(SECTOR).filter(|_| {
            let sectors = u64::from(length).div_ceil(SECTOR);
            sector.checked_add(sectors).is_some_and(|end| end <= self.sectors)
        });
        let done = match (u32::from_le_bytes([a, b, c, d]), offset) {
            (0 | 1, None) => Err(None),
            (0, Some(offset)) => {
                count(&link.counters().read, length.into());
                data.read_from(self.file.as_fd(), offset).map(|()| length).map_err(Some)
            }
            (1, Some(offset)) if !self.readonly => {
                count(&link.counters().written, length.into());
                chain.readable.write_to(self.file.as_fd(), offset).map(|()| 0).map_err(Some)
            }
            (4, _) => self.file.sync_data().map(|()| 0).map_err(Some),
            (8, _) => {
                data.write(&self.id)?;
                Ok(20)
            }
            (1, _) => Err(None),
            _ => {
                chain.writable.write(&[2])?;
                return Ok(1);
            }
        };
        let (status, written) = match done {
            Ok(written) => (0, written),
            Err(error) => {
                count(&link.counters().errors, 1);
                if let Some(error) = error {
                    link.warn(IO.case(format!("{error}")));
                }
                (1, 0)
            }
        };
        chain.writable.write(&[status])?;
        Ok(written + 1)
    }
}

impl VirtioDevice for Disk {
    fn face(&self) -> Face {
        let mut config = self.sectors.to_le_bytes().to_vec();
        config.extend((256u32 << 10).to_le_bytes());
        config.extend(126u32.to_le_bytes());
        config.resize(60, 0);
        let features = FLUSH | SIZE_MAX | SEG_MAX | if self.readonly { RO } else { 0 };
        Face { number: 2, features, queues: vec![256], config }
    }

    fn calls(&self) -> DeviceCalls {
        DeviceCalls::DISK
    }

    fn kicked(&mut self, queue: usize, io: &mut Io) -> Result<Served, Fault> {
        io.serve(queue, |chain, link| self.request(chain, link))
    }
}
