// SPDX-License-Identifier: Apache-2.0
//! A config file's text, read with distrust: a fifo, a device or a huge file must not hold up boot.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) use crate::error::errno_text as errno;

use super::json;
use super::limits;
use super::partial::Partial;
use super::problem::{Problem, Report};
use super::sections;
use super::types::VmConfig;
use super::values::Bytes;

/// Reads one file.
pub fn load(path: &Path) -> Result<VmConfig, Vec<Problem>> {
    let text = read(path).map_err(|problem| vec![*problem])?;
    parse(path, &text)
}

/// Reads the text of a file; `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<VmConfig, Vec<Problem>> {
    let (partial, problems) = parse_partly(path, text);
    match partial.config {
        Some(config) if problems.is_empty() => Ok(*config),
        _ => Err(problems),
    }
}

/// The same, with what could be read of a file with mistakes.
pub(super) fn parse_partly(path: &Path, text: &str) -> (Partial, Vec<Problem>) {
    let mut report = Report::new(path);
    match json::read(text) {
        Ok(root) => sections::vm(path, &root, report),
        Err(error) => {
            report.at(error.place, "", error.message, error.hint);
            report.end(None)
        }
    }
}

/// The text of a config file.
pub(super) fn read(path: &Path) -> Result<String, Box<Problem>> {
    let wrong = |message: String| Box::new(Problem::of_file(path, message));
    let failed = |what: &str, error: io::Error| {
        let problem = Problem::of_file(path, format!("{what}: {}", errno(&error)));
        Box::new(match error.kind() {
            io::ErrorKind::PermissionDenied => {
                problem.hint("check the file's mode, owner and SELinux label")
            }
            _ => problem,
        })
    };
    // O_NONBLOCK: opening a fifo would wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| failed("cannot be opened", error))?;
    let metadata = file
        .metadata()
        .map_err(|error| failed("cannot be read", error))?;
    if !metadata.is_file() {
        return Err(wrong(format!("is {}, not a file", kind(&file))));
    }
    let limit = Bytes(limits::FILE_SIZE);
    let mut bytes = Vec::new();
    // One byte more than allowed, because the file may grow while it is read.
    file.take(limits::FILE_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| failed("cannot be read", error))?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > limits::FILE_SIZE) {
        return Err(wrong(format!(
            "is larger than {limit}, too large for a config"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let mut problem = Problem::of_file(path, "is not UTF-8 text");
        problem.place = json::place_of(&text, text.len());
        Box::new(problem)
    })
}

fn kind(file: &File) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match file.metadata().map(|metadata| metadata.file_type()) {
        Ok(kind) if kind.is_dir() => "a directory",
        Ok(kind) if kind.is_fifo() => "a fifo",
        Ok(kind) if kind.is_socket() => "a socket",
        Ok(kind) if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}
