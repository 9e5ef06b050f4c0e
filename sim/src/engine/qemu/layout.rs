// SPDX-License-Identifier: Apache-2.0
//! Guest memory as QEMU's RAM: the launcher's own files at their guest addresses, filler between.
//!
//! ```text
//! 0x4000_0000  filler: QEMU puts a devicetree of its own into the first MiB
//!              … trampoline in the filler's last page
//! base         main memory, one backend a file
//!              filler
//!              further regions
//! ```

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::Error;

/// Where RAM of the `virt` board begins (QEMU's hw/arm/virt.c, VIRT_MEM).
pub const RAM_BASE: u64 = 0x4000_0000;
/// Least filler before main memory: QEMU's devicetree takes 1 MiB, the trampoline a page.
pub const LEAST_FILLER: u64 = 2 << 20;
/// Bytes of the page that holds the trampoline.
pub const TRAMPOLINE_PAGE: u64 = 4096;
// `-numa` knows 128 nodes (MAX_NODES).
const MOST_BACKENDS: usize = 128;

/// A run of guest memory that lies in one file.
#[derive(Debug)]
pub struct Piece {
    /// The memfd, open for reading and writing.
    pub file: Arc<OwnedFd>,
    /// Bytes from the file's start.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// A registered region.
#[derive(Debug)]
pub struct Region {
    /// Its label.
    pub label: u32,
    /// Guest address by which the launcher registered it.
    pub registered: u64,
    /// Guest address that it gets.
    pub base: u64,
    /// What it is made of, in rising guest addresses.
    pub pieces: Vec<Piece>,
}

impl Region {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.size).sum()
    }

    /// First address after it.
    pub fn end(&self) -> u64 {
        self.base.saturating_add(self.size())
    }
}

/// One backend of QEMU's RAM.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Backend {
    Filler(u64),
    File { fd: i32, size: u64 },
}

/// QEMU's RAM from [`RAM_BASE`] on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    backends: Vec<Backend>,
    /// Guest address of the trampoline.
    pub trampoline: u64,
}

impl Layout {
    /// Lays the regions out; the first is main memory.
    pub fn new(regions: &[Region]) -> Result<Self, Error> {
        let mut order: Vec<&Region> = regions.iter().collect();
        order.sort_by_key(|region| region.base);
        let first = order.first().map_or(RAM_BASE, |region| region.base);
        if first < RAM_BASE + LEAST_FILLER {
            return Err(Error::Layout(format!(
                "guest memory begins at {first:#x}; this engine has room from {:#x}",
                RAM_BASE + LEAST_FILLER
            )));
        }
        let mut backends = Vec::new();
        let mut at = RAM_BASE;
        for region in order {
            if region.base < at {
                return Err(Error::Layout(format!(
                    "region {} at {:#x} overlaps the one before, which ends at {at:#x}",
                    region.label, region.base
                )));
            }
            if region.base > at {
                backends.push(Backend::Filler(region.base - at));
            }
            for piece in merged(&region.pieces) {
                // The `offset` of memory-backend-file is QEMU 8.1's.
                if piece.offset != 0 {
                    return Err(Error::Layout(format!(
                        "region {} lies {:#x} bytes into its file; QEMU maps files from their start",
                        region.label, piece.offset
                    )));
                }
                backends.push(Backend::File { fd: piece.fd, size: piece.size });
            }
            at = region.end();
        }
        if backends.len() > MOST_BACKENDS {
            return Err(Error::Layout(format!(
                "{} pieces of memory; QEMU takes {MOST_BACKENDS}",
                backends.len()
            )));
        }
        Ok(Self { backends, trampoline: first - TRAMPOLINE_PAGE })
    }

