// SPDX-License-Identifier: Apache-2.0
//! A cpio archive in the "newc" format, as the kernel unpacks it (Documentation/driver-api/
//! early-userspace/buffer-format.rst). Written here because this needs no root for device nodes.

use anyhow::{Context, Result};

// File types of st_mode.
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// A directory, 0755.
    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// An executable file, 0755.
    pub fn executable(&mut self, name: &str, content: &[u8]) -> Result<()> {
        self.entry(name, REGULAR | 0o755, (0, 0), content)
    }

    /// A character device, 0600.
    pub fn character_device(&mut self, name: &str, major: u32, minor: u32) -> Result<()> {
        self.entry(name, CHARACTER | 0o600, (major, minor), &[])
    }

    /// The finished archive.
    pub fn finish(mut self) -> Result<Vec<u8>> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        Ok(self.bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        let size = u32::try_from(content.len()).context("a file in the initrd of 4 GiB or more")?;
        let name_size = u32::try_from(name.len() + 1)?;
        self.entries += 1;
        // ino, mode, uid, gid, nlink, mtime (0: same input, same bytes), filesize, devmajor,
        // devminor, rdevmajor, rdevminor, namesize, check.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        Ok(())
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_closed_by_a_trailer() {
        let mut archive = Archive::default();
        archive.directory("dev").expect("directory");
        archive.executable("init", b"#!").expect("file");
        let bytes = archive.finish().expect("archive");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"07070100000001000041ed"));
        // 110 bytes of header, the name with its NUL, padding to 4.
        assert_eq!(&bytes[116..122], b"070701");
        assert!(bytes.windows(10).any(|w| w == b"TRAILER!!!"));
    }
}
