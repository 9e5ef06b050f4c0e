// SPDX-License-Identifier: Apache-2.0
//! A VM's files, opened once, so that what was planned for is what is loaded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::{arm64, elf, gzip, FormatError, ImageInfo, KernelInfo, KernelLayout};
use crate::config::{KernelFormat, VmConfig};
use crate::error::{LaunchError, Step};

/// Linux takes no devicetree over 2 MiB (booting.rst).
pub const MAX_DTB: u64 = 2 << 20;

/// The cure for a file that changed while it was read.
pub(super) const REPLACE_BY_RENAME: &str = "replace files by rename, not in place";

/// The cure for a damaged gzip file.
pub(super) const PACK_AGAIN: &str = "pack it again: gzip -k Image";

/// An open regular file and its size at the time.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub file: File,
    /// Its path, for messages.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
}

/// The open kernel file.
#[derive(Debug)]
pub struct KernelFile {
    /// The file.
    pub open: OpenFile,
    /// For gzip: bytes of the member header.
    pub packed_at: u64,
}

/// All files of a VM, open.
#[derive(Debug)]
pub struct Images {
    /// The kernel.
    pub kernel: KernelFile,
    /// The initrd.
    pub initrd: Option<OpenFile>,
    /// The bytes of a given devicetree.
    pub dtb: Option<Vec<u8>>,
    /// Region files, in the order of `regions`.
    pub regions: Vec<Option<OpenFile>>,
    /// What the plan needs.
    pub info: ImageInfo,
}

/// A problem with one of a VM's files, and the config key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageProblem {
    /// `kernel.path`, `regions[0].file`.
    pub key: String,
    /// What is wrong.
    pub error: LaunchError,
}

impl OpenFile {
    /// Opens a regular file for reading, never waiting for a fifo's writer.
    ///
    /// # Errors
    /// Says what stands there instead, or the errno with its cure.
    pub fn open(path: &Path) -> Result<Self, LaunchError> {
        let fail = |error: &io::Error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            let cure = match errno {
                Errno::ENOENT => "is the file in the vendor image, and its partition mounted?",
                Errno::EACCES => "mode and SELinux label of the file and its folders (ls -lZ)",
                _ => "",
            };
            LaunchError::new(Step::Images, format!("opening {}", path.display()))
                .errno(errno)
                .cure(cure)
        };
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(|error| fail(&error))?;
        let metadata = file.metadata().map_err(|error| fail(&error))?;
        let refuse = |what: &str| {
            Err(LaunchError::new(
                Step::Images,
                format!("{} {what}", path.display()),
            ))
        };
        if !metadata.is_file() {
            return refuse("is not a regular file");
        }
        if metadata.len() == 0 {
            return refuse("is empty");
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            size: metadata.len(),
        })
    }

    /// Reads all of `room` from byte `offset` on.
    ///
    /// # Errors
    /// A file that has become shorter since it was opened is one.
    pub fn read_at(&self, step: Step, offset: u64, room: &mut [u8]) -> Result<(), LaunchError> {
        self.file.read_exact_at(room, offset).map_err(|error| {
            let what = format!(
                "reading {} bytes at {offset} of {}",
                room.len(),
                self.path.display()
            );
            if error.kind() == io::ErrorKind::UnexpectedEof {
                return LaunchError::new(step, what)
                    .cause(self.cut())
                    .cure(REPLACE_BY_RENAME);
            }
            LaunchError::new(step, what)
                .errno(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
        })
    }

    fn cut(&self) -> String {
        format!(
            "the file had {} bytes when it was opened and has been cut since",
            self.size
        )
    }

    /// The cause to tell where the file has become shorter since it was opened.
    pub(super) fn cut_since(&self) -> Option<String> {
        let now = self.file.metadata().ok()?.len();
        (now < self.size).then(|| self.cut())
    }
}