    /// QEMU's arguments; `cpus` belong to the first node.
    pub fn arguments(&self, cpus: u32) -> Vec<String> {
        let mut arguments = Vec::new();
        let mut total = 0;
        for (node, backend) in self.backends.iter().enumerate() {
            let (object, size) = match backend {
                // Not reserved, so that a filler of many GiB costs nothing.
                Backend::Filler(size) => (
                    format!("memory-backend-ram,id=m{node},size={size},prealloc=off,reserve=off"),
                    size,
                ),
                Backend::File { fd, size } => (
                    format!(
                        "memory-backend-file,id=m{node},mem-path=/proc/self/fd/{fd},share=on,size={size}"
                    ),
                    size,
                ),
            };
            total += size;
            let owner = match node {
                0 => format!(",cpus=0-{}", cpus.saturating_sub(1)),
                _ => String::new(),
            };
            arguments.extend(["-object".to_owned(), object]);
            arguments
                .extend(["-numa".to_owned(), format!("node,nodeid={node},memdev=m{node}{owner}")]);
        }
        arguments.extend(["-m".to_owned(), format!("{total}b")]);
        arguments
    }

    /// The launcher's files that QEMU inherits.
    pub fn inherited(&self) -> Vec<i32> {
        self.backends
            .iter()
            .filter_map(|backend| match backend {
                Backend::File { fd, .. } => Some(*fd),
                Backend::Filler(_) => None,
            })
            .collect()
    }
}

struct Merged {
    fd: i32,
    offset: u64,
    size: u64,
    identity: Option<(u64, u64)>,
}

// The kernel may tell one mapping as several; neighbours in the same file are one backend.
fn merged(pieces: &[Piece]) -> Vec<Merged> {
    let mut out: Vec<Merged> = Vec::new();
    for piece in pieces {
        let identity = identity(&piece.file);
        if let Some(last) = out.last_mut() {
            if identity.is_some()
                && last.identity == identity
                && last.offset + last.size == piece.offset
            {
                last.size += piece.size;
                continue;
            }
        }
        out.push(Merged {
            fd: piece.file.as_raw_fd(),
            offset: piece.offset,
            size: piece.size,
            identity,
        });
    }
    out
}

fn identity(file: &OwnedFd) -> Option<(u64, u64)> {
    let file = nix::sys::stat::fstat(file).ok()?;
    Some((file.st_dev, file.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(label: u32, base: u64, pieces: Vec<Piece>) -> Region {
        Region { label, registered: base, base, pieces }
    }

    fn piece(offset: u64, size: u64) -> Piece {
        let file = std::fs::File::open("/dev/null").expect("/dev/null");
        Piece { file: Arc::new(file.into()), offset, size }
    }

    #[test]
    fn fillers_keep_regions_at_their_addresses() {
        let regions = [
            region(0, 0x8000_0000, vec![piece(0, 0x20_0000)]),
            region(7, 0xa000_0000, vec![piece(0, 0x1000)]),
        ];
        let layout = Layout::new(&regions).expect("layout");
        let sizes: Vec<u64> = layout
            .backends
            .iter()
            .map(|backend| match backend {
                Backend::Filler(size) | Backend::File { size, .. } => *size,
            })
            .collect();
        assert_eq!(sizes, [0x4000_0000, 0x20_0000, 0x1fe0_0000, 0x1000]);
        assert_eq!(layout.trampoline, 0x7fff_f000);
        let arguments = layout.arguments(2).join(" ");
        assert!(arguments.contains("nodeid=0,memdev=m0,cpus=0-1"));
        assert!(arguments.ends_with(&format!("-m {}b", 0x6000_1000)));
        assert_eq!(layout.inherited().len(), 2);
    }

    #[test]
    fn neighbours_in_one_file_are_one_backend() {
        let regions = [region(
            0,
            0x8000_0000,
            vec![piece(0, 0x1000), piece(0x1000, 0x1000), piece(0, 0x1000)],
        )];
        let layout = Layout::new(&regions).expect("layout");
        assert_eq!(layout.backends.len(), 3);
    }

    #[test]
    fn what_cannot_be_laid_out_is_said() {
        let low = [region(0, 0x4000_0000, vec![piece(0, 0x1000)])];
        let inside = [region(0, 0x8000_0000, vec![piece(0x1000, 0x1000)])];
        let overlap = [
            region(0, 0x8000_0000, vec![piece(0, 0x2000)]),
            region(1, 0x8000_1000, vec![piece(0, 0x1000)]),
        ];
        for (regions, word) in
            [(&low[..], "0x40000000"), (&inside[..], "into its file"), (&overlap[..], "overlaps")]
        {
            let error = Layout::new(regions).expect_err("refused").to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
