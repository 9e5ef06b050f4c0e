// SPDX-License-Identifier: Apache-2.0
//! A config file's text, read with distrust: a fifo, a device or a huge file must not hold up boot.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use super::compound::section;
use super::foreign;
use super::names::VmName;
use super::report::Report;
use super::sections::VmConfig;
use super::syntax;
use super::table::Section;
use super::types::Type;
use crate::diagnostic::{kinds, Diagnostic};
use crate::json::{position_of, Position};
use crate::text::{errno_of, Size};

/// Largest config file in bytes: a full one has 3 KiB.
const FILE_MAX: u64 = 1 << 20;

kinds! {
    UNREADABLE: Error "config-unreadable" in Config {
        "a config file cannot be read",
        cure: "check the path, and the file's mode, owner and SELinux label",
    }
    NOT_TEXT: Error "config-not-text" in Config {
        "a config is not a file of UTF-8 text of at most 1 MiB",
        cure: "name one JSON file for each VM",
    }
}

/// Reads one file.
///
/// # Errors
/// Every mistake in it.
pub fn load(path: &Path) -> Result<VmConfig, Vec<Diagnostic>> {
    let text = read(path).map_err(|wrong| vec![wrong])?;
    parse(path, &text)
}

/// Reads the text of a file; `path` is for messages.
///
/// # Errors
/// Every mistake in it.
pub fn parse(path: &Path, text: &str) -> Result<VmConfig, Vec<Diagnostic>> {
    let mut report = Report::new(path);
    let mut config = VmConfig::blank();
    match syntax::read(text) {
        Ok(root) => {
            report.found(String::new(), root.position);
            match foreign::named(&root) {
                // Each of its keys would be a mistake of its own.
                Some(wrong) => report.add_at(root.position, "", wrong),
                None => {
                    section().read(&root, "", &mut config, &mut report);
                }
            }
        }
        Err((position, wrong)) => report.add_at(position, "", wrong),
    }
    let mistakes = report.end();
    if mistakes.is_empty() {
        Ok(config)
    } else {
        Err(mistakes)
    }
}

/// The name that the text of a file with mistakes has, if it is JSON.
pub(super) fn said_name(text: &str) -> Option<VmName> {
    let root = syntax::read(text).ok()?;
    VmName::new(root.get("name")?.text().ok()?)
}

/// The text of a config file.
pub(super) fn read(path: &Path) -> Result<String, Diagnostic> {
    let wrong = |mistake: Diagnostic| mistake.at(Position::WHOLE.place(path, ""));
    let failed = |what: &str, error| wrong(UNREADABLE.case(what).errno(errno_of(&error)));
    // O_NONBLOCK: opening a fifo would wait for its writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY)
        .open(path)
        .map_err(|error| failed("cannot be opened", error))?;
    let unreadable = |error| failed("cannot be read", error);
    if let Some(kind) = kind(&file).map_err(unreadable)? {
        return Err(wrong(NOT_TEXT.case(format!("is {kind}, not a file"))));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, because the file may grow while it is read.
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).map_or(true, |length| length > FILE_MAX) {
        let what = format!("has more than {}, too much for a config", Size(FILE_MAX));
        return Err(wrong(NOT_TEXT.case(what)));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        let position = position_of(&text, text.len());
        NOT_TEXT.case("is not UTF-8 text").at(position.place(path, ""))
    })
}

/// What the file is, if not a regular file.
fn kind(file: &File) -> io::Result<Option<&'static str>> {
    let kind = file.metadata()?.file_type();
    Ok(match kind {
        _ if kind.is_file() => None,
        _ if kind.is_dir() => Some("a directory"),
        _ if kind.is_fifo() => Some("a fifo"),
        _ if kind.is_socket() => Some("a socket"),
        _ if kind.is_char_device() || kind.is_block_device() => Some("a device"),
        _ => Some("something else"),
    })
}