impl Images {
    /// Opens every file that `config` names and reads the headers.
    ///
    /// # Errors
    /// All problems, not just the first.
    pub fn open(config: &VmConfig) -> Result<Self, Vec<ImageProblem>> {
        let mut problems = Vec::new();
        let mut keep = |key: String, result: Result<OpenFile, LaunchError>| match result {
            Ok(open) => Some(open),
            Err(error) => {
                problems.push(ImageProblem { key, error });
                None
            }
        };
        let kernel = keep("kernel.path".into(), OpenFile::open(&config.kernel.path));
        let initrd = config
            .initrd
            .as_ref()
            .and_then(|initrd| keep("initrd.path".into(), OpenFile::open(&initrd.path)));
        let dtb = config
            .dtb
            .path
            .as_ref()
            .and_then(|path| keep("dtb.path".into(), OpenFile::open(path)));
        let regions: Vec<_> = config
            .regions
            .iter()
            .enumerate()
            .map(|(index, region)| {
                let path = region.file.as_ref()?;
                keep(format!("regions[{index}].file"), OpenFile::open(path))
            })
            .collect();
        let kernel = kernel.and_then(|open| match read_kernel(open, config.kernel.format) {
            Ok(kernel) => Some(kernel),
            Err(error) => {
                problems.push(ImageProblem {
                    key: "kernel.path".into(),
                    error,
                });
                None
            }
        });
        let dtb = dtb.and_then(|open| match read_dtb(&open) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                problems.push(ImageProblem {
                    key: "dtb.path".into(),
                    error,
                });
                None
            }
        });
        match kernel {
            Some((kernel, info)) if problems.is_empty() => {
                let info = ImageInfo {
                    kernel: info,
                    initrd: initrd.as_ref().map(|open| open.size),
                    regions: regions
                        .iter()
                        .map(|open| open.as_ref().map(|open| open.size))
                        .collect(),
                };
                Ok(Self {
                    kernel,
                    initrd,
                    dtb,
                    regions,
                    info,
                })
            }
            _ => Err(problems),
        }
    }
}

impl Images {
    /// Unpacks a gzip'ed kernel to nowhere, to know whether loading it would succeed.
    ///
    /// # Errors
    /// A file that is damaged or cut.
    pub fn verify_kernel(&self) -> Result<(), ImageProblem> {
        if !self.info.kernel.gzip {
            return Ok(());
        }
        let KernelFile { open, packed_at } = &self.kernel;
        let room = usize::try_from(self.info.kernel.size).unwrap_or(usize::MAX);
        let mut source = ReadFrom {
            open,
            at: *packed_at,
        };
        match gzip::verify(&mut source, room) {
            Ok(_) => Ok(()),
            Err(error) => Err(ImageProblem {
                key: "kernel.path".into(),
                error: LaunchError::new(
                    Step::Kernel,
                    format!("kernel {}: {error}", open.path.display()),
                )
                .cure(PACK_AGAIN),
            }),
        }
    }
}

/// Opens the file that a config names by `key` and reads its header, where the rest of the config is
/// not known. Returns the bytes of a devicetree.
///
/// # Errors
/// As [`Images::open`].
pub fn probe(
    key: &str,
    path: &Path,
    format: KernelFormat,
) -> Result<Option<Vec<u8>>, ImageProblem> {
    let look = || {
        let open = OpenFile::open(path)?;
        match key {
            "kernel.path" => read_kernel(open, format).map(|_| None),
            "dtb.path" => read_dtb(&open).map(Some),
            _ => Ok(None),
        }
    };
    look().map_err(|error| ImageProblem {
        key: key.to_owned(),
        error,
    })
}

fn read_dtb(open: &OpenFile) -> Result<Vec<u8>, LaunchError> {
    let size = usize::try_from(open.size)
        .ok()
        .filter(|_| open.size <= MAX_DTB)
        .ok_or_else(|| {
            LaunchError::new(
                Step::Images,
                format!("{} has {} bytes", open.path.display(), open.size),
            )
            .cause("Linux takes no devicetree over 2 MiB")
        })?;
    let mut bytes = vec![0; size];
    open.read_at(Step::Images, 0, &mut bytes)?;
    Ok(bytes)
}

