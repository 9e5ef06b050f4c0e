// SPDX-License-Identifier: Apache-2.0
//! One of a VM's files, opened once: what was planned for is what is loaded.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{posix_fadvise, PosixFadviseAdvice};

use crate::diagnostic::{kinds, Diagnostic, Step};
use crate::layout::DTB_MAX;
use crate::text::{errno_of, Size};

kinds! {
    MISSING: Error "image-missing" in Images {
        "a file that the config names does not exist",
        cure: "check that the file is in the vendor image and that its partition is mounted",
    }
    FORBIDDEN: Error "image-forbidden" in Images {
        "a file that the config names may not be opened",
        cure: "check mode and SELinux label of the file and its folders (ls -lZ)",
    }
    UNOPENED: Error "image-unopened" in Images {
        "a file that the config names cannot be opened",
        cure: "look for the errno in dmesg: the storage may have failed, or the host is short of files or memory",
    }
    NOT_A_FILE: Error "image-not-a-file" in Images {
        "a path that the config names is a folder, a device or a pipe",
        cure: "give the path of a regular file",
    }
    EMPTY: Error "image-empty" in Images {
        "a file that the config names is empty",
        cause: "it was not copied, or not to its end",
        cure: "copy it again",
    }
    UNREADABLE: Error "image-unreadable" in Images {
        "a file cannot be read",
        cause: "the storage failed",
        cure: "look for I/O errors in dmesg",
    }
    CUT: Error "image-cut" in Images {
        "a file has become shorter since it was opened",
        cause: "it was replaced in place",
        cure: "replace files by rename, not in place",
    }
    DTB_TOO_LARGE: Error "image-dtb-too-large" in Images {
        "a devicetree is larger than Linux takes",
        cause: "arm64 Linux maps 2 MiB for it",
        cure: "give a smaller devicetree",
    }
}

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    /// For messages.
    pub path: PathBuf,
    /// Bytes at the time of opening.
    pub size: u64,
}

impl OpenFile {
    /// Opens a regular file that is not empty; never waits for the writer of a fifo.
    pub(super) fn open(path: &Path) -> Result<Self, Diagnostic> {
        let failed = |error: io::Error| unopened(path, &error);
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(NOT_A_FILE.case(format!("{} is not a regular file", path.display())));
        }
        if metadata.len() == 0 {
            return Err(EMPTY.case(format!("{} is empty", path.display())));
        }
        Ok(Self { file, path: path.to_owned(), size: metadata.len() })
    }

    /// All of it is read soon: storage can work while memory is cleared.
    pub(super) fn read_ahead(&self) {
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        // Where the kernel does not do it, reading takes longer.
        let _ = posix_fadvise(&self.file, 0, size, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
    }

    /// Reads all of `room` from byte `offset` on, for `step`.
    pub fn read_at(&self, step: Step, offset: u64, room: &mut [u8]) -> Result<(), Diagnostic> {
        self.file.read_exact_at(room, offset).map_err(|error| {
            let what =
                format!("reading {} bytes at {offset} of {}", room.len(), self.path.display());
            match error.kind() {
                io::ErrorKind::UnexpectedEof => self.cut(step, what),
                _ => self.unreadable(step, what, &error),
            }
        })
    }

    /// Reads all of a devicetree.
    pub(super) fn read_dtb(&self) -> Result<Vec<u8>, Diagnostic> {
        let size = usize::try_from(self.size).ok();
        let Some(size) = size.filter(|_| self.size <= DTB_MAX) else {
            let (path, size, max) = (self.path.display(), self.size, Size(DTB_MAX));
            let what = format!("{path} has {size} bytes, at most {max} are allowed");
            return Err(DTB_TOO_LARGE.case(what));
        };
        let mut bytes = vec![0; size];
        self.read_at(Step::Images, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// That the file has been cut, if it has.
    pub(super) fn cut_since(&self, step: Step, what: &str) -> Option<Diagnostic> {
        let now = self.file.metadata().ok()?.len();
        (now < self.size).then(|| self.cut(step, what.to_owned()))
    }

    fn cut(&self, step: Step, what: String) -> Diagnostic {
        let cause =
            format!("the file had {} bytes when it was opened and has been cut since", self.size);
        during(step, CUT.case(what).cause(cause))
    }

    pub(super) fn unreadable(&self, step: Step, what: String, error: &io::Error) -> Diagnostic {
        during(step, UNREADABLE.case(what).errno(errno_of(error)))
    }

    /// A reader of `size` bytes from `offset` on, which leaves the fd's own position alone.
    pub(super) fn reader(&self, offset: u64, size: u64) -> Reader<'_> {
        Reader { open: self, at: offset, end: offset.saturating_add(size) }
    }
}

fn unopened(path: &Path, error: &io::Error) -> Diagnostic {
    let errno = errno_of(error);
    let kind = match errno {
        Errno::ENOENT => &MISSING,
        Errno::EACCES => &FORBIDDEN,
        _ => &UNOPENED,
    };
    kind.case(format!("opening {}", path.display())).errno(errno)
}

/// A file that is read for a later step may be whole again at the next launch.
fn during(step: Step, mut fault: Diagnostic) -> Diagnostic {
    fault.step = step;
    fault.lasting = step == Step::Images;
    fault
}

/// See [`OpenFile::reader`].
pub(super) struct Reader<'a> {
    open: &'a OpenFile,
    at: u64,
    end: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = room.len().min(left);
        let length = self.open.file.read_at(&mut room[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong_with_a_file() {
        let folder = std::env::temp_dir().join(format!("gunyahd-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let refused = |path: &Path| OpenFile::open(path).unwrap_err().name.clone();
        let path = folder.join("file");
        assert_eq!(refused(&path), "image-missing");
        assert_eq!(refused(&path.join("\0")), "image-unopened");
        assert_eq!(refused(&folder), "image-not-a-file");
        std::fs::write(&path, "").unwrap();
        assert_eq!(refused(&path), "image-empty");
        assert_eq!(refused(&path.join("below")), "image-unopened");
        std::fs::remove_dir_all(&folder).unwrap();
        // Root may open everything.
        let denied = io::Error::from_raw_os_error(libc::EACCES);
        assert_eq!(unopened(&path, &denied).name, "image-forbidden");
    }

    #[test]
    fn a_file_that_is_cut_may_be_whole_at_the_next_launch() {
        let path = std::env::temp_dir().join(format!("gunyahd-cut-{}", std::process::id()));
        std::fs::write(&path, [7; 100]).unwrap();
        let open = OpenFile::open(&path).unwrap();
        let mut room = [0; 50];
        open.read_at(Step::Kernel, 50, &mut room).unwrap();
        assert_eq!(room, [7; 50]);
        assert_eq!(open.cut_since(Step::Kernel, "reading"), None);
        std::fs::write(&path, [7; 60]).unwrap();
        let cut = open.read_at(Step::Initrd, 50, &mut room).unwrap_err();
        assert_eq!((&*cut.name, cut.step, cut.lasting), ("image-cut", Step::Initrd, false));
        assert!(cut.cause.contains("had 100 bytes"), "{cut}");
        assert!(open.cut_since(Step::Kernel, "reading").is_some());
        std::fs::remove_file(&path).unwrap();
        let error = io::Error::from_raw_os_error(libc::EIO);
        let unreadable = open.unreadable(Step::Images, "reading".to_owned(), &error);
        assert_eq!(unreadable.name, "image-unreadable");
        assert_eq!(unreadable.errno, Some(libc::EIO));
    }
}
