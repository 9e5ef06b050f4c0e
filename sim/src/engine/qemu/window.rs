// SPDX-License-Identifier: Apache-2.0
//! Reading and writing guest memory before the guest runs. By mapping, because hugetlbfs files
//! cannot be written with `write`.

use std::io;
use std::os::fd::AsRawFd;

use super::layout::{Piece, Region};

struct Mapping {
    start: *mut libc::c_void,
    size: usize,
}

impl Mapping {
    fn new(piece: &Piece) -> io::Result<Self> {
        let size = usize::try_from(piece.size).map_err(io::Error::other)?;
        let offset = libc::off_t::try_from(piece.offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                piece.file.as_raw_fd(),
                offset,
            )
        };
        match start {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            start => Ok(Self { start, size }),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: `size` bytes are mapped for as long as `self` lives. Their owner is blocked in
        // START and the guest does not run yet, so nobody else touches them.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.size) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no slice of it is left.
        unsafe { libc::munmap(self.start, self.size) };
    }
}

/// Bytes of `region` from `offset` on, `size` of them.
pub fn read(region: &Region, offset: u64, size: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    each(region, offset, size, |bytes| out.extend_from_slice(bytes))?;
    Ok(out)
}

/// Puts `content` into `region` at `offset`.
pub fn write(region: &Region, offset: u64, content: &[u8]) -> io::Result<()> {
    let mut rest = content;
    let size = u64::try_from(content.len()).map_err(io::Error::other)?;
    each(region, offset, size, |bytes| {
        let (now, later) = rest.split_at(bytes.len());
        bytes.copy_from_slice(now);
        rest = later;
    })
}

fn each(
    region: &Region,
    offset: u64,
    size: u64,
    mut work: impl FnMut(&mut [u8]),
) -> io::Result<()> {
    let end = offset.saturating_add(size);
    if end > region.size() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut start = 0;
    for piece in &region.pieces {
        let from = offset.max(start);
        let to = end.min(start + piece.size);
        if from < to {
            let place = |at: u64| usize::try_from(at - start).map_err(io::Error::other);
            let range = place(from)?..place(to)?;
            work(&mut Mapping::new(piece)?.bytes()[range]);
        }
        start += piece.size;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_write_runs_over_the_border_of_two_files() {
        let piece = |name: &str| {
            let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
            let file =
                File::options().read(true).write(true).create(true).truncate(true).open(&path);
            let file = file.expect("temporary file");
            std::fs::remove_file(path).expect("unlink");
            file.set_len(4096).expect("size");
            Piece { file: std::sync::Arc::new(file.into()), offset: 0, size: 4096 }
        };
        let region = Region {
            label: 0,
            registered: 0,
            base: 0,
            pieces: vec![piece("window-a"), piece("window-b")],
        };
        write(&region, 4094, b"abcd").expect("write");
        assert_eq!(read(&region, 4093, 6).expect("read"), b"\0abcd\0");
        assert!(write(&region, 8190, b"abcd").is_err());
    }
}