fn read_kernel(
    open: OpenFile,
    format: KernelFormat,
) -> Result<(KernelFile, KernelInfo), LaunchError> {
    let path = open.path.clone();
    let bad = |error: FormatError| {
        LaunchError::new(Step::Images, format!("kernel {}: {error}", path.display()))
            .cure("give an arm64 Image, an ELF executable or a gzip'ed Image, or the right `kernel.format`")
    };
    let length = usize::try_from(open.size)
        .unwrap_or(usize::MAX)
        .min(gzip::MAX_HEADER);
    let mut start = vec![0; length];
    open.read_at(Step::Images, 0, &mut start)?;
    let format = match format {
        KernelFormat::Auto if gzip::is_gzip(&start) => KernelFormat::Gzip,
        KernelFormat::Auto if elf::is_elf(&start) => KernelFormat::Elf,
        KernelFormat::Auto if arm64::is_image(&start) => KernelFormat::Image,
        KernelFormat::Auto => {
            return Err(bad(FormatError::Unknown(format!(
                "{:02x?}",
                &start[..start.len().min(4)]
            ))))
        }
        named => named,
    };
    let mut packed_at = 0;
    let mut size = open.size;
    let layout = match format {
        KernelFormat::Auto | KernelFormat::Image => {
            KernelLayout::Image(arm64::Header::parse(&start, size).map_err(bad)?)
        }
        KernelFormat::Elf => {
            let table = elf::header(&start, size).map_err(bad)?;
            let mut headers = vec![0; table.size()];
            open.read_at(Step::Images, table.offset, &mut headers)?;
            KernelLayout::Elf(elf::program_headers(&table, &headers, size).map_err(bad)?)
        }
        KernelFormat::Gzip => {
            let header = gzip::header_size(&start).map_err(bad)?;
            packed_at = header as u64;
            let (unpacked, first) = look_inside(&open, packed_at)?;
            size = unpacked;
            KernelLayout::Image(arm64::Header::parse(&first, size).map_err(|error| {
                bad(FormatError::Not {
                    wanted: "a gzip'ed arm64 Image",
                    found: error.to_string(),
                })
            })?)
        }
    };
    let info = KernelInfo {
        gzip: format == KernelFormat::Gzip,
        size,
        layout,
    };
    Ok((KernelFile { open, packed_at }, info))
}

// The unpacked size, as the trailer says (modulo 2^32: larger kernels do not exist), and the first
// unpacked bytes.
fn look_inside(open: &OpenFile, packed_at: u64) -> Result<(u64, Vec<u8>), LaunchError> {
    let damaged = |problem: String| {
        LaunchError::new(
            Step::Images,
            format!("kernel {}: {problem}", open.path.display()),
        )
        .cure(PACK_AGAIN)
    };
    let Some(trailer_at) = open
        .size
        .checked_sub(gzip::TRAILER_SIZE)
        .filter(|&at| at > packed_at)
    else {
        return Err(damaged(format!(
            "{} bytes are too few for a gzip file",
            open.size
        )));
    };
    let mut trailer = [0; 8];
    open.read_at(Step::Images, trailer_at, &mut trailer)?;
    let size = u32::from_le_bytes([trailer[4], trailer[5], trailer[6], trailer[7]]);
    let mut first = vec![0; arm64::HEADER_SIZE];
    // A file that was cut ends with anything, mostly zeros.
    if u64::from(size) < first.len() as u64 {
        return Err(damaged(format!(
            "its trailer says that it unpacks to {size} bytes, fewer than the header of an arm64 Image: the file is cut or damaged"
        )));
    }
    let length = gzip::peek(
        &mut ReadFrom {
            open,
            at: packed_at,
        },
        &mut first,
    )
    .map_err(|error| damaged(error.to_string()))?;
    first.truncate(length);
    Ok((size.into(), first))
}

/// Reads a file from a place on without moving the fd's own position.
pub(super) struct ReadFrom<'a> {
    pub(super) open: &'a OpenFile,
    pub(super) at: u64,
}

impl Read for ReadFrom<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let length = self.open.file.read_at(room, self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}
